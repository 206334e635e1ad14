//! Tokens of an OpenID Connect issuer in the place of keys: its public keys are found by discovery, kept for a while, and read
//! again when a token names one that is not known.

mod provider;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use reqwest::{Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::access::{Principal, Scope, Visibility};

/// Claim with the scopes, unless the settings name another.
pub const SCOPES_CLAIM: &str = "flowmonkey_scopes";
/// By how much the clocks of issuer and engine may differ.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(30);
/// How long the issuer's keys are used before they are read again.
pub const ISSUER_KEYS_TRUSTED: Duration = Duration::from_secs(10 * 60);
/// How long keys are used on while the issuer is away.
pub const ISSUER_KEYS_STALE_MAX: Duration = Duration::from_secs(60 * 60);
/// Time between two readings of the issuer's keys, whatever the tokens name.
pub const ISSUER_ASKED_EVERY: Duration = Duration::from_secs(10);
/// How long an answer of the issuer may take.
pub const ISSUER_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer of the issuer.
pub const ISSUER_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Keys of an issuer.
pub const ISSUER_KEYS_MAX: usize = 64;
/// Bytes of the subject of a token.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// In the tenant's claim: all tenants.
const ALL_TENANTS: &str = "*";

/// Whose tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcOptions {
    issuer: String,
    audience: String,
    scopes_claim: String,
    tenant_claim: Option<String>,
}

/// A URL that no issuer may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the issuer `{0}` must be an https:// URL; http:// is for this machine only")]
pub struct IssuerUrlError(String);

impl OidcOptions {
    /// Tokens of `issuer` that are meant for `audience`. Scopes are read from `scopes_claim` (default [`SCOPES_CLAIM`]): a
    /// list, or words in one text. Without `tenant_claim` all tokens see the rows of all tenants; with it, each must name
    /// its tenant there, or `*` for all.
    ///
    /// # Errors
    /// When the issuer could be impersonated: its URL is not `https`, nor of this machine.
    pub fn new(
        issuer: &str,
        audience: &str,
        scopes_claim: Option<String>,
        tenant_claim: Option<String>,
    ) -> Result<Self, IssuerUrlError> {
        if !is_safe(issuer) {
            return Err(IssuerUrlError(issuer.to_owned()));
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            scopes_claim: scopes_claim.unwrap_or_else(|| SCOPES_CLAIM.to_owned()),
            tenant_claim,
        })
    }
}

fn is_safe(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        url.scheme() == "https" || (url.scheme() == "http" && is_here)
    })
}

/// Why a token does not count.
#[derive(Debug)]
pub(crate) enum OidcError {
    /// Its time is over.
    Expired,
    /// It is not one of the issuer's, not for us, or not yet.
    Refused(String),
    /// The issuer's keys are not known, and it does not tell them now.
    IssuerAway(String),
}

fn refused(reason: impl Into<String>) -> OidcError {
    OidcError::Refused(reason.into())
}

/// What is known of the issuer's keys.
#[derive(Default)]
struct Known {
    keys: Vec<(String, Jwk)>,
    read_at: Option<Instant>,
    asked_at: Option<Instant>,
}

/// Checks tokens of one issuer.
pub(crate) struct Oidc {
    options: OidcOptions,
    validation: Validation,
    known: Mutex<Known>,
}

impl Oidc {
    pub(crate) fn new(options: OidcOptions) -> Self {
        provider::install();
        let mut validation = Validation::new(provider::ALGORITHMS[0]);
        validation.algorithms = provider::ALGORITHMS.to_vec();
        validation.leeway = CLOCK_LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[&options.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self { options, validation, known: Mutex::default() }
    }

    /// Who the token speaks for.
    pub(crate) async fn check(&self, token: &str) -> Result<Principal, OidcError> {
        let header = decode_header(token).map_err(|error| refused(error.to_string()))?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(refused("its algorithm is not one of RS256, ES256 and EdDSA"));
        }
        let kid = header.kid.ok_or_else(|| refused("it names no key"))?;
        let key = self.key(&kid).await?;
        // A key is of one family: the algorithms that are checked must all be of it.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = decode::<Map<String, Value>>(token, &key, &validation);
        let claims = claims.map_err(|error| {
            let is_late = matches!(error.kind(), ErrorKind::ExpiredSignature);
            if is_late { OidcError::Expired } else { refused(error.to_string()) }
        })?;
        self.principal(&claims.claims)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, OidcError> {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX {
            return Err(refused("its subject is empty or too long"));
        }
        let words: Vec<&str> = match claims.get(&self.options.scopes_claim) {
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(_) | None => Vec::new(),
        };
        // Words for others may be among them.
        let scopes: Vec<Scope> = words.into_iter().filter_map(|word| word.parse().ok()).collect();
        let visibility = match &self.options.tenant_claim {
            None => Visibility::All,
            Some(claim) => match claims.get(claim).and_then(Value::as_str) {
                Some(ALL_TENANTS) => Visibility::All,
                Some(tenant) if !tenant.is_empty() => Visibility::Tenant(tenant.into()),
                Some(_) | None => return Err(refused(format!("it has no tenant in `{claim}`"))),
            },
        };
        Ok(Principal { name: format!("jwt:{subject}").into(), visibility, scopes: scopes.into() })
    }

    /// The key called `kid`; the issuer is asked when it is not known, or what is known is old.
    async fn key(&self, kid: &str) -> Result<DecodingKey, OidcError> {
        let mut known = self.known.lock().await;
        let now = Instant::now();
        let is_old = known.read_at.is_none_or(|at| now >= at + ISSUER_KEYS_TRUSTED);
        let is_missing = find(&known.keys, kid).is_none();
        let may_ask = known.asked_at.is_none_or(|at| now >= at + ISSUER_ASKED_EVERY);
        let mut away = None;
        if (is_old || is_missing) && may_ask {
            known.asked_at = Some(now);
            match self.read_keys().await {
                Ok(keys) => (known.keys, known.read_at) = (keys, Some(now)),
                Err(reason) => away = Some(reason),
            }
        }
        if known.read_at.is_none_or(|at| now >= at + ISSUER_KEYS_STALE_MAX) {
            let reason = away.unwrap_or_else(|| "it did not answer a moment ago".into());
            return Err(OidcError::IssuerAway(reason));
        }
        match (find(&known.keys, kid), away) {
            (Some(jwk), _) => DecodingKey::from_jwk(jwk).map_err(|error| refused(error.to_string())),
            // It may be a new key of the issuer's.
            (None, Some(reason)) => Err(OidcError::IssuerAway(reason)),
            (None, None) => Err(refused("the issuer has no such key")),
        }
    }

    async fn read_keys(&self) -> Result<Vec<(String, Jwk)>, String> {
        // An error means that the program has chosen its cryptography already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(ISSUER_ANSWER_MAX)
            .user_agent(concat!("flowmonkey/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        let issuer = &self.options.issuer;
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document: Map<String, Value> = fetch(&client, &place).await?;
        if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err(format!("{place} is of another issuer"));
        }
        let keys_at = document.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
        if !is_safe(keys_at) {
            return Err(format!("`jwks_uri` of {place} is not an https:// URL"));
        }
        let set: Map<String, Value> = fetch(&client, keys_at).await?;
        let keys = set.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        // A key that is not understood is not for us.
        let keys = keys.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
        let usable = keys.filter(is_usable).filter_map(|key| Some((key.common.key_id.clone()?, key)));
        Ok(usable.take(ISSUER_KEYS_MAX).collect())
    }
}

fn find<'a>(keys: &'a [(String, Jwk)], kid: &str) -> Option<&'a Jwk> {
    keys.iter().find(|(name, _)| name == kid).map(|(_, key)| key)
}

/// Whether a key is public, for signatures, and of an algorithm that we check.
fn is_usable(key: &Jwk) -> bool {
    let for_signatures =
        key.common.public_key_use.as_ref().is_none_or(|wanted| *wanted == PublicKeyUse::Signature);
    for_signatures
        && match &key.algorithm {
            AlgorithmParameters::RSA(_) => true,
            AlgorithmParameters::EllipticCurve(parameters) => parameters.curve == EllipticCurve::P256,
            AlgorithmParameters::OctetKeyPair(parameters) => parameters.curve == EllipticCurve::Ed25519,
            // The library marks its list as open.
            AlgorithmParameters::OctetKey(_) | AlgorithmParameters::Other(_) | _ => false,
        }
}

async fn fetch<T: DeserializeOwned>(client: &reqwest::Client, url: &str) -> Result<T, String> {
    let fail = |error: reqwest::Error| format!("{url}: {error}");
    let mut answer = client.get(url).send().await.map_err(fail)?;
    if !answer.status().is_success() {
        return Err(format!("{url} answered {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(fail)? {
        if body.len() + chunk.len() > ISSUER_ANSWER_BYTES_MAX {
            return Err(format!("{url} answered more than {ISSUER_ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))
}
