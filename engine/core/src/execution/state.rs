//! The state of one execution. Every state carries exactly its own data; statuses are derived, never stored beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ExecutionError;
use crate::flow::definition::{ParentClose, StepId};
use crate::ids::{ExecutionId, FlowHash, TaskId};
use crate::time::Timestamp;

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
    /// Successful visits of steps with `compensateWith`, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compensations: Vec<Compensation>,
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

/// Who and whose an execution is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its id.
    pub id: ExecutionId,
    /// The execution at the root of the tree; itself for a root.
    pub root: ExecutionId,
    /// Which child of which fan-out it is; none for a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentLink>,
    /// Executions above it.
    pub depth: u16,
    /// The pinned flow version.
    pub flow: FlowReference,
    /// Other flows of the same document, which sub-flows resolve to first. Empty for published flows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundle: Vec<FlowReference>,
    /// Which graph of the flow it runs: empty for the flow's own, else the path of a body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graph: Vec<String>,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Free for the starter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Searchable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The key that it was started under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Where it was rerun from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Whether spending is counted for the root's budget.
    #[serde(default)]
    pub budgeted: bool,
    /// Milliseconds: replaces the flow's `timeouts.waitMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_timeout_ms: Option<u64>,
    /// W3C trace context of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A pinned flow version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReference {
    /// The flow's id.
    pub id: String,
    /// The flow's version.
    pub version: String,
    /// The definition's hash: what is loaded.
    pub hash: FlowHash,
}

/// Which child of which fan-out an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentLink {
    /// The parent.
    pub execution: ExecutionId,
    /// The fan-out, by its number in the parent; 0 for a fire-and-forget child, which reports to nobody.
    pub join: u32,
    /// The child's place.
    pub index: u32,
    /// What happens to the child when the parent ends first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub abandon: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ParentLink {
    /// Whether the parent counts on this child's end.
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        self.join != 0
    }

    /// From the flow's word.
    #[must_use]
    pub fn detached(execution: ExecutionId, index: u32, close: ParentClose) -> Self {
        Self { execution, join: 0, index, abandon: close == ParentClose::Abandon }
    }
}

/// Where an execution was rerun from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The original execution.
    pub rerun_of: ExecutionId,
    /// The step that the rerun began at.
    pub from_step: String,
}

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

/// What an execution is waiting for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Activity {
    /// Created, or between steps: the engine's turn.
    Ready,
    /// A task is out.
    Task(TaskRun),
    /// The next attempt of a failed step.
    Backoff {
        /// The step's counters.
        task: StepRun,
        /// When the attempt is due.
        until: Timestamp,
        /// Of which failure.
        error: ExecutionError,
    },
    /// A time, a signal, an event, an answer.
    Wait(Wait),
    /// Children.
    Children(Fan),
    /// Parked for a person.
    Incident(Incident),
    /// Nothing: it has ended.
    Nothing,
}

/// The counters of one visit of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRun {
    /// The step.
    pub step: StepId,
    /// Times the cursor entered it, this time included.
    pub visit: u32,
    /// Number of the task; 0 for a step that the engine does itself.
    pub task: u32,
    /// Deliveries so far, from 1: the fence.
    pub attempt: u32,
    /// Retries of the policy used.
    pub retry: u32,
    /// Lease losses.
    pub lost: u32,
    /// When the visit began.
    pub began_at: Timestamp,
    /// Whether it undoes another step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compensates: bool,
}

/// A task that is out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRun {
    /// The counters.
    #[serde(flatten)]
    pub run: StepRun,
    /// The pool whose queue carries it.
    pub pool: String,
    /// When this attempt was scheduled.
    pub scheduled_at: Timestamp,
    /// The instant at which an attempt that no worker has taken fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    /// The instant at which all attempts of the visit end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_by: Option<Timestamp>,
}

/// A wait that holds nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// The step's counters.
    pub run: StepRun,
    /// For what.
    pub on: WaitOn,
    /// When it began.
    pub since: Timestamp,
    /// When it fails with `WAIT_TIMEOUT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a wait is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "for")]
pub enum WaitOn {
    /// A time.
    Timer {
        /// When it ends.
        until: Timestamp,
    },
    /// A named signal.
    Signal {
        /// The name.
        signal: String,
    },
    /// A matching event.
    Event {
        /// The name.
        event: String,
    },
    /// A person's answer.
    Approval {
        /// The signal's name.
        signal: String,
        /// Who is asked now.
        assignees: Vec<String>,
        /// When others are asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        escalate_at: Option<Timestamp>,
    },
    /// A handler's wait: a time, or a resume.
    Handler {
        /// When it ends; none: only by a resume.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// A token chosen by the worker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Whether the same task is delivered again when the wait ends.
        #[serde(default, skip_serializing_if = "is_default")]
        again: bool,
    },
}

/// A fan-out that the execution waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fan {
    /// The step's counters.
    pub run: StepRun,
    /// Its number in the execution.
    pub join: u32,
    /// Children in all.
    pub total: u32,
    /// When it began.
    pub since: Timestamp,
    /// Set once it has enough: the others are cancelled, and it goes on when all are terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
    /// The instant at which all attempts of the visit end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_by: Option<Timestamp>,
}

/// Why a fan-out cancels what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Closing {
    /// Enough children succeeded, or too many failed.
    Decided,
    /// The step ran out of time.
    TimedOut,
    /// The execution is ending.
    Ending,
}

/// Parked for a person: `retry` tries again, `cancel` ends the execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// The step's counters.
    pub run: StepRun,
    /// What happened.
    pub error: ExecutionError,
    /// When.
    pub since: Timestamp,
}

/// Set while an execution is paused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// When.
    pub since: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A result that arrived meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<super::command::TaskReport>>,
}

/// A successful visit that can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compensation {
    /// The step to undo.
    pub step: StepId,
    /// Which visit.
    pub visit: u32,
    /// The execution whose step it was: this one, or a child of it.
    pub execution: ExecutionId,
    /// Whether it is not known if the step took effect.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uncertain: bool,
    /// The flow and the graph that hold the undoing step.
    pub flow: FlowReference,
    /// Path of the graph.
    pub graph: Vec<String>,
    /// The undoing step.
    pub with: StepId,
    /// What the undoing step's input reads of the context as it was at that visit.
    pub context: Map<String, Value>,
}

/// A signal that arrived before anything waited for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BufferedSignal {
    /// Its name.
    pub name: String,
    /// Its data.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::present")]
    pub data: Option<Value>,
    /// Names it, so that sending it twice counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// US dollars.
    #[serde(default)]
    pub usd: f64,
    /// Tokens of language models.
    #[serde(default)]
    pub tokens: u64,
    /// Deliveries of tasks.
    #[serde(default)]
    pub attempts: u64,
}

impl Cost {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            usd: self.usd + other.usd,
            tokens: self.tokens.saturating_add(other.tokens),
            attempts: self.attempts.saturating_add(other.attempts),
        }
    }
}

/// The status that is stored and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Created; its first step has not begun.
    Pending,
    /// A task is out.
    WaitingForWorker,
    /// A timer, signal, event, approval, children or back-off.
    Waiting,
    /// Nothing moves until resumed.
    Paused,
    /// Parked for a person.
    Incident,
    /// Tasks and children in flight are ending.
    Cancelling,
    /// Successful steps are being undone.
    Compensating,
    /// Terminal.
    Completed,
    /// Terminal but for the command `Reopen`.
    Failed,
    /// Terminal.
    Cancelled,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::WaitingForWorker,
        Self::Waiting,
        Self::Paused,
        Self::Incident,
        Self::Cancelling,
        Self::Compensating,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::WaitingForWorker => "waiting_for_worker",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Incident => "incident",
            Self::Cancelling => "cancelling",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Self::as_str`] gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the execution has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl Execution {
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
            .chain(&self.undoing)
            .map(|undo| &undo.flow.hash)
            .filter(move |hash| *hash != own)
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
                WaitOn::Handler { until: None, .. } => "a resume".into(),
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
