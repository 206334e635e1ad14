//! One call: over the engines in turn, in bounded rounds, until one of them answers for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{CHECKPOINT_BYTES_MAX, PlumbingError, TaskAccess};
use crate::ids::{Entropy, SystemEntropy};

/// Bytes of an answer: a checkpoint, which some may spell in more bytes than others, and little beside it.
const ANSWER_BYTES_MAX: usize = 4 * CHECKPOINT_BYTES_MAX;
/// Longest rest between two rounds.
const REST_MAX: Duration = Duration::from_secs(2);
/// Characters of a problem's text that are kept.
const DETAIL_CHARS_MAX: usize = 500;

/// What is called of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Checkpoint,
    Context,
    Heartbeat,
    Started,
    Progress,
    Logs,
    Result,
}

impl Endpoint {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Heartbeat => "heartbeat",
            Self::Context => "context",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Logs => "logs",
            Self::Result => "result",
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    Json(Bytes),
    /// A message as the queues carry it.
    MessagePack(Bytes),
}

/// Calls the engines.
pub(super) struct Client {
    http: reqwest::Client,
    engines: Vec<Url>,
    /// The engine that answered last.
    preferred: AtomicUsize,
    rounds: u32,
    rest: Duration,
    entropy: SystemEntropy,
}

/// How much a call is worth.
#[derive(Clone, Copy)]
struct Patience {
    rounds: u32,
    /// Of one try; none: the client's.
    timeout: Option<Duration>,
    /// Bytes of an answer.
    answer_bytes_max: usize,
}

/// How one try ended without an answer for good.
enum Failed {
    /// Another engine, or a later time, may do better.
    Again(Box<dyn std::error::Error + Send + Sync>),
    /// No repetition helps.
    ForGood(PlumbingError),
}

/// An engine that answered, but cannot serve now.
#[derive(Debug, thiserror::Error)]
#[error("the engine answered {0}")]
struct Busy(StatusCode);

/// An answer that is none of the engine's.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {0} bytes")]
struct Overlong(usize);

/// What is read of a problem document.
#[derive(Default, Deserialize)]
struct ProblemBody {
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
}

impl Client {
    pub(super) fn new(
        http: reqwest::Client,
        engines: Vec<Url>,
        rounds: u32,
        rest: Duration,
        entropy: SystemEntropy,
    ) -> Self {
        Self { http, engines, preferred: AtomicUsize::new(0), rounds: rounds.max(1), rest, entropy }
    }

    /// Calls until an engine answers, for all rounds.
    pub(super) async fn call(
        &self,
        access: &TaskAccess,
        method: Method,
        endpoint: Endpoint,
        body: Body,
    ) -> Result<Bytes, PlumbingError> {
        self.call_for(access, method, endpoint, body, (&[], ANSWER_BYTES_MAX)).await
    }

    /// As [`Self::call`], with a query, and with a limit of its own for the answer.
    pub(super) async fn call_for(
        &self,
        access: &TaskAccess,
        method: Method,
        endpoint: Endpoint,
        body: Body,
        (query, answer_bytes_max): (&[(&str, &str)], usize),
    ) -> Result<Bytes, PlumbingError> {
        let patience = Patience { rounds: self.rounds, timeout: None, answer_bytes_max };
        self.call_rounds(access, method, endpoint, body, query, patience).await
    }

    /// Calls each engine at most once: for what is not worth more.
    pub(super) async fn call_once(
        &self,
        access: &TaskAccess,
        endpoint: Endpoint,
        body: Body,
        timeout: Duration,
    ) -> Result<Bytes, PlumbingError> {
        let patience = Patience { rounds: 1, timeout: Some(timeout), answer_bytes_max: ANSWER_BYTES_MAX };
        self.call_rounds(access, Method::POST, endpoint, body, &[], patience).await
    }

    async fn call_rounds(
        &self,
        access: &TaskAccess,
        method: Method,
        endpoint: Endpoint,
        body: Body,
        query: &[(&str, &str)],
        patience: Patience,
    ) -> Result<Bytes, PlumbingError> {
        let authorization = authorization(access)?;
        let mut round = 0;
        loop {
            let mut last = None;
            let first = self.preferred.load(Ordering::Relaxed);
            for offset in 0..self.engines.len() {
                let place = (first + offset) % self.engines.len();
                let mut url = task_url(&self.engines[place], &access.delivery.task_id, endpoint);
                if !query.is_empty() {
                    url.query_pairs_mut().extend_pairs(query);
                }
                let request = self.http.request(method.clone(), url).header(AUTHORIZATION, &authorization);
                let request = match &body {
                    Body::None => request,
                    Body::Json(bytes) => request.header(CONTENT_TYPE, "application/json").body(bytes.clone()),
                    Body::MessagePack(bytes) => {
                        request.header(CONTENT_TYPE, "application/msgpack").body(bytes.clone())
                    }
                };
                let request = match patience.timeout {
                    Some(timeout) => request.timeout(timeout),
                    None => request,
                };
                let tried = match request.send().await {
                    Ok(response) => answer(access, endpoint, response, patience.answer_bytes_max).await,
                    Err(error) => Err(Failed::Again(error.without_url().into())),
                };
                match tried {
                    Ok(bytes) => {
                        self.preferred.store(place, Ordering::Relaxed);
                        return Ok(bytes);
                    }
                    Err(Failed::ForGood(error)) => {
                        self.preferred.store(place, Ordering::Relaxed);
                        return Err(error);
                    }
                    Err(Failed::Again(error)) => {
                        tracing::debug!(error, engine = place, ?endpoint, "an engine did not serve a call");
                        last = Some(error);
                    }
                }
            }
            round += 1;
            if round >= patience.rounds {
                let none = || "no engine was asked".into();
                return Err(PlumbingError::Unavailable(last.unwrap_or_else(none)));
            }
            tokio::time::sleep(self.rest_after(round)).await;
        }
    }

    /// How long to rest after the `round`th failure.
    pub(super) fn rest_after(&self, round: u32) -> Duration {
        #[expect(clippy::cast_possible_truncation, reason = "64 of 128 random bits are wanted")]
        let chance = self.entropy.bits() as u64;
        rest(self.rest, round, chance)
    }
}

/// Half of the rest is certain, half is chance: workers that lost the engine together do not come back together.
fn rest(first: Duration, round: u32, chance: u64) -> Duration {
    let doubled = 2_u32.saturating_pow(round.saturating_sub(1).min(16));
    let half = first.saturating_mul(doubled).min(REST_MAX) / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
    half + Duration::from_nanos(chance % nanos)
}

fn authorization(access: &TaskAccess) -> Result<HeaderValue, PlumbingError> {
    let refused =
        |detail: &str| PlumbingError::Refused { code: "TOKEN_MISSING".into(), detail: detail.into() };
    let token = access
        .token
        .as_ref()
        .ok_or_else(|| refused("the task came without a token: its engine is older than this worker"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_str()))
        .map_err(|_| refused("the task's token cannot be a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn task_url(engine: &Url, task: &str, endpoint: Endpoint) -> Url {
    let mut url = engine.clone();
    // Only a URL that cannot be a base has no segments; those are refused before.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["v1", "plumbing", "tasks", task, endpoint.as_str()]);
    }
    url
}

async fn answer(
    access: &TaskAccess,
    endpoint: Endpoint,
    response: Response,
    bytes_max: usize,
) -> Result<Bytes, Failed> {
    let status = response.status();
    // Whatever is wrong with one engine now may be right with another, or later.
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Failed::Again(Busy(status).into()));
    }
    let bytes = whole(endpoint, response, bytes_max).await?;
    if status.is_success() {
        return Ok(bytes);
    }
    // What is no problem document is of something between here and the engine.
    let ProblemBody { code, detail } = serde_json::from_slice(&bytes).unwrap_or_default();
    let delivery = &access.delivery;
    Err(Failed::ForGood(match (status, code.as_str()) {
        (StatusCode::CONFLICT, _) | (StatusCode::NOT_FOUND, "EXECUTION_NOT_FOUND") => {
            PlumbingError::Stale { task: delivery.task_id.clone(), attempt: delivery.attempt }
        }
        _ => PlumbingError::Refused {
            code: if code.is_empty() { format!("HTTP {}", status.as_u16()) } else { code },
            detail: if detail.is_empty() {
                format!("the engine answered {status} to `{}`", endpoint.as_str())
            } else {
                detail.chars().take(DETAIL_CHARS_MAX).collect()
            },
        },
    }))
}

async fn whole(endpoint: Endpoint, mut response: Response, bytes_max: usize) -> Result<Bytes, Failed> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| Failed::Again(error.without_url().into()))?
    {
        let actual = bytes.len() + chunk.len();
        if actual > bytes_max {
            return Err(match endpoint {
                // A context may well be larger than this worker takes.
                Endpoint::Context => {
                    let (what, limit) = ("the part of the context that was read", bytes_max);
                    Failed::ForGood(PlumbingError::TooLarge { what, actual, limit })
                }
                Endpoint::Checkpoint
                | Endpoint::Heartbeat
                | Endpoint::Started
                | Endpoint::Progress
                | Endpoint::Logs
                | Endpoint::Result => Failed::Again(Overlong(bytes_max).into()),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PlumbingError> {
    serde_json::from_slice(bytes).map_err(|error| PlumbingError::Unavailable(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_task_is_called_the_path_stays_what_it_is() {
        let engine = Url::parse("https://engine.example/flowmonkey/").unwrap();
        let url = |task: &str| task_url(&engine, task, Endpoint::Logs).to_string();
        assert_eq!(url("tk_1_1"), "https://engine.example/flowmonkey/v1/plumbing/tasks/tk_1_1/logs");
        assert_eq!(url("a/b?c#d"), "https://engine.example/flowmonkey/v1/plumbing/tasks/a%2Fb%3Fc%23d/logs");
    }

    #[test]
    fn rests_grow_up_to_a_limit_and_have_chance() {
        for (round, most) in [(1, 100), (2, 200), (5, 1600), (6, 2000), (u32::MAX, 2000)] {
            for chance in [0, 1, u64::MAX / 2, u64::MAX] {
                let rest = rest(Duration::from_millis(100), round, chance).as_millis();
                assert!((most / 2..=most).contains(&rest), "{round}: {rest}");
            }
        }
    }
}
