//! The plumbing APIs over HTTP: what a worker asks for the task in its hands. Who asks is said by the task's token, and by
//! nothing else; the token counts only while the record has its attempt.
//!
//! Architecture invariant: the token is checked before a byte of the body is read.

mod checkpoint;
mod context;
mod job;
pub(super) mod large;
mod progress;
mod result;

use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{PlumbingError, TaskAccess};
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::token::{Claims, Scopes, TokenError};
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::{Detail, ErrorClass, Problem};
use super::request::JsonBody;
use crate::services::EnginePlumbing;

/// What a 401 asks for.
pub(super) const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// The routes of workers.
pub(super) fn routes() -> Router<Api> {
    checkpoint::routes()
        .merge(context::routes())
        .merge(job::routes())
        .merge(progress::routes())
        .merge(result::routes())
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

/// A JSON body in the form of `T`. Unlike elsewhere in the API, what a newer worker adds is ignored.
async fn read<T: DeserializeOwned>(request: Request, api: &Api) -> Result<T, Problem> {
    let JsonBody(value) = JsonBody::from_request(request, api).await?;
    let value = value.ok_or_else(|| invalid("the body is empty"))?;
    serde_json::from_value(value).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::invalid("INVALID_REQUEST", vec![Detail::at("", message, None)])
}
