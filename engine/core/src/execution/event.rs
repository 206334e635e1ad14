//! Facts about an execution, as stored in its history. Replaying them with [`super::apply`] gives its state; effects are
//! never repeated by a replay.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::{ContextChange, TaskReport};
use super::error::ExecutionError;
use super::state::{
    BufferedSignal, Cancellation, ChildStacks, Closing, Compensation, Cost, Execution, Fan, Incident, Stage,
    StepRun, TaskRun, Undoable, Wait, Why,
};
use crate::flow::definition::StepId;
use crate::time::Timestamp;

/// A fact about an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Event {
    /// It was created; the state that all else builds on.
    Created {
        /// The whole state at creation.
        execution: Box<Execution>,
    },
    /// The cursor entered a step.
    Entered {
        /// The step.
        step: StepId,
    },
    /// The cursor is to enter a step, in a later decision.
    Yielded {
        /// The step.
        step: StepId,
    },
    /// A task was scheduled: an attempt of a step.
    TaskScheduled {
        /// The task.
        #[serde(flatten)]
        task: TaskRun,
    },
    /// An attempt ended: one entry of the history that people read.
    AttemptEnded(Box<AttemptEnded>),
    /// The context changed.
    ContextChanged {
        /// In order.
        changes: Vec<ContextChange>,
        /// Bytes of the context afterwards.
        bytes: usize,
    },
    /// A step succeeded.
    StepSucceeded {
        /// The step.
        step: StepId,
        /// Kept for bodies only, whose result it may be.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
        output: Option<Value>,
    },
    /// A step failed, and its `onFailure` step follows.
    StepFailed {
        /// The step.
        step: StepId,
        /// Why.
        error: ExecutionError,
    },
    /// A failed step will run again.
    RetryScheduled {
        /// The counters of the attempt to come.
        run: StepRun,
        /// When.
        until: Timestamp,
        /// Why.
        error: ExecutionError,
    },
    /// The heartbeats of an attempt stopped.
    LeaseLost {
        /// The step.
        step: StepId,
        /// The lost attempt.
        attempt: u32,
    },
    /// The attempt was in a worker's hands in time.
    StartConfirmed,
    /// A wait began.
    WaitBegan(Wait),
    /// A wait ended.
    WaitEnded {
        /// The step.
        step: StepId,
        /// By what.
        by: WaitEnd,
    },
    /// Others are asked for an approval.
    Escalated {
        /// Who.
        assignees: Vec<String>,
    },
    /// A fan-out began.
    FanOpened(Fan),
    /// A fan-out has enough, or the execution is ending.
    FanClosing {
        /// Why.
        closing: Closing,
    },
    /// All children of a fan-out are terminal.
    FanEnded {
        /// Which.
        join: u32,
        /// Children that completed.
        succeeded: u32,
        /// Children that failed or were cancelled.
        failed: u32,
        /// What they cost.
        cost: Cost,
    },
    /// An iteration of a loop is done.
    IterationDone {
        /// How many are done.
        iteration: u32,
    },
    /// Errors were tolerated.
    ErrorsTolerated,
    /// A signal was kept for later.
    SignalBuffered(BufferedSignal),
    /// A kept signal was used.
    SignalTaken {
        /// Its place in the buffer.
        index: usize,
    },
    /// A signal with an id was accepted.
    SignalAccepted {
        /// The id.
        id: String,
    },
    /// The task that was out does not count any more.
    TaskFenced {
        /// Number of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
    },
    /// The execution is parked for a person.
    IncidentRaised(Incident),
    /// The incident is over.
    IncidentResolved {
        /// Who asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A successful visit can be undone.
    CompensationAdded(Box<Compensation>),
    /// Children have left something that can be undone: in their records, until it is undone.
    ChildStacksAdded(ChildStacks),
    /// The reference on top of the stack was followed: what was read, and what is left to be read, are in its place.
    ChildStacksRead {
        /// What is left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<ChildStacks>,
        /// What was read, oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        entries: Vec<Undoable>,
    },
    /// The last one on the stack is being undone.
    CompensationBegan,
    /// It has been undone.
    CompensationEnded,
    /// The execution is on the way to its end.
    EndingBegan {
        /// Why.
        why: Why,
        /// How far.
        stage: Stage,
        /// The counters of the visit that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<StepRun>,
    },
    /// The ending went on.
    StageReached {
        /// How far.
        stage: Stage,
    },
    /// Nothing moves.
    Paused {
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A report arrived while paused.
    ReportHeld(Box<TaskReport>),
    /// It moves again.
    Unpaused,
    /// The tree has spent more than its warning level.
    BudgetWarned {
        /// All that was spent.
        spent: Cost,
    },
    /// It reached its result.
    Completed {
        /// The result.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
        output: Option<Value>,
    },
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled {
        /// By whom and why.
        cancellation: Cancellation,
    },
    /// A failed execution goes on.
    Reopened {
        /// Who asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// One entry of the history that people read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptEnded {
    /// The step.
    pub step_id: StepId,
    /// Its type.
    pub handler_type: String,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The visit of the step.
    pub visit: u32,
    /// The attempt.
    pub attempt: u32,
    /// Number of the task; 0 for a step that the engine does itself.
    pub task: u32,
    /// When the handler began.
    pub started_at: Timestamp,
    /// When its end was known.
    pub completed_at: Timestamp,
    /// Milliseconds that it ran.
    pub duration_ms: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ExecutionError>,
    /// The worker instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// What it cost.
    #[serde(default)]
    pub cost: Cost,
    /// Whether it undid another step.
    #[serde(default)]
    pub compensates: bool,
}

/// How an attempt ended, in the words of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptOutcome {
    /// The output counted.
    Success,
    /// The error counted.
    Failure,
    /// The step waits.
    Wait,
    /// The step's `when` did not hold.
    Skipped,
}

/// By what a wait ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum WaitEnd {
    /// Its time came.
    Time,
    /// A signal, a resume, an event, an answer.
    Resume {
        /// Goes to `_resume`.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
        data: Option<Value>,
    },
    /// Nobody answered in time, or the answer was no.
    Failed,
    /// The execution is ending.
    Abandoned,
}

/// An event as recorded: numbered and dated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// From 1, without gaps, per execution.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The fact.
    pub event: Event,
}
