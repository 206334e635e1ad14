//! Resume tokens: HMAC-SHA-256 over execution, step and visit, so that a flow can mail the URL before it waits. And the
//! capability tokens that go with tasks: what they are is said in `flowmonkey_plumbing::token`; here they are filled in.

use std::fmt;

use flowmonkey_core::execution::{Execution, TaskDraft};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::token::{Claims, Scopes, TaskToken, TokenKey, expiry_ms};
use ring::hmac;

/// Bytes of a signing key.
pub const SIGNING_KEY_BYTES: usize = 32;
/// Name of the key for resume tokens in the record.
pub(crate) const RESUME_KEY: &str = "resume";
/// Name of the key for task tokens in the record.
pub(crate) const TASK_KEY: &str = "task";

/// Makes and checks resume tokens.
pub struct ResumeTokens(hmac::Key);

impl fmt::Debug for ResumeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeTokens(..)")
    }
}

/// What a token resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The execution.
    pub execution: ExecutionId,
    /// The step.
    pub step: String,
    /// Its visit.
    pub visit: u32,
}

impl ResumeTokens {
    /// With the secret key of the record.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The token of a step's visit: characters that need no escaping in a URL.
    #[must_use]
    pub fn token(&self, execution: ExecutionId, step: &str, visit: u32) -> String {
        let body = body(execution, step, visit);
        let tag = hmac::sign(&self.0, body.as_bytes());
        format!("{body}.{}", hex(tag.as_ref()))
    }

    /// What `token` resumes; none when it was not made with this key.
    #[must_use]
    pub fn check(&self, token: &str) -> Option<Resumed> {
        let (body, tag) = token.rsplit_once('.')?;
        hmac::verify(&self.0, body.as_bytes(), &unhex(tag)?).ok()?;
        let mut parts = body.split('.');
        let execution = parts.next()?.parse().ok()?;
        let visit = parts.next()?.parse().ok()?;
        let step = String::from_utf8(unhex(parts.next()?)?).ok()?;
        Some(Resumed { execution, step, visit })
    }
}

/// The token of an attempt that is dispatched at `now`. None when it would be longer than tokens may be: then a name in it
/// is absurd, and the task goes without.
pub(crate) fn task_token(
    key: &TokenKey,
    draft: &TaskDraft,
    execution: &Execution,
    now: Timestamp,
) -> Option<TaskToken> {
    let claims = Claims {
        task: draft.task.to_string(),
        attempt: draft.attempt,
        execution: execution.id().to_string(),
        tenant: execution.identity.tenant_id.clone(),
        pool: draft.pool.clone(),
        scopes: Scopes::WORKER,
        expires_at_ms: expiry_ms(now.as_millis(), draft.timeout_ms),
    };
    key.sign(&claims)
        .inspect_err(|error| tracing::warn!(%error, task = claims.task, "a task goes without its token"))
        .ok()
}

fn body(execution: ExecutionId, step: &str, visit: u32) -> String {
    format!("{execution}.{visit}.{}", hex(step.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_resumes_what_it_was_made_for_and_nothing_else() {
        let tokens = ResumeTokens::new(&[7; SIGNING_KEY_BYTES]);
        let execution = ExecutionId::from_uuid(Uuid::from_u128(5));
        let token = tokens.token(execution, "ship it.now", 2);
        assert_eq!(tokens.check(&token), Some(Resumed { execution, step: "ship it.now".into(), visit: 2 }));
        assert!(token.chars().all(|character| character.is_ascii_alphanumeric() || "._".contains(character)));
        assert_eq!(tokens.check(&token.replace(".2.", ".3.")), None);
        assert_eq!(ResumeTokens::new(&[8; SIGNING_KEY_BYTES]).check(&token), None);
        for garbage in ["", ".", "a.b.c.d", "é.é", &token[..token.len() - 1]] {
            assert_eq!(tokens.check(garbage), None, "{garbage}");
        }
    }
}
