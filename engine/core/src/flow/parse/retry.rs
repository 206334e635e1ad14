//! Reads `retry`.

use serde_json::{Value, json};

use super::fields::{self, Shape, optional, required};
use super::reader::Reader;
use super::step::read as read_field;
use crate::flow::definition::{Jitter, RetryPolicy};
use crate::limits::RETRY_ATTEMPTS_MAX;

/// Milliseconds: the longest back-off when a retry policy does not say. As FlowMonkey's.
const MAX_BACKOFF_MS: u64 = 60_000;
/// Factor between back-offs when a retry policy does not say. As FlowMonkey's.
const BACKOFF_MULTIPLIER: f64 = 2.0;

/// The fields of `retry`.
const RETRY_FIELDS: Shape = Shape {
    fields: &[
        required(
            "maxAttempts",
            || json!({ "type": "integer", "minimum": 0, "maximum": RETRY_ATTEMPTS_MAX }),
            "Re-tries; the first run is not counted.",
        ),
        optional("backoffMs", fields::milliseconds, "Milliseconds before the first re-try. Default 0."),
        optional(
            "backoffMultiplier",
            || json!({ "type": "number", "minimum": 1 }),
            "Factor from one back-off to the next. Default 2.",
        ),
        optional("maxBackoffMs", fields::milliseconds, "Milliseconds: limit of one back-off. Default 60000."),
        optional("retryOn", fields::texts, "Codes that are retried. Default: all."),
        optional("noRetryOn", fields::texts, "Codes that are never retried. Default: none."),
        optional(
            "jitter",
            || json!({ "enum": ["none", "equal", "full"], "type": "string" }),
            "How chance changes a back-off. Default `none`.",
        ),
        optional(
            "totalMs",
            fields::milliseconds,
            "Milliseconds from the first attempt after which no re-try starts.",
        ),
    ],
    strict: false,
};

pub(super) fn schema() -> Value {
    fields::schema_of(&RETRY_FIELDS)
}

pub(super) fn read(reader: &Reader<'_>) -> Option<RetryPolicy> {
    let object = reader.shaped(&RETRY_FIELDS)?;
    let max_attempts = object.get("maxAttempts").and_then(|reader| reader.whole_u32(0, RETRY_ATTEMPTS_MAX));
    let backoff_ms = read_field(&object, "backoffMs", Reader::duration);
    let backoff_multiplier = read_field(&object, "backoffMultiplier", |reader| reader.number(1.0));
    let max_backoff_ms = read_field(&object, "maxBackoffMs", Reader::duration);
    let retry_on = read_field(&object, "retryOn", Reader::texts);
    let no_retry_on = read_field(&object, "noRetryOn", Reader::texts);
    let jitter = read_field(&object, "jitter", |reader| {
        reader.word(&[("none", Jitter::None), ("equal", Jitter::Equal), ("full", Jitter::Full)])
    });
    let total_ms = read_field(&object, "totalMs", Reader::duration);
    if let (Some(Some(first)), Some(Some(longest))) = (backoff_ms, max_backoff_ms)
        && first > longest
        && let Some(reader) = object.get("maxBackoffMs")
    {
        let text = format!("is less than `backoffMs` ({first}), so that every back-off lasts {longest} ms");
        reader.warning("backoff-order", &text, Some("make `maxBackoffMs` at least `backoffMs`".to_owned()));
    }
    Some(RetryPolicy {
        max_attempts: max_attempts?,
        backoff_ms: backoff_ms?.unwrap_or(0),
        backoff_multiplier: backoff_multiplier?.unwrap_or(BACKOFF_MULTIPLIER),
        max_backoff_ms: max_backoff_ms?.unwrap_or(MAX_BACKOFF_MS),
        retry_on: retry_on?,
        no_retry_on: no_retry_on?.unwrap_or_default(),
        jitter: jitter?.unwrap_or_default(),
        total_ms: total_ms?,
    })
}
