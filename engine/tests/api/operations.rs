//! Health, queues, tables, and what every request passes.

use axum::body::Body;
use flowmonkey_engine::api::{ApiOptions, serve};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::{TaskQueue as _, WorkerPresence};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{Server, pointers, request};

#[tokio::test]
async fn an_engine_without_its_record_is_alive_but_not_ready() {
    let server = Server::with_flows().await;
    server.get("/livez").await.expect(200);
    server.get("/readyz").await.expect(200);
    server.record.set_away(true);
    server.get("/livez").await.expect(200);
    for answer in [
        server.get("/readyz").await,
        server.get("/v1/executions").await,
        server.post("/v1/executions", &json!({ "flowId": "greet" })).await,
    ] {
        assert_eq!(answer.header("retry-after"), "1");
        let problem = answer.problem(503, "STORE_UNAVAILABLE");
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
    server.record.set_away(false);
    server.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn queues_and_failed_tasks_and_the_version_are_shown() {
    let server = Server::with_flows().await;
    server.start("work", json!({})).await;
    let mut queues = server.get("/v1/queues").await.expect(200);
    assert!(queues["items"][0]["oldestAgeMs"].take().is_u64());
    assert_eq!(
        queues["items"],
        json!([{ "pool": "toil", "paused": null, "handler": "toil", "region": null, "ready": { "high": 0, "normal": 1, "low": 0 },
            "inFlight": 0, "results": 0, "oldestAgeMs": null }])
    );
    let failed = server.get("/v1/failed-tasks").await.expect(200);
    assert_eq!(failed, json!({ "items": [], "nextCursor": null }));
    let version = server.get("/v1/version").await.expect(200);
    assert_eq!(version["engineId"], "engine");
    assert_eq!(version["pid"], std::process::id());
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for path in ["/v1/queues", "/v1/workers", "/v1/failed-tasks", "/v1/version", "/v1/tables", "/v1/flows"] {
        server.get(&format!("{path}?x=1")).await.problem(422, "INVALID_PARAMETER");
    }
}

#[tokio::test]
async fn metrics_tell_what_was_done_and_what_waits() {
    let server = Server::with_flows().await;
    server.start("work", json!({})).await;
    let answer = server.router.clone().oneshot(request("GET", "/metrics", &[], Body::empty())).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    for line in [
        r#"flowmonkey_queue_depth{pool="toil",priority="normal"} 1"#,
        "flowmonkey_queue_up 1",
        "flowmonkey_invariant_repairs_total{kind=\"fan_out\"} 0",
        r#"flowmonkey_results_rejected_total{reason="stale"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    server.get("/metrics?x=1").await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn tables_are_defined_and_read() {
    let server = Server::new().await;
    let put = async |body: serde_json::Value| {
        let headers = [("content-type", "application/json")];
        server.send(request("PUT", "/v1/tables/people", &headers, Body::from(body.to_string()))).await
    };
    let table = json!({ "columns": [
        { "id": "name", "name": "Name", "type": "string", "required": true },
        { "id": "age", "type": "number" },
    ] });
    let defined = put(table).await.expect(200);
    assert_eq!(
        defined["columns"][1],
        json!({ "id": "age", "name": "", "type": "number", "required": false })
    );
    assert_eq!(server.get("/v1/tables").await.expect(200)["items"], json!([defined]));
    let bad = json!({ "id": "other", "columns": [
        { "id": "a", "type": "text" }, { "id": "b", "type": "json", "x": 1 }, { "id": "b", "type": "json" }, 5,
    ] });
    let problem = put(bad).await.problem(422, "INVALID_REQUEST");
    let mut found = pointers(&problem);
    found.sort_unstable();
    assert_eq!(found, ["/columns/0/type", "/columns/1/x", "/columns/2/id", "/columns/3", "/id"]);
    assert_eq!(pointers(&put(json!({})).await.problem(422, "INVALID_REQUEST")), ["/columns"]);

    let flow = json!({ "id": "tap", "version": "1.0.0", "initialStepId": "a",
        "steps": { "a": { "type": "set", "config": { "value": { "name": "Ada", "age": 36 } } } },
        "pipes": [{ "id": "p", "stepId": "a", "tableId": "people",
            "mappings": [{ "sourcePath": "name", "columnId": "name" }] }] });
    let start = json!({ "definition": flow });
    for _ in 0..3 {
        server.post("/v1/executions", &start).await.expect(202);
    }
    let first = server.get("/v1/tables/people/rows?limit=2").await.expect(200);
    let cursor = first["nextCursor"].as_str().unwrap();
    assert_eq!(first["items"][0]["row"]["name"], "Ada", "{first}");
    let rest = server.get(&format!("/v1/tables/people/rows?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["nextCursor"]), (1, &json!(null)));
    assert_eq!(server.get("/v1/tables/nobody/rows").await.expect(200)["items"], json!([]));
    server.get("/v1/tables/people/rows?cursor=x").await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn only_our_own_names_and_pages_come_in() {
    let options = ApiOptions { allowed_hosts: vec!["Engine.Example".into()], ..ApiOptions::default() };
    let server = Server::with(options).await;
    let get = async |headers: &[(&str, &str)]| {
        server.send(request("GET", "/v1/version", headers, Body::empty())).await
    };
    for host in [
        "localhost",
        "localhost:7420",
        "127.0.0.1:1",
        "127.8.8.8",
        "[::1]:7420",
        "a.localhost:1",
        "engine.example:443",
        "ENGINE.example",
    ] {
        get(&[("host", host)]).await.expect(200);
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil.example:7420",
        "10.0.0.1",
        "",
        "127.0.0.1.evil.example",
        "[::1",
    ] {
        get(&[("host", host)]).await.problem(403, "HOST_NOT_ALLOWED");
    }
    get(&[("host", "localhost"), ("host", "evil.example")]).await.problem(403, "HOST_NOT_ALLOWED");
    let nameless = axum::http::Request::builder().uri("/v1/version").body(Body::empty()).unwrap();
    server.send(nameless).await.problem(403, "HOST_NOT_ALLOWED");

    get(&[("host", "localhost:7420"), ("origin", "http://localhost:7420")]).await.expect(200);
    get(&[("host", "engine.example"), ("origin", "https://engine.example")]).await.expect(200);
    for origin in ["http://evil.example", "null", "http://localhost:7421", "http://localhost", "file://", ""]
    {
        let headers = [("host", "localhost:7420"), ("origin", origin)];
        get(&headers).await.problem(403, "ORIGIN_NOT_ALLOWED");
    }
    let probe = request("GET", "/livez", &[("host", "10.1.2.3:7420")], Body::empty());
    server.send(probe).await.expect(200);
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let server = Server::new().await;
    let get = async |id: &str| {
        let headers = [("x-request-id", id)];
        server.send(request("GET", "/v1/version", &headers, Body::empty())).await
    };
    assert_eq!(get("abc-1.2_3:4").await.header("x-request-id"), "abc-1.2_3:4");
    for bad in ["", "a b", "<script>", &"x".repeat(129)] {
        assert!(get(bad).await.header("x-request-id").starts_with("rq_"), "{bad}");
    }
    assert!(server.get("/nowhere").await.header("x-request-id").starts_with("rq_"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_waiting_requests() {
    let shutdown = CancellationToken::new();
    let server = Server::with(ApiOptions { shutdown: shutdown.clone(), ..ApiOptions::default() }).await;
    server.post("/v1/flows", &crate::flow("ask", crate::ask())).await.expect(201);
    let id = server.start("ask", json!({})).await;
    let began = tokio::time::Instant::now();
    let path = format!("/v1/executions/{id}?wait=60");
    let (record, ()) = tokio::join!(server.get(&path), async { shutdown.cancel() });
    assert_eq!(record.expect(200)["status"], "waiting");
    assert_eq!(began.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn a_server_answers_until_it_is_shut_down() {
    let shutdown = CancellationToken::new();
    let server = Server::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let probe = format!("GET /v1/version HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(probe.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        shutdown.cancel();
        answer
    };
    let (served, answer) = tokio::join!(serve(listener, server.router.clone(), shutdown.clone()), client);
    served.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn workers_are_asked_to_drain() {
    let server = Server::new().await;
    let presence = |draining| WorkerPresence {
        worker: "eu:w1".into(),
        pools: vec!["acme@toil".into(), "toil".into()],
        started_at: "2026-01-01T00:00:00.000Z".into(),
        draining,
        ..WorkerPresence::default()
    };
    assert!(!server.queue.announce(&presence(false)).await.unwrap());
    let asked = server.post("/v1/workers/eu:w1:drain", &json!({})).await.expect(202);
    assert_eq!(asked, json!({ "worker": "eu:w1", "pools": ["acme@toil", "toil"], "draining": false }));
    assert!(server.queue.announce(&presence(true)).await.unwrap(), "it hears of it");
    let shown = server.get("/v1/workers").await.expect(200);
    assert_eq!(shown["items"][0]["draining"], true);
    server.post("/v1/workers/w9:drain", &json!({})).await.problem(404, "WORKER_NOT_FOUND");
    server.post("/v1/workers/eu:w1:praise", &json!({})).await.problem(404, "VERB_NOT_FOUND");
    server.post("/v1/workers/eu:w1:drain", &json!({ "x": 1 })).await.problem(422, "INVALID_REQUEST");
}

#[tokio::test]
async fn handlers_are_shown_with_workers_and_flows() {
    let server = Server::with_flows().await;
    server.post("/v1/flows?tenantId=acme", &crate::flow("own", crate::work())).await.expect(201);
    let worker = |name: &str, pool: &str, version: &str, draining| WorkerPresence {
        worker: name.into(),
        pools: vec![pool.into()],
        draining,
        manifests: vec![Manifest {
            handler_type: "toil".into(),
            version: version.into(),
            ..Manifest::default()
        }],
        ..WorkerPresence::default()
    };
    for presence in [worker("w1", "toil", "1.0.0", false), worker("w2", "acme@eu/toil", "2.0.0", true)] {
        server.queue.announce(&presence).await.unwrap();
    }
    let shown = server.get("/v1/handlers").await.expect(200);
    assert_eq!((&shown["flowsComplete"], shown["items"].as_array().unwrap().len()), (&json!(true), 1));
    let toil = &shown["items"][0];
    assert_eq!((&toil["type"], &toil["pools"]), (&json!("toil"), &json!(["acme@eu/toil", "toil"])));
    let versions: Vec<&str> =
        toil["versions"].as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["1.0.0", "2.0.0"]);
    assert_eq!(toil["versions"][1]["manifest"]["type"], "toil");
    assert_eq!(
        toil["workers"][1],
        json!({ "worker": "w2", "version": "2.0.0", "pools": ["acme@eu/toil"], "region": null, "draining": true })
    );
    let mut flows: Vec<(&str, Option<&str>)> = toil["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| (flow["id"].as_str().unwrap(), flow["tenantId"].as_str()))
        .collect();
    flows.sort_unstable();
    assert_eq!(flows, [("own", Some("acme")), ("work", None)]);
    // What the latest version uses counts.
    let mut later = crate::flow("work", crate::greet());
    later["version"] = json!("1.1.0");
    server.post("/v1/flows", &later).await.expect(201);
    let shown = server.get("/v1/handlers").await.expect(200);
    assert_eq!(shown["items"][0]["flows"].as_array().unwrap().len(), 1);
}
