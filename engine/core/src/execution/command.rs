//! What an execution can be asked or told. Every command may be refused, and then nothing has changed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ExecutionError;
use super::state::{AwaitedEvent, CancelSource, Cost, Status};
use crate::ids::ExecutionId;
use crate::time::Timestamp;

/// What an execution can be asked or told.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Takes the first step. Given once, right after creation.
    Begin,
    /// A worker reports an attempt.
    Report(Box<TaskReport>),
    /// The heartbeats of an attempt stopped.
    LeaseLost {
        /// Which.
        attempt: TaskAttempt,
        /// When the task's last checkpoint was saved; none: it has none.
        saved_at: Option<Timestamp>,
    },
    /// An attempt ran past its hard end.
    TimedOut(TaskAttempt),
    /// No worker took the attempt before `scheduleToStartMs`; it has been taken off the queue.
    NotStarted(TaskAttempt),
    /// The attempt was in a worker's hands when `scheduleToStartMs` passed.
    Started(TaskAttempt),
    /// The attempt is in no queue, though the record says that it is out.
    Republish(TaskAttempt),
    /// Time has passed: whatever is due happens.
    Wake,
    /// A signal for a wait of that name, now or later.
    Signal(Signal),
    /// A resume token of a step's visit, already verified.
    Resume {
        /// The step.
        step: String,
        /// Its visit.
        visit: u32,
        /// Goes to `_resume` and the step's `outputKey`.
        data: Option<Value>,
    },
    /// A token that a worker chose for its wait.
    ResumeByToken {
        /// The token.
        token: String,
        /// Goes to `_resume` and the step's `outputKey`.
        data: Option<Value>,
    },
    /// An event was published.
    Event {
        /// Names it: one that was consumed is not consumed again.
        id: String,
        /// Its name.
        name: String,
        /// Its data.
        data: Value,
    },
    /// A fan-out has enough: the children that are left are not needed any more.
    JoinDecided {
        /// Which fan-out.
        join: u32,
    },
    /// All children of a fan-out are terminal.
    JoinEnded(Box<JoinReport>),
    /// End it, undoing and cleaning up.
    Cancel {
        /// Who.
        source: CancelSource,
        /// Why.
        reason: Option<String>,
    },
    /// End it at once, without undoing or cleaning up.
    Terminate {
        /// Why.
        reason: Option<String>,
    },
    /// Let nothing move.
    Pause {
        /// Why.
        reason: Option<String>,
    },
    /// Let it move again.
    Unpause,
    /// Try the failed step again: of an incident, or of a failed execution (`Reopen`).
    Retry {
        /// Who asked.
        by: Option<String>,
    },
    /// The tree of executions has spent more than its budget.
    BudgetExceeded {
        /// All that was spent.
        spent: Cost,
    },
    /// The tree of executions has spent more than its warning level.
    BudgetWarning {
        /// All that was spent.
        spent: Cost,
    },
}

/// Names one attempt of one task of the execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskAttempt {
    /// Number of the task.
    pub task: u32,
    /// The fence.
    pub attempt: u32,
}

/// A signal for an execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Its name.
    pub name: String,
    /// Goes to `_resume` and the step's `outputKey`.
    pub data: Option<Value>,
    /// Names it, so that sending it twice counts once.
    pub id: Option<String>,
}

/// What a worker reports of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskReport {
    /// Number of the task.
    pub task: u32,
    /// The fence.
    pub attempt: u32,
    /// How it ended.
    pub outcome: ReportedOutcome,
    /// Changes of the context, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context_changes: Vec<ContextChange>,
    /// Custom events, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<EmittedEvent>,
    /// Rows for tables, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<TableRow>,
    /// What it cost.
    #[serde(default)]
    pub cost: Cost,
    /// When the handler began, by the worker's clock; none: the worker did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Milliseconds that the handler ran.
    #[serde(default)]
    pub duration_ms: u64,
    /// The worker instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum ReportedOutcome {
    /// Done.
    Success {
        /// Written at the step's `outputKey`; none: nothing is written.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
        output: Option<Value>,
        /// Where the cursor goes.
        next: NextStep,
    },
    /// Not done.
    Failure {
        /// Stable; none: `STEP_FAILED`.
        code: Option<String>,
        /// For people.
        message: String,
        /// False: no retry.
        retryable: bool,
        /// For programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        details: Option<Value>,
        /// Milliseconds before the next attempt, at least.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// Where the cursor goes when there is no retry.
        next: NextStep,
    },
    /// The step waits.
    Wait {
        /// Written at once (`waiting`); none: nothing is written (`wait`).
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
        output: Option<Value>,
        /// When it ends; none: by a resume only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// Shown to people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// A token chosen by the worker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// True: when the wait ends the same task is delivered again, with its checkpoint and its idempotency key (a
        /// batch at a time). False: the cursor goes on.
        #[serde(default)]
        again: bool,
        /// An event that ends it, too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<AwaitedEvent>,
    },
    /// Handed back after the handler had started: tried again without touching budgets.
    Released,
}

/// Where the cursor goes after an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NextStep {
    /// Where the transitions say.
    #[default]
    Transition,
    /// To this step.
    To(String),
    /// To the end.
    End,
}

/// One change of the context, by dotted path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum ContextChange {
    /// Writes a value.
    Set {
        /// Dotted path.
        path: String,
        /// The value.
        value: Value,
    },
    /// Writes each key at the top level.
    Merge {
        /// The keys.
        value: Map<String, Value>,
    },
    /// Removes a path.
    Delete {
        /// Dotted path.
        path: String,
    },
}

/// A custom event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmittedEvent {
    /// Names it, for the whole system: publishing it twice counts once. None: the record makes one of the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Its data.
    #[serde(default)]
    pub data: Value,
}

/// A row for a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRow {
    /// The table.
    pub table: String,
    /// Its id; an equal one is inserted once.
    pub id: String,
    /// Column to value.
    pub row: Map<String, Value>,
    /// The pipe that made it; none: a handler did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipe: Option<String>,
}

/// What is known when all children of a fan-out are terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinReport {
    /// Which fan-out.
    pub join: u32,
    /// Children that completed.
    pub succeeded: u32,
    /// Children that failed or were cancelled.
    pub failed: u32,
    /// What they gave.
    pub outputs: JoinOutputs,
    /// The first failures, at most [`ITEM_ERRORS_MAX`], in the order of the children.
    pub errors: Vec<ChildError>,
    /// Completed children in front of this place have left something that can be undone; 0: none has.
    pub undoable: u32,
    /// What they cost.
    pub cost: Cost,
    /// Whether any child completed with tolerated errors.
    pub has_errors: bool,
}

/// Failures of children that are kept in the parent's context; all of them stay with the children.
pub const ITEM_ERRORS_MAX: usize = 1000;

/// What the children of a fan-out gave.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinOutputs {
    /// One for each child that was made, in order.
    Inline(Vec<ChildOutput>),
    /// Too many bytes for the context: it gets a reference.
    Dataset {
        /// Children.
        count: u32,
        /// Bytes of their results as JSON.
        bytes: usize,
    },
}

/// What one child gave.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildOutput {
    /// The child.
    pub execution: ExecutionId,
    /// How it ended.
    pub status: Status,
    /// Its result.
    pub output: Option<Value>,
    /// Its final context; for sub-flows only.
    pub context: Option<Map<String, Value>>,
}

/// Why one child failed.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildError {
    /// The child's place.
    pub index: u32,
    /// Its error; a cancelled child has the code `CANCELLED`.
    pub error: ExecutionError,
}
