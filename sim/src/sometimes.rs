//! Counts of rare paths, to prove that the simulation goes where bugs are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Paths that a handful of seeds together must have taken.
pub const RARE_PATHS: &[&str] = &[
    "commit failed before it took effect",
    "commit failed after it took effect",
    "version conflict",
    "start of an earlier generation of flows",
    "push failed",
    "push was lost silently",
    "result refused as stale",
    "result delivered twice",
    "result lost",
    "result late",
    "result forged",
    "answer of a take lost",
    "lease lost",
    "attempt timed out",
    "worker died",
    "worker froze",
    "worker refused by the queue",
    "worker told to cancel",
    "task released before it started",
    "task released after it started",
    "handler paused",
    "queue flushed",
    "queue rebuilt",
    "server of the queue changed",
    "lease re-asserted",
    "lease not re-asserted over a newer attempt",
    "results of a dead engine adopted",
    "comparison left to the engine whose turn it is",
    "task republished",
    "fan-out repaired by the sweeper",
    "what could not be done after a commit was done later",
    "crash before a commit",
    "crash after a commit and before its publication",
    "crash after a publication and before the acknowledgement",
    "clock jumped",
    "duplicate start",
    "incident",
    "incident resolved",
    "reopened",
    "rerun",
    "fan-out closed early",
    "child of a fan-out cancelled",
    "fenced",
    "report held by a pause",
    "undone",
    "children undone by page",
    "retry scheduled",
    "early signal kept",
    "approval escalated",
    "budget warning",
    "budget exceeded",
    "wait timed out",
    "terminated",
    "detached child started",
];

/// Counts by path.
#[derive(Debug, Default)]
pub struct Sometimes(Mutex<BTreeMap<&'static str, u64>>);

impl Sometimes {
    /// Notes that the path was taken.
    pub fn hit(&self, path: &'static str) {
        self.hits(path, 1);
    }

    /// Notes that the path was taken `count` times.
    pub fn hits(&self, path: &'static str, count: u64) {
        debug_assert!(RARE_PATHS.contains(&path), "{path} is in the list");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default() += count;
    }

    /// All counts so far.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
