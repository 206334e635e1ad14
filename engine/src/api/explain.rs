//! Why an execution does not move, and what would make it move.

use flowmonkey_core::execution::error::ExecutionError;
use flowmonkey_core::execution::state::{Fan, TaskRun, Wait, WaitOn};
use flowmonkey_core::execution::{Activity, Execution};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::{QueueError, WorkerPresence};
use serde_json::{Value, json};

use super::access::Access;
use super::openapi::answers::Explanation;
use super::operations::{pool_is_seen, ready};
use super::problem::Problem;
use super::{Api, jobs, pauses};
use crate::access::Visibility;
use crate::store::JobFilter;
use crate::wire::dispatched;

/// The status, the one thing that can move the execution now (its live cause), and where its task is.
#[utoipa::path(
    get, path = "/v1/executions/{id}:explain", tag = "executions", operation_id = "explainExecution",
    summary = "Why an execution does not move",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the execution")),
    responses((status = 200, description = "its live cause", body = Explanation)),
)]
pub(super) async fn explain<S>(api: &Api, access: &Access<S>, id: ExecutionId) -> Result<Value, Problem> {
    let execution = api.execution(access, id).await?;
    let queue = match execution.task() {
        Some(task) if execution.pause.is_none() => {
            queue_state(api, access.visibility(), &execution, task).await
        }
        Some(_) | None => Value::Null,
    };
    let pause = pauses::of_task(api, &execution);
    Ok(json!({
        "id": id,
        "status": execution.status(),
        "currentStepId": execution.cursor,
        "waitingReason": pause.as_ref().map(pauses::waiting_reason).or_else(|| execution.waiting_reason()),
        "heldBackBy": pause.as_ref().map(pauses::shown),
        "liveCause": live_cause(api, &execution).await?,
        "nextWakeAt": execution.next_wake().map(Timestamp::to_rfc3339),
        "queue": queue,
        "job": job(api, &execution).await?,
    }))
}

/// The job of the step that it is at: who works on it, and when the engine heard of it last.
async fn job(api: &Api, execution: &Execution) -> Result<Value, Problem> {
    let number = match &execution.activity {
        Activity::Task(task) => task.run.task,
        Activity::Wait(Wait { run, .. }) | Activity::Backoff { task: run, .. } => run.task,
        Activity::Incident(incident) => incident.run.task,
        Activity::Ready | Activity::Children(_) | Activity::Nothing => 0,
    };
    if number == 0 {
        return Ok(Value::Null);
    }
    let filter = JobFilter { execution: Some(execution.id()), max: 1, ..JobFilter::default() };
    let newest = api.engine.store().jobs(&filter).await?.pop();
    Ok(newest.filter(|row| row.task.number == number).map_or(Value::Null, |row| jobs::job(&row)))
}

async fn live_cause(api: &Api, execution: &Execution) -> Result<Value, Problem> {
    if execution.is_terminal() {
        return Ok(json!({ "kind": "ended", "error": execution.error().map(failure) }));
    }
    if let Some(pause) = &execution.pause {
        return Ok(json!({
            "kind": "paused",
            "since": pause.since.to_rfc3339(),
            "reason": pause.reason,
            "heldResult": pause.held.is_some(),
        }));
    }
    Ok(match &execution.activity {
        Activity::Ready => json!({ "kind": "engine", "since": execution.updated_at.to_rfc3339() }),
        Activity::Task(task) => json!({
            "kind": "task",
            "taskId": execution.task_id(task.run.task),
            "stepId": task.run.step,
            "attempt": task.run.attempt,
            "pool": task.pool,
            "scheduledAt": task.scheduled_at.to_rfc3339(),
            "startBy": task.start_by.map(Timestamp::to_rfc3339),
        }),
        Activity::Backoff { task, until, error } => json!({
            "kind": "retry",
            "stepId": task.step,
            "retry": task.retry,
            "until": until.to_rfc3339(),
            "error": failure(error),
        }),
        Activity::Wait(wait) => waiting(wait),
        Activity::Children(fan) => children(api, execution.id(), fan).await?,
        Activity::Incident(incident) => json!({
            "kind": "incident",
            "stepId": incident.run.step,
            "since": incident.since.to_rfc3339(),
            "error": failure(&incident.error),
        }),
        Activity::Nothing => json!({ "kind": "ended", "error": null }),
    })
}

/// A wait. A token that a worker chose is not shown: whoever has it can resume.
fn waiting(wait: &Wait) -> Value {
    let mut shown = match &wait.on {
        WaitOn::Timer { until } => json!({ "kind": "timer", "until": until.to_rfc3339() }),
        WaitOn::Signal { signal } => json!({ "kind": "signal", "signal": signal }),
        WaitOn::Event { event } => json!({ "kind": "event", "event": event }),
        WaitOn::Approval { signal, assignees, escalate_at } => json!({
            "kind": "approval",
            "signal": signal,
            "assignees": assignees,
            "escalateAt": escalate_at.map(Timestamp::to_rfc3339),
        }),
        WaitOn::Handler { until, token, again, event } => json!({
            "sameTaskGoesOn": again,
            "kind": "resume",
            "until": until.map(Timestamp::to_rfc3339),
            "byToken": token.is_some(),
            "event": event.as_ref().map(|event| &event.name),
            "match": event.as_ref().and_then(|event| event.condition.as_ref()),
        }),
    };
    shown["stepId"] = json!(wait.run.step);
    shown["since"] = json!(wait.since.to_rfc3339());
    shown["deadline"] = json!(wait.deadline.map(Timestamp::to_rfc3339));
    shown["reason"] = json!(wait.reason);
    shown
}

async fn children(api: &Api, parent: ExecutionId, fan: &Fan) -> Result<Value, Problem> {
    let state = api.engine.store().join_state(parent, fan.join).await?;
    let counters = state
        .map(|state| json!({ "made": state.spawned, "succeeded": state.succeeded, "failed": state.failed }));
    Ok(json!({
        "kind": "children",
        "stepId": fan.run.step,
        "join": fan.join,
        "total": fan.total,
        "counters": counters,
        "closing": fan.closing,
        "since": fan.since.to_rfc3339(),
    }))
}

/// Where the task is. That the queue is away is an explanation, too.
async fn queue_state(api: &Api, seen: &Visibility, execution: &Execution, task: &TaskRun) -> Value {
    match ask_queue(api, seen, execution, task).await {
        Ok(state) => state,
        Err(error) => {
            tracing::warn!(%error, execution = %execution.id(), "the queue could not be asked about a task");
            json!({ "pool": task.pool, "reachable": false })
        }
    }
}

async fn ask_queue(
    api: &Api,
    seen: &Visibility,
    execution: &Execution,
    task: &TaskRun,
) -> Result<Value, QueueError> {
    let queue = api.engine.queue();
    let delivery = dispatched(execution.task_id(task.run.task), task.run.attempt, &task.pool);
    let present = queue.present(std::slice::from_ref(&delivery)).await?;
    if !pool_is_seen(seen, &task.pool) {
        // How full the queue is, and who serves it, is a matter of others, too.
        return Ok(json!({ "pool": task.pool, "reachable": true, "present": present == [true] }));
    }
    let serves = |worker: &&WorkerPresence| !worker.draining && worker.pools.contains(&task.pool);
    let workers = queue.workers().await?.iter().filter(serves).count();
    let depth = queue.depths().await?.into_iter().find(|(pool, _)| *pool == task.pool);
    let depth = depth.map(|(_, depth)| depth).unwrap_or_default();
    Ok(json!({
        "pool": task.pool,
        "reachable": true,
        "present": present == [true],
        "workers": workers,
        "ready": ready(&depth),
        "inFlight": depth.in_flight,
        "oldestAgeMs": depth.oldest_age_ms,
    }))
}

fn failure(error: &ExecutionError) -> Value {
    json!({ "code": error.code, "message": error.message })
}
