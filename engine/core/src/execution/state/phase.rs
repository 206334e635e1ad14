//! How far an execution is, as a whole.

use serde::{Deserialize, Serialize};

use super::StepRun;
use crate::execution::error::ExecutionError;
use crate::time::Timestamp;

/// How far an execution is, as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Phase {
    /// The cursor walks the graph.
    Running,
    /// On the way to an end that is not a completion.
    Ending {
        /// Why it ends.
        why: Why,
        /// How far the ending is.
        stage: Stage,
        /// The counters of the visit that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<StepRun>,
    },
    /// It reached its result.
    Completed,
    /// It failed.
    Failed {
        /// Why.
        error: ExecutionError,
        /// The counters of the visit that failed; none when no step had begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<StepRun>,
    },
    /// It was cancelled.
    Cancelled {
        /// By whom and why.
        cancellation: Cancellation,
    },
}

/// Why an execution ends without a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// A step failed, or a limit was passed.
    Failure(ExecutionError),
    /// It was cancelled.
    Cancel(Cancellation),
}

/// How far an ending is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Tasks and children in flight are asked to end.
    Draining {
        /// Past this, the task in flight is fenced off.
        until: Timestamp,
    },
    /// Successful steps are undone in reverse order.
    Compensating {
        /// Past this, an incident.
        until: Timestamp,
    },
    /// `onCancel` or `onFailure` runs.
    CleaningUp,
}

/// By whom and why an execution was cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancellation {
    /// Who.
    pub source: CancelSource,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub cancelled_at: Timestamp,
}

/// Who cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CancelSource {
    /// A person or program, by command.
    User,
    /// A time limit.
    Timeout,
    /// The engine.
    System,
    /// The parent ended or was cancelled.
    Parent,
}
