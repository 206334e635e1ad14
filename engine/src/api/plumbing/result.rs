//! Results that come past the queue.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::routing::post;
use axum::{Json, Router};
use flowmonkey_plumbing::token::Scopes;
use flowmonkey_plumbing::wire::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION, ResultMessage, WireError, open_result};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::problem::{ErrorClass, Problem};
use super::super::request::{Parameters, Segment, media_type};
use super::super::{Api, request};
use super::{Caller, invalid, read};
use crate::services::SpilledError;

/// The message as the queues carry it, with its format byte.
const MESSAGE_PACK: [&str; 3] = ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"];

/// What came of a result.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says how the answer looks")]
pub(in super::super) struct ResultApplied {
    /// The execution.
    id: String,
    /// Its status after the result.
    status: String,
}

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/result", post(result))
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
}

/// Hands in a result that could not go through the queue. Answers as commands do.
#[utoipa::path(
    post, path = "/v1/plumbing/tasks/{task}/result", tag = "plumbing", operation_id = "handInResult",
    summary = "Hand in a result that could not go through the queue",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body(content(
        (Object = "application/json"),
        (Vec<u8> = "application/msgpack"),
    ), description = "the result message, as JSON or as the queues carry it: see the protocol"),
    responses(
        (status = 200, description = "it counts", body = ResultApplied),
        (status = 409, description = "`STALE_ATTEMPT`, `EXECUTION_FINISHED`: it does not count, forget it"),
    ),
)]
pub(in super::super) async fn result(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::RESULT)?;
    parameters.finish()?;
    let result = result_body(request, &api).await?;
    if result.delivery() != caller.access.delivery {
        let detail = "the result is of another task or attempt than the token";
        return Err(Problem::new(ErrorClass::Forbidden, "TOKEN_FOREIGN", detail));
    }
    let (engine, pool) = (api.engine.clone(), caller.pool);
    match api.to_the_end(async move { engine.apply_spilled(&result, pool).await }).await? {
        Ok(execution) => Ok(Json(json!({ "id": execution.id(), "status": execution.status() }))),
        Err(SpilledError::Command(error)) => Err(error.into()),
        Err(error @ SpilledError::Invalid(_)) => {
            Err(Problem::new(ErrorClass::Invalid, "INVALID_RESULT", error.to_string()))
        }
    }
}

async fn result_body(request: Request, api: &Api) -> Result<ResultMessage, Problem> {
    let media = media_type(request.headers());
    if media.as_deref().is_some_and(|media| MESSAGE_PACK.contains(&media)) {
        let bytes: Bytes = request::read(request, api).await?;
        let (result, seal) = open_result(bytes.into());
        let result = result.map_err(|error| match error {
            WireError::TooLarge { .. } => {
                Problem::new(ErrorClass::TooLarge, "BODY_TOO_LARGE", error.to_string())
            }
            WireError::Empty
            | WireError::UnknownFormat { .. }
            | WireError::TooDeep { .. }
            | WireError::NewerVersion { .. }
            | WireError::Malformed { .. } => invalid(error.to_string()),
        })?;
        // The token says whose it is; a seal says that it came as it was sent.
        if seal.is_some() {
            let checked = api.engine.task_tokens().check_result(&result, seal.as_ref());
            checked.map_err(|error| invalid(error.to_string()))?;
        }
        return Ok(result);
    }
    let result: ResultMessage = read(request, api).await?;
    if result.v > PROTOCOL_VERSION {
        let newer = WireError::NewerVersion { version: result.v, supported: PROTOCOL_VERSION };
        return Err(invalid(newer.to_string()));
    }
    Ok(result)
}
