//! Tasks: the steps of an execution and their attempts, and what one worker was given.

use axum::Json;
use axum::extract::State;
use flowmonkey_core::execution::event::AttemptEnded;
use flowmonkey_core::execution::{Event, Execution, RecordedEvent};
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::{TaskPage, TaskShown};
use super::pauses;
use super::problem::{ErrorClass, Problem};
use super::request::{Parameters, Segment, execution_id};

/// `GET /v1/executions/{id}/tasks`: in the order in which they began; the one that is out now last.
#[utoipa::path(
    get, path = "/v1/executions/{id}/tasks", tag = "executions", operation_id = "listTasks",
    summary = "The tasks of an execution, in the order in which they began",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the execution")),
    responses((status = 200, description = "its tasks with their attempts", body = TaskPage)),
)]
pub(super) async fn of_execution(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = execution_id(&id)?;
    let execution = api.execution(&access, id).await?;
    let history = api.engine.whole_history(id).await?;
    let items: Vec<Value> =
        tasks(&execution, &history).iter().map(|task| task.shown(&api, &execution)).collect();
    Ok(Json(json!({ "items": items, "nextCursor": null })))
}

/// `GET /v1/tasks/{id}`: its attempts, and what its worker is given while it is out. Tokens are not shown.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "getTask",
    summary = "A task with its attempts, and what its worker is given",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the task")),
    responses((status = 200, description = "the task", body = TaskShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let unknown = || Problem::new(ErrorClass::NotFound, "TASK_NOT_FOUND", "there is no task of that id");
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    let execution = api.engine.store().load(&[id.execution]).await?.pop().ok_or_else(unknown)?;
    if !access.visibility().sees(execution.identity.tenant_id.as_deref()) {
        return Err(unknown());
    }
    let history = api.engine.whole_history(id.execution).await?;
    let found = tasks(&execution, &history).into_iter().find(|task| task.number == id.number);
    let found = found.ok_or_else(unknown)?;
    let mut shown = found.shown(&api, &execution);
    let parked = api.engine.store().failed_task(id).await?;
    shown["payload"] = match api.engine.task_payload(execution, id.number).await? {
        Some(payload) => payload,
        // Of a task that is over only what a person may have to look at is kept.
        None => parked.map_or(Value::Null, |entry| json!({ "input": entry.row.task.input })),
    };
    Ok(Json(shown))
}

/// A task with its attempts.
struct Task<'a> {
    number: u32,
    step: &'a str,
    handler: Option<&'a str>,
    visit: u32,
    scheduled_at: Option<Timestamp>,
    ended: Vec<&'a AttemptEnded>,
}

impl Task<'_> {
    fn shown(&self, api: &Api, execution: &Execution) -> Value {
        let out = execution.task().filter(|out| out.run.task == self.number);
        let pause = out.and_then(|_| pauses::of_task(api, execution));
        let last = self.ended.last();
        let attempts: Vec<Value> = self
            .ended
            .iter()
            .map(|ended| {
                json!({
                    "attempt": ended.attempt,
                    "outcome": ended.outcome,
                    "startedAt": ended.started_at.to_rfc3339(),
                    "completedAt": ended.completed_at.to_rfc3339(),
                    "durationMs": ended.duration_ms,
                    "workerId": ended.worker_id,
                    "error": ended.error.as_ref().map(flowmonkey_core::execution::ExecutionError::to_value),
                })
            })
            .collect();
        json!({
            "taskId": execution.task_id(self.number),
            "executionId": execution.id(),
            "stepId": self.step,
            "handlerType": self.handler,
            "visit": self.visit,
            "scheduledAt": self.scheduled_at.map(Timestamp::to_rfc3339),
            "out": out.map(|out| json!({
                "attempt": out.run.attempt,
                "pool": out.pool,
                "scheduledAt": out.scheduled_at.to_rfc3339(),
                "startBy": out.start_by.map(Timestamp::to_rfc3339),
                "paused": pause.as_ref().map(pauses::shown),
            })),
            "attempts": attempts,
            "error": last
                .and_then(|ended| ended.error.as_ref())
                .map(flowmonkey_core::execution::ExecutionError::to_value),
        })
    }
}

/// The tasks of an execution, in the order of their numbers.
fn tasks<'a>(execution: &'a Execution, history: &'a [RecordedEvent]) -> Vec<Task<'a>> {
    let mut found: std::collections::BTreeMap<u32, Task<'a>> = std::collections::BTreeMap::new();
    let fresh = |number, step: &'a str, visit| Task {
        number,
        step,
        handler: None,
        visit,
        scheduled_at: None,
        ended: Vec::new(),
    };
    for recorded in history {
        if let Event::TaskScheduled { task } = &recorded.event {
            let run = &task.run;
            let entry = found.entry(run.task).or_insert_with(|| fresh(run.task, &run.step, run.visit));
            entry.scheduled_at = entry.scheduled_at.or(Some(task.scheduled_at));
        } else if let Event::AttemptEnded(ended) = &recorded.event
            && ended.task > 0
        {
            let entry =
                found.entry(ended.task).or_insert_with(|| fresh(ended.task, &ended.step_id, ended.visit));
            entry.handler = Some(&ended.handler_type);
            entry.ended.push(ended);
        }
    }
    if let Some(out) = execution.task() {
        let run = &out.run;
        found.entry(run.task).or_insert_with(|| fresh(run.task, &run.step, run.visit));
    }
    found.into_values().collect()
}
