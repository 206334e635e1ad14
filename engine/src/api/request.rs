//! What routes read of a request: path segments, query parameters, bodies.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use flowmonkey_core::flow::parse::Format;
use flowmonkey_core::ids::ExecutionId;
use serde_json::Value;

use super::BODY_TIME_MAX;
use super::problem::{Detail, ErrorClass, Problem};

/// Items of a page when the request does not say.
const PAGE_DEFAULT: usize = 50;
/// Most items of a page.
const PAGE_MAX: usize = 500;

/// The one variable segment of the path.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(_) => Err(Problem::new(
                ErrorClass::Undecodable,
                "INVALID_PATH",
                "the path is not UTF-8 when decoded",
            )),
        }
    }
}

/// Reads an id; whatever is no id names nothing.
pub(super) fn execution_id(text: &str) -> Result<ExecutionId, Problem> {
    text.parse().map_err(|_| {
        Problem::new(ErrorClass::NotFound, "EXECUTION_NOT_FOUND", "there is no execution of that id")
    })
}

/// The query parameters that have not been read yet.
pub(super) struct Parameters {
    rest: Vec<(String, String)>,
    errors: Vec<Detail>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(rest)) => Ok(Self { rest, errors: Vec::new() }),
            Err(_) => {
                Err(Problem::new(ErrorClass::Undecodable, "INVALID_QUERY", "the query cannot be decoded"))
            }
        }
    }
}

impl Parameters {
    /// All values of a parameter.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let values = self.rest.extract_if(.., |(key, _)| key == name);
        values.map(|(_, value)| value).collect()
    }

    /// A parameter that may be given once.
    pub(super) fn one(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.error(name, format!("`{name}` is given {} times", values.len()));
        }
        values.pop()
    }

    /// A parameter that is read as `T`.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let text = self.one(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.error(name, format!("`{name}` must be {wanted}"));
        }
        parsed
    }

    /// Parameters whose names begin with `prefix`, by the rest of their names.
    pub(super) fn prefixed(&mut self, prefix: &str) -> Vec<(String, String)> {
        let found = self.rest.extract_if(.., |(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect()
    }

    /// `limit`: how many items a page has.
    pub(super) fn limit(&mut self) -> usize {
        let wanted = format!("a number from 1 to {PAGE_MAX}");
        match self.parsed::<usize>("limit", &wanted) {
            None => PAGE_DEFAULT,
            Some(limit) if (1..=PAGE_MAX).contains(&limit) => limit,
            Some(_) => {
                self.error("limit", format!("`limit` must be {wanted}"));
                PAGE_DEFAULT
            }
        }
    }

    /// Notes something that is wrong with a parameter.
    pub(super) fn error(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(Detail::parameter(name, message));
    }

    /// All parameters have been read.
    ///
    /// # Errors
    /// All that was wrong, and every parameter that is not known.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.rest {
            self.errors.push(Detail::parameter(name, format!("unknown parameter `{name}`")));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid("INVALID_PARAMETER", self.errors)) }
    }
}

/// A JSON body; none when it is empty.
pub(super) struct JsonBody(pub(super) Option<Value>);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        let is_json =
            media.as_deref().is_none_or(|media| media == "application/json" || media.ends_with("+json"));
        if !is_json {
            let detail = "the body must be JSON: send `Content-Type: application/json`";
            return Err(Problem::new(ErrorClass::Unsupported, "UNSUPPORTED_MEDIA_TYPE", detail));
        }
        json(&bytes).map(|value| Self(Some(value)))
    }
}

/// A body that holds a flow, as text.
pub(super) struct FlowBody {
    pub(super) text: String,
    pub(super) format: Format,
}

impl<S: Send + Sync> FromRequest<S> for FlowBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let bytes = read(request, state).await?;
        let text = String::from_utf8(bytes.into())
            .map_err(|_| Problem::new(ErrorClass::Undecodable, "INVALID_TEXT", "the body is not UTF-8"))?;
        let format = match media.as_deref() {
            Some("application/json") => Format::Json,
            Some("application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml") => Format::Yaml,
            Some(media) if media.ends_with("+json") => Format::Json,
            Some(media) if media.ends_with("+yaml") => Format::Yaml,
            None | Some("text/plain" | "application/octet-stream") => Format::guess(&text),
            Some(_) => {
                let detail =
                    "a flow is JSON or YAML: send `Content-Type: application/json` or `application/yaml`";
                return Err(Problem::new(ErrorClass::Unsupported, "UNSUPPORTED_MEDIA_TYPE", detail));
            }
        };
        Ok(Self { text, format })
    }
}

/// The type of the body, without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    // What is not text is no type that anybody reads.
    let text = value.to_str().unwrap_or("?");
    let media = text.split(';').next().unwrap_or(text).trim();
    Some(media.to_ascii_lowercase())
}

/// The whole body, up to the route's limit.
pub(super) async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let Ok(read) = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state)).await else {
        let detail = format!("the body did not arrive within {} seconds", BODY_TIME_MAX.as_secs());
        return Err(Problem::new(ErrorClass::TooSlow, "BODY_TIMEOUT", detail));
    };
    read.map_err(|rejection: BytesRejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(ErrorClass::TooLarge, "BODY_TOO_LARGE", "the body is larger than this path takes")
        } else {
            Problem::new(ErrorClass::Undecodable, "BODY_INCOMPLETE", "the body did not arrive as a whole")
        }
    })
}

/// Reads JSON; nesting is limited by the reader, so that no body can exhaust the stack.
pub(super) fn json(bytes: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let detail = format!("the body is not JSON: {error}");
        let place = |place: usize| u32::try_from(place).ok();
        let error = Detail {
            line: place(error.line()),
            column: place(error.column()),
            ..Detail::at("", detail.clone(), None)
        };
        Problem::new(ErrorClass::Undecodable, "INVALID_JSON", detail).with_errors(vec![error])
    })
}

/// Puts `text` into one segment of a path.
pub(super) fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(segment, "%{byte:02X}").unwrap_or_default();
        }
    }
    segment
}
