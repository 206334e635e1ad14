//! The plumbing APIs that a running handler may call. The engine implements them in process; HTTP clients implement the
//! same traits. Each call names the task and the attempt, and shows the task's token; a stale pair is refused.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::queue::Delivery;
use crate::token::TaskToken;
use crate::wire::TaskMessage;

/// Bytes of one checkpoint, as JSON.
pub const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;
/// Log lines in one call over HTTP.
pub const LOG_LINES_MAX: usize = 1000;
/// Bytes of a volatile call over HTTP: started, progress, log lines.
pub const VOLATILE_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a worker's name.
pub const WORKER_BYTES_MAX: usize = 200;

/// Who calls: which attempt of which task, and the token that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskAccess {
    /// The task and the attempt.
    pub delivery: Delivery,
    /// What the engine gave with the task. None: an older engine, or a task of a test; in process it is not needed.
    pub token: Option<TaskToken>,
}

impl From<&TaskMessage> for TaskAccess {
    fn from(task: &TaskMessage) -> Self {
        Self { delivery: task.delivery(), token: task.token.clone() }
    }
}

/// Why a plumbing call failed.
#[derive(Debug, thiserror::Error)]
pub enum PlumbingError {
    /// The record has moved on: the handler should stop, its result will be refused.
    #[error("attempt {attempt} of task {task} is stale: the record has another attempt")]
    Stale {
        /// The task.
        task: String,
        /// The refused attempt.
        attempt: u32,
    },
    /// A limit was passed; nothing was stored.
    #[error("{what} is {actual} bytes, over the limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The engine does not allow it, and will not later: the token does not count here, or the call is wrong.
    #[error("the engine refused ({code}): {detail}")]
    Refused {
        /// The stable code.
        code: String,
        /// In words.
        detail: String,
    },
    /// Try again.
    #[error("the engine is unreachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A saved checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Names the checkpoint.
    pub id: String,
    /// RFC 3339.
    pub saved_at: String,
    /// What the handler saved.
    pub data: Value,
}

/// Progress of a running task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
}

/// The plumbing APIs, for one worker.
#[async_trait]
pub trait Plumbing: Send + Sync {
    /// Saves a checkpoint; it replaces the one before.
    async fn save_checkpoint(&self, access: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError>;

    /// The last checkpoint of the task, whichever attempt saved it.
    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError>;

    /// Forgets the task's checkpoint.
    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError>;

    /// Reports that the handler has started. Volatile: never waits, never fails.
    fn started(&self, access: &TaskAccess, worker: &str);

    /// Reports progress. Volatile: never waits, never fails, the latest value counts.
    fn progress(&self, access: &TaskAccess, progress: Progress);

    /// Shows a log line live; the line also travels with the result. Volatile: never waits, never fails.
    fn log(&self, access: &TaskAccess, line: &crate::wire::LogLine);
}
