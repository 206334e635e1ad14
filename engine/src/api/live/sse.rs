//! `GET /v1/executions/{id}/stream` and `GET /v1/stream`: the same events, as server-sent events.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flowmonkey_core::ids::ExecutionId;
use futures_util::stream;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Connection, Refused};
use super::filter::{Filter, Types};
use super::mailbox::Frame;
use super::{CONNECTION_AGE_MAX, Live, PINGS_UNANSWERED_MAX, message};
use crate::api::Api;
use crate::api::access::{Access, Viewer};
use crate::api::problem::{ErrorClass, Problem};
use crate::api::request::{Parameters, Segment, execution_id};

/// The media type.
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How soon clients come again that lost their connection, in milliseconds.
const RETRY_MS: u64 = 2000;
/// Names the only subscription of a stream.
const SUBSCRIPTION: &str = "stream";

/// `GET /v1/executions/{id}/stream`.
#[utoipa::path(
    get, path = "/v1/executions/{id}/stream", tag = "live", operation_id = "streamExecution",
    summary = "What happens to an execution, as server-sent events",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("types" = Option<String>, Query, description = "types of events, or patterns such as `step.*`, separated by commas"),
        ("children" = Option<bool>, Query, description = "of children, too"),
        ("resumeFrom" = Option<u64>, Query, description = "the sequence of the last event that you have"),
        ("Last-Event-ID" = Option<u64>, Header, description = "the same, as clients send it that come again"),
    ),
    responses(
        (status = 200, description = "server-sent events", body = String, content_type = "text/event-stream"),
    ),
)]
pub(in crate::api) async fn of_execution(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = execution_id(&id)?;
    let types = types(&mut parameters);
    let children = parameters.parsed("children", "true or false").unwrap_or(false);
    let wanted = "the sequence of the last event that you have";
    let asked: Option<u64> = parameters.parsed("resumeFrom", wanted);
    // What a client sends that comes again by itself; it is later than what its address says.
    let seen = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|id| id.parse().ok()));
    if let Some(None) = seen {
        parameters.error("Last-Event-ID", format!("`Last-Event-ID` must be {wanted}"));
    }
    parameters.finish()?;
    let filter = Filter { execution: Some(id), children, types, ..Filter::default() };
    stream_of(&api, access, filter, seen.flatten().or(asked)).await
}

/// `GET /v1/stream`.
#[utoipa::path(
    get, path = "/v1/stream", tag = "live", operation_id = "streamAll",
    summary = "What happens, as server-sent events",
    security(("apiKey" = ["viewer"])),
    params(
        ("flowId" = Option<String>, Query, description = "only of this flow"),
        ("types" = Option<String>, Query, description = "types of events, or patterns such as `step.*`, separated by commas"),
        ("children" = Option<bool>, Query, description = "of children, too"),
    ),
    responses(
        (status = 200, description = "server-sent events", body = String, content_type = "text/event-stream"),
    ),
)]
pub(in crate::api) async fn of_all(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let types = types(&mut parameters);
    let children = parameters.parsed("children", "true or false").unwrap_or(false);
    let flow = parameters.one("flowId").map(Arc::from);
    parameters.finish()?;
    stream_of(&api, access, Filter { flow, children, types, execution: None }, None).await
}

/// `types`: separated by commas, or given several times.
fn types(parameters: &mut Parameters) -> Types {
    let words: Vec<String> =
        parameters.all("types").iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    Types::parse((!words.is_empty()).then_some(words)).unwrap_or_else(|error| {
        parameters.error("types", error);
        Types::default()
    })
}

/// A stream that is open.
struct Open {
    live: Arc<Live>,
    connection: Connection,
    execution: Option<ExecutionId>,
    parts: Sender<Bytes>,
}

async fn stream_of(
    api: &Api,
    access: Access<Viewer>,
    filter: Filter,
    resume_from: Option<u64>,
) -> Result<Response, Problem> {
    let connection = api.live.connect(access.visibility().clone())?;
    let execution = filter.execution;
    let sequence = connection.subscribe(SUBSCRIPTION.to_owned(), filter, resume_from).await?;
    let subscribed = message::subscribed(SUBSCRIPTION, sequence);
    let first = Bytes::from(format!("retry: {RETRY_MS}\ndata: {subscribed}\n\n"));
    let (parts, waiting) = channel(1);
    let open = Open { live: api.live.clone(), connection, execution, parts };
    // A task of its own: a client that does not read is not heard of otherwise.
    api.work.spawn(open.run(first));
    let parts = stream::unfold(waiting, |mut waiting| async move {
        let bytes = waiting.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), waiting))
    });
    let mut response = Body::from_stream(parts).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, EVENT_STREAM);
    // Proxies that gather answers would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Open {
    /// Sends until the client has gone or does not read, or the engine ends.
    async fn run(self, first: Bytes) {
        let end = Instant::now() + CONNECTION_AGE_MAX;
        let patience = self.live.ping_every.saturating_mul(PINGS_UNANSWERED_MAX);
        let mut next = first;
        while self.parts.send_timeout(next, patience).await.is_ok() {
            next = tokio::select! {
                frames = timeout(self.live.ping_every, self.connection.next()) => match frames {
                    Ok(frames) => self.written(&frames),
                    // So that both sides notice when the other has gone.
                    Err(_quiet) => Bytes::from_static(b": still here\n\n"),
                },
                () = self.parts.closed() => return,
                () = sleep_until(end) => return,
                () = self.live.shutdown.cancelled() => return,
            };
        }
    }

    fn written(&self, frames: &[Frame]) -> Bytes {
        let mut text = String::new();
        for frame in frames {
            if let Some((id, sequence)) = frame.place
                && Some(id) == self.execution
            {
                // A string takes everything.
                writeln!(text, "id: {sequence}").ok();
            }
            // One line: JSON has no line breaks of its own.
            write!(text, "data: {}\n\n", frame.text).ok();
        }
        Bytes::from(text)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let class = match &refused {
            Refused::IdTaken | Refused::Followed | Refused::TooMany | Refused::Ahead(_) => {
                ErrorClass::Conflict
            }
            Refused::Unknown | Refused::NoSuchExecution => ErrorClass::NotFound,
            Refused::Unavailable => ErrorClass::Unavailable,
        };
        Self::new(class, refused.code(), refused.to_string())
    }
}
