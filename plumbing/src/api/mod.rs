//! The plumbing APIs that a running handler may call. The engine implements them in process; HTTP clients implement the
//! same traits. Each call names the task and the attempt, and shows the task's token; a stale pair is refused.

mod checkpoint;
mod context;
mod event;
mod job;
mod progress;

pub use checkpoint::{
    CHECKPOINT_BINARY, CHECKPOINT_BYTES_MAX, CHECKPOINT_JSON, Checkpoint, CheckpointApi, CheckpointData,
    DIGEST_HEADER, LARGE_CHECKPOINT_BYTES_MAX, SAVED_AT_HEADER, SavedCheckpoint, VERSION_HEADER,
};
pub use context::{
    CONTEXT_OPERATIONS_MAX, CONTEXT_PATCH_BYTES_MAX, CONTEXT_PATCHES_MAX, CONTEXT_PATH_BYTES_MAX, ContextApi,
};
pub use event::{
    EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX, EVENTS_BODY_BYTES_MAX, EVENTS_PER_CALL_MAX, EmittedEvent,
    EventApi, RESERVED_EVENTS, event_refusal,
};
pub use job::{Heartbeat, HeartbeatAnswer, JobApi, JobStatus};
pub use progress::{
    COUNTER_NAME_BYTES_MAX, Counter, LOG_LINES_MAX, PROGRESS_COUNTERS_MAX, PROGRESS_MESSAGE_BYTES_MAX,
    Progress, ProgressApi, VOLATILE_BODY_BYTES_MAX,
};

use crate::queue::Delivery;
use crate::token::TaskToken;
use crate::wire::TaskMessage;

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

/// The plumbing APIs, for one worker.
pub trait Plumbing: CheckpointApi + ContextApi + EventApi + JobApi + ProgressApi {}

impl<T: CheckpointApi + ContextApi + EventApi + JobApi + ProgressApi> Plumbing for T {}
