//! The plumbing APIs that a running handler may call. The engine implements them in process; HTTP clients implement the
//! same traits. Each call names the task and the attempt; a stale pair is refused.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::queue::Delivery;

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
    async fn save_checkpoint(&self, delivery: &Delivery, data: Value) -> Result<Checkpoint, PlumbingError>;

    /// The last checkpoint of the task, whichever attempt saved it.
    async fn load_checkpoint(&self, delivery: &Delivery) -> Result<Option<Checkpoint>, PlumbingError>;

    /// Forgets the task's checkpoint.
    async fn clear_checkpoint(&self, delivery: &Delivery) -> Result<(), PlumbingError>;

    /// Reports that the handler has started. Volatile: never waits, never fails.
    fn started(&self, delivery: &Delivery, worker: &str);

    /// Reports progress. Volatile: never waits, never fails, the latest value counts.
    fn progress(&self, delivery: &Delivery, progress: Progress);

    /// Shows a log line live; the line also travels with the result. Volatile: never waits, never fails.
    fn log(&self, delivery: &Delivery, line: &crate::wire::LogLine);
}
