//! Capability tokens: what a task's worker may ask of the engine, for one attempt of one task.
//!
//! A token is `v1.<key id>.<claims>.<signature>`: the claims are MessagePack in base64url, the signature is HMAC-SHA-256
//! over all that stands before it. Nothing about tokens is stored: any engine that has the key can check any token. What
//! ends a token is the record, which has moved on to another attempt; `expires_at_ms` only bounds the damage of one that
//! leaks, and is therefore generous.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};

/// Bytes of a key that signs tokens.
pub const TOKEN_KEY_BYTES: usize = 32;
/// Bytes of a token; longer texts are refused unread.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How long a task may wait in its queue before its token ends while it is still wanted: the time that a dispatch adds to
/// the attempt's limit, because the limit counts from the claim, and nobody knows when that will be. 30 days.
pub const QUEUE_WAIT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Milliseconds that are added on top, for clocks apart and the last calls of an attempt that ends in time.
pub const EXPIRY_SLACK_MS: u64 = 60 * 1000;

/// The only version there is. Claims are read by position, so that another shape needs another version.
const VERSION: &str = "v1";
/// What the key id is made of: the tag of this text.
const KEY_ID_OF: &[u8] = b"flowmonkey task token key id";
/// Bytes of the key id, before they are spelled.
const KEY_ID_BYTES: usize = 6;

/// A token in its spelled form. It is a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskToken(String);

impl TaskToken {
    /// Takes what a message or a request gives as a token; nothing is checked.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token, as it goes into `Authorization: Bearer …`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The public part and the secret one: claims and signature.
    pub(crate) fn split(&self) -> Option<(&str, &str)> {
        self.0.rsplit_once('.')
    }
}

impl fmt::Debug for TaskToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskToken(..)")
    }
}

/// What a token's bearer may do, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(u16);

impl Scopes {
    /// Save, load and clear the task's checkpoint.
    pub const CHECKPOINT: Self = Self(1);
    /// Say that the handler has started, and report progress.
    pub const PROGRESS: Self = Self(1 << 1);
    /// Show log lines.
    pub const LOGS: Self = Self(1 << 2);
    /// Hand in the result.
    pub const RESULT: Self = Self(1 << 3);
    /// Read the context, and stage changes of it.
    pub const CONTEXT: Self = Self(1 << 4);
    /// Publish events.
    pub const EVENTS: Self = Self(1 << 5);
    /// What every worker gets with a task.
    pub const WORKER: Self = Self(
        Self::CHECKPOINT.0
            | Self::PROGRESS.0
            | Self::LOGS.0
            | Self::RESULT.0
            | Self::CONTEXT.0
            | Self::EVENTS.0,
    );
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn allows(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the scopes, separated by spaces.
    #[must_use]
    pub fn names(self) -> String {
        let all = [
            (Self::CHECKPOINT, "checkpoint"),
            (Self::PROGRESS, "progress"),
            (Self::LOGS, "logs"),
            (Self::RESULT, "result"),
            (Self::CONTEXT, "context"),
            (Self::EVENTS, "events"),
        ];
        let names: Vec<&str> =
            all.into_iter().filter(|(scope, _)| self.allows(*scope)).map(|(_, name)| name).collect();
        names.join(" ")
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({})", self.names())
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The task.
    pub task: String,
    /// The attempt; the token counts only while the record has it.
    pub attempt: u32,
    /// The execution the task belongs to.
    pub execution: String,
    /// The execution's tenant.
    pub tenant: Option<String>,
    /// The pool the task was dispatched to.
    pub pool: String,
    /// What is allowed.
    pub scopes: Scopes,
    /// The latest end: milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("this is not a task token")]
    Malformed,
    /// It was signed with a key that is not ours.
    #[error("the token was signed with another key")]
    UnknownKey,
    /// Its signature does not fit.
    #[error("the token's signature is wrong")]
    Forged,
    /// It has ended.
    #[error("the token has ended")]
    Expired,
}

/// When the token of an attempt ends that is dispatched at `now_ms` and may run for `remaining_ms` from its claim.
#[must_use]
pub fn expiry_ms(now_ms: i64, remaining_ms: u64) -> i64 {
    let after = remaining_ms.saturating_add(QUEUE_WAIT_MS_MAX).saturating_add(EXPIRY_SLACK_MS);
    now_ms.saturating_add(i64::try_from(after).unwrap_or(i64::MAX))
}

/// Makes and checks tokens.
pub struct TokenKey {
    key: hmac::Key,
    /// Names the key without telling anything about it.
    id: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// With a secret of [`TOKEN_KEY_BYTES`] random bytes.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let id = URL_SAFE_NO_PAD.encode(&hmac::sign(&key, KEY_ID_OF).as_ref()[..KEY_ID_BYTES]);
        Self { key, id }
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when the claims are so long that the token could not be used.
    pub fn sign(&self, claims: &Claims) -> Result<TaskToken, TokenError> {
        let claims = rmp_serde::to_vec(claims).map_err(|_| TokenError::Malformed)?;
        let mut text = format!("{VERSION}.{}.{}", self.id, URL_SAFE_NO_PAD.encode(claims));
        let signature = self.signature(&text);
        text.push('.');
        text.push_str(&signature);
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        Ok(TaskToken(text))
    }

    /// What `token` says, when it was made with this key; its time is not looked at.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (head, signature) = self.parts(token)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        // Constant time; nothing of the claims is read before.
        hmac::verify(&self.key, head.as_bytes(), &signature).map_err(|_| TokenError::Forged)?;
        claims(head)
    }

    /// As [`Self::verify`], for a token that must not have ended at `now_ms`.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check(&self, token: &str, now_ms: i64) -> Result<Claims, TokenError> {
        let claims = self.verify(token)?;
        if claims.expires_at_ms <= now_ms { Err(TokenError::Expired) } else { Ok(claims) }
    }

    /// Splits off the last part of a text that begins as a token of this key does.
    pub(crate) fn parts<'a>(&self, text: &'a str) -> Result<(&'a str, &'a str), TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (head, last) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let mut parts = head.split('.');
        let (version, id, claims) = (parts.next(), parts.next(), parts.next());
        if version != Some(VERSION) || claims.is_none() || parts.next().is_some() {
            return Err(TokenError::Malformed);
        }
        // The id is public: there is nothing to learn from how long the comparison takes.
        if id == Some(self.id.as_str()) { Ok((head, last)) } else { Err(TokenError::UnknownKey) }
    }

    /// The signature of a token's public part, as it is spelled.
    pub(crate) fn signature(&self, head: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, head.as_bytes()))
    }
}

/// The claims of a token's public part, whose signature has been checked.
pub(crate) fn claims(head: &str) -> Result<Claims, TokenError> {
    let (_, claims) = head.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Malformed)?;
    rmp_serde::from_slice(&claims).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_claims() -> Claims {
        Claims {
            task: "tk_1_1".into(),
            attempt: 3,
            execution: "ex_1".into(),
            tenant: Some("acme".into()),
            pool: "acme@eu-west-1/http-request".into(),
            scopes: Scopes::WORKER,
            expires_at_ms: 1_000,
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let key = TokenKey::new(&[7; TOKEN_KEY_BYTES]);
        let token = key.sign(&some_claims()).unwrap();
        assert_eq!(key.verify(token.as_str()), Ok(some_claims()));
        assert_eq!(key.check(token.as_str(), 999), Ok(some_claims()));
        assert_eq!(key.check(token.as_str(), 1_000), Err(TokenError::Expired));
        assert!(token.as_str().starts_with("v1."));
        assert_eq!(format!("{token:?} {key:?}"), "TaskToken(..) TokenKey(..)");
    }

    #[test]
    fn another_key_and_every_change_are_noticed() {
        let key = TokenKey::new(&[7; TOKEN_KEY_BYTES]);
        let token = key.sign(&some_claims()).unwrap();
        let token = token.as_str();
        assert_eq!(TokenKey::new(&[8; TOKEN_KEY_BYTES]).verify(token), Err(TokenError::UnknownKey));
        for end in 0..token.len() {
            key.verify(&token[..end]).unwrap_err();
        }
        for place in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            key.verify(std::str::from_utf8(&changed).unwrap()).unwrap_err();
        }
        for garbage in ["", ".", "...", "v1", "v1..", &format!("{token}.x"), &format!("v2{}", &token[2..])] {
            assert_eq!(key.verify(garbage), Err(TokenError::Malformed), "{garbage}");
        }
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(key.verify(&long), Err(TokenError::Malformed));
        assert_eq!(key.sign(&Claims { pool: long, ..some_claims() }), Err(TokenError::Malformed));
    }

    #[test]
    fn scopes_are_sets() {
        let some = Scopes::LOGS.and(Scopes::RESULT);
        assert!(
            some.allows(Scopes::LOGS) && !some.allows(Scopes::CHECKPOINT) && !some.allows(Scopes::WORKER)
        );
        assert!(Scopes::WORKER.allows(some) && some.allows(Scopes::NONE));
        assert_eq!((some.names(), Scopes::NONE.names()), ("logs result".into(), String::new()));
    }

    #[test]
    fn expiry_leaves_room_for_the_queue_and_never_overflows() {
        assert_eq!(expiry_ms(5, 10), 15 + i64::try_from(QUEUE_WAIT_MS_MAX + EXPIRY_SLACK_MS).unwrap());
        assert_eq!(expiry_ms(i64::MAX, u64::MAX), i64::MAX);
    }
}
