//! What an execution does at its cursor.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::execution::error::ExecutionError;
use crate::flow::definition::StepId;
use crate::time::Timestamp;

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
    /// Lease losses since the last one before which a new checkpoint was saved, that one included.
    pub lost: u32,
    /// The last lease loss; none: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_loss: Option<LeaseLoss>,
    /// When the visit began.
    pub began_at: Timestamp,
    /// Whether it undoes another step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compensates: bool,
    /// What ended the last pause of this visit; stays until the next one, so that an attempt that is lost takes nothing with
    /// it. What a resume or an event brought is the execution's `resume_data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<ResumedBy>,
}

impl StepRun {
    /// Counts a lost lease. `saved_at`: of the task's last checkpoint. One that is newer than the last loss shows that the
    /// task gets on, whatever becomes of its workers: the count begins anew.
    pub(crate) fn lose(&mut self, saved_at: Option<Timestamp>, now: Timestamp) {
        let gets_on = match (&self.last_loss, saved_at) {
            (Some(last), Some(saved)) => saved > last.at,
            (None, _) | (Some(_), None) => false,
        };
        let total = self.last_loss.as_ref().map_or(self.lost, |last| last.total);
        self.lost = if gets_on { 1 } else { self.lost.saturating_add(1) };
        self.last_loss = Some(LeaseLoss { at: now, total: total.saturating_add(1) });
    }
}

/// The last lease that a visit of a step has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseLoss {
    /// When.
    pub at: Timestamp,
    /// Leases that the visit has lost in all.
    pub total: u32,
}

/// What ended a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum ResumedBy {
    /// Its time came.
    Time,
    /// A resume.
    Resume,
    /// The event it waited for.
    Event {
        /// Names it.
        id: String,
        /// The event's name.
        name: String,
    },
}

/// An event that a handler waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AwaitedEvent {
    /// The name.
    pub name: String,
    /// CEL over `event`; none: any event of that name.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
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
    /// A handler's wait: a time, an event, or a resume.
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
        /// An event that ends it, too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<AwaitedEvent>,
    },
}

impl WaitOn {
    /// The event that ends it.
    #[must_use]
    pub fn event(&self) -> Option<&str> {
        match self {
            Self::Event { event } => Some(event),
            Self::Handler { event: Some(event), .. } => Some(&event.name),
            Self::Handler { event: None, .. }
            | Self::Timer { .. }
            | Self::Signal { .. }
            | Self::Approval { .. } => None,
        }
    }
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
