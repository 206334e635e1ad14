//! Parked tasks: found, looked at, tried again, given up.

use axum::Json;
use axum::extract::State;
use flowmonkey_core::execution::Activity;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Operator, Viewer};
use super::fields::Fields;
use super::openapi::answers::{FailedTask, FailedTaskPage};
use super::openapi::bodies::ReasonBody;
use super::openapi::queries::PageQuery;
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::access::Visibility;
use crate::engine::EngineError;
use crate::store::{FailedTaskEntry, FailedTaskFilter, SettledAs, Settlement};

/// What `POST /v1/failed-tasks/{taskId}:{verb}` understands.
const VERBS: &str = "replay, discard";

/// `GET /v1/failed-tasks`: the newest first; those that wait for a person, or all with `state=all`.
#[utoipa::path(
    get, path = "/v1/failed-tasks", tag = "failed tasks", operation_id = "listFailedTasks",
    summary = "Parked tasks, newest first",
    security(("apiKey" = ["viewer"])),
    params(
        ("state" = Option<String>, Query, description = "`open` (the default) or `all`", pattern = "^(open|all)$"),
        ("handler" = Option<String>, Query, description = "only of this handler type"),
        ("flow" = Option<String>, Query, description = "only of executions of this flow"),
        ("code" = Option<String>, Query, description = "only with this error code"),
        ("execution" = Option<String>, Query, description = "only of this execution"),
        ("since" = Option<String>, Query, format = DateTime, description = "parked at or after this instant"),
        ("until" = Option<String>, Query, format = DateTime, description = "parked before this instant"),
        PageQuery,
    ),
    responses((status = 200, description = "a page", body = FailedTaskPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let open = match parameters.one("state").as_deref() {
        None | Some("open") => true,
        Some("all") => false,
        Some(_) => {
            parameters.error("state", "`state` must be one of open, all");
            true
        }
    };
    let handler_type = parameters.one("handler");
    let flow_id = parameters.one("flow");
    let error_code = parameters.one("code");
    let execution = parameters.parsed("execution", "an execution id (`ex_` and 32 hexadecimal digits)");
    let since = instant(&mut parameters, "since");
    let until = instant(&mut parameters, "until");
    let before = parameters.parsed("cursor", "the `nextCursor` of the page before");
    let max = parameters.limit();
    parameters.finish()?;
    let tenant = access.visibility().tenant().map(ToOwned::to_owned);
    let filter = FailedTaskFilter {
        handler_type,
        flow_id,
        error_code,
        execution,
        tenant,
        since,
        until,
        open,
        before,
        max,
    };
    let entries = api.engine.store().failed_tasks(&filter).await?;
    let next = entries.last().filter(|_| entries.len() == max).map(|last| last.sequence.to_string());
    let items: Vec<Value> = entries.iter().map(shown).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

/// `GET /v1/failed-tasks/{taskId}`.
#[utoipa::path(
    get, path = "/v1/failed-tasks/{taskId}", tag = "failed tasks", operation_id = "getFailedTask",
    summary = "A parked task",
    security(("apiKey" = ["viewer"])),
    params(("taskId" = String, Path, description = "the id of the task")),
    responses((status = 200, description = "the task", body = FailedTask)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(task): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let (_, entry) = find(&api, access.visibility(), &task).await?;
    Ok(Json(shown(&entry)))
}

/// `POST /v1/failed-tasks/{taskId}:replay|discard`: tries the task again, or gives it up, which cancels its execution.
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let Some((task, verb)) = target.rsplit_once(':') else {
        return Err(Problem::verb_missing("GET, HEAD"));
    };
    let by = access.principal().name.to_string();
    let mut fields = Fields::of(body)?;
    let reason = fields.text("reason");
    fields.finish()?;
    let (outcome, command) = match verb {
        "replay" => replay(&by),
        "discard" => discard(reason.as_deref()),
        _ => {
            let detail = format!("parked tasks understand {VERBS}, not `{verb}`");
            return Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail));
        }
    };
    let (task, entry) = find(&api, access.visibility(), task).await?;
    let is_parked = {
        let execution = api.engine.execution(task.execution).await?;
        matches!(&execution.activity, Activity::Incident(incident) if incident.run.task == task.number)
    };
    if !is_parked || !entry.is_last || entry.settled.is_some() {
        let detail = "the task does not wait for anybody any more: its execution has gone on or ended";
        return Err(Problem::new(ErrorClass::Conflict, "TASK_NOT_PARKED", detail));
    }
    let engine = api.engine.clone();
    let (execution, settled) = api
        .to_the_end(async move {
            let execution = engine.command(task.execution, command).await?;
            // Were this lost, the task would not be open all the same: its execution has moved on.
            let settlement = Settlement { outcome, at: engine.now(), by, reason };
            engine
                .store()
                .settle_failed_task(entry.sequence, &settlement)
                .await
                .map_err(EngineError::from)?;
            let settled = FailedTaskEntry { settled: Some(settlement), status: execution.status(), ..entry };
            Ok::<_, crate::apply::CommandError>((execution, settled))
        })
        .await??;
    let mut answer = shown(&settled);
    answer["waitingReason"] = json!(execution.waiting_reason());
    Ok(Json(answer))
}

#[utoipa::path(
    post, path = "/v1/failed-tasks/{taskId}:replay", tag = "failed tasks", operation_id = "replayFailedTask",
    summary = "Try a parked task again",
    security(("apiKey" = ["operator"])),
    params(("taskId" = String, Path, description = "the id of the task")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "the task", body = FailedTask),
        (status = 409, description = "`TASK_NOT_PARKED`, or the state does not allow it"),
    ),
)]
pub(super) fn replay(by: &str) -> (SettledAs, Command) {
    (SettledAs::Replayed, Command::Retry { by: Some(by.to_owned()) })
}

#[utoipa::path(
    post, path = "/v1/failed-tasks/{taskId}:discard", tag = "failed tasks", operation_id = "discardFailedTask",
    summary = "Give a parked task up, which cancels its execution",
    security(("apiKey" = ["operator"])),
    params(("taskId" = String, Path, description = "the id of the task")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "the task", body = FailedTask),
        (status = 409, description = "`TASK_NOT_PARKED`, or the state does not allow it"),
    ),
)]
pub(super) fn discard(reason: Option<&str>) -> (SettledAs, Command) {
    let reason = Some(reason.unwrap_or("the parked task was discarded").to_owned());
    (SettledAs::Discarded, Command::Cancel { source: CancelSource::User, reason })
}

/// The last time that the task was parked, if the caller sees its execution.
async fn find(api: &Api, visibility: &Visibility, id: &str) -> Result<(TaskId, FailedTaskEntry), Problem> {
    let unknown = || Problem::new(ErrorClass::NotFound, "TASK_NOT_FOUND", "no such task was parked");
    let task: TaskId = id.parse().map_err(|_| unknown())?;
    let entry = api.engine.store().failed_task(task).await?.ok_or_else(unknown)?;
    if let Visibility::Tenant(_) = visibility {
        let mut found = api.engine.store().load(&[task.execution]).await?;
        let is_seen = found.pop().is_some_and(|one| visibility.sees(one.identity.tenant_id.as_deref()));
        if !is_seen {
            return Err(unknown());
        }
    }
    Ok((task, entry))
}

fn instant(parameters: &mut Parameters, name: &str) -> Option<Timestamp> {
    let text = parameters.one(name)?;
    let parsed = Timestamp::parse_rfc3339(&text);
    if parsed.is_none() {
        parameters.error(name, format!("`{name}` must be an instant (RFC 3339)"));
    }
    parsed
}

/// A parked task, as it is shown.
fn shown(entry: &FailedTaskEntry) -> Value {
    let row = &entry.row;
    let run = &row.task.run;
    let state = match &entry.settled {
        Some(settled) => settled.outcome.as_str(),
        None if entry.is_open() => "open",
        None => "left",
    };
    let settled = entry.settled.as_ref().map(|settled| {
        json!({
            "as": settled.outcome,
            "at": settled.at.to_rfc3339(),
            "by": settled.by,
            "reason": settled.reason,
        })
    });
    json!({
        "executionId": row.execution,
        "executionStatus": entry.status,
        "taskId": TaskId { execution: row.execution, number: run.task },
        "stepId": run.step,
        "visit": run.visit,
        "attempt": run.attempt,
        "handlerType": row.task.handler_type,
        "failedAt": row.at.to_rfc3339(),
        "state": state,
        "settled": settled,
        "error": {
            "code": row.task.error.code,
            "message": row.task.error.message,
            "details": row.task.error.details,
        },
        "input": row.task.input,
    })
}
