//! The plumbing APIs over HTTP: what a worker needs beside its queues is the engine's URL.
//!
//! Calls that count (checkpoints, spilled results) are tried on every engine in turn, again and again for a bounded time;
//! all of them can be repeated. Volatile calls (started, progress, log lines) go into a bounded outbox, from which a sender
//! in the background takes the latest; what has no room is dropped and counted. A handler never waits for them.

mod call;
mod context;
mod job;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Certificate, Method, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    CHECKPOINT_BYTES_MAX, Checkpoint, CheckpointApi, PlumbingError, Progress, ProgressApi, TaskAccess,
};
use crate::ids::SystemEntropy;
use crate::wire::{LogLine, ResultMessage, WireError, encode_result};

use call::{Body, Client, Endpoint};
use outbox::Outbox;

/// Engines that may be named.
const ENGINES_MAX: usize = 64;

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct HttpPlumbingConfig {
    /// Where the engines are: `http://HOST:PORT` or `https://…`, perhaps with a path. 1 to 64; the one that answered last is
    /// asked first.
    pub engines: Vec<String>,
    /// How long a connection may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long one try of a call may take, its answer included. Default 30 s.
    pub call_timeout: Duration,
    /// Rounds over all engines before a call that counts gives up. Default 6, which rests about 6 s in all.
    pub rounds: u32,
    /// Rest after the first round; each is twice the one before, up to 2 s, with jitter. Default 100 ms.
    pub rest: Duration,
    /// How long volatile calls are collected before they are sent. Default 50 ms.
    pub linger: Duration,
    /// Bytes of a context, or of a part of it, that is read in one call, without its compression. Default 64 MiB.
    pub context_bytes_max: usize,
    /// Certificates (PEM) of authorities to trust for `https`. Empty: those of the system. Default empty.
    pub ca_pem: Vec<u8>,
}

impl HttpPlumbingConfig {
    /// The defaults, for these engines.
    #[must_use]
    pub fn new(engines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            engines: engines.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            rounds: 6,
            rest: Duration::from_millis(100),
            linger: Duration::from_millis(50),
            context_bytes_max: 64 * 1024 * 1024,
            ca_pem: Vec::new(),
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpPlumbingError {
    /// There must be some engines, and not too many.
    #[error("name 1 to {ENGINES_MAX} engines, not {0}")]
    EngineCount(usize),
    /// One of the engines is no URL.
    #[error("the engine `{url}` is not a URL of a server: {reason}")]
    Engine {
        /// As it was given, without what may be secret in it.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No client can be made of the settings: most likely the certificates.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

/// What became of a result that was sent past the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultSent {
    /// It counts.
    Applied,
    /// The record had moved on, or had the result already: it can be forgotten.
    Refused,
}

/// The plumbing APIs over HTTP. When it is dropped, what waits in the outbox is lost; [`Self::close`] sends it.
pub struct HttpPlumbing {
    client: Arc<Client>,
    context_bytes_max: usize,
    outbox: Arc<Outbox>,
    tracker: TaskTracker,
    closing: CancellationToken,
    abandoned: CancellationToken,
}

impl Drop for HttpPlumbing {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

/// What the engine says of a saved checkpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    id: String,
    saved_at: String,
}

impl HttpPlumbing {
    /// Makes the client and starts its sender on the current tokio runtime. Nothing is sent yet: the engines may be away.
    ///
    /// # Errors
    /// When the settings are of no use.
    pub fn new(config: HttpPlumbingConfig) -> Result<Self, HttpPlumbingError> {
        if config.engines.is_empty() || config.engines.len() > ENGINES_MAX {
            return Err(HttpPlumbingError::EngineCount(config.engines.len()));
        }
        let engines = config.engines.iter().map(|url| base(url)).collect::<Result<Vec<_>, _>>()?;
        // An error means that the program has chosen its cryptography already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .timeout(config.call_timeout)
            // A token goes to the engines that were named, and nowhere else.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("flowmonkey-worker/", env!("CARGO_PKG_VERSION")));
        if !config.ca_pem.is_empty() {
            let authorities =
                Certificate::from_pem_bundle(&config.ca_pem).map_err(HttpPlumbingError::Client)?;
            http = http.tls_certs_only(authorities);
        } else if engines.iter().all(|engine| engine.scheme() == "http") {
            // A machine without certificates can speak plain HTTP all the same.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(HttpPlumbingError::Client)?;
        let client = Arc::new(Client::new(http, engines, config.rounds, config.rest, SystemEntropy::new()));
        let outbox = Arc::new(Outbox::new(config.linger));
        let (tracker, closing, abandoned) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        for _ in 0..outbox::SENDERS {
            let sender = outbox::run(Arc::clone(&outbox), Arc::clone(&client), closing.clone());
            let abandoned = abandoned.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = sender => {}
                    () = abandoned.cancelled() => {}
                }
            });
        }
        tracker.close();
        let context_bytes_max = config.context_bytes_max;
        Ok(Self { client, context_bytes_max, outbox, tracker, closing, abandoned })
    }

    /// Sends a result past the queue, for when that is away: the engine applies it as if it had come through the queue.
    /// Repeatable.
    ///
    /// # Errors
    /// [`PlumbingError::Unavailable`]: keep it and try again. Others: no repetition helps as things are.
    pub async fn send_result(
        &self,
        access: &TaskAccess,
        result: &ResultMessage,
    ) -> Result<ResultSent, PlumbingError> {
        let bytes = encode_result(result).map_err(|error| match error {
            WireError::TooLarge { actual, limit } => {
                PlumbingError::TooLarge { what: "the result", actual, limit }
            }
            other @ (WireError::Empty
            | WireError::UnknownFormat { .. }
            | WireError::TooDeep { .. }
            | WireError::NewerVersion { .. }
            | WireError::Malformed { .. }) => {
                PlumbingError::Refused { code: "INVALID_RESULT".into(), detail: other.to_string() }
            }
        })?;
        let body = Body::MessagePack(bytes.into());
        match self.client.call(access, Method::POST, Endpoint::Result, body).await {
            Ok(_) => Ok(ResultSent::Applied),
            Err(PlumbingError::Stale { .. }) => Ok(ResultSent::Refused),
            Err(error) => Err(error),
        }
    }

    /// Volatile calls that were dropped, for want of room or because no engine took them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.outbox.dropped()
    }

    /// Takes no more volatile calls, sends those that wait, and ends; at most for `limit`. Calls that count still work.
    pub async fn close(&self, limit: Duration) {
        self.outbox.close();
        self.closing.cancel();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::debug!("the outbox was closed before all of it was sent");
            self.abandoned.cancel();
        }
    }
}

/// Reads the URL of an engine.
fn base(text: &str) -> Result<Url, HttpPlumbingError> {
    let wrong =
        |url: &str, reason: &str| HttpPlumbingError::Engine { url: url.into(), reason: reason.into() };
    // What may have a password in it is not shown.
    let typed = if text.contains('@') { "…" } else { text };
    let form = "give http://HOST:PORT or https://HOST:PORT";
    let mut url = Url::parse(text).map_err(|error| wrong(typed, &format!("{error}; {form}")))?;
    if !["http", "https"].contains(&url.scheme()) || url.cannot_be_a_base() {
        return Err(wrong(typed, form));
    }
    let shown = url.host_str().unwrap_or_default().to_owned();
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(&shown, "tasks bring their own tokens: leave user and password out"));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

#[async_trait]
impl CheckpointApi for HttpPlumbing {
    async fn save_checkpoint(&self, access: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError> {
        let bytes = serde_json::to_vec(&data).map_err(|error| PlumbingError::Refused {
            code: "INVALID_REQUEST".into(),
            detail: error.to_string(),
        })?;
        let actual = bytes.len();
        if actual > CHECKPOINT_BYTES_MAX {
            return Err(PlumbingError::TooLarge {
                what: "the checkpoint",
                actual,
                limit: CHECKPOINT_BYTES_MAX,
            });
        }
        let body = Body::Json(bytes.into());
        let answer = self.client.call(access, Method::PUT, Endpoint::Checkpoint, body).await?;
        let Saved { id, saved_at } = call::read(&answer)?;
        Ok(Checkpoint { id, saved_at, data })
    }

    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        let answer = self.client.call(access, Method::GET, Endpoint::Checkpoint, Body::None).await?;
        if answer.is_empty() { Ok(None) } else { call::read(&answer).map(Some) }
    }

    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError> {
        self.client.call(access, Method::DELETE, Endpoint::Checkpoint, Body::None).await.map(drop)
    }
}

impl ProgressApi for HttpPlumbing {
    fn started(&self, access: &TaskAccess, worker: &str) {
        self.outbox.started(access, worker);
    }

    fn progress(&self, access: &TaskAccess, progress: Progress) {
        self.outbox.progress(access, progress);
    }

    fn log(&self, access: &TaskAccess, line: &LogLine) {
        self.outbox.log(access, line);
    }
}

#[cfg(test)]
mod tests {
    use super::base;

    #[test]
    fn an_engine_is_a_url_without_secrets() {
        for good in ["http://127.0.0.1:7420", "https://engine.example/flowmonkey/", "http://[::1]:7420/"] {
            base(good).unwrap();
        }
        for bad in
            ["", "engine:7420", "127.0.0.1:7420", "redis://engine", "file:///etc", "http://u:secret@engine"]
        {
            let error = base(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
