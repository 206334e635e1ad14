//! `http-request`: one HTTP request, guarded against addresses that are not public.

mod request;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::net::GuardedResolver;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use reqwest::header::{
    ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER, USER_AGENT,
};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url, redirect};
use serde_json::{Map, Value, json};

pub use flowmonkey_plumbing::net::HttpPolicy;
pub(crate) use flowmonkey_plumbing::net::{Blocked, ResolveError};

use crate::config::{Fields, excerpt};
use crate::trust::{Trust, refused_certificate};
use request::{FIELDS, Request, ResponseType};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an unexpected response's body that go into the failure.
const EXCERPT_BYTES: usize = 2048;
/// The longest wait that a `Retry-After` may ask for, milliseconds.
const RETRY_AFTER_MS_MAX: u64 = 24 * 3_600_000;
/// Headers that go along when a redirect leads to another origin: what could be a secret stays behind.
const HEADERS_ACROSS_ORIGINS: [HeaderName; 4] = [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT];

/// The handler `http-request`.
#[derive(Debug)]
pub struct HttpRequest {
    manifest: Manifest,
    policy: Arc<HttpPolicy>,
    client: Result<Client, String>,
}

impl HttpRequest {
    /// A handler whose requests keep to `policy`, and which trusts the authorities of `trust` besides those of the system. When no TLS client can be made (no root certificates), its tasks fail and say so.
    #[must_use]
    pub fn new(policy: HttpPolicy, trust: &Trust) -> Self {
        crate::install_crypto();
        let policy = Arc::new(policy);
        let authorities = trust.authorities().map(Certificate::from_der).collect::<Result<Vec<_>, _>>();
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver(Arc::clone(&policy))))
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("flowmonkey/", env!("CARGO_PKG_VERSION")));
        let client = authorities
            .and_then(|authorities| builder.tls_certs_merge(authorities).build())
            .map_err(|error| chain(&error));
        Self { manifest: crate::manifest("http-request", "Sends one HTTP request", FIELDS), policy, client }
    }

    async fn exchange(&self, request: &Request) -> Result<Exchange, Failure> {
        let client = self.client.as_ref().map_err(|problem| {
            Failure::new("REQUEST_FAILED", format!("this worker has no HTTP client: {problem}"))
        })?;
        let (mut method, mut url) = (request.verb.method(), request.url.clone());
        let (mut headers, mut body) = (request.headers.clone(), request.body.clone());
        for _ in 0..=REDIRECTS_MAX {
            self.policy.check_url(&url).map_err(|blocked| blocked_failure(&blocked))?;
            let mut hop = client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = body.clone() {
                hop = hop.body(body);
            }
            let mut response = hop.send().await.map_err(|error| send_failure(&error))?;
            let Some(target) = redirect_target(request, &url, &response)? else {
                let body = read_body(&mut response, request.response_bytes_max).await?;
                return Ok(Exchange { status: response.status(), headers: response.headers().clone(), body });
            };
            if becomes_get(response.status(), &method) {
                (method, body) = (Method::GET, None);
                headers.remove(CONTENT_TYPE);
            }
            if target.origin() != url.origin() {
                let kept = HEADERS_ACROSS_ORIGINS
                    .iter()
                    .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
                headers = kept.collect();
            }
            url = target;
        }
        Err(Failure::terminal("TOO_MANY_REDIRECTS", format!("more than {REDIRECTS_MAX} redirects")))
    }
}

struct Exchange {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[async_trait]
impl Handler for HttpRequest {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let request = Request::new(&fields, task.input(), task.idempotency_key())?;
        fields.warn_unknown(task, FIELDS);
        let started = Instant::now();
        let exchange =
            tokio::time::timeout(request.timeout, self.exchange(&request)).await.map_err(|_| {
                let message = format!("no answer within {} ms", request.timeout.as_millis());
                retryable(Failure::new("TIMEOUT", message))
            })??;
        if !request.expect.accepts(exchange.status) {
            return Err(status_failure(&exchange));
        }
        exchange.output(request.response_type, started.elapsed()).map(Completion::output)
    }
}

impl Exchange {
    fn output(&self, response_type: ResponseType, duration: Duration) -> Result<Value, Failure> {
        let mut headers = Map::new();
        for name in self.headers.keys() {
            let values =
                self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.as_str().into(), values.collect::<Vec<_>>().join(", ").into());
        }
        let (body, encoding) = self.body(response_type)?;
        let mut output = json!({
            "status": self.status.as_u16(),
            "statusText": self.status.canonical_reason().unwrap_or_default(),
            "headers": headers,
            "body": body,
            "duration": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        });
        if let Some(encoding) = encoding {
            output["bodyEncoding"] = encoding.into();
        }
        Ok(output)
    }

    /// The body, and its encoding where it is not plain.
    fn body(&self, response_type: ResponseType) -> Result<(Value, Option<&'static str>), Failure> {
        let text = || Value::String(String::from_utf8_lossy(&self.body).into_owned());
        let base64 = || (Value::String(BASE64.encode(&self.body)), Some("base64"));
        let json = || serde_json::from_slice::<Value>(&self.body);
        Ok(match response_type {
            ResponseType::Json if self.body.is_empty() => (Value::Null, None),
            ResponseType::Json => {
                let value = json().map_err(|error| {
                    Failure::new("RESPONSE_INVALID", format!("the response is not JSON: {error}"))
                })?;
                (value, None)
            }
            ResponseType::Text => (text(), None),
            ResponseType::Base64 => base64(),
            ResponseType::Auto if self.is_json() && self.body.is_empty() => (Value::Null, None),
            ResponseType::Auto if self.is_json() => (json().unwrap_or_else(|_| text()), None),
            ResponseType::Auto if std::str::from_utf8(&self.body).is_ok() => (text(), None),
            ResponseType::Auto => base64(),
        })
    }

    fn is_json(&self) -> bool {
        let content_type =
            self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || essence.ends_with("+json")
    }
}

/// Where a response redirects to; none: it is the answer.
fn redirect_target(request: &Request, from: &Url, response: &Response) -> Result<Option<Url>, Failure> {
    let follows = request.follow_redirects
        && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        && !request.expect.accepts(response.status());
    let Some(location) = response.headers().get(LOCATION).filter(|_| follows) else { return Ok(None) };
    let refused = |why: String| Failure::terminal("REDIRECT_REFUSED", why);
    let location =
        location.to_str().map_err(|_| refused("the redirect's location is not readable".into()))?;
    let mut target = from
        .join(location)
        .map_err(|error| refused(format!("the redirect's location is not a URL: {error}")))?;
    if from.scheme() == "https" && target.scheme() == "http" {
        return Err(refused(format!(
            "the redirect leads from https to http at `{}`",
            target.host_str().unwrap_or_default()
        )));
    }
    // A server must not choose the credentials of the next request. Only a URL without a host cannot be rid of them.
    if target.set_username("").and_then(|()| target.set_password(None)).is_err() {
        return Err(refused("the redirect leads to a URL without a host".into()));
    }
    Ok(Some(target))
}

/// As browsers do, and RFC 9110 allows.
fn becomes_get(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        303 => method != Method::HEAD,
        301 | 302 => method == Method::POST,
        _ => false,
    }
}

/// Reads the decompressed body; stops as soon as it is too large.
async fn read_body(response: &mut Response, bytes_max: u64) -> Result<Bytes, Failure> {
    let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| send_failure(&error))? {
        if body.len() + chunk.len() > limit {
            let message =
                format!("the response is over {bytes_max} bytes; raise maxResponseBytes to read it");
            return Err(
                Failure::terminal("RESPONSE_TOO_LARGE", message).details(json!({ "limit": bytes_max }))
            );
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn status_failure(exchange: &Exchange) -> Failure {
    let status = exchange.status;
    let body = String::from_utf8_lossy(&exchange.body);
    let message = format!("HTTP {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut failure = Failure::new("HTTP_ERROR", message.trim_end())
        .details(json!({ "status": status.as_u16(), "body": excerpt(&body, EXCERPT_BYTES) }));
    let can_pass = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    failure.error.retryable = Some(can_pass);
    match retry_after_ms(&exchange.headers, SystemClock.now_ms()) {
        Some(millis) if can_pass => failure.retry_after(millis),
        Some(_) | None => failure,
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date.
fn retry_after_ms(headers: &HeaderMap, now_ms: i64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let millis = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            u64::try_from(i64::try_from(date.as_millis()).ok()?.saturating_sub(now_ms)).unwrap_or(0)
        }
    };
    Some(millis.min(RETRY_AFTER_MS_MAX))
}

/// What a worker says of a server that it may not reach.
pub(crate) fn blocked_failure(blocked: &Blocked) -> Failure {
    let message = match blocked {
        Blocked::Address { .. } | Blocked::Name(_) => {
            format!("{blocked}; an operator can allow its network to this worker with `--allow-net`")
        }
        Blocked::Port(_) | Blocked::Scheme(_) | Blocked::NoHost => blocked.to_string(),
    };
    Failure::terminal("SSRF_BLOCKED", message)
}

fn send_failure(error: &reqwest::Error) -> Failure {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(ResolveError::Blocked(blocked)) = inner.downcast_ref::<ResolveError>() {
            return blocked_failure(blocked);
        }
        source = inner.source();
    }
    refused_certificate(error).unwrap_or_else(|| retryable(Failure::new("REQUEST_FAILED", chain(error))))
}

const fn retryable(mut failure: Failure) -> Failure {
    failure.error.retryable = Some(true);
    failure
}

/// An error and its sources in one line. The URL is left out: it may hold secrets.
fn chain(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_connect() => "the server cannot be reached".to_owned(),
        error if error.is_builder() => "the request cannot be built".to_owned(),
        error if error.is_body() || error.is_decode() => {
            "the response broke off or cannot be decoded".to_owned()
        }
        _ => "the request failed".to_owned(),
    };
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_has_an_end() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after_ms(&headers, 784_111_777_000 - 5_000)
        };
        assert_eq!(wait("3"), Some(3_000));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(5_000));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(wait("99999999999"), Some(RETRY_AFTER_MS_MAX));
        assert_eq!(wait("soon"), None);
    }
}
