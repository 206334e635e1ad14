//! The Progress API and task logs: volatile, the latest value counts; what was kept of them can be read later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TaskAccess;
use crate::wire::LogLine;

/// Log lines in one call over HTTP.
pub const LOG_LINES_MAX: usize = 1000;
/// Bytes of the message of a progress; the rest is cut off.
pub const PROGRESS_MESSAGE_BYTES_MAX: usize = 1024;
/// Counters of a progress; the others are left out.
pub const PROGRESS_COUNTERS_MAX: usize = 32;
/// Bytes of the name and of the unit of a counter; longer ones are left out.
pub const COUNTER_NAME_BYTES_MAX: usize = 64;
/// Bytes of an instant as text; a longer one is left out.
const INSTANT_BYTES_MAX: usize = 40;
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

impl Progress {
    /// The same within its limits: the percentage between 0 and 100 (what is no number is 0), the message cut, counters that
    /// are too many, too long or no numbers left out.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.percent = if self.percent.is_nan() { 0.0 } else { self.percent.clamp(0.0, 100.0) };
        if let Some(message) = &mut self.message {
            message.truncate(message.floor_char_boundary(PROGRESS_MESSAGE_BYTES_MAX));
        }
        self.estimated_completion = self.estimated_completion.filter(|at| at.len() <= INSTANT_BYTES_MAX);
        self.counters.retain(|name, counter| {
            counter.total = counter.total.filter(|total| total.is_finite());
            counter.unit = counter.unit.take().filter(|unit| unit.len() <= COUNTER_NAME_BYTES_MAX);
            name.len() <= COUNTER_NAME_BYTES_MAX && counter.value.is_finite()
        });
        while self.counters.len() > PROGRESS_COUNTERS_MAX {
            self.counters.pop_last();
        }
        self
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_cut_to_its_limits() {
        let counter = |value| Counter { value, total: Some(f64::NAN), unit: Some("u".repeat(65)) };
        let mut counters: BTreeMap<String, Counter> =
            (0..40).map(|number| (format!("c{number:02}"), counter(1.0))).collect();
        counters.insert("a".into(), counter(f64::INFINITY));
        counters.insert("b".repeat(65), counter(1.0));
        let progress = Progress {
            percent: f64::NAN,
            message: Some("ü".repeat(PROGRESS_MESSAGE_BYTES_MAX)),
            estimated_completion: Some("x".repeat(41)),
            counters,
        };
        let bounded = progress.bounded();
        assert_eq!((bounded.percent, bounded.estimated_completion), (0.0, None));
        assert_eq!(bounded.message.unwrap().len(), PROGRESS_MESSAGE_BYTES_MAX);
        assert_eq!(bounded.counters.len(), PROGRESS_COUNTERS_MAX);
        assert_eq!(bounded.counters["c00"], Counter { value: 1.0, total: None, unit: None });
        assert_eq!(Progress { percent: 1e9, ..Progress::default() }.bounded().percent, 100.0);
    }
}
