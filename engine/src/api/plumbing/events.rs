//! The Event API over HTTP.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use flowmonkey_plumbing::api::{EVENTS_BODY_BYTES_MAX, EmittedEvent, EventApi};
use flowmonkey_plumbing::token::Scopes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Api;
use super::super::problem::Problem;
use super::super::request::{Parameters, Segment};
use super::{Caller, read};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/events", post(emit))
        .layer(DefaultBodyLimit::max(EVENTS_BODY_BYTES_MAX))
}

#[derive(Deserialize)]
struct EventsBody {
    events: Vec<EmittedEvent>,
}

/// `POST …/events`: `{events: [{id?, event, data?}]}`; all are published at once, or none. 202 `{ids}`, in order.
async fn emit(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::EVENTS)?;
    parameters.finish()?;
    let EventsBody { events } = read(request, &api).await?;
    let (plumbing, access) = (caller.plumbing(), caller.access.clone());
    let emitted = api.to_the_end(async move { plumbing.emit_events(&access, events).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "ids": emitted? }))))
}
