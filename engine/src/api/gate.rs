//! Who asks: keys and tokens of the requests, before anything else of them is read.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use flowmonkey_core::time::Timestamp;
use lru::LruCache;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::problem::{ErrorClass, Problem};
use super::rate::RateLimit;
use crate::access::{Principal, Visibility};
use crate::engine::Engine;
use crate::keys::{KEY_PREFIX, KeyRefused, Presented};
use crate::oidc::{Oidc, OidcError, OidcOptions};
use crate::store::ApiKey;

/// How long a key is trusted without asking the record: one that was taken back is refused everywhere after this time.
pub(super) const KEY_TRUSTED: Duration = Duration::from_secs(5);
/// Keys that are kept in memory.
pub(super) const KEYS_CACHED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Time between notes in the record that a key is used.
pub(super) const KEY_USE_NOTED_EVERY: Duration = Duration::from_secs(60);
/// Requests a second of one caller, unless the settings say otherwise.
pub(super) const REQUESTS_PER_SECOND: u32 = 1000;
/// Seconds of requests that may come at once.
pub(super) const REQUESTS_BURST_SECONDS: u32 = 2;
/// Refused keys a second of one address, before more are refused unread.
pub(super) const REFUSALS_PER_SECOND: u32 = 2;
/// Seconds of refusals that may come at once.
pub(super) const REFUSALS_BURST_SECONDS: u32 = 10;
/// Callers, and addresses, whose rates are remembered.
pub(super) const RATES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Bytes of a key or token.
const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

/// Paths that are open to everybody: they tell nothing.
const OPEN: [&str; 7] =
    ["/livez", "/readyz", "/v1/openapi.json", "/v1/asyncapi.yaml", "/docs", "/docs/", "/docs/{file}"];
/// The path whose token says what may be done.
const RESUME: &str = "/v1/resume/{token}";
/// Paths of workers, which show the token of their task.
const PLUMBING: &str = "/v1/plumbing/";

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub struct AccessOptions {
    /// Whether a key is needed. Default false: everybody may do everything.
    pub required: bool,
    /// An issuer whose tokens count as keys do. Default: none.
    pub oidc: Option<OidcOptions>,
    /// Requests a second of one caller. Default: 1000.
    pub requests_per_second: Option<u32>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// What a route asks of its callers before its own demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Nothing.
    Open,
    /// What the route itself checks: the token in its path, or the token of a task.
    Own,
    /// A key.
    Keys,
}

fn door(route: Option<&str>) -> Door {
    match route {
        Some(route) if OPEN.contains(&route) => Door::Open,
        Some(route) if route == RESUME || route.starts_with(PLUMBING) => Door::Own,
        Some(_) | None => Door::Keys,
    }
}

struct Cached {
    key: Arc<ApiKey>,
    principal: Principal,
    until: Instant,
}

/// Lets requests in, or not.
pub(super) struct Gate {
    engine: Arc<Engine>,
    required: bool,
    oidc: Option<Oidc>,
    keys: Mutex<LruCache<String, Cached>>,
    noted: Mutex<LruCache<String, Timestamp>>,
    rates: RateLimit,
    refusals: RateLimit,
    work: TaskTracker,
}

impl Gate {
    pub(super) fn new(engine: Arc<Engine>, options: AccessOptions, work: TaskTracker) -> Self {
        let AccessOptions { required, oidc, requests_per_second } = options;
        let per_second = requests_per_second.unwrap_or(REQUESTS_PER_SECOND);
        Self {
            engine,
            required,
            oidc: oidc.map(Oidc::new),
            keys: Mutex::new(LruCache::new(KEYS_CACHED_MAX)),
            noted: Mutex::new(LruCache::new(KEYS_CACHED_MAX)),
            rates: RateLimit::new(per_second, REQUESTS_BURST_SECONDS, RATES_MAX),
            refusals: RateLimit::new(REFUSALS_PER_SECOND, REFUSALS_BURST_SECONDS, RATES_MAX),
            work,
        }
    }

    /// Who asks. The body is not touched.
    pub(super) async fn admit(&self, parts: &Parts) -> Result<Principal, Problem> {
        if !self.required {
            // Whoever serves these routes may have found out who asks; no client can say it.
            return Ok(parts.extensions.get().cloned().unwrap_or_else(Principal::anonymous));
        }
        match door(route(parts)) {
            Door::Open => Ok(nobody("anonymous")),
            Door::Own => Ok(nobody("token")),
            Door::Keys => {
                let principal = self.authenticate(parts).await?;
                self.rates.take(&principal.name).map_err(too_many)?;
                Ok(principal)
            }
        }
    }

    /// Whether a request is for the audit: what may change something, of callers that are known.
    pub(super) fn is_audited(&self, parts: &Parts) -> bool {
        let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method);
        let route = route(parts);
        self.required && changes && (door(route) == Door::Keys || route == Some(RESUME))
    }

    async fn authenticate(&self, parts: &Parts) -> Result<Principal, Problem> {
        let text = credential(&parts.headers)?;
        let now = self.engine.now();
        let presented = Presented::parse(text);
        if let Some(presented) = &presented
            && let Some((key, principal)) = self.cached(presented.id)
            && presented.check(&key, now).is_ok()
        {
            self.note_use(&key, now);
            return Ok(principal);
        }
        // What is not known yet costs a read of the record, or a signature: who fails too often does not get there.
        let from = parts.extensions.get::<Peer>().map_or_else(String::new, |Peer(ip)| ip.to_string());
        self.refusals.may(&from).map_err(too_many)?;
        let admitted = match (presented, &self.oidc) {
            (Some(presented), _) => self.by_key(&presented, now).await,
            (None, Some(oidc)) if !text.starts_with(KEY_PREFIX) => {
                oidc.check(text).await.map_err(Problem::from)
            }
            (None, _) => Err(invalid()),
        };
        if let Err(problem) = &admitted
            && problem.class() == ErrorClass::Unauthenticated
        {
            // It is counted; that it was one too many shows the next time.
            self.refusals.take(&from).ok();
            tracing::info!(from, "a key was refused");
        }
        admitted
    }

    async fn by_key(&self, presented: &Presented<'_>, now: Timestamp) -> Result<Principal, Problem> {
        let key = self.engine.store().api_key(presented.id).await?.ok_or_else(invalid)?;
        let outcome = presented.check(&key, now);
        let key = Arc::new(key);
        let principal = principal(&key);
        match outcome {
            Ok(()) => {
                let until = Instant::now() + KEY_TRUSTED;
                let cached = Cached { key: key.clone(), principal: principal.clone(), until };
                lock(&self.keys).put(key.id.clone(), cached);
                self.note_use(&key, now);
                Ok(principal)
            }
            Err(refused) => {
                lock(&self.keys).pop(&key.id);
                Err(match refused {
                    KeyRefused::Invalid => invalid(),
                    KeyRefused::Expired => {
                        let detail = "the key's time is over: make a new one";
                        Problem::new(ErrorClass::Unauthenticated, "KEY_EXPIRED", detail)
                    }
                })
            }
        }
    }

    fn cached(&self, id: &str) -> Option<(Arc<ApiKey>, Principal)> {
        let mut keys = lock(&self.keys);
        let cached = keys.get(id).filter(|cached| Instant::now() < cached.until)?;
        Some((cached.key.clone(), cached.principal.clone()))
    }

    /// Notes now and then that a key is used; nobody waits for it.
    fn note_use(&self, key: &Arc<ApiKey>, now: Timestamp) {
        let every = i64::try_from(KEY_USE_NOTED_EVERY.as_millis()).unwrap_or(i64::MAX);
        {
            let mut noted = lock(&self.noted);
            let last = noted.get(&key.id).copied().or(key.last_used_at);
            if last.is_some_and(|last| now.as_millis().saturating_sub(last.as_millis()) < every) {
                return;
            }
            noted.put(key.id.clone(), now);
        }
        let (engine, id) = (self.engine.clone(), key.id.clone());
        self.work.spawn(async move {
            if let Err(error) = engine.store().touch_key(&id, now).await {
                tracing::debug!(%error, id, "it was not noted that a key is used");
            }
        });
    }
}

/// The route of a request: its path with the variables.
pub(super) fn route(parts: &Parts) -> Option<&str> {
    parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

/// The path as the audit shows it; a token in a path is a secret.
pub(super) fn shown_target(parts: &Parts) -> &str {
    if route(parts) == Some(RESUME) { RESUME } else { parts.uri.path() }
}

fn principal(key: &ApiKey) -> Principal {
    Principal {
        name: format!("key:{}", key.id).into(),
        visibility: key.tenant.as_deref().map_or(Visibility::All, |tenant| Visibility::Tenant(tenant.into())),
        scopes: key.scopes.clone().into(),
    }
}

/// Who may do nothing but what the route allows by itself.
fn nobody(name: &str) -> Principal {
    Principal { name: name.into(), visibility: Visibility::All, scopes: [].into() }
}

fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let detail = "send a key: `Authorization: Bearer fmk_…`; an administrator makes one with `flowmonkey key create`";
        Problem::new(ErrorClass::Unauthenticated, "KEY_MISSING", detail)
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(missing()),
        (Some(value), None) => value.to_str().map_err(|_| invalid())?,
        (Some(_), Some(_)) => return Err(invalid()),
    };
    match value.split_once(' ') {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => {
            let text = text.trim();
            if text.len() > CREDENTIAL_BYTES_MAX { Err(invalid()) } else { Ok(text) }
        }
        Some(_) | None => Err(missing()),
    }
}

fn invalid() -> Problem {
    Problem::new(ErrorClass::Unauthenticated, "KEY_INVALID", "this key is not one of this record's")
}

fn too_many(_wait: Duration) -> Problem {
    Problem::new(ErrorClass::Overloaded, "RATE_LIMITED", "too many requests of this caller; come back later")
}

impl From<OidcError> for Problem {
    fn from(error: OidcError) -> Self {
        match error {
            OidcError::Expired => Self::new(
                ErrorClass::Unauthenticated,
                "KEY_EXPIRED",
                "the token's time is over: get a new one",
            ),
            OidcError::Refused(reason) => {
                tracing::info!(reason, "a token of the issuer was refused");
                invalid()
            }
            OidcError::IssuerAway(reason) => {
                tracing::warn!(reason, "the issuer's keys cannot be read");
                let detail = "the issuer of the token cannot be asked for its keys now; try again";
                Self::new(ErrorClass::Unavailable, "ISSUER_UNAVAILABLE", detail)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
