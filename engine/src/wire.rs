//! Between the core's types and the messages on the wire.

use std::collections::BTreeMap;

use flowmonkey_core::execution::command::{
    ContextChange, EmittedEvent, NextStep, ReportedOutcome, TableRow, TaskReport,
};
use flowmonkey_core::execution::state::{AwaitedEvent, Cost};
use flowmonkey_core::execution::{Execution, TaskDraft, codes};
use flowmonkey_core::flow::definition::Priority;
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::event_refusal;
use flowmonkey_plumbing::queue::{Delivery, Dispatched};
use flowmonkey_plumbing::token::TokenKey;
use flowmonkey_plumbing::wire;
use flowmonkey_plumbing::wire::{
    CONTINUE_AFTER_WAIT, HandlerReference, Metrics, PROTOCOL_VERSION, RESUMED, ResultMessage, TaskMessage,
    TaskMetadata,
};

use crate::config::EngineConfig;
use crate::tokens::task_token;

/// Bytes of the name of an event that a handler waits for.
const EVENT_NAME_BYTES_MAX: usize = 500;

/// The message that carries an attempt to a worker.
pub(crate) fn task_message(
    draft: TaskDraft,
    execution: &Execution,
    config: &EngineConfig,
    tokens: &TokenKey,
    now: Timestamp,
) -> TaskMessage {
    let token = task_token(tokens, &draft, execution, now);
    let mut other = BTreeMap::new();
    if let Some(Ok(resumed)) = draft.resumed.as_ref().map(serde_json::to_value) {
        other.insert(RESUMED.to_owned(), resumed);
    }
    let identity = &execution.identity;
    let context_url = draft.context_bytes.map(|_| format!("/v1/plumbing/tasks/{}/context", draft.task));
    let lease_ms = draft.heartbeat_timeout_ms.unwrap_or_else(|| millis(config.lease));
    TaskMessage {
        v: PROTOCOL_VERSION,
        task_id: draft.task.to_string(),
        attempt: draft.attempt,
        execution_id: identity.id.to_string(),
        flow_id: identity.flow.id.clone(),
        flow_version: identity.flow.version.clone(),
        step_id: draft.step.to_string(),
        handler: HandlerReference {
            handler_type: draft.handler_type.to_string(),
            version: draft.handler_version,
        },
        pool: draft.pool,
        input: draft.input,
        context: draft.context,
        context_url,
        context_bytes: draft.context_bytes.map(|bytes| bytes as u64),
        config: draft.config,
        idempotency_key: draft.idempotency_key,
        deadline: now.plus(draft.timeout_ms).to_rfc3339(),
        remaining_ms: draft.timeout_ms,
        heartbeat_interval_ms: millis(config.heartbeat).min(lease_ms / 3).max(1),
        lease_ms,
        priority: match draft.priority {
            Priority::High => wire::Priority::High,
            Priority::Normal => wire::Priority::Normal,
            Priority::Low => wire::Priority::Low,
        },
        isolate: is_to_isolate(&draft.task, execution, config),
        checkpoint: None,
        token,
        traceparent: identity.traceparent.clone(),
        metadata: TaskMetadata {
            tenant_id: identity.tenant_id.clone(),
            dispatched_at: now.to_rfc3339(),
            other,
        },
    }
}

/// Whether one more lost worker parks the task. Earlier nothing is isolated: the tasks of a worker that died once would
/// run one after the other.
fn is_to_isolate(task: &TaskId, execution: &Execution, config: &EngineConfig) -> bool {
    let run = execution.task().map(|out| &out.run).filter(|run| run.task == task.number);
    run.is_some_and(|run| {
        let total = run.last_loss.as_ref().map_or(run.lost, |loss| loss.total);
        run.lost > 0
            && (run.lost.saturating_add(1) >= config.limits.max_lost
                || total.saturating_add(1) >= config.limits.max_lost_total)
    })
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How queues name an attempt.
pub(crate) fn dispatched(task: TaskId, attempt: u32, pool: &str) -> Dispatched {
    Dispatched { pool: pool.into(), delivery: Delivery { task_id: task.to_string(), attempt } }
}

/// What a worker's result says, in the core's words.
///
/// # Errors
/// Names the field that cannot be understood.
pub(crate) fn task_report(result: ResultMessage) -> Result<(TaskId, TaskReport), String> {
    let task: TaskId = result.task_id.parse().map_err(|error| format!("taskId: {error}"))?;
    let next = match result.next_step_override {
        None => NextStep::Transition,
        Some(None) => NextStep::End,
        Some(Some(step)) => NextStep::To(step),
    };
    let outcome = match result.outcome {
        wire::Outcome::Success => ReportedOutcome::Success { output: result.output, next },
        wire::Outcome::Failure => {
            let error = result.error.unwrap_or_else(|| wire::TaskError {
                code: String::new(),
                message: String::new(),
                retryable: None,
                details: None,
            });
            ReportedOutcome::Failure {
                code: Some(error.code).filter(|code| !code.is_empty()),
                message: error.message,
                retryable: error.retryable.unwrap_or(true),
                details: error.details,
                retry_after_ms: result.retry_after_ms,
                next,
            }
        }
        wire::Outcome::Wait | wire::Outcome::Waiting => {
            let until = match &result.wait_until {
                Some(text) => Some(
                    Timestamp::parse_rfc3339(text)
                        .ok_or_else(|| format!("waitUntil: `{text}` is not RFC 3339"))?,
                ),
                None => None,
            };
            let event = result.wait_for_event.map(awaited).transpose()?;
            ReportedOutcome::Wait {
                output: result.output.filter(|_| result.outcome == wire::Outcome::Waiting),
                until,
                reason: result.wait_reason,
                token: result.resume_token,
                again: result.run_again
                    || result.metadata.get(CONTINUE_AFTER_WAIT) == Some(&serde_json::Value::Bool(true)),
                event,
            }
        }
        wire::Outcome::Released => ReportedOutcome::Released,
    };
    let cost = result.cost.unwrap_or_default();
    // Its data has no limit of its own: the message's is one.
    if let Some(refusal) =
        result.events.iter().find_map(|event| event_refusal(&event.event, event.id.as_deref()))
    {
        return Err(refusal);
    }
    let report = TaskReport {
        task: task.number,
        attempt: result.attempt,
        outcome,
        context_changes: context_changes(result.context_updates),
        emitted: result
            .events
            .into_iter()
            .map(|event| EmittedEvent { id: event.id, name: event.event, data: event.data })
            .collect(),
        rows: result
            .rows
            .into_iter()
            .map(|row| TableRow { table: row.table_id, id: row.row_id, row: row.row, pipe: None })
            .collect(),
        cost: Cost {
            usd: if cost.usd.is_finite() { cost.usd } else { 0.0 },
            tokens: cost.tokens,
            attempts: 0,
        },
        started_at: Timestamp::parse_rfc3339(&result.metrics.started_at),
        duration_ms: result.metrics.duration,
        worker: Some(result.metrics.worker_id).filter(|worker| !worker.is_empty()),
    };
    Ok((task, report))
}

/// The event that a handler waits for.
fn awaited(wait: wire::EventWait) -> Result<AwaitedEvent, String> {
    let wire::EventWait { event: name, condition } = wait;
    if name.is_empty() || name.len() > EVENT_NAME_BYTES_MAX {
        return Err(format!("waitForEvent.event: give 1 to {EVENT_NAME_BYTES_MAX} bytes"));
    }
    Ok(AwaitedEvent { name, condition })
}

/// The report that stands for a result that cannot be understood: the attempt failed, and its budget counts. Were the
/// result only dropped, the task would be delivered for ever. None when not even the task is known.
pub(crate) fn unreadable_report(
    delivery: &Delivery,
    metrics: &Metrics,
    reason: &str,
) -> Option<(TaskId, TaskReport)> {
    let task: TaskId = delivery.task_id.parse().ok()?;
    let report = TaskReport {
        task: task.number,
        attempt: delivery.attempt,
        outcome: ReportedOutcome::Failure {
            code: Some(codes::INVALID_RESULT.into()),
            message: format!("the worker's result cannot be understood: {reason}"),
            retryable: true,
            details: None,
            retry_after_ms: None,
            next: NextStep::Transition,
        },
        context_changes: Vec::new(),
        emitted: Vec::new(),
        rows: Vec::new(),
        cost: Cost::default(),
        started_at: Timestamp::parse_rfc3339(&metrics.started_at),
        duration_ms: metrics.duration,
        worker: Some(metrics.worker_id.clone()).filter(|worker| !worker.is_empty()),
    };
    Some((task, report))
}

fn context_changes(updates: Option<wire::ContextUpdates>) -> Vec<ContextChange> {
    match updates {
        None => Vec::new(),
        Some(wire::ContextUpdates::Paths(paths)) => {
            paths.into_iter().map(|(path, value)| ContextChange::Set { path, value }).collect()
        }
        Some(wire::ContextUpdates::Operations(operations)) => {
            operations.into_iter().map(context_change).collect()
        }
    }
}

/// A change of a context, in the core's words.
pub(crate) fn context_change(operation: wire::ContextOperation) -> ContextChange {
    match operation {
        wire::ContextOperation::Set { path, value } => ContextChange::Set { path, value },
        wire::ContextOperation::Merge { value } => ContextChange::Merge { value },
        wire::ContextOperation::Delete { path } => ContextChange::Delete { path },
    }
}
