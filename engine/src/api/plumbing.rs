//! The plumbing APIs over HTTP: what a worker asks for the task in its hands. Who asks is said by the task's token, and by
//! nothing else; the token counts only while the record has its attempt.
//!
//! Architecture invariant: the token is checked before a byte of the body is read.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, http::HeaderValue};
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{
    CHECKPOINT_BYTES_MAX, LOG_LINES_MAX, Plumbing, PlumbingError, Progress, TaskAccess,
    VOLATILE_BODY_BYTES_MAX, WORKER_BYTES_MAX,
};
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::token::{Claims, Scopes, TokenError};
use flowmonkey_plumbing::wire::{
    LogLine, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, ResultMessage, WireError, decode_result,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Api;
use super::problem::{Detail, ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment, media_type};
use crate::services::{EnginePlumbing, SpilledError};

/// Bytes of the body of a checkpoint: some spell the same JSON in more bytes than others.
const CHECKPOINT_BODY_BYTES_MAX: usize = 4 * CHECKPOINT_BYTES_MAX;
/// The message as the queues carry it, with its format byte.
const MESSAGE_PACK: [&str; 3] = ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"];
/// What a 401 asks for.
pub(super) const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// The routes of workers.
pub(super) fn routes() -> Router<Api> {
    let checkpoint = Router::new()
        .route("/v1/plumbing/tasks/{task}/checkpoint", get(load).put(save).delete(clear))
        .layer(DefaultBodyLimit::max(CHECKPOINT_BODY_BYTES_MAX));
    let volatile = Router::new()
        .route("/v1/plumbing/tasks/{task}/started", post(started))
        .route("/v1/plumbing/tasks/{task}/progress", post(progress))
        .route("/v1/plumbing/tasks/{task}/logs", post(logs))
        .layer(DefaultBodyLimit::max(VOLATILE_BODY_BYTES_MAX));
    let result = Router::new()
        .route("/v1/plumbing/tasks/{task}/result", post(result))
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX));
    checkpoint.merge(volatile).merge(result)
}

/// A worker whose token counts, for one attempt of one task.
struct Caller<'a> {
    api: &'a Api,
    task: TaskId,
    access: TaskAccess,
    pool: String,
}

impl<'a> Caller<'a> {
    /// Who asks for `task`, by the token of the request.
    fn of(api: &'a Api, task: &str, headers: &HeaderMap, scope: Scopes) -> Result<Self, Problem> {
        let token = bearer(headers)?;
        let now_ms = api.engine.now().as_millis();
        let claims = api.engine.task_tokens().check(token, now_ms).map_err(not_authentic)?;
        let id: TaskId = task.parse().map_err(|_| {
            Problem::new(ErrorClass::NotFound, "TASK_NOT_FOUND", "there is no task of that id")
        })?;
        // By the texts: an id has one spelling, and the token has that one.
        if claims.task != task {
            let detail = "the token is of another task";
            return Err(Problem::new(ErrorClass::Forbidden, "TOKEN_FOREIGN", detail));
        }
        if !claims.scopes.allows(scope) {
            let detail = format!("the token does not allow `{}`", scope.names());
            return Err(Problem::new(ErrorClass::Forbidden, "TOKEN_SCOPE", detail));
        }
        let Claims { task, attempt, pool, .. } = claims;
        Ok(Self {
            api,
            task: id,
            access: TaskAccess { delivery: Delivery { task_id: task, attempt }, token: None },
            pool,
        })
    }

    /// That the record has the attempt. What cannot be taken back asks the record itself.
    async fn is_current(&self, trust_memory: bool) -> Result<(), Problem> {
        let Delivery { task_id, attempt } = &self.access.delivery;
        if self.api.engine.has_out(self.task, *attempt, trust_memory).await? {
            return Ok(());
        }
        Err(PlumbingError::Stale { task: task_id.clone(), attempt: *attempt }.into())
    }

    fn plumbing(&self) -> EnginePlumbing {
        EnginePlumbing::new(self.api.engine.clone())
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let detail = "send the task's token: `Authorization: Bearer …`";
        Problem::new(ErrorClass::Unauthenticated, "TOKEN_MISSING", detail)
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(missing()),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(not_authentic(TokenError::Malformed)),
    };
    let text = value.to_str().map_err(|_| not_authentic(TokenError::Malformed))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        Some(_) | None => Err(missing()),
    }
}

fn not_authentic(error: TokenError) -> Problem {
    let code = match error {
        TokenError::Expired => "TOKEN_EXPIRED",
        // Which of these it is helps only those who try.
        TokenError::Malformed | TokenError::UnknownKey | TokenError::Forged => "TOKEN_INVALID",
    };
    let detail = match error {
        TokenError::Expired => "the token has ended",
        TokenError::Malformed | TokenError::UnknownKey | TokenError::Forged => {
            "the token was not made by this engine's record"
        }
    };
    Problem::new(ErrorClass::Unauthenticated, code, detail)
}

impl From<PlumbingError> for Problem {
    fn from(error: PlumbingError) -> Self {
        let detail = error.to_string();
        match error {
            PlumbingError::Stale { .. } => Self::new(ErrorClass::Conflict, "STALE_ATTEMPT", detail),
            PlumbingError::TooLarge { .. } => Self::new(ErrorClass::TooLarge, "CHECKPOINT_TOO_LARGE", detail),
            // In process nothing is refused for its token.
            PlumbingError::Refused { .. } => Self::new(ErrorClass::Internal, "INTERNAL", detail),
            PlumbingError::Unavailable(source) => match source.downcast::<crate::store::StoreError>() {
                Ok(error) => (*error).into(),
                Err(other) => Self::hidden(
                    ErrorClass::Unavailable,
                    "STORE_UNAVAILABLE",
                    "the record is unavailable; try again",
                    &*other,
                ),
            },
        }
    }
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

#[derive(Deserialize)]
struct StartedBody {
    worker: String,
}

/// `POST …/started`: `{worker}`.
async fn started(
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

/// `POST …/progress`: `{percent, message?, estimatedCompletion?}`; the latest counts.
async fn progress(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::PROGRESS)?;
    parameters.finish()?;
    let progress: Progress = read(request, &api).await?;
    caller.is_current(true).await?;
    let percent = progress.percent.clamp(0.0, 100.0);
    caller.plumbing().progress(&caller.access, Progress { percent, ..progress });
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct LogsBody {
    lines: Vec<LogLine>,
}

/// `POST …/logs`: `{lines: [{level?, message, timestamp?}]}`.
async fn logs(
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

/// `POST …/result`: a result that could not go through the queue. Answers as commands do.
async fn result(
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
        let bytes: Bytes = super::request::read(request, api).await?;
        return decode_result(&bytes).map_err(|error| match error {
            WireError::TooLarge { .. } => {
                Problem::new(ErrorClass::TooLarge, "BODY_TOO_LARGE", error.to_string())
            }
            WireError::Empty
            | WireError::UnknownFormat { .. }
            | WireError::TooDeep { .. }
            | WireError::NewerVersion { .. }
            | WireError::Malformed { .. } => invalid(error.to_string()),
        });
    }
    let result: ResultMessage = read(request, api).await?;
    if result.v > PROTOCOL_VERSION {
        let newer = WireError::NewerVersion { version: result.v, supported: PROTOCOL_VERSION };
        return Err(invalid(newer.to_string()));
    }
    Ok(result)
}

/// A JSON body in the form of `T`. Unlike elsewhere in the API, what a newer worker adds is ignored.
async fn read<T: DeserializeOwned>(request: Request, api: &Api) -> Result<T, Problem> {
    let JsonBody(value) = JsonBody::from_request(request, api).await?;
    let value = value.ok_or_else(|| invalid("the body is empty"))?;
    serde_json::from_value(value).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::invalid("INVALID_REQUEST", vec![Detail::at("", message, None)])
}
