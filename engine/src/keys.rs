//! Keys for the HTTP API: how they are made, written and checked. `fmk_<id>_<secret>`: the id names the key, the secret is 256
//! bits of chance, of which the record has the SHA-256 only. As the secret is chance, a slow hash would add nothing.

use std::fmt::Write as _;
use std::time::Duration;

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::ids::Entropy;
use ring::digest;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use crate::access::Scope;
use crate::store::ApiKey;

/// Begins every key, so that scanners for secrets know one.
pub const KEY_PREFIX: &str = "fmk_";
/// Bytes of chance in a secret.
pub const KEY_SECRET_BYTES: usize = 32;
/// Bytes of a key's name.
pub const KEY_NAME_BYTES_MAX: usize = 100;
/// Bytes of the name of a tenant that a key is for.
pub const KEY_TENANT_BYTES_MAX: usize = 128;
/// Longest time that a key may be made for: ten years.
pub const KEY_LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Hexadecimal digits of a key's id.
const ID_DIGITS: usize = 16;

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The only tenant whose rows it sees.
    pub tenant: Option<String>,
    /// How long it counts; none: until it is taken back.
    pub life: Option<Duration>,
}

impl NewKey {
    /// What is wrong with it, by field.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.name.trim().is_empty() {
            problems.push(("name", "`name` is empty".to_owned()));
        } else if self.name.len() > KEY_NAME_BYTES_MAX {
            problems.push(("name", format!("`name` has more than {KEY_NAME_BYTES_MAX} bytes")));
        }
        if self.scopes.is_empty() {
            problems.push(("scopes", "`scopes` is empty: the key would allow nothing".to_owned()));
        }
        if self.tenant.as_ref().is_some_and(|name| name.is_empty() || name.len() > KEY_TENANT_BYTES_MAX) {
            problems.push(("tenantId", format!("`tenantId` must have 1 to {KEY_TENANT_BYTES_MAX} bytes")));
        }
        if self.life.is_some_and(|life| life.is_zero() || life > KEY_LIFE_MAX) {
            let days = KEY_LIFE_MAX.as_secs() / (24 * 60 * 60);
            problems.push(("expiresInSeconds", format!("a key counts for a second to {days} days")));
        }
        problems
    }

    /// Makes it at `now`: the row, and the key's text, which is nowhere else.
    #[must_use]
    pub fn make(self, now: Timestamp, entropy: &dyn Entropy) -> (ApiKey, String) {
        let id = format!("{:016x}", entropy.bits() >> 64);
        let mut secret = String::with_capacity(KEY_SECRET_BYTES * 2);
        while secret.len() < KEY_SECRET_BYTES * 2 {
            // Writing to a String cannot fail.
            write!(secret, "{:032x}", entropy.bits()).unwrap_or_default();
        }
        let text = format!("{KEY_PREFIX}{id}_{secret}");
        let mut scopes = self.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let expires_at = self.life.map(|life| {
            let millis = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_add(millis))
        });
        let row = ApiKey {
            id,
            name: self.name,
            hash: hash(&secret),
            scopes,
            tenant: self.tenant,
            created_at: now,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        (row, text)
    }
}

/// A key as people see it: without its hash.
#[must_use]
pub fn shown(key: &ApiKey, now: Timestamp) -> Value {
    let instant = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
    let state = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if now >= end => "expired",
        (None, _) => "active",
    };
    json!({
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "tenantId": key.tenant,
        "state": state,
        "createdAt": key.created_at.to_rfc3339(),
        "expiresAt": instant(key.expires_at),
        "revokedAt": instant(key.revoked_at),
        "lastUsedAt": instant(key.last_used_at),
    })
}

/// Why a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRefused {
    /// It is not known, its secret is another, or it was taken back.
    Invalid,
    /// Its time is over.
    Expired,
}

/// A key as it was sent.
pub(crate) struct Presented<'a> {
    /// Names the key.
    pub(crate) id: &'a str,
    secret: &'a str,
}

impl<'a> Presented<'a> {
    /// Reads a key; none when it has not the form of one.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        (is_hex(id, ID_DIGITS) && is_hex(secret, KEY_SECRET_BYTES * 2)).then_some(Self { id, secret })
    }

    /// Whether it is `key`, and counts at `now`. How long this takes does not depend on the secret.
    pub(crate) fn check(&self, key: &ApiKey, now: Timestamp) -> Result<(), KeyRefused> {
        let same: bool = hash(self.secret).as_bytes().ct_eq(key.hash.as_bytes()).into();
        if !same || key.revoked_at.is_some() {
            return Err(KeyRefused::Invalid);
        }
        if key.expires_at.is_some_and(|end| now >= end) {
            return Err(KeyRefused::Expired);
        }
        Ok(())
    }
}

/// SHA-256 in hexadecimal digits.
fn hash(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Hexadecimal digits, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use flowmonkey_plumbing::ids::SystemEntropy;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn new(life: Option<Duration>) -> NewKey {
        NewKey { name: "ci".into(), scopes: vec![Scope::Operator, Scope::Operator], tenant: None, life }
    }

    #[test]
    fn a_key_counts_by_its_secret_and_until_its_end() {
        let entropy = SystemEntropy::new();
        let (row, text) = new(Some(Duration::from_secs(1))).make(at(1000), &entropy);
        assert_eq!((row.scopes.as_slice(), row.expires_at), (&[Scope::Operator][..], Some(at(2000))));
        assert!(!text.contains(&row.hash));
        let presented = Presented::parse(&text).unwrap();
        assert_eq!(presented.id, row.id);
        assert_eq!(presented.check(&row, at(1999)), Ok(()));
        assert_eq!(presented.check(&row, at(2000)), Err(KeyRefused::Expired));
        let revoked = ApiKey { revoked_at: Some(at(1500)), ..row.clone() };
        assert_eq!(presented.check(&revoked, at(1501)), Err(KeyRefused::Invalid));
        let (other, other_text) = new(None).make(at(1000), &entropy);
        assert_ne!(other_text, text);
        assert_eq!(Presented::parse(&other_text).unwrap().check(&row, at(1)), Err(KeyRefused::Invalid));
        assert_eq!(Presented::parse(&other_text).unwrap().check(&other, at(i64::MAX)), Ok(()));
    }

    #[test]
    fn only_whole_keys_are_read() {
        let (_, text) = new(None).make(at(0), &SystemEntropy::new());
        for wrong in [
            "",
            "fmk_",
            "fmk__",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.to_uppercase(),
            &text.replace('_', "-"),
            "fmk_é_é",
        ] {
            assert!(Presented::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong = NewKey {
            name: " ".into(),
            scopes: Vec::new(),
            tenant: Some(String::new()),
            life: Some(Duration::ZERO),
        };
        let fields: Vec<_> = wrong.problems().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["name", "scopes", "tenantId", "expiresInSeconds"]);
        assert_eq!(new(Some(KEY_LIFE_MAX)).problems(), []);
    }
}
