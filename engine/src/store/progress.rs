//! What running tasks say of themselves, as the record keeps it: progress and log lines. None of it decides anything.

use async_trait::async_trait;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::wire::LogLevel;

use super::StoreError;

/// What a task had done at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressRow {
    /// The task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: u32,
    /// The step it carries out; empty where that was not known.
    pub step: String,
    /// When the engine heard of it.
    pub at: Timestamp,
    /// What the handler reported.
    pub progress: Progress,
}

/// A log line of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRow {
    /// The task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: u32,
    /// Which line of the attempt, from 1.
    pub line: u32,
    /// The step it carries out; empty where that was not known.
    pub step: String,
    /// How serious.
    pub level: LogLevel,
    /// The text.
    pub message: String,
    /// When, by the worker's clock; by the engine's where the worker did not say.
    pub at: Timestamp,
}

/// A place among the log lines of an execution: number of the task, attempt, line. Lines are in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// Number of the task.
    pub task: u32,
    /// The attempt.
    pub attempt: u32,
    /// The line.
    pub line: u32,
}

impl LogRow {
    /// Where it stands.
    #[must_use]
    pub const fn place(&self) -> LogPlace {
        LogPlace { task: self.task.number, attempt: self.attempt, line: self.line }
    }
}

/// Which log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFilter {
    /// Of this execution.
    pub execution: ExecutionId,
    /// Only of the task with this number.
    pub task: Option<u32>,
    /// Only of this attempt.
    pub attempt: Option<u32>,
    /// Only those that come after this place.
    pub after: LogPlace,
    /// At most this many.
    pub max: usize,
}

/// Levels of children whose progress counts for that of their parent: a map of sub-flows that are maps of tasks has three.
pub(super) const ROLLUP_LEVELS: u32 = 6;

/// The part of the record that keeps what running tasks say of themselves.
#[async_trait]
pub trait ProgressStore {
    /// Keeps progress, in one statement. A row of the same task and instant is replaced; rows of executions that do not
    /// exist are left out. No two rows of a call are of the same task and instant.
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError>;

    /// The latest progress of a task.
    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError>;

    /// Progress of an execution in the order of tasks and instants, after the given place.
    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError>;

    /// What the children of a fan-out that have not ended have done, as a sum of parts of 1: for a child with a task out,
    /// the latest progress of that attempt; for a child that waits for children of its own, how many of those have ended and
    /// the same of those that have not, six levels down.
    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError>;

    /// Keeps log lines, in one statement. A line that is there stays as it is; rows of executions that do not exist are
    /// left out.
    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError>;

    /// Log lines in their order.
    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError>;
}

/// The word by which the record spells a level.
pub(super) const fn level_word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

/// The level that [`level_word`] spells; none: it is none of them.
pub(super) fn level(word: &str) -> Option<LogLevel> {
    [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error]
        .into_iter()
        .find(|level| level_word(*level) == word)
}
