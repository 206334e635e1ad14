//! What is told, and how it is written.

use std::io;
use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use flowmonkey_core::execution::{Event, Execution, RecordedEvent, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::wire::LogLine;
use serde::Serialize;
use serde_json::{Value, json};

use super::{About, EVENT_BYTES_MAX};
use crate::api::executions::without_tokens;
use crate::watch::Update;

/// A handler began; volatile.
const STARTED: &str = "step.started";
const PROGRESS: &str = "execution.progress";
const LOG: &str = "task.log";

/// All types of events about executions.
pub(super) const EXECUTION_KINDS: &[&str] = &[
    "execution.created",
    "execution.contextChanged",
    "execution.errorsTolerated",
    "execution.signalBuffered",
    "execution.signalTaken",
    "execution.signalAccepted",
    "execution.incidentRaised",
    "execution.incidentResolved",
    "execution.compensationAdded",
    "execution.childStacksAdded",
    "execution.childStacksRead",
    "execution.compensationBegan",
    "execution.compensationEnded",
    "execution.endingBegan",
    "execution.stageReached",
    "execution.paused",
    "execution.reportHeld",
    "execution.unpaused",
    "execution.budgetWarned",
    "execution.completed",
    "execution.failed",
    "execution.cancelled",
    "execution.reopened",
    "step.entered",
    "step.yielded",
    "step.taskScheduled",
    "step.attemptEnded",
    "step.stepSucceeded",
    "step.stepFailed",
    "step.retryScheduled",
    "step.leaseLost",
    "step.startConfirmed",
    "step.waitBegan",
    "step.waitEnded",
    "step.escalated",
    "step.fanOpened",
    "step.fanClosing",
    "step.fanEnded",
    "step.iterationDone",
    "step.taskFenced",
    STARTED,
    PROGRESS,
    LOG,
];

/// All types of events about queues and workers.
pub(super) const BOARD_KINDS: &[&str] = &["queue.depth", "worker.joined", "worker.changed", "worker.left"];

/// The type of a committed event: what it is about, and its type in the history.
const fn kind(event: &Event) -> &'static str {
    match event {
        Event::Created { .. } => "execution.created",
        Event::Entered { .. } => "step.entered",
        Event::Yielded { .. } => "step.yielded",
        Event::TaskScheduled { .. } => "step.taskScheduled",
        Event::AttemptEnded(_) => "step.attemptEnded",
        Event::ContextChanged { .. } => "execution.contextChanged",
        Event::StepSucceeded { .. } => "step.stepSucceeded",
        Event::StepFailed { .. } => "step.stepFailed",
        Event::RetryScheduled { .. } => "step.retryScheduled",
        Event::LeaseLost { .. } => "step.leaseLost",
        Event::StartConfirmed => "step.startConfirmed",
        Event::WaitBegan(_) => "step.waitBegan",
        Event::WaitEnded { .. } => "step.waitEnded",
        Event::Escalated { .. } => "step.escalated",
        Event::FanOpened(_) => "step.fanOpened",
        Event::FanClosing { .. } => "step.fanClosing",
        Event::FanEnded { .. } => "step.fanEnded",
        Event::IterationDone { .. } => "step.iterationDone",
        Event::ErrorsTolerated => "execution.errorsTolerated",
        Event::SignalBuffered(_) => "execution.signalBuffered",
        Event::SignalTaken { .. } => "execution.signalTaken",
        Event::SignalAccepted { .. } => "execution.signalAccepted",
        Event::TaskFenced { .. } => "step.taskFenced",
        Event::IncidentRaised(_) => "execution.incidentRaised",
        Event::IncidentResolved { .. } => "execution.incidentResolved",
        Event::CompensationAdded(_) => "execution.compensationAdded",
        Event::ChildStacksAdded(_) => "execution.childStacksAdded",
        Event::ChildStacksRead { .. } => "execution.childStacksRead",
        Event::CompensationBegan => "execution.compensationBegan",
        Event::CompensationEnded => "execution.compensationEnded",
        Event::EndingBegan { .. } => "execution.endingBegan",
        Event::StageReached { .. } => "execution.stageReached",
        Event::Paused { .. } => "execution.paused",
        Event::ReportHeld(_) => "execution.reportHeld",
        Event::Unpaused => "execution.unpaused",
        Event::BudgetWarned { .. } => "execution.budgetWarned",
        Event::Completed { .. } => "execution.completed",
        Event::Failed => "execution.failed",
        Event::Cancelled { .. } => "execution.cancelled",
        Event::Reopened { .. } => "execution.reopened",
    }
}

/// What an execution is after a commit.
#[derive(Debug)]
pub(super) struct After {
    about: Arc<About>,
    pub(super) sequence: u64,
    status: Status,
    /// None: it was heard of from another engine.
    step: Option<Arc<str>>,
    at: Timestamp,
}

impl After {
    pub(super) fn of(about: Arc<About>, execution: &Execution) -> Self {
        Self {
            about,
            sequence: execution.events,
            status: execution.status(),
            step: Some(execution.cursor.clone()),
            at: execution.updated_at,
        }
    }

    /// As another engine said it.
    pub(super) const fn elsewhere(about: Arc<About>, sequence: u64, status: Status, at: Timestamp) -> Self {
        Self { about, sequence, status, step: None, at }
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    pub(super) fn text(&self) -> Utf8Bytes {
        let shown = json!({
            "type": "snapshot",
            "executionId": self.about.id,
            "flowId": &*self.about.flow,
            "parentExecutionId": self.about.parent,
            "seq": self.sequence,
            "status": self.status,
            "currentStepId": self.step.as_deref(),
            "at": self.at.to_rfc3339(),
        });
        shown.to_string().into()
    }
}

/// What a volatile value is the latest of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    /// Progress of a task; none: of children.
    Progress(ExecutionId, Option<u32>),
    /// The beginning of a task.
    Started(ExecutionId, u32),
    /// The depth of a pool.
    Depth(String),
    /// Whether a worker is there.
    Worker(String),
}

/// One message for those who asked for it, written once for all of them.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) kind: &'static str,
    /// Whose it is; none: not about an execution.
    pub(super) about: Option<Arc<About>>,
    /// Of committed events.
    pub(super) sequence: Option<u64>,
    pub(super) text: Utf8Bytes,
}

impl Told {
    /// Of a queue or a worker.
    pub(super) fn board(kind: &'static str, shown: &Value) -> Self {
        Self { kind, about: None, sequence: None, text: shown.to_string().into() }
    }

    /// A committed event. `status` is that of the execution afterwards, if this is the last event of its commit.
    pub(super) fn committed(about: &Arc<About>, recorded: &RecordedEvent, status: Option<Status>) -> Self {
        let RecordedEvent { sequence, at, event } = recorded;
        let kind = kind(event);
        let event = without_tokens(event);
        let mut message = CommittedMessage {
            seq: *sequence,
            r#type: kind,
            execution_id: about.id,
            flow_id: &about.flow,
            parent_execution_id: about.parent,
            status,
            at: at.to_rfc3339(),
            event: Some(&event),
            omitted: false,
        };
        let text = message.text().or_else(|| {
            message.event = None;
            message.omitted = true;
            message.text()
        });
        Self {
            kind,
            about: Some(about.clone()),
            sequence: Some(*sequence),
            text: text.unwrap_or_default().into(),
        }
    }

    /// Something volatile of an execution; none: it is something else.
    pub(super) fn volatile(
        update: &Update,
        about: Option<Arc<About>>,
        step: Option<&str>,
        now: Timestamp,
    ) -> Option<(Option<Slot>, Self)> {
        let (slot, kind, shown) = match update {
            Update::Progress { execution, task, .. } => {
                (Some(Slot::Progress(*execution, *task)), PROGRESS, update.progress_json()?)
            }
            Update::Started { execution, task, attempt, worker } => {
                let shown = json!({
                    "type": STARTED, "executionId": execution, "stepId": step, "task": task, "attempt": attempt,
                    "workerId": worker, "at": now.to_rfc3339(),
                });
                (Some(Slot::Started(*execution, *task)), STARTED, shown)
            }
            Update::Log { execution, task, attempt, step, line } => {
                (None, LOG, shown_line(*execution, (*task, *attempt), step.as_deref(), line, now))
            }
            Update::Committed(_) | Update::Elsewhere { .. } | Update::Missed => return None,
        };
        Some((slot, Self { kind, about, sequence: None, text: shown.to_string().into() }))
    }
}

fn shown_line(
    execution: ExecutionId,
    (task, attempt): (u32, u32),
    step: Option<&str>,
    line: &LogLine,
    now: Timestamp,
) -> Value {
    let at = Timestamp::parse_rfc3339(&line.timestamp).unwrap_or(now);
    json!({
        "type": LOG,
        "executionId": execution,
        "stepId": step.filter(|step| !step.is_empty()),
        "task": task,
        "attempt": attempt,
        // Those that their worker does not count get their numbers with the result.
        "line": (line.line > 0).then_some(line.line),
        "level": line.level,
        "message": line.message,
        "at": at.to_rfc3339(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommittedMessage<'a> {
    seq: u64,
    r#type: &'a str,
    execution_id: ExecutionId,
    flow_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_execution_id: Option<ExecutionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a Event>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    omitted: bool,
}

impl CommittedMessage<'_> {
    /// None: it is too long.
    fn text(&self) -> Option<String> {
        let mut bounded = Bounded(Vec::new());
        serde_json::to_writer(&mut bounded, self).ok()?;
        String::from_utf8(bounded.0).ok()
    }
}

/// Takes so much and no more, so that nothing long is written in vain.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > EVENT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn about() -> Arc<About> {
        let id = ExecutionId::from_uuid(Uuid::from_u128(1));
        Arc::new(About { id, root: id, parent: None, flow: "f".into(), tenant: None })
    }

    fn told(event: Event) -> (&'static str, Value) {
        let recorded = RecordedEvent { sequence: 7, at: Timestamp::from_millis(0), event };
        let told = Told::committed(&about(), &recorded, None);
        (told.kind, serde_json::from_str(&told.text).unwrap())
    }

    #[test]
    fn types_are_those_of_the_history() {
        for event in [
            Event::Entered { step: "a".into() },
            Event::StartConfirmed,
            Event::Unpaused,
            Event::Failed,
            Event::ErrorsTolerated,
            Event::Completed { output: None },
        ] {
            let (kind, shown) = told(event);
            let (_, own) = kind.split_once('.').unwrap();
            assert_eq!(shown["event"]["type"], own);
            assert!(EXECUTION_KINDS.contains(&kind));
            assert_eq!((&shown["type"], &shown["seq"]), (&json!(kind), &json!(7)));
        }
    }

    #[test]
    fn a_long_event_is_told_without_its_content() {
        let (_, shown) = told(Event::Completed { output: Some("x".repeat(EVENT_BYTES_MAX).into()) });
        assert_eq!((&shown["omitted"], shown.get("event")), (&json!(true), None));
        let (_, shown) = told(Event::Completed { output: Some("x".repeat(EVENT_BYTES_MAX / 2).into()) });
        assert_eq!(shown.get("omitted"), None);
        assert!(shown["event"]["output"].is_string());
    }

    #[test]
    fn the_document_names_all_types() {
        let document = include_str!("../../../../docs/asyncapi.yaml");
        for kind in EXECUTION_KINDS.iter().chain(BOARD_KINDS) {
            assert!(document.contains(kind), "{kind}");
        }
    }
}
