//! The MAC of a result: proof that whoever reports had the task's token, and so belongs to the pool that the task was
//! dispatched to. It says nothing about which worker of the pool it was.
//!
//! The MAC is the token with its signature replaced: `v1.<key id>.<claims>.<tag>`. The tag is HMAC-SHA-256, keyed by the
//! token's signature as it is spelled, over [`DOMAIN`] and the encoded message as it is framed: all of the result, and no
//! second form of it that languages could spell in different ways. The engine makes the signature anew from the claims, so
//! that it needs to remember nothing; the MAC itself opens nothing.
//!
//! A sealed message ([`seal_message`], [`Seal::split`]) is the byte [`FORMAT_SEALED`], the MAC, a line feed, the message.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::token::{self, Claims, TOKEN_BYTES_MAX, TaskToken, TokenError, TokenKey};
use crate::wire::ResultMessage;

/// What the tag is of, so that no other use of a token's signature can give the same one.
pub const DOMAIN: &[u8] = b"flowmonkey.result.v1\n";
/// First byte: a MAC, a line feed, and the message that it is of.
pub const FORMAT_SEALED: u8 = 3;
/// Ends the MAC.
const END_OF_MAC: u8 = b'\n';

/// Why a result is not known to be of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// It has no MAC.
    #[error("the result has no MAC")]
    Missing,
    /// Its MAC is not made from a token of ours.
    #[error("the result's MAC does not count: {0}")]
    Token(#[from] TokenError),
    /// Its MAC is of other bytes.
    #[error("the result's MAC is wrong")]
    Forged,
    /// Its MAC was made with the token of another task or attempt.
    #[error("the result's MAC is of another attempt")]
    Foreign,
}

/// A sealed message as it came: a MAC, and the bytes that it is said to be of.
#[derive(Clone, PartialEq, Eq)]
pub struct Seal {
    bytes: Vec<u8>,
    /// Where the line feed is.
    end_of_mac: usize,
}

impl Seal {
    /// Takes a sealed message apart; nothing is checked. An error gives bytes back that are none.
    ///
    /// # Errors
    /// The bytes, when they do not begin with [`FORMAT_SEALED`] and a MAC.
    pub fn split(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        match end_of_mac(&bytes) {
            Some(end_of_mac) => Ok(Self { bytes, end_of_mac }),
            None => Err(bytes),
        }
    }

    /// The message: framed, and not sealed.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.bytes.get(self.end_of_mac + 1..).unwrap_or_default()
    }

    fn mac(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(1..self.end_of_mac)?).ok()
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Seal").field("mac", &self.mac()).finish_non_exhaustive()
    }
}

/// Where the MAC of a sealed message ends. A MAC has no more bytes than a token.
fn end_of_mac(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&FORMAT_SEALED) {
        return None;
    }
    bytes.iter().take(TOKEN_BYTES_MAX + 2).position(|byte| *byte == END_OF_MAC)
}

/// How many bytes a seal adds to a message: the MAC is as long as the token. 0: the token seals nothing.
pub(crate) fn sealed_bytes_more(token: &TaskToken) -> usize {
    token.split().map_or(0, |_| token.as_str().len() + 2)
}

/// Puts the MAC before an encoded message. None when the token is none.
#[must_use]
pub fn seal_message(message: &[u8], token: &TaskToken) -> Option<Vec<u8>> {
    let (head, secret) = token.split()?;
    let mac = format!("{head}.{}", URL_SAFE_NO_PAD.encode(tag(secret, message)));
    let mut bytes = Vec::with_capacity(message.len() + mac.len() + 2);
    bytes.push(FORMAT_SEALED);
    bytes.extend_from_slice(mac.as_bytes());
    bytes.push(END_OF_MAC);
    bytes.extend_from_slice(message);
    Some(bytes)
}

impl TokenKey {
    /// Whose result it is, by the seal that it came with: `result` is what [`crate::wire::open_result`] read of it. The
    /// token's time is not looked at: a result that comes late is judged by the record.
    ///
    /// # Errors
    /// Why it is not known to be anybody's.
    pub fn check_result(&self, result: &ResultMessage, seal: Option<&Seal>) -> Result<Claims, MacError> {
        let seal = seal.ok_or(MacError::Missing)?;
        let (head, given) = self.parts(seal.mac().ok_or(TokenError::Malformed)?)?;
        let given = URL_SAFE_NO_PAD.decode(given).map_err(|_| TokenError::Malformed)?;
        let secret = self.signature(head);
        let expected = tag(&secret, seal.message());
        // Compared by tags of both, so that the time it takes tells nothing about where they differ.
        let compare = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let expected = hmac::sign(&compare, expected.as_ref());
        hmac::verify(&compare, &given, expected.as_ref()).map_err(|_| MacError::Forged)?;
        let claims = token::claims(head)?;
        if claims.task == result.task_id && claims.attempt == result.attempt {
            Ok(claims)
        } else {
            Err(MacError::Foreign)
        }
    }
}

fn tag(secret: &str, message: &[u8]) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(DOMAIN);
    context.update(message);
    context.sign()
}
