//! The Context API over HTTP: reads of what the step declared, and staged changes.

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use flowmonkey_plumbing::api::{CONTEXT_PATCH_BYTES_MAX, CONTEXT_PATCHES_MAX};
use flowmonkey_plumbing::token::Scopes;
use flowmonkey_plumbing::wire::ContextOperation;
use serde_json::Value;

use super::super::Api;
use super::super::problem::{Detail, ErrorClass, Problem};
use super::super::request::{JsonBody, Parameters, Segment};
use super::{Caller, invalid, large};
use crate::services::{ContextRefusal, context_path};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/context", get(read).patch(stage))
        .layer(DefaultBodyLimit::max(CONTEXT_PATCH_BYTES_MAX))
}

/// What the step declared of the context, or the part of it at a dotted path.
///
/// It is the same in all attempts.
#[utoipa::path(
    get, path = "/v1/plumbing/tasks/{task}/context", tag = "plumbing", operation_id = "readContext",
    summary = "What the step declared of the context",
    security(("taskToken" = [])),
    params(
        ("task" = String, Path, description = "the id of the task"),
        ("path" = Option<String>, Query, description = "A dotted path; none: the whole"),
    ),
    responses(
        (status = 200, description = "The value. Compressed as `Accept-Encoding` allows (zstd, gzip); `x-uncompressed-bytes` is its size before"),
        (status = 404, description = "`CONTEXT_PATH_NOT_FOUND`: nothing is there, or the step did not declare it"),
        (status = 409, description = "`STALE_ATTEMPT`"),
    ),
)]
pub(in super::super) async fn read(
    State(api): State<Api>,
    Segment(task): Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CONTEXT)?;
    let path = parameters.one("path").map(|text| context_path(&text));
    if let Some(Err(message)) = &path {
        parameters.error("path", message);
    }
    parameters.finish()?;
    let path = path.and_then(Result::ok);
    let permit = large::turn(&api).await;
    let attempt = caller.access.delivery.attempt;
    let value = api.engine.read_context(caller.task, attempt, path.as_ref()).await;
    match value.map_err(|error| problem(error.into()))? {
        Some(value) => large::answer(&api, value, large::Coding::of(&headers), permit).await,
        None => {
            let detail = "nothing is there, or the step did not declare it";
            Err(Problem::new(ErrorClass::NotFound, "CONTEXT_PATH_NOT_FOUND", detail))
        }
    }
}

/// Stages changes of the context under the attempt.
///
/// The body is an object of dotted paths, or a list of operations, as `contextUpdates` of a result.
#[utoipa::path(
    patch, path = "/v1/plumbing/tasks/{task}/context", tag = "plumbing", operation_id = "stageContext",
    summary = "Stage changes of the context",
    security(("taskToken" = [])),
    request_body = serde_json::Value,
    params(
        ("task" = String, Path, description = "the id of the task"),
        ("sequence" = u32, Query, description = "Counts the attempt's patches from 1; the same one again changes nothing"),
    ),
    responses(
        (status = 204, description = "It is staged: the commit of the result merges it, when that names it in `contextPatches`"),
        (status = 409, description = "`STALE_ATTEMPT`"),
        (status = 413, description = "`CONTEXT_PATCH_TOO_LARGE`, `CONTEXT_VALUE_TOO_LARGE`"),
        (status = 422, description = "`CONTEXT_SEQUENCE_TAKEN`, `CONTEXT_NESTING_LIMIT`, or a path that is none"),
    ),
)]
pub(in super::super) async fn stage(
    State(api): State<Api>,
    Segment(task): Segment,
    mut parameters: Parameters,
    request: Request,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::CONTEXT)?;
    let sequence = parameters.one("sequence").and_then(|text| text.parse::<u32>().ok());
    if sequence.is_none_or(|sequence| !(1..=CONTEXT_PATCHES_MAX).contains(&sequence)) {
        parameters.error("sequence", format!("`sequence` must be a number from 1 to {CONTEXT_PATCHES_MAX}"));
    }
    parameters.finish()?;
    let JsonBody(body) = JsonBody::from_request(request, &api).await?;
    let operations = operations(body.ok_or_else(|| invalid("the body is empty"))?)?;
    let attempt = caller.access.delivery.attempt;
    let staged = api.engine.stage_context(caller.task, attempt, sequence.unwrap_or(0), operations).await;
    staged.map(|()| StatusCode::NO_CONTENT).map_err(problem)
}

/// Changes of a context: an object of dotted paths, or a list of operations.
fn operations(body: Value) -> Result<Vec<ContextOperation>, Problem> {
    match body {
        Value::Object(paths) => {
            Ok(paths.into_iter().map(|(path, value)| ContextOperation::Set { path, value }).collect())
        }
        Value::Array(items) => {
            let read = |(index, item)| {
                serde_json::from_value(item).map_err(|error| {
                    let detail = Detail::at(format!("/{index}"), error.to_string(), None);
                    Problem::invalid("INVALID_REQUEST", vec![detail])
                })
            };
            items.into_iter().enumerate().map(read).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(invalid("the body must be an object of dotted paths, or a list of operations"))
        }
    }
}

fn problem(refusal: ContextRefusal) -> Problem {
    use flowmonkey_core::context::ContextError;
    let (code, detail) = (refusal.code(), refusal.to_string());
    let class = match refusal {
        ContextRefusal::Store(error) => return error.into(),
        ContextRefusal::Invalid { operation, message } => {
            let pointer = operation.map(|index| format!("/{index}")).unwrap_or_default();
            return Problem::invalid(code, vec![Detail::at(pointer, message, None)]);
        }
        ContextRefusal::Stale => ErrorClass::Conflict,
        ContextRefusal::PatchTooLarge { .. }
        | ContextRefusal::Full { .. }
        | ContextRefusal::Limit(ContextError::ValueTooLarge { .. } | ContextError::Size { .. }) => {
            ErrorClass::TooLarge
        }
        ContextRefusal::Limit(
            ContextError::Nesting { .. } | ContextError::Keys { .. } | ContextError::PathBlocked { .. },
        )
        | ContextRefusal::Taken { .. }
        | ContextRefusal::Declared(_) => ErrorClass::Invalid,
    };
    Problem::new(class, code, detail)
}
