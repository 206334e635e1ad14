//! Why executions and steps fail, and why commands are refused.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::state::Status;
use crate::flow::definition::StepId;
use crate::limits::LABELS_MAX;
use crate::time::Timestamp;

/// Why a step or an execution failed. Codes are SCREAMING_SNAKE; those of the engine are in [`codes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionError {
    /// Stable; what `retryOn` names.
    pub code: String,
    /// For people.
    pub message: String,
    /// The step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<StepId>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// When.
    pub timestamp: Timestamp,
}

impl ExecutionError {
    /// As `_error` shows it to the steps that follow.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "code": self.code, "message": self.message, "stepId": self.step_id });
        if let (Some(details), Value::Object(map)) = (&self.details, &mut value) {
            map.insert("details".into(), details.clone());
        }
        value
    }
}

/// The error codes of the engine itself. Each has a page in `docs/errors/`.
pub mod codes {
    /// More outcomes than `maxSteps`.
    pub const MAX_STEPS: &str = "MAX_STEPS";
    /// A sub-flow is to have another tenant than its parent.
    pub const FOREIGN_TENANT: &str = "FOREIGN_TENANT";
    /// The flow, or its version, does not exist.
    pub const FLOW_NOT_FOUND: &str = "FLOW_NOT_FOUND";
    /// The cursor points at a step that the flow does not have.
    pub const STEP_NOT_FOUND: &str = "STEP_NOT_FOUND";
    /// No handler of that type exists here.
    pub const HANDLER_NOT_FOUND: &str = "HANDLER_NOT_FOUND";
    /// The step's input cannot be resolved.
    pub const INPUT_ERROR: &str = "INPUT_ERROR";
    /// Datasets that a task or a map reads have too many bytes.
    pub const DATASET_TOO_LARGE: &str = "DATASET_TOO_LARGE";
    /// The handler failed without a code of its own.
    pub const STEP_FAILED: &str = "STEP_FAILED";
    /// A handler named a next step that the flow does not have.
    pub const INVALID_TRANSITION: &str = "INVALID_TRANSITION";
    /// A hard time limit of a step passed.
    pub const TIMEOUT: &str = "TIMEOUT";
    /// No worker took the task in time.
    pub const SCHEDULE_TO_START_TIMEOUT: &str = "SCHEDULE_TO_START_TIMEOUT";
    /// Nobody answered in time.
    pub const WAIT_TIMEOUT: &str = "WAIT_TIMEOUT";
    /// The execution ran out of time.
    pub const EXECUTION_TIMEOUT: &str = "EXECUTION_TIMEOUT";
    /// The tree of executions has spent its budget.
    pub const BUDGET_EXCEEDED: &str = "BUDGET_EXCEEDED";
    /// No case of a conditional, switch or branch holds.
    pub const NO_MATCH: &str = "NO_MATCH";
    /// An expression cannot be evaluated.
    pub const EXPRESSION_ERROR: &str = "EXPRESSION_ERROR";
    /// A child failed.
    pub const CHILD_FAILED: &str = "CHILD_FAILED";
    /// A loop did not end.
    pub const MAX_ITERATIONS: &str = "MAX_ITERATIONS";
    /// More items or branches than the limit.
    pub const FAN_OUT_LIMIT: &str = "FAN_OUT_LIMIT";
    /// Executions within executions, deeper than the limit.
    pub const DEPTH_LIMIT: &str = "DEPTH_LIMIT";
    /// The output does not match `outputSchema`.
    pub const OUTPUT_INVALID: &str = "OUTPUT_INVALID";
    /// The initial context does not match `inputSchema`.
    pub const INPUT_INVALID: &str = "INPUT_INVALID";
    /// Every worker that took the task was lost.
    pub const WORKER_LOST: &str = "WORKER_LOST";
    /// An approval was answered with `approved: false`.
    pub const APPROVAL_REJECTED: &str = "APPROVAL_REJECTED";
    /// The time of a delay cannot be read.
    pub const INVALID_DELAY: &str = "INVALID_DELAY";
    /// Compensation ran out of time.
    pub const COMPENSATION_TIMEOUT: &str = "COMPENSATION_TIMEOUT";
    /// A worker reported something that is not a result.
    pub const INVALID_RESULT: &str = "INVALID_RESULT";
    /// A result counts on changes of the context that its attempt staged, and not all of them are there.
    pub const CONTEXT_PATCH_MISSING: &str = "CONTEXT_PATCH_MISSING";

    /// All of the above.
    pub const ALL: &[&str] = &[
        MAX_STEPS,
        FOREIGN_TENANT,
        FLOW_NOT_FOUND,
        STEP_NOT_FOUND,
        HANDLER_NOT_FOUND,
        INPUT_ERROR,
        DATASET_TOO_LARGE,
        STEP_FAILED,
        INVALID_TRANSITION,
        TIMEOUT,
        SCHEDULE_TO_START_TIMEOUT,
        WAIT_TIMEOUT,
        EXECUTION_TIMEOUT,
        BUDGET_EXCEEDED,
        NO_MATCH,
        EXPRESSION_ERROR,
        CHILD_FAILED,
        MAX_ITERATIONS,
        FAN_OUT_LIMIT,
        DEPTH_LIMIT,
        OUTPUT_INVALID,
        INPUT_INVALID,
        WORKER_LOST,
        APPROVAL_REJECTED,
        INVALID_DELAY,
        COMPENSATION_TIMEOUT,
        INVALID_RESULT,
        CONTEXT_PATCH_MISSING,
    ];
}

/// Why a command was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// It has ended.
    #[error("the execution has already ended ({status})", status = .0.as_str())]
    Finished(Status),
    /// The report is of another attempt than the record's, or of no task that is out.
    #[error("the attempt is stale: the record has moved on")]
    StaleAttempt,
    /// The report is of a fan-out that is over.
    #[error("the fan-out is over")]
    StaleJoin,
    /// It is being cancelled already.
    #[error("the execution is already being cancelled")]
    AlreadyCancelling,
    /// It is undoing its steps, which nothing interrupts.
    #[error("the execution is compensating; that is not interrupted")]
    Compensating,
    /// Nothing waits for that.
    #[error("the execution does not wait for {0}")]
    NotWaiting(String),
    /// The answer does not fit the approval's form.
    #[error("the answer does not fit the form: {}", .0.join("; "))]
    InvalidAnswer(Vec<String>),
    /// The buffer for early signals is full.
    #[error("{limit} signals are waiting already")]
    SignalBufferFull {
        /// The limit.
        limit: usize,
    },
    /// A signal with this id has been accepted.
    #[error("the signal has been accepted before")]
    DuplicateSignal,
    /// It is paused already.
    #[error("the execution is paused already")]
    AlreadyPaused,
    /// It is not paused.
    #[error("the execution is not paused")]
    NotPaused,
    /// It is paused; the report is kept or will come again.
    #[error("the execution is paused")]
    Paused,
    /// Only a failed or parked execution can be retried.
    #[error("only a failed execution or an incident can be retried, not one that is {status}", status = .0.as_str())]
    NotRetryable(Status),
    /// Its steps were undone: only a rerun is possible.
    #[error("the execution has been compensated; only a rerun is possible")]
    Compensated,
    /// A child that its parent has counted cannot be reopened on its own.
    #[error("a child of a fan-out cannot be retried on its own; retry its parent")]
    CountedChild,
    /// Nothing is due.
    #[error("nothing is due")]
    NothingDue,
}

/// Why an execution could not be created.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StartError {
    /// Drafts and archived flows start only when forced.
    #[error("flow `{flow}` is {status}; only published flows start")]
    NotPublished {
        /// The flow.
        flow: String,
        /// Its status.
        status: &'static str,
    },
    /// The initial context does not match `inputSchema`.
    #[error("the input does not match the flow's inputSchema: {}", .0.join("; "))]
    InputInvalid(Vec<String>),
    /// The initial context is not an object.
    #[error("the input must be a JSON object (it becomes the initial context), not {0}")]
    InputNotAnObject(&'static str),
    /// The initial context is past a limit.
    #[error("{message}")]
    ContextLimit {
        /// `CONTEXT_…`.
        code: &'static str,
        /// In words.
        message: String,
    },
    /// The step to begin at does not exist.
    #[error("step `{0}` not found")]
    StepNotFound(String),
    /// The idempotency key cannot be used.
    #[error("the idempotency key {0}")]
    InvalidIdempotencyKey(String),
    /// More labels than [`LABELS_MAX`].
    #[error("an execution has at most {max} labels, not {0}", max = LABELS_MAX)]
    TooManyLabels(usize),
    /// A label is past a limit.
    #[error("the label `{name}` cannot be used: {reason}")]
    InvalidLabel {
        /// Its name, shortened if it is too long.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl StartError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotPublished { .. } => "FLOW_NOT_PUBLISHED",
            Self::InputInvalid(_) | Self::InputNotAnObject(_) => codes::INPUT_INVALID,
            Self::ContextLimit { code, .. } => code,
            Self::StepNotFound(_) => codes::STEP_NOT_FOUND,
            Self::InvalidIdempotencyKey(_) => "INVALID_IDEMPOTENCY_KEY",
            Self::TooManyLabels(_) | Self::InvalidLabel { .. } => "INVALID_LABEL",
        }
    }
}
