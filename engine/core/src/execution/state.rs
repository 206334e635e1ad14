//! The state of one execution. Every state carries exactly its own data; statuses are derived, never stored beside it.

mod activity;
mod identity;
mod kept;
mod phase;
mod stack;
mod status;
mod stored;

use super::error::ExecutionError;
use crate::flow::definition::StepId;
use crate::ids::{ExecutionId, FlowHash, TaskId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use activity::{
    Activity, AwaitedEvent, Closing, Fan, Incident, ResumedBy, StepRun, TaskRun, Wait, WaitOn,
};
pub use identity::{FlowReference, Identity, Lineage, ParentLink};
pub use kept::{BufferedSignal, Compensation, Cost, Pause};
pub use phase::{CancelSource, Cancellation, Phase, Stage, Why};
pub use stack::{
    ChildStacks, STACK_PAGE_BYTES, STACK_PAGE_ENTRIES, StackPage, StackPageLimits, StackPlace, Undoable,
};
pub use status::Status;
pub use stored::StoredState;

/// One run of a flow, or of a body within it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Who and whose it is; never changes.
    pub identity: Arc<Identity>,
    /// Raised by every commit: the guard of the record.
    pub version: u64,
    /// Number of events so far; the next event's sequence is one more.
    pub events: u64,
    /// 1, raised by each reopening.
    pub run: u32,
    /// When the last commit was decided.
    pub updated_at: Timestamp,
    /// The instant at which the execution fails with `EXECUTION_TIMEOUT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The step the execution is at.
    pub cursor: StepId,
    /// How far the execution is, as a whole.
    pub phase: Phase,
    /// What it is waiting for.
    pub activity: Activity,
    /// Set while paused: nothing moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// The execution's own context.
    pub context: Map<String, Value>,
    /// Bytes of the context as JSON.
    pub context_bytes: usize,
    /// Times the cursor entered each step.
    pub visits: BTreeMap<StepId, u32>,
    /// Applied outcomes.
    pub step_count: u32,
    /// Number of the last task.
    pub tasks: u32,
    /// Number of the last fan-out.
    pub joins: u32,
    /// Successful visits of steps with `compensateWith`, and references to those of children, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compensations: Vec<Undoable>,
    /// The step that is being undone now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoing: Option<Compensation>,
    /// True once compensation has begun: only a rerun is possible then.
    #[serde(default)]
    pub compensated: bool,
    /// Signals that arrived before anything waited for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<BufferedSignal>,
    /// Ids of the signals accepted lately, so that a signal sent twice counts once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signal_ids: Vec<String>,
    /// `_error`: of the step whose failure led to the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Value>,
    /// `_resume`: data of the last resume.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
    pub resume_data: Option<Value>,
    /// Output of the last successful step; kept for bodies only, whose result it is.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
    pub last_output: Option<Value>,
    /// Iterations done of the loop that the cursor is at.
    #[serde(default)]
    pub iteration: u32,
    /// Whether errors were tolerated.
    #[serde(default)]
    pub has_errors: bool,
    /// Whether the budget's warning level was passed.
    #[serde(default)]
    pub budget_warned: bool,
    /// What it has cost so far, children included once they are joined.
    #[serde(default)]
    pub cost: Cost,
    /// Set once ended with a result.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
    pub output: Option<Value>,
}

impl Execution {
    /// All of it as it is stored, without context and output, which have places of their own.
    #[must_use]
    pub fn stored(&self) -> StoredState<'_> {
        StoredState::of(self)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ExecutionId {
        self.identity.id
    }

    /// The status that is stored and shown.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.phase {
            Phase::Completed => Status::Completed,
            Phase::Failed { .. } => Status::Failed,
            Phase::Cancelled { .. } => Status::Cancelled,
            Phase::Running | Phase::Ending { .. } if self.pause.is_some() => Status::Paused,
            Phase::Running | Phase::Ending { .. } if matches!(self.activity, Activity::Incident(_)) => {
                Status::Incident
            }
            Phase::Ending { why, stage, .. } => match (stage, why) {
                (Stage::Draining { .. }, _) | (Stage::CleaningUp, Why::Cancel(_)) => Status::Cancelling,
                (Stage::Compensating { .. }, _) | (Stage::CleaningUp, Why::Failure(_)) => {
                    Status::Compensating
                }
            },
            Phase::Running => match &self.activity {
                Activity::Ready if self.step_count == 0 && self.visits.is_empty() => Status::Pending,
                Activity::Task(_) => Status::WaitingForWorker,
                Activity::Ready
                | Activity::Backoff { .. }
                | Activity::Wait(_)
                | Activity::Children(_)
                | Activity::Incident(_)
                | Activity::Nothing => Status::Waiting,
            },
        }
    }

    /// Other flows than its own that its decisions may need: those whose steps it undoes.
    pub fn flows_needed(&self) -> impl Iterator<Item = &FlowHash> {
        let own = &self.identity.flow.hash;
        self.compensations
            .iter()
            .filter_map(Undoable::visit)
            .chain(&self.undoing)
            .map(|undo| &undo.flow.hash)
            .filter(move |hash| *hash != own)
    }

    /// Whether `onCancel` or `onFailure` runs. What can be undone is undone by then: what the clean-up does stays done.
    #[must_use]
    pub const fn is_cleaning_up(&self) -> bool {
        matches!(self.phase, Phase::Ending { stage: Stage::CleaningUp, .. })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self.phase {
            Phase::Completed | Phase::Failed { .. } | Phase::Cancelled { .. } => true,
            Phase::Running | Phase::Ending { .. } => false,
        }
    }

    /// The task that is out.
    #[must_use]
    pub fn task(&self) -> Option<&TaskRun> {
        match &self.activity {
            Activity::Task(task) => Some(task),
            Activity::Ready
            | Activity::Backoff { .. }
            | Activity::Wait(_)
            | Activity::Children(_)
            | Activity::Incident(_)
            | Activity::Nothing => None,
        }
    }

    /// Id of the task with `number`.
    #[must_use]
    pub fn task_id(&self, number: u32) -> TaskId {
        TaskId { execution: self.id(), number }
    }

    /// The error it failed with, or is about to.
    #[must_use]
    pub fn error(&self) -> Option<&ExecutionError> {
        match &self.phase {
            Phase::Failed { error, .. } | Phase::Ending { why: Why::Failure(error), .. } => Some(error),
            Phase::Running
            | Phase::Completed
            | Phase::Cancelled { .. }
            | Phase::Ending { why: Why::Cancel(_), .. } => None,
        }
    }

    /// Why it waits, in words for people; none when it does not.
    #[must_use]
    pub fn waiting_reason(&self) -> Option<String> {
        if self.is_terminal() {
            return None;
        }
        if let Some(pause) = &self.pause {
            return Some(pause.reason.clone().unwrap_or_else(|| "paused".into()));
        }
        match &self.activity {
            Activity::Ready => Some("the engine's turn".into()),
            Activity::Task(task) => {
                Some(format!("a worker of pool {} (attempt {})", task.pool, task.run.attempt))
            }
            Activity::Backoff { task, until, .. } => Some(format!("retry {} at {until}", task.retry)),
            Activity::Wait(wait) => Some(wait.reason.clone().unwrap_or_else(|| match &wait.on {
                WaitOn::Timer { until } => format!("timer until {until}"),
                WaitOn::Signal { signal } => format!("signal {signal}"),
                WaitOn::Event { event } => format!("event {event}"),
                WaitOn::Approval { signal, .. } => format!("approval {signal}"),
                WaitOn::Handler { until: Some(until), .. } => format!("timer until {until}"),
                WaitOn::Handler { until: None, event: Some(event), .. } => format!("event {}", event.name),
                WaitOn::Handler { until: None, event: None, .. } => "a resume".into(),
            })),
            Activity::Children(fan) => Some(match fan.total {
                1 => "1 child".into(),
                total => format!("{total} children"),
            }),
            Activity::Incident(incident) => Some(format!("incident {}", incident.error.code)),
            Activity::Nothing => None,
        }
    }

    /// The next instant at which time itself moves the execution: what the timer chore waits for. None while paused,
    /// ended, or when only others can move it.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        if self.is_terminal() || self.pause.is_some() {
            return None;
        }
        let phase = match &self.phase {
            Phase::Running => self.deadline,
            Phase::Ending { stage: Stage::Draining { until } | Stage::Compensating { until }, .. } => {
                // A fan-out ends by its children, however long that takes; only a task can be fenced off.
                match self.activity {
                    Activity::Children(_) | Activity::Incident(_) => None,
                    Activity::Ready
                    | Activity::Task(_)
                    | Activity::Backoff { .. }
                    | Activity::Wait(_)
                    | Activity::Nothing => Some(*until),
                }
            }
            Phase::Ending { stage: Stage::CleaningUp, .. }
            | Phase::Completed
            | Phase::Failed { .. }
            | Phase::Cancelled { .. } => None,
        };
        let activity = match &self.activity {
            Activity::Ready => Some(self.updated_at),
            Activity::Task(task) => earliest([task.start_by, task.total_by]),
            Activity::Backoff { until, .. } => Some(*until),
            Activity::Wait(wait) => earliest([
                wait.deadline,
                match &wait.on {
                    WaitOn::Timer { until } => Some(*until),
                    WaitOn::Signal { .. } | WaitOn::Event { .. } => None,
                    WaitOn::Approval { escalate_at, .. } => *escalate_at,
                    WaitOn::Handler { until, .. } => *until,
                },
            ]),
            Activity::Children(fan) if fan.closing.is_none() => fan.total_by,
            Activity::Children(_) | Activity::Incident(_) | Activity::Nothing => None,
        };
        earliest([phase, activity])
    }
}

fn earliest<const N: usize>(instants: [Option<Timestamp>; N]) -> Option<Timestamp> {
    instants.into_iter().flatten().min()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
