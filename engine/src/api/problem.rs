//! Errors as they go out: RFC 9457, with a stable code. One function gives the HTTP status of each class.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowmonkey_core::execution::{Rejection, StartError};
use flowmonkey_core::flow::parse::Issue;
use flowmonkey_plumbing::queue::QueueError;
use serde::Serialize;
use serde_json::json;

use crate::apply::CommandError;
use crate::engine::EngineError;
use crate::outcome::rejection_code;
use crate::store::StoreError;

/// Seconds after which a request that met a full or unavailable engine may come again.
const RETRY_AFTER_SECONDS: &str = "1";

/// What kind of error it is, by what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request cannot be read.
    Undecodable,
    /// Who asks is not known: a token is missing or does not count.
    Unauthenticated,
    /// Who asks may not; the request comes from a web page of another origin, or names a host that this server is not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path exists, but not for this method.
    NoSuchMethod,
    /// The state of things does not allow it.
    Conflict,
    /// The body does not arrive in time.
    TooSlow,
    /// The body is larger than the limit.
    TooLarge,
    /// The body is of a type that the route does not read.
    Unsupported,
    /// The request can be read, but does not hold what it must.
    Invalid,
    /// Too much at once: come back later.
    Overloaded,
    /// Something the engine stands on is away: come back later.
    Unavailable,
    /// A bug, or corrupt data.
    Internal,
}

impl ErrorClass {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Undecodable,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::NoSuchMethod,
        Self::Conflict,
        Self::TooSlow,
        Self::TooLarge,
        Self::Unsupported,
        Self::Invalid,
        Self::Overloaded,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Undecodable => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// In words.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Undecodable => "The request cannot be read",
            Self::Unauthenticated => "It is not known who asks",
            Self::Forbidden => "The request is not allowed",
            Self::NotFound => "There is no such thing",
            Self::NoSuchMethod => "The path does not know this method",
            Self::Conflict => "The state does not allow it",
            Self::TooSlow => "The body is too slow",
            Self::TooLarge => "The body is too large",
            Self::Unsupported => "The body has the wrong type",
            Self::Invalid => "The request is not valid",
            Self::Overloaded => "Too much at once",
            Self::Unavailable => "The engine is not available now",
            Self::Internal => "The engine failed",
        }
    }

    const fn may_come_again(self) -> bool {
        match self {
            Self::Overloaded | Self::Unavailable => true,
            Self::Undecodable
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::NoSuchMethod
            | Self::Conflict
            | Self::TooSlow
            | Self::TooLarge
            | Self::Unsupported
            | Self::Invalid
            | Self::Internal => false,
        }
    }
}

/// One thing that is wrong with a request, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Detail {
    /// JSON pointer into the body; empty: the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pointer: Option<String>,
    /// Name of the query parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) severity: Option<&'static str>,
    /// Name of the rule, for flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<&'static str>,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) column: Option<u32>,
}

impl Detail {
    /// Something wrong in the body.
    pub(super) fn at(pointer: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { pointer: Some(pointer.into()), hint, ..Self::of(message) }
    }

    /// Something wrong with a query parameter or header.
    pub(super) fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self { parameter: Some(name.into()), ..Self::of(message) }
    }

    fn of(message: impl Into<String>) -> Self {
        Self {
            pointer: None,
            parameter: None,
            severity: None,
            rule: None,
            message: message.into(),
            hint: None,
            line: None,
            column: None,
        }
    }

    /// An issue of a flow that stands at `prefix` of the body.
    pub(super) fn issue(issue: Issue, prefix: &str) -> Self {
        let placed = issue.line > 0;
        Self {
            pointer: Some(format!("{prefix}{}", issue.pointer)),
            severity: Some(match issue.severity {
                flowmonkey_core::flow::parse::Severity::Error => "error",
                flowmonkey_core::flow::parse::Severity::Warning => "warning",
            }),
            rule: Some(issue.code),
            hint: issue.hint,
            line: placed.then_some(issue.line),
            column: placed.then_some(issue.column),
            ..Self::of(issue.message)
        }
    }
}

/// An error on its way out. The guard gives it the request id and writes it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    class: ErrorClass,
    code: &'static str,
    detail: String,
    errors: Vec<Detail>,
    /// For the log only.
    cause: Option<String>,
    /// The methods that the path knows, where it does not know the one of the request.
    allow: Option<&'static str>,
}

impl Problem {
    /// What kind of error it is.
    pub(super) const fn class(&self) -> ErrorClass {
        self.class
    }

    pub(super) fn new(class: ErrorClass, code: &'static str, detail: impl Into<String>) -> Self {
        Self { class, code, detail: detail.into(), errors: Vec::new(), cause: None, allow: None }
    }

    /// A body or query that does not hold what it must.
    pub(super) fn invalid(code: &'static str, errors: Vec<Detail>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.message.clone(),
            several => format!("{} things are wrong with the request", several.len()),
        };
        Self { errors, ..Self::new(ErrorClass::Invalid, code, detail) }
    }

    pub(super) fn with_errors(mut self, errors: Vec<Detail>) -> Self {
        self.errors = errors;
        self
    }

    /// A path that takes verbs, without one; `allow` is what it knows instead.
    pub(super) fn verb_missing(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..no_method() }
    }

    /// What cannot be told to the caller goes to the log.
    pub(super) fn hidden(
        class: ErrorClass,
        code: &'static str,
        detail: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let mut cause = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            cause.push_str(": ");
            cause.push_str(&source.to_string());
            next = source.source();
        }
        Self { cause: Some(cause), ..Self::new(class, code, detail) }
    }

    /// The answer itself.
    pub(super) fn write(self, request_id: &str) -> Response {
        let Self { class, code, detail, errors, cause, allow } = self;
        if let Some(cause) = cause {
            if class == ErrorClass::Internal {
                tracing::error!(request_id, code, cause, "a request failed");
            } else {
                tracing::warn!(request_id, code, cause, "a request could not be served");
            }
        }
        let mut body = json!({
            "type": format!("urn:flowmonkey:error:{code}"),
            "title": class.title(),
            "status": class.status().as_u16(),
            "code": code,
            "detail": detail,
            "requestId": request_id,
        });
        if !errors.is_empty() {
            body["errors"] = json!(errors);
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = class.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if class == ErrorClass::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, super::plumbing::CHALLENGE);
        }
        if class.may_come_again() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.class.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (class, code, detail) = match &error {
            StoreError::Unavailable { .. } => {
                (ErrorClass::Unavailable, "STORE_UNAVAILABLE", "the record is unavailable; try again")
            }
            StoreError::Full { .. } => (
                ErrorClass::Unavailable,
                "STORE_FULL",
                "the record has no space left; nothing was stored, try again once there is space",
            ),
            StoreError::Corrupt { .. } | StoreError::Schema { .. } | StoreError::Internal { .. } => (
                ErrorClass::Internal,
                "INTERNAL",
                "the record failed; the engine's log has the reason under this request id",
            ),
        };
        Self::hidden(class, code, detail, &error)
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let (class, code, detail) = match &error {
            QueueError::Unavailable(_) => {
                (ErrorClass::Unavailable, "QUEUE_UNAVAILABLE", "the queues are unreachable; try again")
            }
            QueueError::Full { .. } => {
                (ErrorClass::Overloaded, "QUEUE_FULL", "the queues take no more tasks now; try again")
            }
            QueueError::Corrupt { .. } => (
                ErrorClass::Internal,
                "INTERNAL",
                "the queues failed; the engine's log has the reason under this request id",
            ),
        };
        Self::hidden(class, code, detail, &error)
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let code = error.code();
        let detail = error.to_string();
        let at = |pointer: &str| vec![Detail::at(pointer, detail.clone(), None)];
        match &error {
            StartError::NotPublished { .. } => Self::new(ErrorClass::Conflict, code, detail),
            StartError::InputInvalid(violations) => {
                let errors =
                    violations.iter().map(|violation| Detail::at("/input", violation, None)).collect();
                Self::new(ErrorClass::Invalid, code, detail).with_errors(errors)
            }
            StartError::InputNotAnObject(_) | StartError::ContextLimit { .. } => {
                Self::invalid(code, at("/input"))
            }
            StartError::StepNotFound(_) => Self::invalid(code, at("/fromStep")),
            StartError::InvalidIdempotencyKey(_) => Self::invalid(code, at("/idempotencyKey")),
            StartError::TooManyLabels(_) | StartError::InvalidLabel { .. } => {
                Self::invalid(code, at("/labels"))
            }
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let detail = error.to_string();
        match error {
            EngineError::Store(error) => error.into(),
            EngineError::Queue(error) => error.into(),
            EngineError::Start(error) => error.into(),
            EngineError::FlowNotFound(_) => Self::new(ErrorClass::NotFound, "FLOW_NOT_FOUND", detail),
            EngineError::ExecutionNotFound(_) => {
                Self::new(ErrorClass::NotFound, "EXECUTION_NOT_FOUND", detail)
            }
            EngineError::IdTaken(_) => Self::new(ErrorClass::Conflict, "EXECUTION_EXISTS", detail),
            EngineError::NotEnded(_) => Self::new(ErrorClass::Conflict, "EXECUTION_NOT_ENDED", detail),
            EngineError::Contended(_) => Self::new(ErrorClass::Unavailable, "CONTENDED", detail),
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let problem = Self::new(ErrorClass::Conflict, rejection_code(&rejection), rejection.to_string());
        match rejection {
            Rejection::InvalidAnswer(violations) => {
                let errors = violations.into_iter().map(|violation| Detail::at("/data", violation, None));
                Self { class: ErrorClass::Invalid, ..problem }.with_errors(errors.collect())
            }
            Rejection::Finished(_)
            | Rejection::StaleAttempt
            | Rejection::StaleJoin
            | Rejection::AlreadyCancelling
            | Rejection::Compensating
            | Rejection::NotWaiting(_)
            | Rejection::SignalBufferFull { .. }
            | Rejection::DuplicateSignal
            | Rejection::AlreadyPaused
            | Rejection::NotPaused
            | Rejection::Paused
            | Rejection::NotRetryable(_)
            | Rejection::Compensated
            | Rejection::CountedChild
            | Rejection::NothingDue => problem,
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Rejected(rejection) => rejection.into(),
            CommandError::Engine(error) => error.into(),
        }
    }
}

/// The answer for a path that does not exist.
pub(super) fn no_route() -> Problem {
    Problem::new(ErrorClass::NotFound, "ROUTE_NOT_FOUND", "there is no such path; see docs/http-api.md")
}

pub(super) async fn no_such_route() -> Problem {
    no_route()
}

fn no_method() -> Problem {
    Problem::new(ErrorClass::NoSuchMethod, "METHOD_NOT_ALLOWED", "the path does not know this method")
}

pub(super) async fn no_such_method() -> Problem {
    no_method()
}
