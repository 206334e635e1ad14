//! Refused results: counted by reason, and the latest kept for whoever wonders where a result went.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use flowmonkey_core::time::Timestamp;

use crate::config::REFUSED_KEPT_MAX;

/// Characters of a reason that are kept.
const DETAIL_CHARS_MAX: usize = 500;

/// Why a result did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedFor {
    /// It cannot be understood.
    Invalid,
    /// Its MAC is missing where one is required, or does not fit: it may be of anybody.
    Forged,
    /// The execution does not exist.
    UnknownExecution,
    /// The execution had ended.
    Finished,
    /// The record had moved on to another attempt or task: a duplicate, or a worker that came late.
    Stale,
    /// The execution can be neither decided nor stored.
    Unusable,
    /// Another refusal of the core.
    Other,
}

impl RefusedFor {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Invalid,
        Self::Forged,
        Self::UnknownExecution,
        Self::Finished,
        Self::Stale,
        Self::Unusable,
        Self::Other,
    ];

    /// As a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Forged => "forged",
            Self::UnknownExecution => "unknown_execution",
            Self::Finished => "finished",
            Self::Stale => "stale",
            Self::Unusable => "unusable",
            Self::Other => "other",
        }
    }
}

/// A result that did not count.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedResult {
    /// When it was refused.
    pub at: Timestamp,
    /// The task, as the result names it.
    pub task: String,
    /// The attempt, as the result names it.
    pub attempt: u32,
    /// The worker, as the result names it.
    pub worker: String,
    /// Why, in one word.
    pub reason: RefusedFor,
    /// Why, in a sentence.
    pub detail: String,
}

/// The refused results of this engine process: all counted, the latest kept.
#[derive(Debug, Default)]
pub struct Evidence(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    counts: BTreeMap<RefusedFor, u64>,
    latest: VecDeque<RefusedResult>,
}

impl Evidence {
    /// How many results were refused, by reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<RefusedFor, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }

    /// The latest refused results, oldest first, at most [`REFUSED_KEPT_MAX`].
    #[must_use]
    pub fn latest(&self) -> Vec<RefusedResult> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).latest.iter().cloned().collect()
    }

    pub(crate) fn note(&self, mut refused: RefusedResult) {
        if let Some((end, _)) = refused.detail.char_indices().nth(DETAIL_CHARS_MAX) {
            refused.detail.truncate(end);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept.counts.entry(refused.reason).or_default() += 1;
        if kept.latest.len() >= REFUSED_KEPT_MAX {
            kept.latest.pop_front();
        }
        kept.latest.push_back(refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_latest_are_kept() {
        let evidence = Evidence::default();
        for attempt in 0..=u32::try_from(REFUSED_KEPT_MAX).unwrap() {
            evidence.note(RefusedResult {
                at: Timestamp::from_millis(0),
                task: "t".into(),
                attempt,
                worker: "w".into(),
                reason: RefusedFor::Stale,
                detail: "é".repeat(DETAIL_CHARS_MAX + 1),
            });
        }
        assert_eq!(evidence.counts()[&RefusedFor::Stale], REFUSED_KEPT_MAX as u64 + 1);
        let latest = evidence.latest();
        assert_eq!((latest.len(), latest[0].attempt), (REFUSED_KEPT_MAX, 1));
        assert_eq!(latest[0].detail.chars().count(), DETAIL_CHARS_MAX);
    }
}
