//! A client of the HTTP API.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;

use crate::errors::{CliError, chain};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take; longer than the longest wait that is asked for.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Problems of a request that are printed.
const PROBLEMS_MAX: usize = 20;

/// Statuses of a server, or of a proxy before it, that do not say whether the request was carried out.
const NOT_CERTAIN: [u16; 3] = [502, 503, 504];

/// Holds the key or token for servers; no argument does, as other users of the machine can see those.
const TOKEN: &str = "FLOWMONKEY_TOKEN";

/// What is shown to servers, for the life of the process.
static SHOWN: OnceLock<HeaderValue> = OnceLock::new();

/// Takes the key or token for servers out of `file`, else out of the environment. Without any, none is shown.
///
/// # Errors
/// When the file cannot be read, or what is found is no key or token.
pub(crate) fn take_token(file: Option<&Path>) -> Result<(), CliError> {
    let (text, place) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| CliError::Usage(format!("{} cannot be read: {error}", file.display())))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(TOKEN) {
            Ok(text) => (text, TOKEN.to_owned()),
            Err(_) => return Ok(()),
        },
    };
    let text = text.trim();
    if text.is_empty() && file.is_none() {
        return Ok(());
    }
    let wrong =
        || CliError::Usage(format!("what {place} holds is no key or token: it is one line, without spaces"));
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let mut shown = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| wrong())?;
    shown.set_sensitive(true);
    // It is taken once, when the process starts.
    SHOWN.set(shown).ok();
    Ok(())
}

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
    http: reqwest::Client,
}

impl Client {
    /// Of the server at `base`, `http://HOST:PORT` or `https://…`.
    ///
    /// # Errors
    /// When that is not a URL of a server.
    pub(crate) fn new(base: &str) -> Result<Self, CliError> {
        let wrong = |reason: String| CliError::Usage(format!("the server `{base}` is not a URL: {reason}"));
        let mut url = Url::parse(base).map_err(|error| wrong(error.to_string()))?;
        if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
            return Err(wrong("give http://HOST:PORT".into()));
        }
        url.set_query(None);
        url.set_fragment(None);
        let headers: HeaderMap =
            SHOWN.get().map(|shown| (AUTHORIZATION, shown.clone())).into_iter().collect();
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            // A server on this machine is never behind a proxy.
            .no_proxy()
            .user_agent(concat!("flowmonkey/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::Unreachable(chain(&error)))?;
        Ok(Self { base: url, http })
    }

    /// Where the server is.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str()
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

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    /// As [`Self::post`], with at most `within` for the answer; a failure says whether the request was carried out.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Value, Failure> {
        self.try_ask(Method::POST, path, Some(body), within).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        self.try_ask(method, path, body, ANSWER_MAX).await.map_err(|failure| failure.error)
    }

    async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let mut request = self.http.request(method, url).timeout(within);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| {
            let fate = if error.is_connect() || error.is_builder() { Fate::NotSent } else { Fate::Unknown };
            let text = format!("{} does not answer: {}", self.base, chain(&error));
            Failure { error: CliError::Unreachable(text), fate }
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        let fate = if NOT_CERTAIN.contains(&status.as_u16()) || (status.is_success() && value.is_none()) {
            Fate::Unknown
        } else {
            Fate::Refused
        };
        match value {
            Some(value) if status.is_success() => Ok(value),
            Some(problem) => Err(Failure { error: refused(status.as_u16(), &problem), fate }),
            None => {
                let text = format!("{} answered {status}, but not as FlowMonkey does", self.base);
                Err(Failure { error: CliError::Unreachable(text), fate })
            }
        }
    }
}

/// What a problem document says.
fn refused(status: u16, problem: &Value) -> CliError {
    let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
    let mut detail = text("detail");
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    if errors.len() > 1 || errors.iter().any(|error| !error["hint"].is_null()) {
        for error in errors.iter().take(PROBLEMS_MAX) {
            let place = error["pointer"].as_str().or(error["parameter"].as_str()).unwrap_or_default();
            let message = error["message"].as_str().unwrap_or_default();
            let hint = error["hint"].as_str().map_or_else(String::new, |hint| format!(" ({hint})"));
            detail.push_str(&format!("\n  {place}: {message}{hint}"));
        }
    }
    CliError::Refused { status, code: text("code"), detail }
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
