//! The client of the HTTP API: all that commands say to a server goes through here.

use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded, Url};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::errors::{CliError, chain};
use crate::settings::{Origin, Server, Token};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take; longer than the longest wait that is asked for.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Problems of a request that are printed.
const PROBLEMS_MAX: usize = 20;
/// Bytes of one message of a WebSocket: events have at most 32 KiB, and some room for later releases.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Statuses of a server, or of a proxy before it, that do not say whether the request was carried out.
const NOT_CERTAIN: [u16; 3] = [502, 503, 504];

/// The code of a server that does not know what it is asked for.
const NO_SUCH_ROUTE: &str = "ROUTE_NOT_FOUND";
/// The header by which a server names a request in its log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// Whether a request that failed was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No: the server could not be connected to.
    NotSent,
    /// Nobody here can know: it was sent, and there was no answer, or none that says.
    Unknown,
    /// No: the server refused it.
    Refused,
}

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: CliError,
    /// What became of it.
    pub(crate) fate: Fate,
}

/// Talks to one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: Url,
    /// Who named it.
    origin: Origin,
    /// Who gave the token that is shown; none: none is.
    token: Option<Origin>,
    http: reqwest::Client,
}

impl Client {
    /// Of the server at `http://HOST:PORT` or `https://…`, which is shown `token`.
    ///
    /// # Errors
    /// When that is not a URL of a server.
    pub(crate) fn new(server: &Server, token: Option<&Token>) -> Result<Self, CliError> {
        let Server { url: base, origin } = server;
        let wrong = |reason: String| {
            CliError::Usage(format!("the server `{base}` ({origin}) is not a URL: {reason}"))
        };
        let mut url = Url::parse(base).map_err(|error| wrong(error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            let cure = "secrets do not belong into it: give the key with --token-file or FLOWMONKEY_TOKEN";
            return Err(CliError::Usage(format!("the server's URL ({origin}) names a user: {cure}")));
        }
        if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
            return Err(wrong("give http://HOST:PORT".into()));
        }
        url.set_query(None);
        url.set_fragment(None);
        let headers: HeaderMap =
            token.map(|token| (AUTHORIZATION, token.header.clone())).into_iter().collect();
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            // A server on this machine is never behind a proxy.
            .no_proxy()
            .user_agent(concat!("flowmonkey/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::Unreachable(chain(&error)))?;
        Ok(Self { base: url, origin: origin.clone(), token: token.map(|token| token.origin.clone()), http })
    }

    /// Of a server of this machine that asks for no token.
    ///
    /// # Errors
    /// When that is not a URL of a server.
    pub(crate) fn local(url: &str) -> Result<Self, CliError> {
        Self::new(&Server { url: url.to_owned(), origin: Origin::Default }, None)
    }

    /// Where the server is.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.ask(Method::GET, path, None).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Any request, with a JSON body or none.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        self.ask_for_status(method, path, body).await.map(|(_, value)| value)
    }

    /// As [`Self::ask`], with the status of the answer.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn ask_for_status(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), CliError> {
        self.try_ask(method, path, body, ANSWER_MAX).await.map_err(|failure| failure.error)
    }

    /// As [`Self::post`], with at most `within` for the answer; a failure says whether the request was carried out.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Value, Failure> {
        self.try_ask(Method::POST, path, Some(body), within).await.map(|(_, value)| value)
    }

    async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<(StatusCode, Value), Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base())).timeout(within);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    /// `POST path` with a text of the media type `media`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn post_text(
        &self,
        path: &str,
        text: String,
        media: &'static str,
    ) -> Result<Value, CliError> {
        let request = self.http.post(format!("{}{path}", self.base())).header(CONTENT_TYPE, media).body(text);
        self.answer(request).await.map(|(_, value)| value).map_err(|failure| failure.error)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, Value), Failure> {
        let unreachable = |error: reqwest::Error| self.unreachable(error);
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        let fate = if NOT_CERTAIN.contains(&status.as_u16()) || (status.is_success() && value.is_none()) {
            Fate::Unknown
        } else {
            Fate::Refused
        };
        match value {
            Some(value) if status.is_success() => Ok((status, value)),
            Some(problem) => Err(Failure { error: self.refused(status, &headers, &problem), fate }),
            None => Err(Failure { error: self.not_ours(status), fate }),
        }
    }

    /// Opens a WebSocket at `path`, over the same kind of connection and with the same token as everything else.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn socket(&self, path: &str) -> Result<WebSocketStream<Upgraded>, CliError> {
        let key = generate_key();
        let accept = derive_accept_key(key.as_bytes());
        let request = self
            .http
            .get(format!("{}{path}", self.base()))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(WEBSOCKET_VERSION, "13")
            .header(WEBSOCKET_KEY, key);
        let answer = request.send().await.map_err(|error| self.unreachable(error).error)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let bytes = answer.bytes().await.map_err(|error| self.unreachable(error).error)?;
            return Err(match serde_json::from_slice(&bytes) {
                Ok(problem) if !status.is_success() => self.refused(status, &headers, &problem),
                Ok(_) | Err(_) => self.not_ours(status),
            });
        }
        if headers.get(&WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes) != Some(accept.as_bytes()) {
            return Err(self.not_ours(status));
        }
        let stream = answer.upgrade().await.map_err(|error| self.unreachable(error).error)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let is_away = error.is_connect();
        let fate = if is_away || error.is_builder() { Fate::NotSent } else { Fate::Unknown };
        let cure = match &self.origin {
            Origin::Default => String::new(),
            origin @ (Origin::Option(_) | Origin::Environment(_) | Origin::Profile { .. }) if is_away => {
                format!("\n  is it running there? {origin} names it; `flowmonkey dev` starts one here")
            }
            Origin::Option(_) | Origin::Environment(_) | Origin::Profile { .. } => String::new(),
        };
        let base = self.base();
        let text = format!("{base} does not answer: {}{cure}", chain(&error.without_url()));
        Failure { error: CliError::Unreachable(text), fate }
    }

    fn not_ours(&self, status: StatusCode) -> CliError {
        CliError::Unreachable(format!("{} answered {status}, but not as FlowMonkey does", self.base()))
    }

    /// What a problem document says.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, problem: &Value) -> CliError {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let detail = text("detail");
        let mut more = String::new();
        let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
        for error in errors.iter().take(PROBLEMS_MAX) {
            let place = error["pointer"].as_str().or(error["parameter"].as_str()).unwrap_or_default();
            let message = error["message"].as_str().unwrap_or_default();
            let hint = error["hint"].as_str().map_or_else(String::new, |hint| format!(" ({hint})"));
            if !(place.is_empty() && message == detail && hint.is_empty()) {
                let message = if message == detail && !place.is_empty() { "here" } else { message };
                more.push_str(&format!("\n  {place}: {message}{hint}"));
            }
        }
        if let Some(left) = errors.len().checked_sub(PROBLEMS_MAX).filter(|left| *left > 0) {
            more.push_str(&format!("\n  and {left} more"));
        }
        if status == StatusCode::UNAUTHORIZED {
            more.push_str(&match &self.token {
                None => {
                    "\n  show a key: --token-file, FLOWMONKEY_TOKEN, or token-file in a profile".to_owned()
                }
                Some(origin) => format!("\n  the key was given by {origin}"),
            });
        }
        if text("code") == NO_SUCH_ROUTE {
            more.push_str("\n  the server may be of an older release than this program");
        }
        if let Some(seconds) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) {
            more.push_str(&format!("\n  try again in {seconds} s"));
        }
        let id = problem["requestId"].as_str().or(headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()));
        if let Some(id) = id {
            more.push_str(&format!("\n  request {id} to {}", self.base()));
        }
        CliError::Refused { status: status.as_u16(), code: text("code"), detail, more }
    }
}

/// A query string with `pairs`, percent-encoded; empty without any.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let Ok(mut url) = Url::parse("http://localhost/") else { return String::new() };
    for (key, value) in pairs {
        url.query_pairs_mut().append_pair(key, &value);
    }
    url.query().map_or_else(String::new, |query| format!("?{query}"))
}

/// `text` as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
