//! The MAC of a result: proof that whoever reports had the task's token, and so belongs to the pool that the task was
//! dispatched to. It says nothing about which worker of the pool it was.
//!
//! The MAC is the token with its signature replaced: `v1.<key id>.<claims>.<tag>`. The tag is HMAC-SHA-256, keyed by the
//! token's signature as it is spelled, over [`DOMAIN`] and the canonical form of the fields that move an execution. The
//! engine makes the signature anew from the claims, so that it needs to remember nothing; the MAC itself opens nothing.
//!
//! The canonical form does not depend on how a language spells JSON: `n`, `t`, `f` for null and the booleans;
//! `i<decimal>;` for integers, and for floats that are integers below 2^53; `d` and the eight bytes of the IEEE 754 double,
//! big-endian, for other numbers; `s<bytes>:` and UTF-8 for texts; `[<items>:` and the items; `{<fields>:` and each key (as a
//! text) and value, in the order of the keys' bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Serialize;
use serde_json::{Number, Value};

use crate::token::{self, Claims, TaskToken, TokenError, TokenKey};
use crate::wire::{MESSAGE_DEPTH_MAX, ResultMessage};

/// What the tag is of, so that no other use of a token's signature can give the same one.
pub const DOMAIN: &[u8] = b"flowmonkey.result.v1\n";

/// Floats from here on cannot tell all integers apart.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Why a result is not known to be of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// It has no MAC.
    #[error("the result has no `mac`")]
    Missing,
    /// Its MAC is not made from a token of ours.
    #[error("the result's `mac` does not count: {0}")]
    Token(#[from] TokenError),
    /// Its MAC is of other content.
    #[error("the result's `mac` is wrong")]
    Forged,
    /// Its MAC was made with the token of another task or attempt.
    #[error("the result's `mac` is of another attempt")]
    Foreign,
}

/// The MAC of `result`, made with the token of its task. None when the token is none, or the result is nested so deep that
/// it cannot be sent.
#[must_use]
pub fn seal(result: &ResultMessage, token: &TaskToken) -> Option<String> {
    let (head, secret) = token.split()?;
    let mut context = start(secret);
    feed(&mut context, result)?;
    Some(format!("{head}.{}", URL_SAFE_NO_PAD.encode(context.sign())))
}

impl TokenKey {
    /// Whose result it is, by its MAC. The token's time is not looked at: a result that comes late is judged by the record.
    ///
    /// # Errors
    /// Why it is not known to be anybody's.
    pub fn check_result(&self, result: &ResultMessage) -> Result<Claims, MacError> {
        let mac = result.mac.as_deref().ok_or(MacError::Missing)?;
        let (head, tag) = self.parts(mac)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| TokenError::Malformed)?;
        let secret = self.signature(head);
        let mut context = start(&secret);
        feed(&mut context, result).ok_or(MacError::Forged)?;
        let expected = context.sign();
        // Compared by tags of both, so that the time it takes tells nothing about where they differ.
        let compare = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let expected = hmac::sign(&compare, expected.as_ref());
        hmac::verify(&compare, &tag, expected.as_ref()).map_err(|_| MacError::Forged)?;
        let claims = token::claims(head)?;
        if claims.task == result.task_id && claims.attempt == result.attempt {
            Ok(claims)
        } else {
            Err(MacError::Foreign)
        }
    }
}

fn start(secret: &str) -> hmac::Context {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(DOMAIN);
    context
}

/// Feeds the fields that move an execution: those that are present, by name. None: nested too deep.
fn feed(context: &mut hmac::Context, result: &ResultMessage) -> Option<()> {
    fn some<T: Serialize>(value: Option<T>) -> Option<Value> {
        value.and_then(|value| serde_json::to_value(value).ok())
    }
    fn list<T: Serialize>(values: &[T]) -> Option<Value> {
        some(Some(values).filter(|values| !values.is_empty()))
    }
    let computed = [
        ("attempt", Some(Value::from(result.attempt))),
        ("contextPatches", some(Some(result.context_patches).filter(|patches| *patches > 0))),
        ("contextUpdates", some(result.context_updates.as_ref())),
        ("cost", some(result.cost)),
        ("error", some(result.error.as_ref())),
        ("events", list(&result.events)),
        ("metadata", some(Some(&result.metadata).filter(|metadata| !metadata.is_empty()))),
        ("nextStepOverride", some(result.next_step_override.as_ref())),
        ("outcome", some(Some(result.outcome))),
        // In its place in the order; the value itself may be large and is not copied.
        ("output", None),
        ("resumeToken", some(result.resume_token.as_ref())),
        ("retryAfterMs", some(result.retry_after_ms)),
        ("rows", list(&result.rows)),
        ("runAgain", result.run_again.then_some(Value::Bool(true))),
        ("taskId", some(Some(&result.task_id))),
        ("waitForEvent", some(result.wait_for_event.as_ref())),
        ("waitReason", some(result.wait_reason.as_ref())),
        ("waitUntil", some(result.wait_until.as_ref())),
    ];
    let fields: Vec<(&str, &Value)> = computed
        .iter()
        .filter_map(|(name, value)| {
            let value = if *name == "output" { result.output.as_ref() } else { value.as_ref() };
            Some((*name, value?))
        })
        .collect();
    context.update(format!("{{{}:", fields.len()).as_bytes());
    for (name, value) in fields {
        text(context, name);
        canonical(context, value, MESSAGE_DEPTH_MAX)?;
    }
    Some(())
}

fn canonical(context: &mut hmac::Context, value: &Value, levels: usize) -> Option<()> {
    match value {
        Value::Null => context.update(b"n"),
        Value::Bool(true) => context.update(b"t"),
        Value::Bool(false) => context.update(b"f"),
        Value::Number(value) => number(context, value),
        Value::String(value) => text(context, value),
        Value::Array(items) => {
            let levels = levels.checked_sub(1)?;
            context.update(format!("[{}:", items.len()).as_bytes());
            for item in items {
                canonical(context, item, levels)?;
            }
        }
        Value::Object(fields) => {
            let levels = levels.checked_sub(1)?;
            context.update(format!("{{{}:", fields.len()).as_bytes());
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| key.as_bytes());
            for (key, value) in fields {
                text(context, key);
                canonical(context, value, levels)?;
            }
        }
    }
    Some(())
}

fn number(context: &mut hmac::Context, value: &Number) {
    if let Some(integer) = value.as_i64() {
        context.update(format!("i{integer};").as_bytes());
    } else if let Some(integer) = value.as_u64() {
        context.update(format!("i{integer};").as_bytes());
    } else {
        let float = value.as_f64().unwrap_or_default();
        if float.fract() == 0.0 && float.abs() < EXACT_INTEGERS {
            // Adding zero spells minus zero as zero.
            context.update(format!("i{:.0};", float + 0.0).as_bytes());
        } else {
            context.update(b"d");
            context.update(&float.to_be_bytes());
        }
    }
}

fn text(context: &mut hmac::Context, text: &str) {
    context.update(format!("s{}:", text.len()).as_bytes());
    context.update(text.as_bytes());
}
