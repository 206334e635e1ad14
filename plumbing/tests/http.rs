//! The HTTP client of the plumbing APIs against real servers: what goes out, what comes back, and engines that are away.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![expect(clippy::disallowed_methods, reason = "servers live as long as their test's runtime")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointApi, ContextApi, EVENTS_BODY_BYTES_MAX, EmittedEvent, EventApi, Heartbeat,
    HeartbeatAnswer, JobApi, JobStatus, PlumbingError, Progress, ProgressApi, SavedCheckpoint, TaskAccess,
};
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig, ResultSent};
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::token::TaskToken;
use flowmonkey_plumbing::wire::{ContextOperation, LogLevel, LogLine, ResultMessage, decode_result};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request was.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    call: String,
    token: String,
    media: String,
    body: Vec<u8>,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An engine that answers what it is told to, else 204.
struct Fake {
    seen: watch::Sender<Vec<Seen>>,
    answers: Mutex<VecDeque<Response<Body>>>,
    /// Requests wait for a permit; there are plenty unless a test takes them.
    gate: Semaphore,
}

impl Fake {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::on(listener), address)
    }

    fn on(listener: TcpListener) -> Arc<Self> {
        let fake = Arc::new(Self {
            seen: watch::Sender::default(),
            answers: Mutex::default(),
            gate: Semaphore::new(1 << 20),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    fn answer(&self, status: u16, body: impl Into<String>) {
        let location = "http://127.0.0.1:1/elsewhere";
        let answer = Response::builder().status(status).header("location", location);
        self.answers.lock().unwrap().push_back(answer.body(Body::from(body.into())).unwrap());
    }

    /// The data of a checkpoint, with the digest of perhaps other bytes.
    fn data(&self, id: &str, body: &[u8], summed: &[u8]) {
        let sum = STANDARD.encode(digest(&SHA256, summed));
        let answer = Response::builder()
            .header("etag", format!("\"{id}\""))
            .header("repr-digest", format!("sha-256=:{sum}:"))
            .header("content-type", "application/octet-stream")
            .header("x-flowmonkey-version", "7");
        self.answers.lock().unwrap().push_back(answer.body(Body::from(body.to_vec())).unwrap());
    }

    fn problem(&self, status: u16, code: &str) {
        self.answer(status, json!({ "code": code, "detail": "in words" }).to_string());
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    async fn wait_for(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut seen = self.seen.subscribe();
        soon(seen.wait_for(|seen| enough(seen))).await.unwrap().clone()
    }
}

async fn handle(State(fake): State<Arc<Fake>>, request: Request) -> Response<Body> {
    let headers = request.headers().clone();
    let header =
        |name: &str| headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
    let (token, media) = (header("authorization"), header("content-type"));
    let call = format!("{} {}", request.method(), request.uri());
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap().to_vec();
    fake.seen.send_modify(|seen| seen.push(Seen { call, token, media, body }));
    fake.gate.acquire().await.unwrap().forget();
    let answer = fake.answers.lock().unwrap().pop_front();
    answer.unwrap_or_else(|| Response::builder().status(204).body(Body::empty()).unwrap())
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

fn access() -> TaskAccess {
    let delivery = Delivery { task_id: "tk_1_1".into(), attempt: 2 };
    TaskAccess { delivery, token: Some(TaskToken::new("v1.k.c.s")) }
}

fn client(engines: &[SocketAddr]) -> HttpPlumbing {
    let engines: Vec<String> = engines.iter().map(|address| format!("http://{address}")).collect();
    let quick = Duration::from_millis(1);
    HttpPlumbing::new(HttpPlumbingConfig { rest: quick, linger: quick, ..HttpPlumbingConfig::new(engines) })
        .unwrap()
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn line(message: &str) -> LogLine {
    LogLine { line: 0, level: LogLevel::Info, message: message.into(), timestamp: String::new() }
}

fn result() -> ResultMessage {
    serde_json::from_value(
        json!({ "v": 1, "taskId": "tk_1_1", "attempt": 2, "executionId": "e", "stepId": "s",
        "outcome": "success", "output": { "a": 1 } }),
    )
    .unwrap()
}

#[tokio::test]
async fn calls_that_count_go_out_and_come_back() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    engine.answer(200, r#"{"id":"cp_1","savedAt":"2030","version":3,"bytes":8}"#);
    let saved = plumbing.save_checkpoint(&access(), json!({ "at": 1 }).into()).await.unwrap();
    let (id, saved_at) = ("cp_1".to_owned(), "2030".to_owned());
    let wanted = SavedCheckpoint { id: id.clone(), saved_at: saved_at.clone(), version: 3, bytes: 8 };
    assert_eq!(saved, wanted);
    // As an engine says it that is older.
    engine.answer(200, r#"{"id":"cp_1","savedAt":"2030","data":{"at":1}}"#);
    let loaded = plumbing.load_checkpoint(&access()).await.unwrap();
    assert_eq!(loaded, Some(Checkpoint { id, saved_at, version: 0, data: json!({ "at": 1 }).into() }));
    assert_eq!(plumbing.load_checkpoint(&access()).await.unwrap(), None);
    plumbing.clear_checkpoint(&access()).await.unwrap();
    engine.answer(200, r#"{"id":"ex","status":"completed"}"#);
    assert_eq!(plumbing.send_result(&access(), &result()).await.unwrap(), ResultSent::Applied);
    let seen = engine.seen();
    let calls: Vec<&str> = seen.iter().map(|seen| seen.call.as_str()).collect();
    assert_eq!(
        calls,
        [
            "PUT /v1/plumbing/tasks/tk_1_1/checkpoint",
            "GET /v1/plumbing/tasks/tk_1_1/checkpoint",
            "GET /v1/plumbing/tasks/tk_1_1/checkpoint",
            "DELETE /v1/plumbing/tasks/tk_1_1/checkpoint",
            "POST /v1/plumbing/tasks/tk_1_1/result",
        ]
    );
    assert!(seen.iter().all(|seen| seen.token == "Bearer v1.k.c.s"));
    assert_eq!((seen[0].media.as_str(), seen[0].json()), ("application/json", json!({ "at": 1 })));
    assert_eq!(seen[4].media, "application/msgpack");
    assert_eq!(decode_result(&seen[4].body).unwrap(), result());
}

#[tokio::test]
async fn refusals_say_what_can_be_done() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    engine.problem(409, "STALE_ATTEMPT");
    let stale = plumbing.save_checkpoint(&access(), json!(1).into()).await.unwrap_err();
    assert!(matches!(&stale, PlumbingError::Stale { task, attempt: 2 } if task == "tk_1_1"), "{stale}");
    for (status, code) in [(409, "EXECUTION_FINISHED"), (409, "STALE_ATTEMPT"), (404, "EXECUTION_NOT_FOUND")]
    {
        engine.problem(status, code);
        assert_eq!(plumbing.send_result(&access(), &result()).await.unwrap(), ResultSent::Refused);
    }
    for (status, code) in [(401, "TOKEN_EXPIRED"), (403, "TOKEN_SCOPE"), (413, "CHECKPOINT_TOO_LARGE")] {
        engine.problem(status, code);
        let refused = plumbing.load_checkpoint(&access()).await.unwrap_err();
        assert!(matches!(&refused, PlumbingError::Refused { code: said, .. } if said == code), "{refused}");
        assert!(!format!("{refused:?}").contains("v1.k.c.s"));
    }
    // A proxy's page, and a redirect: neither is followed, and neither is an answer.
    for status in [404, 302] {
        engine.answer(status, "<html>");
        let refused = plumbing.load_checkpoint(&access()).await.unwrap_err();
        assert!(refused.to_string().contains(&status.to_string()), "{refused}");
    }
    engine.answer(200, "<html>");
    let nonsense = plumbing.load_checkpoint(&access()).await.unwrap_err();
    assert!(matches!(nonsense, PlumbingError::Unavailable(_)), "{nonsense}");
    let asked = engine.seen().len();

    // These are not even asked.
    let config = HttpPlumbingConfig {
        checkpoint_bytes_max: 1000,
        ..HttpPlumbingConfig::new([format!("http://{address}")])
    };
    let large = vec![0; 1001].into();
    let refused = HttpPlumbing::new(config).unwrap().save_checkpoint(&access(), large).await.unwrap_err();
    assert!(matches!(refused, PlumbingError::TooLarge { actual: 1001, limit: 1000, .. }), "{refused}");
    for token in [None, Some(TaskToken::new("line\nbreak"))] {
        let refused = plumbing.load_checkpoint(&TaskAccess { token, ..access() }).await.unwrap_err();
        assert!(
            matches!(&refused, PlumbingError::Refused { code, .. } if code == "TOKEN_MISSING"),
            "{refused}"
        );
    }
    assert_eq!(engine.seen().len(), asked);
}

#[tokio::test]
async fn engines_are_asked_in_turn_until_one_serves() {
    let (busy, busy_at) = Fake::start().await;
    let (well, well_at) = Fake::start().await;
    let plumbing = client(&[nobody().await, busy_at, well_at]);
    busy.problem(503, "STORE_UNAVAILABLE");
    plumbing.clear_checkpoint(&access()).await.unwrap();
    assert_eq!((busy.seen().len(), well.seen().len()), (1, 1));
    // The one that served is asked first from now on.
    plumbing.clear_checkpoint(&access()).await.unwrap();
    assert_eq!((busy.seen().len(), well.seen().len()), (1, 2));
    for status in [500, 502, 429] {
        well.answer(status, "");
    }
    plumbing.clear_checkpoint(&access()).await.unwrap();
    assert_eq!((busy.seen().len(), well.seen().len()), (2, 3));
}

#[tokio::test]
async fn a_call_gives_up_after_its_rounds() {
    let (busy, busy_at) = Fake::start().await;
    for _ in 0..100 {
        busy.problem(503, "STORE_UNAVAILABLE");
    }
    let plumbing = client(&[busy_at]);
    let away = soon(plumbing.send_result(&access(), &result())).await.unwrap_err();
    assert!(matches!(away, PlumbingError::Unavailable(_)), "{away}");
    assert_eq!(busy.seen().len(), 6);
    let away = soon(client(&[nobody().await]).load_checkpoint(&access())).await.unwrap_err();
    assert!(matches!(away, PlumbingError::Unavailable(_)), "{away}");
}

#[tokio::test]
async fn checkpoints_that_are_not_json_come_by_a_call_of_their_own() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    let note =
        r#"{"id":"cp_1","savedAt":"2030","version":1,"bytes":3,"contentType":"application/octet-stream"}"#;
    engine.answer(200, note);
    plumbing.save_checkpoint(&access(), vec![0, 1, 255].into()).await.unwrap();
    engine.answer(200, note);
    engine.data("cp_2", &[0, 1, 255], &[0, 1, 255]);
    let loaded = plumbing.load_checkpoint(&access()).await.unwrap().unwrap();
    assert_eq!((loaded.id.as_str(), loaded.version), ("cp_2", 7), "it was saved anew between the calls");
    assert_eq!(loaded.data, vec![0, 1, 255].into());
    // Another digest: it is asked for again.
    engine.answer(200, note);
    engine.data("cp_2", &[0, 1, 254], &[0, 1, 255]);
    engine.data("cp_2", &[0, 1, 255], &[0, 1, 255]);
    assert_eq!(plumbing.load_checkpoint(&access()).await.unwrap().unwrap().data, vec![0, 1, 255].into());
    // Cleared between the calls.
    engine.answer(200, note);
    assert_eq!(plumbing.load_checkpoint(&access()).await.unwrap(), None);
    let seen = engine.seen();
    assert_eq!((seen[0].media.as_str(), &seen[0].body[..]), ("application/octet-stream", &[0, 1, 255][..]));
    assert_eq!(seen[2].call, "GET /v1/plumbing/tasks/tk_1_1/checkpoint/data");
    assert_eq!(seen.len(), 1 + 2 + 3 + 2);
}

#[tokio::test]
async fn what_the_object_store_does_not_take_is_not_sent_again() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    engine.problem(503, "OBJECT_STORE_UNAVAILABLE");
    let away = plumbing.save_checkpoint(&access(), vec![0; 2_000_000].into()).await.unwrap_err();
    assert!(matches!(&away, PlumbingError::Unavailable(_)), "{away}");
    engine.problem(500, "CHECKPOINT_UNREADABLE");
    let lost = plumbing.load_checkpoint(&access()).await.unwrap_err();
    assert!(
        matches!(&lost, PlumbingError::Refused { code, .. } if code == "CHECKPOINT_UNREADABLE"),
        "{lost}"
    );
    assert_eq!(engine.seen().len(), 2);
}

#[tokio::test]
async fn an_engine_that_was_away_is_found_when_it_is_back() {
    let access = access();
    let away = nobody().await;
    let (other, other_at) = Fake::start().await;
    for _ in 0..200_000 {
        other.answer(503, "");
    }
    let config = HttpPlumbingConfig {
        rounds: 100_000,
        rest: Duration::from_millis(1),
        linger: Duration::from_millis(1),
        ..HttpPlumbingConfig::new([format!("http://{away}"), format!("http://{other_at}")])
    };
    let plumbing = HttpPlumbing::new(config).unwrap();
    plumbing.progress(&access, Progress { percent: 10.0, ..Progress::default() });
    let back = async {
        // Both have been tried in vain.
        other.wait_for(|seen| seen.len() >= 4).await;
        plumbing.progress(&access, Progress { percent: 20.0, ..Progress::default() });
        Fake::on(TcpListener::bind(away).await.unwrap())
    };
    let (cleared, engine) = soon(async { tokio::join!(plumbing.clear_checkpoint(&access), back) }).await;
    cleared.unwrap();
    // What is volatile arrives as well: the latest of it.
    let last = |seen: &[Seen]| seen.iter().rfind(|seen| seen.call.ends_with("/progress")).map(Seen::json);
    let seen = engine.wait_for(|seen| last(seen).is_some_and(|body| body["percent"] == 20.0)).await;
    assert!(seen.iter().any(|seen| seen.call.starts_with("DELETE ")));
    assert_eq!(plumbing.dropped(), 0);
}

#[tokio::test]
async fn volatile_calls_are_collected_while_one_is_on_its_way() {
    let (engine, address) = Fake::start().await;
    let permits = engine.gate.available_permits();
    engine.gate.forget_permits(permits);
    let plumbing = client(&[address]);
    plumbing.started(&access(), "w-1");
    engine.wait_for(|seen| seen.len() == 1).await;
    for percent in 0..=100 {
        plumbing.progress(&access(), Progress { percent: f64::from(percent), ..Progress::default() });
    }
    for number in 0..2_500 {
        plumbing.log(&access(), &line(&number.to_string()));
    }
    engine.gate.add_permits(permits);
    soon(plumbing.close(PATIENCE)).await;
    let seen = engine.seen();
    assert_eq!(seen[0].json(), json!({ "worker": "w-1" }));
    assert_eq!(seen[1].json(), json!({ "percent": 100.0 }));
    let batches: Vec<Vec<Value>> =
        seen[2..].iter().map(|seen| seen.json()["lines"].as_array().unwrap().clone()).collect();
    assert!(batches.len() <= 4 && batches.iter().all(|lines| lines.len() <= 1_000), "{}", batches.len());
    let messages: Vec<String> =
        batches.concat().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, (0..2_500).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(plumbing.dropped(), 0);
}

#[tokio::test]
async fn the_outbox_is_bounded_and_never_waits() {
    let plumbing = client(&[nobody().await]);
    for number in 0..30_000 {
        plumbing.log(&access(), &line(&number.to_string()));
    }
    assert!(plumbing.dropped() >= 10_000, "{}", plumbing.dropped());
    let dropped = plumbing.dropped();
    plumbing.log(&access(), &line(&"x".repeat(1024 * 1024)));
    assert_eq!(plumbing.dropped(), dropped + 1, "a line larger than a call");
    for task in 0..12_000 {
        let delivery = Delivery { task_id: format!("tk_{task}_1"), attempt: 1 };
        plumbing.started(&TaskAccess { delivery, ..access() }, "w");
    }
    assert!(plumbing.dropped() >= dropped + 1_900, "{}", plumbing.dropped());
    // While the engine is away, the end is in time, and what is lost is counted.
    soon(plumbing.close(PATIENCE)).await;
    let dropped = plumbing.dropped();
    assert_eq!(dropped, 30_000 + 1 + 12_000);
    plumbing.started(&access(), "w");
    assert_eq!(plumbing.dropped(), dropped + 1);
}

#[tokio::test]
async fn what_an_attempt_says_that_is_over_is_dropped() {
    let (engine, address) = Fake::start().await;
    engine.problem(409, "STALE_ATTEMPT");
    let plumbing = client(&[address]);
    plumbing.progress(&access(), Progress::default());
    plumbing.log(&access(), &line("late"));
    soon(plumbing.close(PATIENCE)).await;
    assert_eq!((engine.seen().len(), plumbing.dropped()), (1, 2));
}

#[tokio::test]
async fn useless_settings_are_refused() {
    for engines in [vec![], vec!["http://a"; 65], vec!["not a url"], vec!["ftp://a"]] {
        assert!(HttpPlumbing::new(HttpPlumbingConfig::new(engines)).is_err());
    }
    let config = HttpPlumbingConfig {
        ca_pem: b"-----BEGIN CERTIFICATE-----\nx\n".to_vec(),
        ..HttpPlumbingConfig::new(["https://a"])
    };
    assert!(HttpPlumbing::new(config).is_err());
}

#[tokio::test]
async fn contexts_are_read_by_path_and_patched() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    engine.answer(200, r#"{"a":[1]}"#);
    assert_eq!(plumbing.read_context(&access(), None).await.unwrap(), Some(json!({ "a": [1] })));
    engine.answer(200, "null");
    assert_eq!(plumbing.read_context(&access(), Some("a b.&c=d#.é")).await.unwrap(), Some(Value::Null));
    engine.problem(404, "CONTEXT_PATH_NOT_FOUND");
    assert_eq!(plumbing.read_context(&access(), Some("x")).await.unwrap(), None);
    engine.problem(404, "TASK_NOT_FOUND");
    let refused = plumbing.read_context(&access(), None).await.unwrap_err();
    assert!(matches!(&refused, PlumbingError::Refused { code, .. } if code == "TASK_NOT_FOUND"), "{refused}");
    let patch = [ContextOperation::Delete { path: "a".into() }];
    // An engine that is busy is asked again: the same patch under the same number.
    engine.problem(503, "STORE_UNAVAILABLE");
    plumbing.stage_context(&access(), 7, &patch).await.unwrap();
    engine.problem(409, "STALE_ATTEMPT");
    let stale = plumbing.stage_context(&access(), 8, &patch).await.unwrap_err();
    assert!(matches!(stale, PlumbingError::Stale { attempt: 2, .. }), "{stale}");
    let seen = engine.seen();
    let calls: Vec<&str> = seen.iter().map(|seen| seen.call.as_str()).collect();
    let path = "/v1/plumbing/tasks/tk_1_1/context";
    assert_eq!(calls[0], format!("GET {path}"));
    assert_eq!(calls[1], format!("GET {path}?path=a+b.%26c%3Dd%23.%C3%A9"));
    assert_eq!(
        calls[4..],
        [
            format!("PATCH {path}?sequence=7"),
            format!("PATCH {path}?sequence=7"),
            format!("PATCH {path}?sequence=8")
        ]
    );
    assert_eq!(seen[4], seen[5]);
    assert_eq!(seen[4].json(), json!([{ "op": "delete", "path": "a" }]));
}

#[tokio::test]
async fn no_more_of_a_context_is_read_than_the_worker_takes() {
    let (engine, address) = Fake::start().await;
    let config = HttpPlumbingConfig::new([format!("http://{address}")]);
    let plumbing = HttpPlumbing::new(HttpPlumbingConfig { context_bytes_max: 1000, ..config }).unwrap();
    let text = |bytes: usize| json!("x".repeat(bytes - 2)).to_string();
    engine.answer(200, text(1000));
    assert!(plumbing.read_context(&access(), None).await.unwrap().is_some());
    engine.answer(200, text(1001));
    let refused = plumbing.read_context(&access(), None).await.unwrap_err();
    assert!(matches!(refused, PlumbingError::TooLarge { limit: 1000, .. }), "{refused}");
    assert_eq!(engine.seen().len(), 2, "it is not asked for again");
    let patch = [ContextOperation::Set { path: "a".into(), value: json!("x".repeat(16 << 20)) }];
    let refused = plumbing.stage_context(&access(), 1, &patch).await.unwrap_err();
    assert!(matches!(refused, PlumbingError::TooLarge { .. }), "{refused}");
    assert_eq!(engine.seen().len(), 2, "it is not even sent");
}

fn event(id: Option<&str>, data: Value) -> EmittedEvent {
    EmittedEvent { id: id.map(Into::into), event: "seen".into(), data }
}

#[tokio::test]
async fn events_have_their_names_before_they_are_sent_so_that_a_second_try_is_not_another_event() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    engine.problem(503, "STORE_UNAVAILABLE");
    engine.answer(202, r#"{"ids":["one","ev_2"]}"#);
    let events = vec![event(Some("one"), json!(1)), event(None, Value::Null)];
    assert_eq!(plumbing.emit_events(&access(), events).await.unwrap(), ["one", "ev_2"]);
    let seen = engine.seen();
    assert_eq!((seen.len(), seen[0].call.as_str()), (2, "POST /v1/plumbing/tasks/tk_1_1/events"));
    assert_eq!((&seen[0].json(), seen[0].token.as_str()), (&seen[1].json(), "Bearer v1.k.c.s"));
    let sent = seen[0].json();
    assert_eq!(sent["events"][0], json!({ "id": "one", "event": "seen", "data": 1 }));
    let made = sent["events"][1]["id"].as_str().unwrap();
    assert!(made.starts_with("ev_") && made.len() == 35, "{made}");
}

#[tokio::test]
async fn events_that_no_engine_would_take_are_not_sent() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    assert_eq!(plumbing.emit_events(&access(), Vec::new()).await.unwrap(), [""; 0]);
    let reserved = EmittedEvent { event: "flowmonkey.x".into(), ..event(None, Value::Null) };
    for wrong in [reserved, event(Some(""), Value::Null)] {
        let refused = plumbing.emit_events(&access(), vec![wrong]).await.unwrap_err();
        assert!(matches!(refused, PlumbingError::Refused { .. }), "{refused}");
    }
    let large = event(None, json!("x".repeat(EVENTS_BODY_BYTES_MAX)));
    let refused = plumbing.emit_events(&access(), vec![large]).await.unwrap_err();
    assert!(matches!(refused, PlumbingError::TooLarge { limit: EVENTS_BODY_BYTES_MAX, .. }), "{refused}");
    assert_eq!(engine.seen(), []);
    engine.problem(409, "STALE_ATTEMPT");
    let stale = plumbing.emit_events(&access(), vec![event(None, json!(1))]).await.unwrap_err();
    assert!(matches!(stale, PlumbingError::Stale { attempt: 2, .. }), "{stale}");
}

#[tokio::test]
async fn heartbeats_of_jobs_bring_back_what_the_engine_wants() {
    let (engine, address) = Fake::start().await;
    let plumbing = client(&[address]);
    let heartbeat = Heartbeat {
        task_id: "tk_1_1".into(),
        attempt: 2,
        worker_id: "w-1".into(),
        status: JobStatus::Running,
        progress: Some(Progress { percent: 40.0, ..Progress::default() }),
        checkpoint: None,
        heartbeat_at: "2030-01-01T00:00:00Z".into(),
    };
    engine.answer(200, r#"{"cancelRequested":true,"leaseLost":false,"new":1}"#);
    let answer = plumbing.heartbeat(&access(), &heartbeat).await.unwrap();
    assert_eq!(answer, HeartbeatAnswer { cancel_requested: true, lease_lost: false });
    engine.answer(200, "{}");
    let answer = plumbing.heartbeat(&access(), &heartbeat).await.unwrap();
    assert_eq!(answer, HeartbeatAnswer::default(), "an engine that is older says less");
    engine.problem(409, "STALE_ATTEMPT");
    let stale = plumbing.heartbeat(&access(), &heartbeat).await.unwrap_err();
    assert!(matches!(stale, PlumbingError::Stale { attempt: 2, .. }), "{stale}");
    let seen = engine.seen();
    assert!(seen.iter().all(|seen| seen.call == "POST /v1/plumbing/tasks/tk_1_1/heartbeat"), "{seen:?}");
    let said: Heartbeat = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!((said, seen[0].token.as_str()), (heartbeat, "Bearer v1.k.c.s"));
}
