//! Steps that a worker runs, and how any step is tried again and left.

use serde_json::Value;

use super::StepId;
use crate::flow::selector::{Path, Selector};

/// A step that a handler carries out.
#[derive(Debug)]
pub struct TaskStep {
    /// Opaque to the engine; the handler reads it.
    pub config: Value,
    /// SemVer requirement on the handler's version.
    pub handler_version: Option<semver::VersionReq>,
    /// Milliseconds: hard limit of one attempt (code `TIMEOUT`).
    pub timeout_ms: Option<u64>,
    /// Milliseconds without a heartbeat after which the lease ends.
    pub heartbeat_timeout_ms: Option<u64>,
    /// Milliseconds that an attempt may wait for a worker (code `SCHEDULE_TO_START_TIMEOUT`).
    pub schedule_to_start_ms: Option<u64>,
    /// Which list of the queue.
    pub priority: Priority,
    /// How much of the context travels with the task.
    pub context: ContextNeeds,
    /// Replaces the idempotency key that handlers are given.
    pub idempotency_key: Option<Selector>,
}

/// Which list of a pool's queue a task waits in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Claimed first.
    High,
    /// The default.
    #[default]
    Normal,
    /// Claimed last, but every tenth claim starts here.
    Low,
}

/// How much of the context travels with a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContextNeeds {
    /// All of the execution's own context, up to the inline limit. The default.
    #[default]
    Full,
    /// Nothing.
    None,
    /// These paths only.
    Paths(Vec<Path>),
}

/// What happens when the retries of a step are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// The step fails: `onFailure`, else the execution fails. The default.
    #[default]
    Fail,
    /// The execution is parked for a person.
    Incident,
}

/// Where the cursor goes after a step. None: the end of the graph (`onFailure`: the execution fails).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transitions {
    /// After success.
    pub on_success: Option<StepId>,
    /// After a failure whose retries are used up.
    pub on_failure: Option<StepId>,
    /// After a wait; none: `onSuccess`.
    pub on_resume: Option<StepId>,
}

/// When and how often a failed step runs again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Re-tries; the first run is not counted.
    pub max_attempts: u32,
    /// Milliseconds before the first re-try. 0: at once.
    pub backoff_ms: u64,
    /// Factor from one back-off to the next.
    pub backoff_multiplier: f64,
    /// Milliseconds: upper limit of one back-off.
    pub max_backoff_ms: u64,
    /// Codes that are retried; none: all, `[]`: no code.
    pub retry_on: Option<Vec<String>>,
    /// Codes that are never retried.
    pub no_retry_on: Vec<String>,
    /// How chance changes a back-off.
    pub jitter: Jitter,
    /// Milliseconds from the first attempt after which no re-try starts.
    pub total_ms: Option<u64>,
}

/// How chance changes a back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all. The default.
    #[default]
    None,
    /// Half of it is fixed, half is drawn.
    Equal,
    /// All of it is drawn.
    Full,
}
