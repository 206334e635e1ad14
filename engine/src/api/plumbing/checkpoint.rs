//! The Checkpoint API over HTTP.

use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use flowmonkey_plumbing::api::{CHECKPOINT_BYTES_MAX, CheckpointApi};
use flowmonkey_plumbing::token::Scopes;
use serde_json::{Value, json};

use super::super::Api;
use super::super::problem::Problem;
use super::super::request::{JsonBody, Parameters, Segment};
use super::{Caller, invalid};

/// Bytes of the body of a checkpoint: some spell the same JSON in more bytes than others.
const CHECKPOINT_BODY_BYTES_MAX: usize = 4 * CHECKPOINT_BYTES_MAX;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/checkpoint", get(load).put(save).delete(clear))
        .layer(DefaultBodyLimit::max(CHECKPOINT_BODY_BYTES_MAX))
}

/// `GET …/checkpoint`: the last checkpoint of the task, whichever attempt saved it; 204 when there is none.
async fn load(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CHECKPOINT)?;
    parameters.finish()?;
    caller.is_current(false).await?;
    Ok(match caller.plumbing().load_checkpoint(&caller.access).await? {
        Some(checkpoint) => Json(checkpoint).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `PUT …/checkpoint`: the body is what is saved. Answers `{id, savedAt}`.
async fn save(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::CHECKPOINT)?;
    parameters.finish()?;
    let JsonBody(data) = JsonBody::from_request(request, &api).await?;
    let data = data.ok_or_else(|| invalid("the body is empty: send `null` to save that"))?;
    // The store's own guard refuses a stale attempt.
    let saved = caller.plumbing().save_checkpoint(&caller.access, data).await?;
    Ok(Json(json!({ "id": saved.id, "savedAt": saved.saved_at })))
}

/// `DELETE …/checkpoint`.
async fn clear(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CHECKPOINT)?;
    parameters.finish()?;
    caller.plumbing().clear_checkpoint(&caller.access).await?;
    Ok(StatusCode::NO_CONTENT)
}
