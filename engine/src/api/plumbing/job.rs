//! Heartbeats of jobs over HTTP.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::routing::post;
use axum::{Json, Router};
use flowmonkey_plumbing::api::{
    Heartbeat, HeartbeatAnswer, JobApi, JobStatus, VOLATILE_BODY_BYTES_MAX, WORKER_BYTES_MAX,
};
use flowmonkey_plumbing::token::Scopes;

use super::super::Api;
use super::super::problem::Problem;
use super::super::request::{Parameters, Segment};
use super::{Caller, invalid, read};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/heartbeat", post(heartbeat))
        .layer(DefaultBodyLimit::max(VOLATILE_BODY_BYTES_MAX))
}

/// Tells how a job is getting on. `taskId` and `attempt` may be left out; those of the token count.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/heartbeat", tag = "plumbing", operation_id = "sendHeartbeat",
    summary = "Tell how a job is getting on",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body = Heartbeat,
    responses((status = 200, description = "noted", body = HeartbeatAnswer)),
)]
pub(in super::super) async fn heartbeat(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<Json<HeartbeatAnswer>, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::PROGRESS)?;
    parameters.finish()?;
    let heartbeat: Heartbeat = read(request, &api).await?;
    let delivery = &caller.access.delivery;
    let is_of_task = heartbeat.task_id.is_empty() || heartbeat.task_id == delivery.task_id;
    let is_of_attempt = heartbeat.attempt == 0 || heartbeat.attempt == delivery.attempt;
    if !is_of_task || !is_of_attempt {
        return Err(invalid("`taskId` and `attempt` must be those of the token"));
    }
    if heartbeat.worker_id.is_empty() || heartbeat.worker_id.len() > WORKER_BYTES_MAX {
        return Err(invalid(format!("`workerId` must have 1 to {WORKER_BYTES_MAX} bytes")));
    }
    if !matches!(heartbeat.status, JobStatus::Claimed | JobStatus::Running) {
        return Err(invalid("`status` must be `claimed` or `running`"));
    }
    // The store's own guard refuses a stale attempt.
    Ok(Json(caller.plumbing().heartbeat(&caller.access, &heartbeat).await?))
}
