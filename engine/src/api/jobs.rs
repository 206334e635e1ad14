//! Jobs: the tasks of stateful handlers, who works on them and how far they are.

use axum::Json;
use axum::extract::State;
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::JobPage;
use super::openapi::queries::PageQuery;
use super::problem::Problem;
use super::request::Parameters;
use crate::store::{JobFilter, JobRow};

/// `GET /v1/jobs`: those of the newest executions first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "listJobs",
    summary = "The tasks of stateful handlers",
    security(("apiKey" = ["viewer"])),
    params(
        ("status" = inline(Option<JobStatus>), Query, description = "only in this status"),
        ("handler" = Option<String>, Query, description = "only of this handler type"),
        ("execution" = Option<String>, Query, description = "only of this execution"),
        PageQuery,
    ),
    responses((status = 200, description = "a page", body = JobPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let status = parameters.one("status").and_then(|word| {
        let status = serde_json::from_value::<JobStatus>(Value::String(word));
        if status.is_err() {
            let known = "pending, claimed, running, paused, completed, failed, cancelled";
            parameters.error("status", format!("`status` must be one of {known}"));
        }
        status.ok()
    });
    let handler_type = parameters.one("handler");
    let execution = parameters.parsed("execution", "an execution id (`ex_` and 32 hexadecimal digits)");
    let before: Option<TaskId> = parameters.parsed("cursor", "the `nextCursor` of the page before");
    let max = parameters.limit();
    parameters.finish()?;
    let filter = JobFilter { tenant: access.only(), status, handler_type, execution, before, max };
    let rows = api.engine.store().jobs(&filter).await?;
    let next = rows.last().filter(|_| rows.len() == max).map(|row| row.task);
    let items: Vec<Value> = rows.iter().map(job).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

fn instant(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::to_rfc3339)
}

/// A job, as it is shown.
pub(super) fn job(row: &JobRow) -> Value {
    json!({
        "id": row.task,
        "executionId": row.task.execution,
        "stepId": row.step_id,
        "handlerType": row.handler_type,
        "status": row.status,
        "attempt": row.attempt,
        "workerId": row.worker,
        "createdAt": row.created_at.to_rfc3339(),
        "claimedAt": instant(row.claimed_at),
        "startedAt": instant(row.started_at),
        "completedAt": instant(row.completed_at),
        "progressPercent": row.progress_percent,
        "progressMessage": row.progress_message,
        "lastHeartbeatAt": instant(row.last_heartbeat_at),
        "checkpointId": row.checkpoint,
        "timeoutMs": row.timeout_ms,
        "maxRetries": row.max_retries,
        "retryCount": row.retry_count,
        "error": row.error,
    })
}
