//! The engine's own events: how root executions end, and that they need a person. They are published, in the commit of
//! what they tell, only while some webhook wants them: nobody else is meant to pay for them.

use std::sync::atomic::Ordering;

use flowmonkey_core::execution::command::EmittedEvent;
use flowmonkey_core::execution::{Activity, Execution, Record, Status};
use flowmonkey_plumbing::api::RESERVED_EVENTS;
use serde_json::{Value, json};

use super::pattern::wants;
use crate::engine::Engine;
use crate::store::Webhook;

/// An execution has failed.
pub const FAILED: &str = "flowmonkey.execution.failed";
/// An execution waits for a person.
pub const INCIDENT: &str = "flowmonkey.execution.incident";
/// An execution has completed.
pub const COMPLETED: &str = "flowmonkey.execution.completed";
/// An execution was cancelled.
pub const CANCELLED: &str = "flowmonkey.execution.cancelled";
/// What `POST /v1/webhooks/{id}:test` sends.
pub const TEST: &str = "flowmonkey.webhook.test";
/// What a webhook gets that does not say what it wants.
pub const DEFAULT_PATTERNS: [&str; 2] = [FAILED, INCIDENT];

const ALL: [&str; 4] = [FAILED, INCIDENT, COMPLETED, CANCELLED];

/// Which of the engine's own events somebody wants.
pub(super) fn wanted(webhooks: &[Webhook]) -> u8 {
    let is_wanted = |name: &str| webhooks.iter().any(|webhook| wants(webhook, name));
    ALL.iter().enumerate().filter(|(_, name)| is_wanted(name)).fold(0, |bits, (bit, _)| bits | (1 << bit))
}

impl Engine {
    /// Adds to `records` what webhooks want to know of the step from `before` (none: it is new) to `after`.
    pub(crate) fn announce(&self, before: Option<&Execution>, after: &Execution, records: &mut Vec<Record>) {
        let wanted = self.hooks.wanted.load(Ordering::Relaxed);
        if wanted == 0 || after.identity.parent.is_some() {
            return;
        }
        let bit = match after.status() {
            Status::Failed => 0,
            Status::Incident => 1,
            Status::Completed => 2,
            Status::Cancelled => 3,
            Status::Pending
            | Status::WaitingForWorker
            | Status::Waiting
            | Status::Paused
            | Status::Cancelling
            | Status::Compensating => return,
        };
        // An incident that was paused and goes on is the same incident.
        let is_known = before.is_some_and(|before| match &before.activity {
            Activity::Incident(_) => after.status() == Status::Incident,
            Activity::Ready
            | Activity::Task(_)
            | Activity::Backoff { .. }
            | Activity::Wait(_)
            | Activity::Children(_)
            | Activity::Nothing => before.status() == after.status(),
        });
        if wanted & (1 << bit) != 0 && !is_known {
            records.push(Record::Publish(EmittedEvent {
                id: None,
                name: ALL[bit].into(),
                data: told(after),
            }));
        }
    }
}

/// The core and what crosses between engines and workers do not know each other: both refuse the names.
const _: () = {
    let (core, plumbing) =
        (flowmonkey_core::flow::definition::RESERVED_EVENTS.as_bytes(), RESERVED_EVENTS.as_bytes());
    assert!(core.len() == plumbing.len());
    let mut place = 0;
    while place < core.len() {
        assert!(core[place] == plumbing[place]);
        place += 1;
    }
};

/// What is told of an execution: never its context, which may hold secrets.
fn told(execution: &Execution) -> Value {
    let identity = &execution.identity;
    let error = match &execution.activity {
        Activity::Incident(incident) => Some(&incident.error),
        Activity::Ready
        | Activity::Task(_)
        | Activity::Backoff { .. }
        | Activity::Wait(_)
        | Activity::Children(_)
        | Activity::Nothing => execution.error(),
    };
    json!({
        "executionId": identity.id,
        "flowId": identity.flow.id,
        "flowVersion": identity.flow.version,
        "tenantId": identity.tenant_id,
        "labels": identity.labels,
        "status": execution.status(),
        "currentStepId": execution.cursor,
        "hasErrors": execution.has_errors,
        "error": error.map(|error| json!({
            "code": error.code,
            "message": error.message,
            "stepId": error.step_id,
        })),
        "createdAt": identity.created_at.to_rfc3339(),
        "updatedAt": execution.updated_at.to_rfc3339(),
    })
}
