//! How an execution is shown: the record that `run --output json` prints and `GET /v1/executions/{id}` answers.

use flowmonkey_core::execution::event::AttemptEnded;
use flowmonkey_core::execution::state::Phase;
use flowmonkey_core::execution::{Event, Execution, RecordedEvent};
use flowmonkey_core::time::Timestamp;
use serde_json::{Map, Value, json};

/// The execution as people and programs see it. `history` is its events; null leaves the history out.
#[must_use]
pub fn execution(execution: &Execution, history: Option<&[RecordedEvent]>) -> Value {
    let identity = &execution.identity;
    let mut view = Map::new();
    let mut put = |key: &str, value: Value| {
        view.insert(key.into(), value);
    };
    put("id", json!(identity.id));
    put("flowId", json!(identity.flow.id));
    put("flowVersion", json!(identity.flow.version));
    put("status", json!(execution.status()));
    put("currentStepId", json!(execution.cursor));
    put("context", Value::Object(execution.context.clone()));
    put("output", execution.output.clone().unwrap_or(Value::Null));
    put(
        "error",
        execution.error().map_or(Value::Null, |error| {
            json!({
                "code": error.code,
                "message": error.message,
                "stepId": error.step_id,
                "details": error.details,
                "timestamp": error.timestamp.to_rfc3339(),
            })
        }),
    );
    put("stepCount", json!(execution.step_count));
    put("createdAt", instant(identity.created_at));
    put("updatedAt", instant(execution.updated_at));
    put("version", json!(execution.version));
    put("run", json!(execution.run));
    put("hasErrors", json!(execution.has_errors));
    put(
        "cost",
        json!({ "usd": execution.cost.usd, "tokens": execution.cost.tokens, "attempts": execution.cost.attempts }),
    );
    for (key, value) in [
        ("waitingReason", execution.waiting_reason().map(Value::from)),
        ("wakeAt", execution.next_wake().map(instant)),
        ("tenantId", identity.tenant_id.clone().map(Value::from)),
        ("metadata", identity.metadata.clone()),
        ("idempotencyKey", identity.idempotency_key.clone().map(Value::from)),
        ("traceparent", identity.traceparent.clone().map(Value::from)),
        ("parentExecutionId", identity.parent.map(|parent| json!(parent.execution))),
        ("lineage", identity.lineage.as_ref().map(|lineage| json!(lineage))),
        ("labels", (!identity.labels.is_empty()).then(|| json!(identity.labels))),
        ("cancellation", cancellation(execution)),
        ("history", history.map(|events| Value::Array(attempts(events)))),
    ] {
        if let Some(value) = value {
            view.insert(key.into(), value);
        }
    }
    Value::Object(view)
}

fn instant(at: Timestamp) -> Value {
    Value::String(at.to_rfc3339())
}

fn cancellation(execution: &Execution) -> Option<Value> {
    match &execution.phase {
        Phase::Cancelled { cancellation } => Some(json!({
            "source": cancellation.source,
            "reason": cancellation.reason,
            "cancelledAt": cancellation.cancelled_at.to_rfc3339(),
        })),
        Phase::Running | Phase::Ending { .. } | Phase::Completed | Phase::Failed { .. } => None,
    }
}

/// The entries of the history that people read, one for each outcome.
#[must_use]
pub fn attempts(events: &[RecordedEvent]) -> Vec<Value> {
    events
        .iter()
        .filter_map(|recorded| {
            if let Event::AttemptEnded(ended) = &recorded.event { Some(attempt(ended)) } else { None }
        })
        .collect()
}

fn attempt(ended: &AttemptEnded) -> Value {
    let mut view = json!({
        "stepId": ended.step_id,
        "handlerType": ended.handler_type,
        "outcome": ended.outcome,
        "attempt": ended.attempt,
        "visit": ended.visit,
        "startedAt": ended.started_at.to_rfc3339(),
        "completedAt": ended.completed_at.to_rfc3339(),
        "durationMs": ended.duration_ms,
    });
    if let Value::Object(map) = &mut view {
        if let Some(error) = &ended.error {
            map.insert("error".into(), error.to_value());
        }
        if let Some(worker) = &ended.worker_id {
            map.insert("workerId".into(), worker.clone().into());
        }
        if ended.compensates {
            map.insert("compensates".into(), true.into());
        }
    }
    view
}
