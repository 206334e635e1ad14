//! The Event API over HTTP.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use flowmonkey_plumbing::api::{EVENTS_BODY_BYTES_MAX, EmittedEvent, EventApi};
use flowmonkey_plumbing::token::Scopes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Api;
use super::super::problem::Problem;
use super::super::request::{Parameters, Segment};
use super::{Caller, read};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/events", post(emit))
        .layer(DefaultBodyLimit::max(EVENTS_BODY_BYTES_MAX))
}

/// Events of a running handler.
#[derive(Deserialize, ToSchema)]
pub(in super::super) struct EventsBody {
    /// In order, at most 500.
    events: Vec<EmittedEvent>,
}

/// The names of published events.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct EventIds {
    /// In the order of the events.
    ids: Vec<String>,
}

/// Publishes events at once, all or none.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/events", tag = "plumbing", operation_id = "emitEvents",
    summary = "Publish events at once, all or none",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body = EventsBody,
    responses((status = 202, description = "`{ids}`, in order", body = EventIds)),
)]
pub(in super::super) async fn emit(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<(StatusCode, Json<EventIds>), Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::EVENTS)?;
    parameters.finish()?;
    let EventsBody { events } = read(request, &api).await?;
    let (plumbing, access) = (caller.plumbing(), caller.access.clone());
    let emitted = api.to_the_end(async move { plumbing.emit_events(&access, events).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(EventIds { ids: emitted? })))
}
