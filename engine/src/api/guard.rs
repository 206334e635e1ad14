//! What every request passes: its id, and the check of `Host` and `Origin`.
//!
//! A server on the loopback interface is reachable for every web page that the user's browser shows: by cross-origin
//! requests, and by names that are made to resolve to 127.0.0.1 (DNS rebinding). The first carry an `Origin`, the second
//! a `Host` of a name that is not ours.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flowmonkey_plumbing::ids::new_uuid;
use tokio_util::task::TaskTracker;

use super::docs;
use super::gate::{self, Gate};
use super::live;
use super::problem::{ErrorClass, Problem};
use crate::access::Principal;
use crate::audit::AuditLog;
use crate::engine::Engine;
use crate::store::AuditEntry;

/// Bytes of a request id that a client chose.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of a path in the audit.
const TARGET_BYTES_MAX: usize = 2048;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a browser may do with an answer: nothing but show it.
const DATA_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Paths that tell nothing and change nothing: probes name the server by whatever address they have.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

#[derive(Clone)]
pub(super) struct Guard {
    engine: Arc<Engine>,
    allowed: Arc<[String]>,
    gate: Arc<Gate>,
    audit: Arc<AuditLog>,
    work: TaskTracker,
}

impl Guard {
    pub(super) fn new(allowed: &[String], engine: Arc<Engine>, gate: Gate, work: TaskTracker) -> Self {
        Self {
            engine,
            allowed: allowed.iter().map(|host| host.to_ascii_lowercase()).collect(),
            gate: Arc::new(gate),
            audit: Arc::default(),
            work,
        }
    }

    /// Lets the caller in and the request through; what may change something goes into the audit before it is answered.
    async fn pass(&self, request: Request, request_id: &str, next: Next) -> Response {
        let (mut parts, body) = request.into_parts();
        let principal = match self.gate.admit(&parts).await {
            Ok(principal) => principal,
            Err(problem) => return problem.into_response(),
        };
        let entry = self.gate.is_audited(&parts).then(|| self.entry(&parts, &principal, request_id));
        parts.extensions.insert(principal);
        let request = Request::from_parts(parts, body);
        let Some(entry) = entry else { return next.run(request).await };
        // A client that hangs up must not take the entry with it: what it set in motion goes on as well.
        let (engine, audit) = (self.engine.clone(), self.audit.clone());
        let done = self.work.spawn(async move {
            let response = next.run(request).await;
            let status = response.status();
            let entry = AuditEntry { at: engine.now(), status: status.as_u16(), ..entry };
            match audit.append(&**engine.store(), entry).await {
                Ok(()) => response,
                // Nothing was changed, and the refusal says more.
                Err(_) if !status.is_success() => response,
                Err(error) => Problem::hidden(
                    ErrorClass::Unavailable,
                    "AUDIT_UNAVAILABLE",
                    "it may have been done, but cannot be written into the audit now; look before it is tried again",
                    &*error,
                )
                .into_response(),
            }
        });
        match done.await {
            Ok(response) => response,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => {
                    Problem::new(ErrorClass::Unavailable, "ENGINE_ENDING", "the engine is ending")
                        .into_response()
                }
            },
        }
    }

    fn entry(&self, parts: &Parts, principal: &Principal, request_id: &str) -> AuditEntry {
        let mut target = gate::shown_target(parts).to_owned();
        target.truncate(target.floor_char_boundary(TARGET_BYTES_MAX));
        AuditEntry {
            id: new_uuid(&*self.engine.clock, &*self.engine.entropy).simple().to_string(),
            at: self.engine.now(),
            actor: principal.name.as_ref().into(),
            tenant: principal.visibility.tenant().map(Into::into),
            method: parts.method.as_str().into(),
            route: gate::route(parts).unwrap_or_default().into(),
            target,
            status: 0,
            request_id: request_id.into(),
        }
    }

    /// Who may come in.
    fn check(&self, request: &Request) -> Result<(), Problem> {
        if PROBES.contains(&request.uri().path()) {
            return Ok(());
        }
        let refused = |code, detail| Err(Problem::new(ErrorClass::Forbidden, code, detail));
        let host = match single(request.headers(), header::HOST) {
            Single::One(host) => host.to_ascii_lowercase(),
            Single::None => match request.uri().authority() {
                Some(authority) => authority.as_str().to_ascii_lowercase(),
                None => return refused("HOST_NOT_ALLOWED", "the request names no host"),
            },
            Single::Several => return refused("HOST_NOT_ALLOWED", "the request names no single host"),
        };
        if !self.is_ours(&host) {
            return refused(
                "HOST_NOT_ALLOWED",
                "the request names a host that this server is not; if it is, start it with `--allow-host` and that name",
            );
        }
        match single(request.headers(), header::ORIGIN) {
            Single::None => Ok(()),
            Single::One(origin) => {
                let origin = origin.to_ascii_lowercase();
                let ours = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
                if ours == Some(host.as_str()) {
                    Ok(())
                } else {
                    refused("ORIGIN_NOT_ALLOWED", "the request comes from a web page of another origin")
                }
            }
            Single::Several => refused("ORIGIN_NOT_ALLOWED", "the request has no single origin"),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host);
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let is_loopback = name == "localhost"
            || name.ends_with(".localhost")
            || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        is_loopback || self.allowed.iter().any(|allowed| allowed == "*" || allowed == host || allowed == name)
    }

    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let given = headers.get(&REQUEST_ID).filter(|id| {
            let bytes = id.as_bytes();
            let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
            !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(allowed)
        });
        match given {
            Some(id) => id.clone(),
            None => {
                let id = format!("rq_{}", new_uuid(&*self.engine.clock, &*self.engine.entropy).simple());
                HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("rq"))
            }
        }
    }
}

enum Single<'a> {
    None,
    One(&'a str),
    /// More than one, or one that is not text.
    Several,
}

fn single(headers: &HeaderMap, name: HeaderName) -> Single<'_> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Single::None,
        (Some(value), None) => value.to_str().map_or(Single::Several, Single::One),
        (Some(_), Some(_)) => Single::Several,
    }
}

/// The host without its port; IPv6 addresses keep their brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            let is_whole = !name.contains(':') || (name.starts_with('[') && name.ends_with(']'));
            if is_whole { name } else { host }
        }
        Some(_) | None => host,
    }
}

/// Gives the request an id, lets it through or not, and writes what went wrong.
pub(super) async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let id = guard.request_id(request.headers());
    let shown = id.to_str().unwrap_or_default().to_owned();
    let is_page = request.uri().path().starts_with(docs::PAGE);
    live::show_offered_key(request.headers_mut());
    let mut response = match guard.check(&request) {
        Ok(()) => {
            let mut response = guard.pass(request, &shown, next).await;
            match response.extensions_mut().remove::<Problem>() {
                Some(problem) => {
                    let allow = response.headers_mut().remove(header::ALLOW);
                    let mut written = problem.write(&shown);
                    if let Some(allow) = allow {
                        written.headers_mut().insert(header::ALLOW, allow);
                    }
                    written
                }
                None => response,
            }
        }
        Err(problem) => problem.write(&shown),
    };
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    // Answers are data, never pages, but for one.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, if is_page { docs::PAGE_POLICY } else { DATA_POLICY });
    response
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (host, name) in [
            ("localhost:7420", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            (":80", ":80"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }
}
