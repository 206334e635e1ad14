//! Keys, scopes, tenants, and the audit.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use flowmonkey_engine::access::Scope;
use flowmonkey_engine::api::{AccessOptions, ApiOptions};
use flowmonkey_engine::audit::ChainCheck;
use flowmonkey_engine::chores::audit::{Sealed, tick};
use flowmonkey_engine::keys::NewKey;
use flowmonkey_engine::store::{AccessStore, Store};
use flowmonkey_plumbing::ids::SystemEntropy;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time;
use tower::ServiceExt;

use crate::{Answer, Server, ask, flow, greet, request};

/// A server that asks for keys.
async fn guarded() -> Server {
    limited(None).await
}

async fn limited(requests_per_second: Option<u32>) -> Server {
    let access = AccessOptions { required: true, requests_per_second, ..AccessOptions::default() };
    Server::with(ApiOptions { access, ..ApiOptions::default() }).await
}

/// Puts a key into the record; its id and its text.
async fn key(
    server: &Server,
    scopes: &[Scope],
    tenant: Option<&str>,
    life: Option<Duration>,
) -> (String, String) {
    let new = NewKey { name: "test".into(), scopes: scopes.into(), tenant: tenant.map(Into::into), life };
    let (row, text) = new.make(server.engine.now(), &SystemEntropy::new());
    server.record.put_key(&row).await.unwrap();
    (row.id, text)
}

async fn admin(server: &Server) -> String {
    key(server, &[Scope::Admin], None, None).await.1
}

async fn call(server: &Server, method: &str, path: &str, key: &str, body: Option<Value>) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str())];
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    server.send(request(method, path, &headers, body)).await
}

async fn get(server: &Server, path: &str, key: &str) -> Answer {
    call(server, "GET", path, key, None).await
}

async fn post(server: &Server, path: &str, key: &str, body: Value) -> Answer {
    call(server, "POST", path, key, Some(body)).await
}

#[tokio::test]
async fn without_a_key_nothing_is_told() {
    let server = guarded().await;
    for path in ["/v1/flows", "/v1/version", "/metrics", "/v1/keys", "/v1/nothing"] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        answer.problem(401, "KEY_MISSING");
    }
    for path in ["/livez", "/readyz"] {
        server.get(path).await.expect(200);
    }
    server.post("/v1/resume/nonsense", &json!({})).await.problem(404, "RESUME_TOKEN_NOT_FOUND");
    // Workers show the token of their task, and are told when it is missing.
    server.post("/v1/plumbing/tasks/x.1/heartbeat", &json!({})).await.problem(401, "TOKEN_MISSING");
}

#[tokio::test]
async fn what_describes_the_api_is_open_to_everybody() {
    let server = guarded().await;
    let ask = async |path: &str| {
        let response = server.router.clone().oneshot(request("GET", path, &[], Body::empty())).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let header =
            |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
        assert_eq!(policy.contains("script-src 'self'"), path.starts_with("/docs/"), "{path}: {policy}");
        assert!(!policy.contains("http"), "{path}: nothing is loaded from elsewhere: {policy}");
        (
            parts.status.as_u16(),
            header("content-type"),
            header("location"),
            String::from_utf8(bytes.into()).unwrap(),
        )
    };
    let (status, _, location, _) = ask("/docs").await;
    assert_eq!((status, location.as_str()), (308, "/docs/"));
    let (status, media, _, page) = ask("/docs/").await;
    assert_eq!((status, media.as_str()), (200, "text/html"));
    // Whatever the page names is there, and nothing of it is elsewhere.
    assert!(!page.contains("://"), "{page}");
    let named = page.split(['"']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let named: Vec<&str> = named.map(|name| name.trim_start_matches("./")).collect();
    assert!(named.contains(&"swagger-ui-bundle.js"), "{page}");
    for name in named {
        let (status, media, ..) = ask(&format!("/docs/{name}")).await;
        let wanted = if name.ends_with(".js") { "text/javascript" } else { "text/css" };
        assert_eq!((status, media.as_str()), (200, wanted), "{name}");
    }
    assert!(ask("/docs/swagger-initializer.js").await.3.contains(r#""url": "/v1/openapi.json""#));
    assert_eq!(ask("/docs/none.js").await.0, 404);
    let (status, media, _, text) = ask("/v1/asyncapi.yaml").await;
    assert_eq!((status, media.as_str()), (200, "application/yaml"));
    assert!(text.starts_with("asyncapi: 3"), "{text}");
    assert_eq!(server.get("/v1/openapi.json").await.expect(200)["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_body_is_not_read_before_the_key() {
    let server = guarded().await;
    let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let headers = [("content-type", "application/json")];
    let answer = server.send(request("POST", "/v1/executions", &headers, body));
    let answer = time::timeout(Duration::from_secs(10), answer).await.unwrap();
    answer.problem(401, "KEY_MISSING");
}

#[tokio::test]
async fn a_key_counts_by_its_secret_until_its_end() {
    let server = guarded().await;
    let (id, good) = key(&server, &[Scope::Viewer], None, None).await;
    get(&server, "/v1/flows", &good).await.expect(200);
    let (_, other) = key(&server, &[Scope::Viewer], None, None).await;
    let crossed = format!("fmk_{id}_{}", other.rsplit_once('_').unwrap().1);
    // Before and after the good one is known in memory.
    get(&server, "/v1/flows", &crossed).await.problem(401, "KEY_INVALID");
    for wrong in ["", "x", "fmk_x_y", &good[..good.len() - 1], "e30.e30.e30"] {
        get(&server, "/v1/flows", wrong).await.problem(401, "KEY_INVALID");
    }
    let basic = [("authorization", "Basic eDp5")];
    server.send(request("GET", "/v1/flows", &basic, Body::empty())).await.problem(401, "KEY_MISSING");
    let bearer = format!("Bearer {good}");
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    server.send(request("GET", "/v1/flows", &twice, Body::empty())).await.problem(401, "KEY_INVALID");
    get(&server, "/v1/flows", &good).await.expect(200);

    let (id, short) = key(&server, &[Scope::Viewer], None, Some(Duration::from_secs(60))).await;
    get(&server, "/v1/flows", &short).await.expect(200);
    let mut row = server.record.api_key(&id).await.unwrap().unwrap();
    (row.id, row.expires_at) = ("0123456789abcdef".into(), Some(server.engine.now()));
    server.record.put_key(&row).await.unwrap();
    let ended = short.replace(&id, "0123456789abcdef");
    get(&server, "/v1/flows", &ended).await.problem(401, "KEY_EXPIRED");
}

#[tokio::test]
async fn scopes_say_what_a_key_may_do() {
    let server = guarded().await;
    let of = async |scope| key(&server, &[scope], None, None).await.1;
    let (viewer, operator, deployer) =
        (of(Scope::Viewer).await, of(Scope::Operator).await, of(Scope::Deployer).await);
    let (worker, admin) = (of(Scope::Worker).await, of(Scope::Admin).await);
    for reader in [&viewer, &operator, &deployer, &admin] {
        get(&server, "/v1/flows", reader).await.expect(200);
    }
    get(&server, "/v1/flows", &worker).await.problem(403, "SCOPE_MISSING");
    post(&server, "/v1/flows", &operator, flow("greet", greet())).await.problem(403, "SCOPE_MISSING");
    post(&server, "/v1/flows", &deployer, flow("greet", greet())).await.expect(201);
    let start = json!({ "flowId": "greet", "input": { "name": "Ada" } });
    post(&server, "/v1/executions", &deployer, start.clone()).await.problem(403, "SCOPE_MISSING");
    post(&server, "/v1/executions", &operator, start).await.expect(202);
    let operation = |verb: &str| json!({ "verb": verb, "filter": { "flowId": "greet" } });
    post(&server, "/v1/operations", &viewer, operation("cancel")).await.problem(403, "SCOPE_MISSING");
    post(&server, "/v1/operations", &operator, operation("cancel")).await.expect(202);
    post(&server, "/v1/operations", &operator, operation("delete")).await.problem(403, "SCOPE_MISSING");
    post(&server, "/v1/operations", &admin, operation("delete")).await.expect(202);
    for (path, key) in [("/v1/keys", &operator), ("/v1/audit", &deployer)] {
        get(&server, path, key).await.problem(403, "SCOPE_MISSING");
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_taken_back() {
    let server = guarded().await;
    let admin = admin(&server).await;
    let body = json!({ "name": "ci", "scopes": ["deployer", "viewer", "viewer"], "expiresInSeconds": 3600 });
    let made = post(&server, "/v1/keys", &admin, body).await.expect(201);
    let (id, text) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(text.starts_with(&format!("fmk_{id}_")) && text.len() > 64);
    assert_eq!((&made["scopes"], &made["state"]), (&json!(["viewer", "deployer"]), &json!("active")));
    get(&server, "/v1/flows", text).await.expect(200);
    let listed = get(&server, "/v1/keys", &admin).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let whole = listed.to_string();
    let secret = text.rsplit_once('_').unwrap().1;
    assert!(!whole.contains(secret) && !whole.contains("hash"), "{whole}");
    let first = get(&server, "/v1/keys?limit=1", &admin).await.expect(200);
    let path = format!("/v1/keys?limit=1&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = get(&server, &path, &admin).await.expect(200);
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    assert_eq!(second["nextCursor"], Value::Null);

    time::pause();
    let revoke = format!("/v1/keys/{id}:revoke");
    let revoked = post(&server, &revoke, &admin, json!({})).await.expect(200);
    assert_eq!(revoked["state"], "revoked");
    time::advance(Duration::from_secs(5)).await;
    get(&server, "/v1/flows", text).await.problem(401, "KEY_INVALID");
    let again = post(&server, &revoke, &admin, json!({})).await.expect(200);
    assert_eq!(again["revokedAt"], revoked["revokedAt"]);
    post(&server, "/v1/keys/nope:revoke", &admin, json!({})).await.problem(404, "KEY_NOT_FOUND");
    post(&server, &format!("/v1/keys/{id}:burn"), &admin, json!({})).await.problem(404, "VERB_NOT_FOUND");
    for (body, pointer) in [
        (json!({ "scopes": ["viewer"] }), "/name"),
        (json!({ "name": "x" }), "/scopes"),
        (json!({ "name": "x", "scopes": [] }), "/scopes"),
        (json!({ "name": "x", "scopes": ["root"] }), "/scopes"),
        (json!({ "name": "x", "scopes": ["viewer"], "expiresInSeconds": 0 }), "/expiresInSeconds"),
        (json!({ "name": "x", "scopes": ["viewer"], "tenantId": "" }), "/tenantId"),
        (json!({ "name": "x", "scopes": ["viewer"], "hash": "y" }), "/hash"),
    ] {
        let problem = post(&server, "/v1/keys", &admin, body).await.problem(422, "INVALID_REQUEST");
        assert_eq!(crate::pointers(&problem), [pointer]);
    }
}

#[tokio::test]
async fn a_tenants_admin_has_to_do_with_its_tenant_only() {
    let server = guarded().await;
    let (other_id, _) = key(&server, &[Scope::Viewer], Some("other"), None).await;
    let (_, acme) = key(&server, &[Scope::Admin], Some("acme"), None).await;
    let new = |scopes: &[&str], tenant: Option<&str>| {
        let mut body = json!({ "name": "x", "scopes": scopes });
        if let Some(tenant) = tenant {
            body["tenantId"] = json!(tenant);
        }
        body
    };
    let made = post(&server, "/v1/keys", &acme, new(&["operator"], None)).await.expect(201);
    assert_eq!(made["tenantId"], "acme");
    post(&server, "/v1/keys", &acme, new(&["admin"], Some("acme"))).await.expect(201);
    post(&server, "/v1/keys", &acme, new(&["viewer"], Some("other"))).await.problem(403, "KEY_SCOPE");
    post(&server, "/v1/keys", &acme, new(&["worker"], None)).await.problem(403, "KEY_SCOPE");
    let listed = get(&server, "/v1/keys", &acme).await.expect(200);
    let tenants: Vec<_> = listed["items"].as_array().unwrap().iter().map(|key| &key["tenantId"]).collect();
    assert_eq!(tenants, ["acme", "acme", "acme"]);
    let revoke = format!("/v1/keys/{other_id}:revoke");
    post(&server, &revoke, &acme, json!({})).await.problem(404, "KEY_NOT_FOUND");
    assert_eq!(server.record.api_key(&other_id).await.unwrap().unwrap().revoked_at, None);
    let audit = get(&server, "/v1/audit", &acme).await.expect(200);
    assert!(audit["items"].as_array().unwrap().iter().all(|entry| entry["tenantId"] == "acme"), "{audit}");
    get(&server, "/v1/audit?order=chain", &acme).await.problem(403, "KEY_SCOPE");
}

#[tokio::test]
async fn a_known_key_serves_while_the_record_is_away_and_others_wait() {
    let server = guarded().await;
    let (_, known) = key(&server, &[Scope::Viewer], None, None).await;
    let (_, unknown) = key(&server, &[Scope::Viewer], None, None).await;
    get(&server, "/v1/version", &known).await.expect(200);
    server.record.set_away(true);
    get(&server, "/v1/version", &known).await.expect(200);
    get(&server, "/v1/version", &unknown).await.problem(503, "STORE_UNAVAILABLE");
}

#[tokio::test]
async fn that_a_key_is_used_is_noted_once_a_minute() {
    let work = tokio_util::task::TaskTracker::new();
    let access = AccessOptions { required: true, ..AccessOptions::default() };
    let server = Server::with(ApiOptions { access, work: work.clone(), ..ApiOptions::default() }).await;
    let (id, text) = key(&server, &[Scope::Viewer], None, None).await;
    get(&server, "/v1/version", &text).await.expect(200);
    get(&server, "/v1/version", &text).await.expect(200);
    work.close();
    work.wait().await;
    let used = server.record.api_key(&id).await.unwrap().unwrap().last_used_at.unwrap();
    assert!(used <= server.engine.now());
}

#[tokio::test(start_paused = true)]
async fn one_caller_has_a_rate_and_refused_keys_another() {
    let server = limited(Some(1)).await;
    let (_, one) = key(&server, &[Scope::Viewer], None, None).await;
    let (_, two) = key(&server, &[Scope::Viewer], None, None).await;
    get(&server, "/v1/version", &one).await.expect(200);
    get(&server, "/v1/version", &one).await.expect(200);
    let refused = get(&server, "/v1/version", &one).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429, "RATE_LIMITED");
    get(&server, "/v1/version", &two).await.expect(200);
    time::advance(Duration::from_secs(1)).await;
    get(&server, "/v1/version", &one).await.expect(200);
    for _ in 0..20 {
        get(&server, "/v1/version", "fmk_guess").await.problem(401, "KEY_INVALID");
    }
    get(&server, "/v1/version", "fmk_guess").await.problem(429, "RATE_LIMITED");
    // Who is known is not held up by those who guess.
    get(&server, "/v1/version", &two).await.expect(200);
}

#[tokio::test]
async fn changes_are_in_the_audit_before_they_are_answered() {
    let server = guarded().await;
    let (id, admin) = key(&server, &[Scope::Admin], None, None).await;
    post(&server, "/v1/flows", &admin, flow("ask", ask())).await.expect(201);
    get(&server, "/v1/flows", &admin).await.expect(200);
    let (viewer_id, viewer) = key(&server, &[Scope::Viewer], Some("acme"), None).await;
    post(&server, "/v1/executions?x=secret", &viewer, json!({})).await.problem(403, "SCOPE_MISSING");
    server.post("/v1/flows", &flow("ask", ask())).await.problem(401, "KEY_MISSING");
    server.post("/v1/resume/sesame", &json!({})).await.problem(404, "RESUME_TOKEN_NOT_FOUND");
    let audit = get(&server, "/v1/audit", &admin).await.expect(200);
    let items = audit["items"].as_array().unwrap();
    let told: Vec<_> = items
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
            let status = entry["status"].as_u64().unwrap();
            format!("{} {} {} {} {status}", text("actor"), text("tenantId"), text("method"), text("target"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "token - POST /v1/resume/{token} 404".to_owned(),
            format!("key:{viewer_id} acme POST /v1/executions 403"),
            format!("key:{id} - POST /v1/flows 201"),
        ]
    );
    assert!(!audit.to_string().contains("sesame"));
    let first = get(&server, "/v1/audit?limit=2", &admin).await.expect(200);
    let path = format!("/v1/audit?limit=2&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = get(&server, &path, &admin).await.expect(200);
    assert_eq!(second["items"], json!([items[2]]));
    get(&server, "/v1/audit?order=odd", &admin).await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn what_cannot_be_audited_is_not_acknowledged() {
    let server = guarded().await;
    let admin = admin(&server).await;
    get(&server, "/v1/version", &admin).await.expect(200);
    server.record.fail_audit(true);
    post(&server, "/v1/flows", &admin, flow("greet", greet())).await.problem(503, "AUDIT_UNAVAILABLE");
    post(&server, "/v1/flows", &admin, json!({})).await.problem(422, "INVALID_FLOW");
    server.record.fail_audit(false);
    post(&server, "/v1/flows", &admin, flow("greet", greet())).await.expect(200);
}

#[tokio::test]
async fn entries_of_many_callers_are_all_there_and_sealed() {
    let server = Arc::new(guarded().await);
    let admin = admin(&server).await;
    let calls = (0..100).map(|number| {
        let (server, admin) = (server.clone(), admin.clone());
        async move {
            let path = format!("/v1/keys/{number}:revoke");
            post(&server, &path, &admin, json!({})).await.problem(404, "KEY_NOT_FOUND");
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(tick(&server.engine).await.unwrap(), Sealed { entries: 100 });
    assert_eq!(tick(&server.engine).await.unwrap(), Sealed { entries: 0 });
    post(&server, "/v1/keys/last:revoke", &admin, json!({})).await.problem(404, "KEY_NOT_FOUND");
    assert_eq!(tick(&server.engine).await.unwrap(), Sealed { entries: 1 });
    let mut check = ChainCheck::default();
    let store: &dyn Store = &*server.record;
    for row in store.audit_chain(0, 1000).await.unwrap() {
        check.row(&row).unwrap();
    }
    assert_eq!((check.first(), check.end().0), (Some(1), 101));
    let page = get(&server, "/v1/audit?order=chain&limit=100", &admin).await.expect(200);
    assert_eq!((&page["nextCursor"], &page["items"][0]["place"]), (&json!("100"), &json!(1)));
    let rest = get(&server, "/v1/audit?order=chain&cursor=100", &admin).await.expect(200);
    assert_eq!(rest["items"][0]["target"], "/v1/keys/last:revoke");
    assert_eq!(rest["nextCursor"], Value::Null);
}

#[tokio::test]
async fn without_keys_everybody_may_and_nothing_is_audited() {
    let server = Server::new().await;
    server.post("/v1/flows", &flow("greet", greet())).await.expect(201);
    assert_eq!(server.get("/v1/audit").await.expect(200)["items"], json!([]));
    let answer = server.get("/livez").await;
    for (name, value) in [("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")] {
        assert_eq!(answer.header(name), value);
    }
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}
