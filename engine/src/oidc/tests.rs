//! Tokens against a small issuer on this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// A key that signs nothing but these tests.
const RSA_KEY: &[u8] = include_bytes!("test_rsa_key.der");
const AUDIENCE: &str = "flowmonkey";

enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(RSA_KEY).unwrap()))
    }

    fn ec() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self::Ec(key.unwrap())
    }

    fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        match self {
            Self::Rsa(key) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": text(&n), "e": text(&e) })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({ "kty": "EC", "kid": kid, "crv": "P-256", "x": x, "y": y })
            }
            Self::Ed(key) => {
                json!({ "kty": "OKP", "kid": kid, "crv": "Ed25519", "x": text(key.public_key().as_ref()) })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        token(&json!({ "alg": self.algorithm(), "kid": kid }), claims, |message| self.sign(message))
    }
}

fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    format!("{message}.{}", BASE64.encode(sign(message.as_bytes())))
}

struct Issuer {
    url: String,
    keys: Arc<std::sync::Mutex<Vec<Value>>>,
    reads: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Served {
    url: String,
    keys: Arc<std::sync::Mutex<Vec<Value>>>,
    reads: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
}

impl Issuer {
    async fn start(keys: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(std::sync::Mutex::new(keys));
        let (reads, away) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let served =
            Served { url: url.clone(), keys: keys.clone(), reads: reads.clone(), away: away.clone() };
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async |State(served): State<Served>| {
                    if served.away.load(Ordering::SeqCst) {
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    }
                    let url = &served.url;
                    Ok(Json(json!({ "issuer": url, "jwks_uri": format!("{url}/keys") })))
                }),
            )
            .route(
                "/keys",
                get(async |State(served): State<Served>| {
                    served.reads.fetch_add(1, Ordering::SeqCst);
                    Json(json!({ "keys": served.keys.lock().unwrap().clone() }))
                }),
            )
            .with_state(served);
        let tracker = tokio_util::task::TaskTracker::new();
        let server = tracker.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, keys, reads, away, _server: AbortOnDropHandle::new(server) }
    }

    fn oidc(&self, tenant_claim: Option<&str>) -> Oidc {
        Oidc::new(OidcOptions::new(&self.url, AUDIENCE, None, tenant_claim.map(Into::into)).unwrap())
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.url,
            "aud": [AUDIENCE, "other"],
            "sub": "ada",
            "exp": now() + 60,
            "flowmonkey_scopes": ["operator", "email"],
        })
    }

    fn with(&self, changes: Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

async fn is_refused(oidc: &Oidc, token: &str) -> bool {
    matches!(oidc.check(token).await, Err(OidcError::Refused(_)))
}

#[tokio::test]
async fn tokens_of_all_three_algorithms_count() {
    let signers = [("r", Signer::rsa()), ("c", Signer::ec()), ("d", Signer::ed())];
    let issuer = Issuer::start(signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect()).await;
    let oidc = issuer.oidc(None);
    for (kid, signer) in &signers {
        let principal = oidc.check(&signer.token(kid, &issuer.claims())).await.unwrap();
        assert_eq!((&*principal.name, &*principal.scopes), ("jwt:ada", &[Scope::Operator][..]));
        assert_eq!(principal.visibility, Visibility::All);
        let text = issuer.with(json!({ "aud": AUDIENCE, "flowmonkey_scopes": "openid viewer admin" }));
        let principal = oidc.check(&signer.token(kid, &text)).await.unwrap();
        assert_eq!(&*principal.scopes, [Scope::Viewer, Scope::Admin]);
        // Each key is for its own algorithm only.
        for (other, _) in signers.iter().filter(|(other, _)| other != kid) {
            assert!(is_refused(&oidc, &signer.token(other, &issuer.claims())).await);
        }
    }
    assert_eq!(issuer.reads.load(Ordering::SeqCst), 1, "keys are kept");
}

#[tokio::test]
async fn tokens_without_a_signature_of_the_issuers_are_refused() {
    let (rsa, stranger) = (Signer::rsa(), Signer::ec());
    let issuer = Issuer::start(vec![rsa.jwk("r"), Signer::ec().jwk("c")]).await;
    let oidc = issuer.oidc(None);
    let claims = issuer.claims();
    for algorithm in ["none", "None", ""] {
        let none = token(&json!({ "alg": algorithm, "kid": "r" }), &claims, |_| Vec::new());
        assert!(is_refused(&oidc, &none).await);
    }
    // The public key is known to everybody: it must not become the secret of a MAC.
    let public = BASE64.decode(rsa.jwk("r")["n"].as_str().unwrap()).unwrap();
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &public);
    let forged = token(&json!({ "alg": "HS256", "kid": "r" }), &claims, |message| {
        hmac::sign(&mac, message).as_ref().to_vec()
    });
    assert!(is_refused(&oidc, &forged).await);
    assert!(is_refused(&oidc, &stranger.token("c", &claims)).await);
    let good = rsa.token("r", &claims);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other = BASE64.encode(issuer.with(json!({ "flowmonkey_scopes": "admin" })).to_string());
    for wrong in [format!("{header}.{other}.{signature}"), format!("{head}."), head.to_owned(), "..".into()] {
        assert!(is_refused(&oidc, &wrong).await, "{wrong}");
    }
    let nameless = token(&json!({ "alg": "RS256" }), &claims, |message| rsa.sign(message));
    assert!(is_refused(&oidc, &nameless).await);
    // A key in the token's own header is the sender's word only.
    let own = json!({ "alg": "ES256", "kid": "x", "jwk": stranger.jwk("x") });
    assert!(is_refused(&oidc, &token(&own, &claims, |message| stranger.sign(message))).await);
    oidc.check(&good).await.unwrap();
}

#[tokio::test]
async fn claims_are_checked() {
    let signer = Signer::ed();
    let issuer = Issuer::start(vec![signer.jwk("d")]).await;
    let oidc = issuer.oidc(None);
    let check = async |changes: Value| oidc.check(&signer.token("d", &issuer.with(changes))).await;
    for wrong in [
        json!({ "iss": "https://id.example" }),
        json!({ "iss": null }),
        json!({ "aud": "other" }),
        json!({ "aud": ["other"] }),
        json!({ "aud": null }),
        json!({ "exp": null }),
        json!({ "exp": "never" }),
        json!({ "nbf": now() + 300 }),
        json!({ "nbf": "soon" }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": "x".repeat(SUBJECT_BYTES_MAX + 1) }),
    ] {
        let outcome = check(wrong.clone()).await;
        assert!(matches!(outcome, Err(OidcError::Refused(_))), "{wrong}: {outcome:?}");
    }
    let ended = check(json!({ "exp": now() - 300 })).await;
    assert!(matches!(ended, Err(OidcError::Expired)), "{ended:?}");
    // Clocks differ a little.
    check(json!({ "exp": now() - 10, "nbf": now() + 10 })).await.unwrap();
    let nobody = check(json!({ "flowmonkey_scopes": 7 })).await.unwrap();
    assert!(nobody.scopes.is_empty());
}

#[tokio::test]
async fn a_tenants_claim_must_be_there_once_it_is_named() {
    let signer = Signer::ed();
    let issuer = Issuer::start(vec![signer.jwk("d")]).await;
    let oidc = issuer.oidc(Some("org"));
    let check = async |changes: Value| oidc.check(&signer.token("d", &issuer.with(changes))).await;
    let acme = check(json!({ "org": "acme" })).await.unwrap();
    assert_eq!(acme.visibility, Visibility::Tenant("acme".into()));
    assert_eq!(check(json!({ "org": "*" })).await.unwrap().visibility, Visibility::All);
    for wrong in [json!({}), json!({ "org": "" }), json!({ "org": ["acme"] }), json!({ "org": null })] {
        assert!(matches!(check(wrong).await, Err(OidcError::Refused(_))));
    }
}

#[tokio::test]
async fn new_keys_are_read_and_not_too_often() {
    let (old, new) = (Signer::ed(), Signer::ec());
    let issuer = Issuer::start(vec![old.jwk("old")]).await;
    let oidc = issuer.oidc(None);
    let claims = issuer.with(json!({ "exp": now() + 86_400 }));
    oidc.check(&old.token("old", &claims)).await.unwrap();
    *issuer.keys.lock().unwrap() = vec![new.jwk("new")];
    let later = new.token("new", &claims);
    for _ in 0..3 {
        assert!(is_refused(&oidc, &later).await, "it was read a moment ago");
    }
    assert_eq!(issuer.reads.load(Ordering::SeqCst), 1);
    advance(ISSUER_ASKED_EVERY).await;
    oidc.check(&later).await.unwrap();
    assert!(is_refused(&oidc, &old.token("old", &claims)).await, "the issuer has taken it back");
    assert_eq!(issuer.reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn known_keys_outlast_an_issuer_that_is_away_for_a_while() {
    let signer = Signer::ed();
    let issuer = Issuer::start(vec![signer.jwk("d")]).await;
    let token = signer.token("d", &issuer.claims());
    let (oidc, fresh) = (issuer.oidc(None), issuer.oidc(None));
    oidc.check(&token).await.unwrap();
    issuer.away.store(true, Ordering::SeqCst);
    assert!(matches!(fresh.check(&token).await, Err(OidcError::IssuerAway(_))));
    advance(ISSUER_KEYS_TRUSTED).await;
    oidc.check(&token).await.unwrap();
    let unknown = signer.token("e", &issuer.claims());
    advance(ISSUER_ASKED_EVERY).await;
    assert!(matches!(oidc.check(&unknown).await, Err(OidcError::IssuerAway(_))));
    advance(ISSUER_KEYS_STALE_MAX).await;
    assert!(matches!(oidc.check(&token).await, Err(OidcError::IssuerAway(_))));
    issuer.away.store(false, Ordering::SeqCst);
    advance(ISSUER_ASKED_EVERY).await;
    oidc.check(&token).await.unwrap();
}

/// Lets time pass, of which the other side knows nothing.
async fn advance(time: std::time::Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[test]
fn an_issuer_that_could_be_impersonated_is_refused() {
    for good in ["https://id.example/realm", "http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:1"]
    {
        OidcOptions::new(good, "x", None, None).unwrap();
    }
    for wrong in ["http://id.example", "ftp://127.0.0.1", "id.example", ""] {
        OidcOptions::new(wrong, "x", None, None).unwrap_err();
    }
}
