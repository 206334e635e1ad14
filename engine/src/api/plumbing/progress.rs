//! The Progress API and task logs over HTTP.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use flowmonkey_plumbing::api::{
    LOG_LINES_MAX, Progress, ProgressApi, VOLATILE_BODY_BYTES_MAX, WORKER_BYTES_MAX,
};
use flowmonkey_plumbing::token::Scopes;
use flowmonkey_plumbing::wire::LogLine;
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::Api;
use super::super::problem::Problem;
use super::super::request::{Parameters, Segment};
use super::{Caller, invalid, read};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/started", post(started))
        .route("/v1/plumbing/tasks/{task}/progress", post(progress))
        .route("/v1/plumbing/tasks/{task}/logs", post(logs))
        .layer(DefaultBodyLimit::max(VOLATILE_BODY_BYTES_MAX))
}

/// Who has started.
#[derive(Deserialize, ToSchema)]
pub(in super::super) struct StartedBody {
    /// The worker's name, at most 200 bytes.
    worker: String,
}

/// Says that the handler has started.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/started", tag = "plumbing", operation_id = "reportStarted",
    summary = "Say that the handler has started",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body = StartedBody,
    responses((status = 204, description = "noted")),
)]
pub(in super::super) async fn started(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::PROGRESS)?;
    parameters.finish()?;
    let StartedBody { worker } = read(request, &api).await?;
    if worker.len() > WORKER_BYTES_MAX {
        return Err(invalid(format!("`worker` has more than {WORKER_BYTES_MAX} bytes")));
    }
    caller.is_current(true).await?;
    caller.plumbing().started(&caller.access, &worker);
    Ok(StatusCode::NO_CONTENT)
}

/// Reports progress; the latest counts.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/progress", tag = "plumbing", operation_id = "reportProgress",
    summary = "Report progress; the latest counts",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body = Progress,
    responses((status = 204, description = "noted")),
)]
pub(in super::super) async fn progress(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::PROGRESS)?;
    parameters.finish()?;
    let progress: Progress = read(request, &api).await?;
    caller.is_current(true).await?;
    caller.plumbing().progress(&caller.access, progress);
    Ok(StatusCode::NO_CONTENT)
}

/// Log lines.
#[derive(Deserialize, ToSchema)]
pub(in super::super) struct LogsBody {
    /// In order.
    lines: Vec<LogLine>,
}

/// Shows log lines live, at most 1000 at a time, and keeps those that have a number; the result brings the others again.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/logs", tag = "plumbing", operation_id = "showLogLines",
    summary = "Show log lines live",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body = LogsBody,
    responses((status = 204, description = "shown")),
)]
pub(in super::super) async fn logs(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::LOGS)?;
    parameters.finish()?;
    let LogsBody { lines } = read(request, &api).await?;
    if lines.len() > LOG_LINES_MAX {
        return Err(invalid(format!("`lines` has more than {LOG_LINES_MAX} items")));
    }
    caller.is_current(true).await?;
    let plumbing = caller.plumbing();
    for line in &lines {
        plumbing.log(&caller.access, line);
    }
    Ok(StatusCode::NO_CONTENT)
}
