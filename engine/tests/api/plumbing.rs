//! The plumbing APIs: who may ask, for what, and what comes of it.

mod checkpoint;
mod context;

use std::sync::Arc;

use axum::body::Body;
use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_engine::api::{ApiOptions, router};
use flowmonkey_engine::evidence::RefusedFor;
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_engine::watch::Update;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::{CHECKPOINT_BYTES_MAX, LOG_LINES_MAX, VOLATILE_BODY_BYTES_MAX};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_plumbing::token::{Claims, Scopes, TOKEN_KEY_BYTES, TokenKey};
use flowmonkey_plumbing::wire::{ResultMessage, TaskMessage, encode_result, encode_sealed_result};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{AllHandlers, Answer, Server, flow, request, work};

/// Method, route, and a body that is taken.
const ROUTES: [(&str, &str, &str); 11] = [
    ("GET", "context", ""),
    ("GET", "checkpoint", ""),
    ("GET", "checkpoint/data", ""),
    ("PUT", "checkpoint", "{}"),
    ("DELETE", "checkpoint", ""),
    ("POST", "heartbeat", r#"{"workerId":"w","status":"running"}"#),
    ("POST", "started", r#"{"worker":"w"}"#),
    ("POST", "progress", r#"{"percent":1}"#),
    ("POST", "logs", r#"{"lines":[]}"#),
    ("POST", "events", r#"{"events":[{"event":"e"}]}"#),
    ("POST", "result", "{}"),
];

/// A server with a task in the hands of a worker.
struct Bench {
    server: Server,
    queue: Arc<LocalQueue>,
    task: TaskMessage,
}

impl Bench {
    async fn new() -> Self {
        Self::with(work(), json!({ "a": 1 }), EngineConfig::default()).await
    }

    /// With the first task of a flow of these steps.
    async fn with(steps: Value, input: Value, config: EngineConfig) -> Self {
        let clock = Arc::new(SystemClock);
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        let deps = EngineDeps {
            store: Arc::new(MemoryStore::default()),
            queue: queue.clone(),
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllHandlers),
            announced: None,
        };
        let engine = Engine::open(deps, config, None).await.unwrap();
        let router = router(engine.clone(), ApiOptions::default());
        let server = Server { engine, record: Arc::default(), router, queue: queue.clone() };
        server.post("/v1/flows", &flow("work", steps)).await.expect(201);
        server.start("work", input).await;
        let task = claim(&queue).await;
        Self { server, queue, task }
    }

    fn token(&self) -> &str {
        self.task.token.as_ref().unwrap().as_str()
    }

    fn claims(&self) -> Claims {
        self.server.engine.task_tokens().verify(self.token()).unwrap()
    }

    /// A token of this record that says something else.
    fn signed(&self, claims: &Claims) -> String {
        self.server.engine.task_tokens().sign(claims).unwrap().as_str().to_owned()
    }

    async fn ask(&self, method: &str, route: &str, token: &str, body: impl Into<Body>) -> Answer {
        let path = format!("/v1/plumbing/tasks/{}/{route}", self.task.task_id);
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        self.server.send(request(method, &path, &headers, body.into())).await
    }

    /// With the task's own token.
    async fn call(&self, method: &str, route: &str, body: impl Into<Body>) -> Answer {
        self.ask(method, route, self.token(), body).await
    }

    async fn lose_lease(&self) {
        let task: TaskId = self.task.task_id.parse().unwrap();
        let lost = TaskAttempt { task: task.number, attempt: self.task.attempt };
        self.server
            .engine
            .command(task.execution, Command::LeaseLost { attempt: lost, saved_at: None })
            .await
            .unwrap();
    }

    async fn status(&self) -> Value {
        self.server.get(&format!("/v1/executions/{}", self.task.execution_id)).await.expect(200)["status"]
            .clone()
    }

    fn result(&self, fields: Value) -> ResultMessage {
        let mut whole = json!({ "v": 1, "taskId": self.task.task_id, "attempt": self.task.attempt,
            "executionId": self.task.execution_id, "stepId": "do", "outcome": "success" });
        whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    async fn spill(&self, fields: Value) -> Answer {
        self.call("POST", "result", json!(self.result(fields)).to_string()).await
    }

    async fn is_present(&self) -> bool {
        self.queue.present(&[self.task.dispatched()]).await.unwrap() == [true]
    }
}

async fn claim(queue: &LocalQueue) -> TaskMessage {
    let claim = Claim { pool: "toil".into(), worker: "w".into(), max: 1, low_first: false };
    queue.claim(claim).await.unwrap().remove(0).task
}

#[tokio::test]
async fn a_checkpoint_is_saved_and_loaded_and_forgotten() {
    let bench = Bench::new().await;
    assert_eq!(bench.call("GET", "checkpoint", "").await.expect(204), Value::Null);
    let saved = bench.call("PUT", "checkpoint", r#"{"at":41}"#).await.expect(200);
    assert_eq!((saved["version"].as_u64(), saved["bytes"].as_u64()), (Some(1), Some(9)), "{saved}");
    let loaded = bench.call("GET", "checkpoint", "").await.expect(200);
    assert_eq!(
        loaded,
        json!({ "id": saved["id"], "savedAt": saved["savedAt"], "version": 1, "bytes": 9,
            "contentType": "application/json", "data": { "at": 41 } })
    );
    bench.call("PUT", "checkpoint", "null").await.expect(200);
    assert_eq!(bench.call("GET", "checkpoint", "").await.expect(200)["data"], Value::Null);
    bench.call("DELETE", "checkpoint", "").await.expect(204);
    bench.call("GET", "checkpoint", "").await.expect(204);

    bench.call("PUT", "checkpoint", "").await.problem(422, "INVALID_REQUEST");
    bench.call("PUT", "checkpoint", "{").await.problem(400, "INVALID_JSON");
    bench.call("PUT", "checkpoint", "[".repeat(100_000)).await.problem(400, "INVALID_JSON");
    let mebibyte = |extra: usize| json!("x".repeat(CHECKPOINT_BYTES_MAX - 2 + extra)).to_string();
    bench.call("PUT", "checkpoint", mebibyte(0)).await.expect(200);
    // There is no object store.
    bench.call("PUT", "checkpoint", mebibyte(1)).await.problem(413, "CHECKPOINT_TOO_LARGE");
    let huge = " ".repeat(4 * CHECKPOINT_BYTES_MAX + 1);
    bench.call("PUT", "checkpoint", huge).await.problem(413, "CHECKPOINT_TOO_LARGE");
    let last = bench.call("GET", "checkpoint", "").await.expect(200);
    assert_eq!(last["bytes"], json!(CHECKPOINT_BYTES_MAX), "the last good one stays");
    bench.call("PATCH", "checkpoint", "{}").await.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn heartbeats_of_a_job_are_noted_and_shown() {
    let bench = Bench::new().await;
    let beat = |fields: Value| {
        let mut all = json!({ "taskId": bench.task.task_id, "attempt": 1, "workerId": "w-7", "status": "running",
            "progress": { "percent": 45, "message": "frame 450" }, "heartbeatAt": "2030-01-01T00:00:00Z", "new": 1 });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all.to_string()
    };
    let answer = bench.call("POST", "heartbeat", beat(json!({ "status": "claimed" }))).await.expect(200);
    assert_eq!(answer, json!({ "cancelRequested": false, "leaseLost": false }));
    bench.call("POST", "heartbeat", beat(json!({}))).await.expect(200);
    let listed = bench.server.get("/v1/jobs?status=running&handler=toil").await.expect(200);
    let job = &listed["items"][0];
    assert_eq!((&job["id"], &job["workerId"]), (&json!(bench.task.task_id), &json!("w-7")));
    assert_eq!((&job["progressPercent"], &job["status"]), (&json!(45.0), &json!("running")));
    assert_eq!(listed["nextCursor"], Value::Null);
    let explained = bench.server.get(&format!("/v1/executions/{}:explain", bench.task.execution_id)).await;
    assert_eq!(explained.expect(200)["job"], *job);
    for (query, found) in [("status=paused", 0), ("handler=other", 0), ("limit=1", 1)] {
        let page = bench.server.get(&format!("/v1/jobs?{query}")).await.expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{query}");
    }
    bench.server.get("/v1/jobs?status=lost").await.problem(422, "INVALID_PARAMETER");

    let other = bench.call("POST", "heartbeat", beat(json!({ "workerId": "w-8" }))).await.expect(200);
    assert_eq!(other, json!({ "cancelRequested": false, "leaseLost": true }));
    for wrong in [
        json!({ "taskId": "tk_1" }),
        json!({ "attempt": 2 }),
        json!({ "workerId": "" }),
        json!({ "workerId": "w".repeat(201) }),
        json!({ "status": "completed" }),
        json!({ "status": "lost" }),
    ] {
        bench.call("POST", "heartbeat", beat(wrong)).await.problem(422, "INVALID_REQUEST");
    }
    bench.lose_lease().await;
    bench.call("POST", "heartbeat", beat(json!({}))).await.problem(409, "STALE_ATTEMPT");
}

#[tokio::test]
async fn volatile_calls_reach_those_who_watch() {
    let bench = Bench::new().await;
    let mut updates = bench.server.engine.watchers.follow();
    bench.call("POST", "started", r#"{"worker":"w-7","new":true}"#).await.expect(204);
    bench.call("POST", "progress", r#"{"percent":450,"message":"far"}"#).await.expect(204);
    let lines =
        json!({ "lines": [{ "message": "a" }, { "level": "warn", "message": "b", "timestamp": "t" }] });
    bench.call("POST", "logs", lines.to_string()).await.expect(204);
    let Update::Started { worker, attempt: 1, task: 1, .. } = updates.try_recv().unwrap() else { panic!() };
    assert_eq!(worker, "w-7");
    let Update::Progress { progress, .. } = updates.try_recv().unwrap() else { panic!() };
    assert_eq!((progress.percent, progress.message.as_deref()), (100.0, Some("far")));
    for message in ["a", "b"] {
        let Update::Log { line, .. } = updates.try_recv().unwrap() else { panic!() };
        assert_eq!(line.message, message);
    }
    for (route, body) in [
        ("started", json!({})),
        ("started", json!({ "worker": "w".repeat(201) })),
        ("progress", json!({ "percent": "half" })),
        ("progress", json!([])),
        ("logs", json!({ "lines": [{ "level": "loud", "message": "a" }] })),
        ("logs", json!({ "lines": vec![json!({ "message": "" }); LOG_LINES_MAX + 1] })),
    ] {
        bench.call("POST", route, body.to_string()).await.problem(422, "INVALID_REQUEST");
    }
    let huge = " ".repeat(VOLATILE_BODY_BYTES_MAX + 1);
    for route in ["started", "progress", "logs"] {
        bench.call("POST", route, huge.clone()).await.problem(413, "BODY_TOO_LARGE");
    }
    bench.lose_lease().await;
    while updates.try_recv().is_ok() {}
    bench.call("POST", "progress", r#"{"percent":1}"#).await.problem(409, "STALE_ATTEMPT");
    assert!(updates.try_recv().is_err(), "nobody hears of an attempt that is over");
}

#[tokio::test]
async fn a_spilled_result_counts_once() {
    let bench = Bench::new().await;
    assert!(bench.is_present().await);
    let answer = bench.spill(json!({ "output": { "done": true }, "somethingNew": 1 })).await.expect(200);
    assert_eq!(answer, json!({ "id": bench.task.execution_id, "status": "completed" }));
    assert_eq!(bench.status().await, "completed");
    assert!(!bench.is_present().await, "the queue forgets what the record has judged");
    bench.spill(json!({})).await.problem(409, "EXECUTION_FINISHED");
    assert_eq!(bench.server.engine.evidence.counts(), [(RefusedFor::Finished, 1)].into());
}

#[tokio::test]
async fn a_spilled_result_may_be_a_message_as_the_queues_carry_it() {
    let bench = Bench::new().await;
    let bytes = encode_result(&bench.result(json!({ "output": 5 }))).unwrap();
    let path = format!("/v1/plumbing/tasks/{}/result", bench.task.task_id);
    let authorization = format!("bearer {}", bench.token());
    let send = async |bytes: Vec<u8>| {
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/msgpack")];
        bench.server.send(request("POST", &path, &headers, Body::from(bytes))).await
    };
    for bad in [&bytes[..0], &bytes[..bytes.len() - 1], &bytes[1..], b"{}"] {
        send(bad.to_vec()).await.problem(422, "INVALID_REQUEST");
    }
    send(encode_result(&ResultMessage { v: 99, ..bench.result(json!({})) }).unwrap())
        .await
        .problem(422, "INVALID_REQUEST");
    // Sealed, as it would have gone through the queue: a seal that is there is checked.
    let sealed = encode_sealed_result(&ResultMessage {
        token: bench.task.token.clone(),
        ..bench.result(json!({ "output": 5 }))
    })
    .unwrap();
    let mut damaged = sealed.clone();
    damaged[10] ^= 1;
    let exchanged = [
        sealed.split_inclusive(|byte| *byte == b'\n').next().unwrap(),
        encode_result(&bench.result(json!({ "output": 6 }))).unwrap().as_slice(),
    ]
    .concat();
    for bad in [damaged, exchanged] {
        send(bad).await.problem(422, "INVALID_REQUEST");
    }
    assert_eq!(send(sealed).await.expect(200)["status"], "completed");
    // The same once more, and without its seal: the record has it.
    send(bytes).await.problem(409, "EXECUTION_FINISHED");
}

#[tokio::test]
async fn a_spilled_result_is_of_the_tokens_attempt_and_makes_sense() {
    let bench = Bench::new().await;
    for foreign in [json!({ "attempt": 2 }), json!({ "taskId": "tk_1_1" })] {
        bench.spill(foreign).await.problem(403, "TOKEN_FOREIGN");
    }
    for (body, status, code) in [
        ("{", 400, "INVALID_JSON"),
        ("", 422, "INVALID_REQUEST"),
        ("{}", 422, "INVALID_REQUEST"),
        ("[]", 422, "INVALID_REQUEST"),
    ] {
        bench.call("POST", "result", body).await.problem(status, code);
    }
    bench.spill(json!({ "v": 2 })).await.problem(422, "INVALID_REQUEST");
    assert_eq!(bench.status().await, "waiting_for_worker");
    // Understood as a message, but not as a result: the attempt has failed, so that its budget ends it.
    bench.spill(json!({ "outcome": "wait", "waitUntil": "tomorrow" })).await.problem(422, "INVALID_RESULT");
    assert_eq!(bench.status().await, "failed");
    assert_eq!(bench.server.engine.evidence.counts(), [(RefusedFor::Invalid, 1)].into());
}

#[tokio::test]
async fn without_a_token_of_this_record_nothing_is_served() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    let (head, _) = bench.token().rsplit_once('.').unwrap();
    let other = TokenKey::new(&[1; TOKEN_KEY_BYTES]).sign(&claims).unwrap();
    let ended =
        bench.signed(&Claims { expires_at_ms: bench.server.engine.now().as_millis(), ..claims.clone() });
    let truncated = &bench.token()[..bench.token().len() - 1];
    for (method, route, body) in ROUTES {
        let path = format!("/v1/plumbing/tasks/{}/{route}", bench.task.task_id);
        for authorization in [None, Some(""), Some("Bearer"), Some("Basic dXNlcjpwYXNz"), Some(bench.token())]
        {
            let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
            let answer = bench.server.send(request(method, &path, &headers, Body::from(body))).await;
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            answer.problem(401, "TOKEN_MISSING");
        }
        for forged in ["", "x", head, truncated, other.as_str(), &format!("{head}.{}", "A".repeat(43))] {
            bench.ask(method, route, forged, body).await.problem(401, "TOKEN_INVALID");
        }
        bench.ask(method, route, &ended, body).await.problem(401, "TOKEN_EXPIRED");
        let twice = format!("Bearer {}", bench.token());
        let headers = [("authorization", twice.as_str()), ("authorization", twice.as_str())];
        let answer = bench.server.send(request(method, &path, &headers, Body::from(body))).await;
        answer.problem(401, "TOKEN_INVALID");
    }
}

#[tokio::test]
async fn a_token_opens_its_own_task_in_its_own_scope_only() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    assert_eq!((claims.pool.as_str(), claims.scopes, claims.attempt), ("toil", Scopes::WORKER, 1));
    bench.server.start("work", json!({})).await;
    let foreign = claim(&bench.queue).await.token.unwrap();
    for (method, route, body) in ROUTES {
        bench.ask(method, route, foreign.as_str(), body).await.problem(403, "TOKEN_FOREIGN");
        let needed = match route {
            "heartbeat" | "started" | "progress" => Scopes::PROGRESS,
            "context" => Scopes::CONTEXT,
            "checkpoint" | "checkpoint/data" => Scopes::CHECKPOINT,
            "logs" => Scopes::LOGS,
            "events" => Scopes::EVENTS,
            _ => Scopes::RESULT,
        };
        let all = [
            Scopes::CHECKPOINT,
            Scopes::PROGRESS,
            Scopes::LOGS,
            Scopes::RESULT,
            Scopes::CONTEXT,
            Scopes::EVENTS,
        ];
        let others = all.into_iter().filter(|scope| *scope != needed).fold(Scopes::NONE, Scopes::and);
        let narrow = bench.signed(&Claims { scopes: others, ..claims.clone() });
        bench.ask(method, route, &narrow, body).await.problem(403, "TOKEN_SCOPE");
    }
    assert_eq!(bench.status().await, "waiting_for_worker");
}

#[tokio::test]
async fn a_token_ends_when_the_record_moves_on() {
    let bench = Bench::new().await;
    bench.call("PUT", "checkpoint", r#"{"at":1}"#).await.expect(200);
    bench.lose_lease().await;
    for (method, route, body) in ROUTES {
        let body =
            if route == "result" { json!(bench.result(json!({}))).to_string() } else { body.to_owned() };
        bench.call(method, route, body).await.problem(409, "STALE_ATTEMPT");
    }
    let next = claim(&bench.queue).await;
    assert_eq!(next.attempt, 2);
    let next = Bench { task: next, ..bench };
    assert_eq!(next.call("GET", "checkpoint", "").await.expect(200)["data"], json!({ "at": 1 }));
    // Of an execution that is not there (any more), no attempt is current.
    let nobody = ExecutionId::from_uuid(uuid::Uuid::from_u128(7));
    let task = TaskId { execution: nobody, number: 1 }.to_string();
    let token = next.signed(&Claims { task: task.clone(), execution: nobody.to_string(), ..next.claims() });
    let next = Bench { task: TaskMessage { task_id: task, ..next.task.clone() }, ..next };
    for (method, route, body) in ROUTES.iter().filter(|(_, route, _)| *route != "result") {
        next.ask(method, route, &token, *body).await.problem(409, "STALE_ATTEMPT");
    }
    let result = json!(next.result(json!({}))).to_string();
    next.ask("POST", "result", &token, result).await.problem(404, "EXECUTION_NOT_FOUND");
}

#[tokio::test]
async fn odd_paths_and_types_lead_nowhere() {
    let bench = Bench::new().await;
    let authorization = format!("Bearer {}", bench.token());
    let send = async |method: &str, path: &str, media: &str| {
        let headers = [("authorization", authorization.as_str()), ("content-type", media)];
        bench.server.send(request(method, path, &headers, Body::from("{}"))).await
    };
    let id = &bench.task.task_id;
    for task in
        ["", "..%2F..%2Flivez", "..", ".", "%2e%2e%2f", "tk_", "*", &format!("{id}%00"), &id.to_uppercase()]
    {
        let path = format!("/v1/plumbing/tasks/{task}/checkpoint");
        send("PUT", &path, "application/json").await.problem(404, "TASK_NOT_FOUND");
    }
    let path = "/v1/plumbing/tasks/%FF/checkpoint";
    send("PUT", path, "application/json").await.problem(400, "INVALID_PATH");
    for path in ["/v1/plumbing/tasks", &format!("/v1/plumbing/tasks/{id}")] {
        send("PUT", path, "application/json").await.problem(404, "ROUTE_NOT_FOUND");
    }
    // Another spelling of the same id is not what the token says.
    let (execution, number) = id.strip_prefix("tk_").unwrap().split_once('_').unwrap();
    let hyphenated = uuid::Uuid::parse_str(execution).unwrap().hyphenated().to_string();
    let path = format!("/v1/plumbing/tasks/tk_{hyphenated}_{number}/checkpoint");
    send("PUT", &path, "application/json").await.problem(403, "TOKEN_FOREIGN");

    for (method, route, _) in ROUTES.iter().filter(|(method, ..)| ["PUT", "POST"].contains(method)) {
        let path = format!("/v1/plumbing/tasks/{id}/{route}");
        // A checkpoint may be of any type.
        let wrong = if *route == "checkpoint" { "text" } else { "text/plain" };
        send(method, &path, wrong).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
        let path = format!("{path}?x=1");
        send(method, &path, "application/json").await.problem(422, "INVALID_PARAMETER");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_are_no_authorization(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let status = runtime.block_on(async {
            let bench = Bench::new().await;
            let path = format!("/v1/plumbing/tasks/{}/checkpoint", bench.task.task_id);
            let mut value = b"Bearer ".to_vec();
            value.extend(bytes);
            // What cannot be a header does not arrive.
            let value = axum::http::HeaderValue::from_bytes(&value).ok()?;
            let mut request = request("PUT", &path, &[], Body::from("1"));
            request.headers_mut().insert("authorization", value);
            Some(bench.server.send(request).await.status)
        });
        prop_assert!(status.is_none_or(|status| status == 401), "{status:?}");
    }
}
