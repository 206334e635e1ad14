//! The Progress API and task logs: volatile, the latest value counts; what was kept of them can be read later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TaskAccess;
use crate::wire::LogLine;

/// Log lines in one call over HTTP.
pub const LOG_LINES_MAX: usize = 1000;
/// Bytes of a volatile call over HTTP: started, progress, log lines.
pub const VOLATILE_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Progress of a running task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// 0 to 100.
    pub percent: f64,
    /// Shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion: Option<String>,
    /// Counters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, Counter>,
}

/// A counter of a running task: frames, bytes, rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Counter {
    /// How many by now.
    pub value: f64,
    /// How many in the end, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// What is counted, when the name does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// Started, progress, log lines.
pub trait ProgressApi: Send + Sync {
    /// Reports that the handler has started. Volatile: never waits, never fails.
    fn started(&self, access: &TaskAccess, worker: &str);

    /// Reports progress. Volatile: never waits, never fails, the latest value counts.
    fn progress(&self, access: &TaskAccess, progress: Progress);

    /// Shows a log line live; the line also travels with the result. Volatile: never waits, never fails.
    fn log(&self, access: &TaskAccess, line: &LogLine);
}
