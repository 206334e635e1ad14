//! Values as every database stores them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::StoreError;

/// A whole number that a database can hold.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Text for a narrow column. SQLite's JSON functions end a text at a zero character, and Postgres holds none, so that it is
/// replaced.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// JSON of something of ours.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Internal { reason: error.to_string() })
}

/// Labels as they are stored and looked for.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<String, StoreError> {
    json(&labels.iter().map(|(key, value)| (text(key), text(value))).collect::<BTreeMap<_, _>>())
}
