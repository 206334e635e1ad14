//! Events and webhooks: what goes out, to a receiver that is a real server.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_engine::api::{ApiOptions, router};
use flowmonkey_engine::chores::webhooks::Sent;
use flowmonkey_engine::chores::{events, spawn_all, webhooks};
use flowmonkey_engine::store::{MemoryStore, Store};
use flowmonkey_engine::webhooks::{RETRY_AFTER_S, sign};
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::net::HttpPolicy;
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{AllHandlers, Answer, Server, flow, greet, listen, request};

/// Time that only moves when it is told to.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Bench {
    server: Server,
    clock: Arc<Hand>,
    store: Arc<dyn Store>,
}

fn loopback() -> HttpPolicy {
    HttpPolicy { allow_loopback: true, ..HttpPolicy::default() }
}

impl Bench {
    async fn new() -> Self {
        let clock = Arc::new(Hand(AtomicI64::new(1_790_000_000_000)));
        Self::on(Arc::new(MemoryStore::default()), clock, loopback(), None).await
    }

    async fn on(
        store: Arc<dyn Store>,
        clock: Arc<Hand>,
        webhook_policy: HttpPolicy,
        tracker: Option<&TaskTracker>,
    ) -> Self {
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        let deps = EngineDeps {
            store: store.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllHandlers),
            announced: None,
        };
        let config = EngineConfig { webhook_policy, ..EngineConfig::default() };
        let engine = Engine::open(deps, config, tracker).await.unwrap();
        let router = router(engine.clone(), ApiOptions::default());
        Self { server: Server { engine, record: Arc::default(), router, queue }, clock, store }
    }

    fn advance(&self, seconds: u64) {
        self.clock.0.fetch_add(i64::try_from(seconds * 1000).unwrap(), Ordering::SeqCst);
    }

    async fn hook(&self, body: Value) -> Value {
        self.server.post("/v1/webhooks", &body).await.expect(201)
    }

    async fn publish(&self, name: &str, id: &str) {
        let body = json!({ "name": name, "id": id, "data": { "n": id } });
        self.server.post("/v1/events", &body).await.expect(202);
        events::tick(&self.server.engine).await.unwrap();
    }

    /// Tries what is due now; how many deliveries that were.
    async fn deliver(&self) -> usize {
        let Sent { tried } = webhooks::tick(&self.server.engine).await.unwrap();
        tried
    }

    async fn log(&self, hook: &Value) -> Vec<Value> {
        let path = format!("/v1/webhooks/{}/deliveries", hook["id"].as_str().unwrap());
        self.server.get(&path).await.expect(200)["items"].as_array().unwrap().clone()
    }

    async fn state(&self, hook: &Value) -> Value {
        self.server.get(&format!("/v1/webhooks/{}", hook["id"].as_str().unwrap())).await.expect(200)
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.server.send(request(method, path, &headers, Body::from(body.to_string()))).await
    }
}

/// A request that came to the receiver.
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The event, when it is signed with the webhook's secret.
    fn event(&self, hook: &Value) -> Value {
        let timestamp = self.header("webhook-timestamp").parse().unwrap();
        let signed = sign(hook["secret"].as_str().unwrap(), self.header("webhook-id"), timestamp, &self.body);
        assert_eq!(Some(self.header("webhook-signature")), signed.as_deref());
        assert_eq!(self.header("content-type"), "application/cloudevents+json");
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Requests that wait to be looked at by a test.
const RECEIVED_MAX: usize = 1000;

/// Answers as it is told, else 204.
struct Receiver {
    url: String,
    received: mpsc::Receiver<Received>,
    answers: Arc<Mutex<VecDeque<Response>>>,
}

#[derive(Clone)]
struct Receiving {
    sender: mpsc::Sender<Received>,
    answers: Arc<Mutex<VecDeque<Response>>>,
    gate: Option<Arc<Notify>>,
}

async fn receive(State(receiving): State<Receiving>, headers: HeaderMap, body: Bytes) -> Response {
    receiving.sender.send(Received { headers, body }).await.unwrap();
    if let Some(gate) = &receiving.gate {
        gate.notified().await;
    }
    let answer = receiving.answers.lock().unwrap().pop_front();
    answer.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

impl Receiver {
    async fn new() -> Self {
        Self::with(None).await
    }

    async fn with(gate: Option<Arc<Notify>>) -> Self {
        let (sender, received) = mpsc::channel(RECEIVED_MAX);
        let answers = Arc::new(Mutex::default());
        let receiving = Receiving { sender, answers: Arc::clone(&answers), gate };
        let router = Router::new().route("/hook", post(receive)).with_state(receiving);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        TaskTracker::new().spawn(axum::serve(listener, router).into_future());
        Self { url, received, answers }
    }

    fn answer(&self, answer: impl IntoResponse) {
        self.answers.lock().unwrap().push_back(answer.into_response());
    }

    async fn next(&mut self) -> Received {
        tokio::time::timeout(std::time::Duration::from_secs(30), self.received.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn an_event_arrives_signed_as_a_cloud_event() {
    let (bench, mut receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["order.*"], "description": "d" })).await;
    bench.publish("order.paid", "one").await;
    bench.publish("parcel.lost", "two").await;
    assert_eq!(bench.deliver().await, 1, "the other is not wanted");
    let received = receiver.next().await;
    assert_eq!(received.header("webhook-id"), "one");
    let golden = json!({
        "specversion": "1.0", "id": "one", "source": "/flowmonkey", "type": "order.paid",
        "time": "2026-09-21T14:13:20.000Z", "datacontenttype": "application/json", "data": { "n": "one" },
    });
    assert_eq!(received.event(&hook), golden);
    let log = bench.log(&hook).await;
    assert_eq!((log.len(), &log[0]["status"], &log[0]["attempts"]), (1, &json!("delivered"), &json!(1)));
    assert_eq!(log[0]["last"]["statusCode"], 204);

    // Published twice, told twice: one delivery.
    bench.publish("order.paid", "one").await;
    assert_eq!((bench.deliver().await, bench.log(&hook).await.len()), (0, 1));

    let listed = bench.server.get("/v1/webhooks").await.expect(200)["items"][0].clone();
    assert_eq!((listed.get("secret"), &listed["events"]), (None, &json!(["order.*"])));
    assert!(hook["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(bench.state(&hook).await, listed);
}

#[tokio::test]
async fn a_failing_receiver_is_tried_again_until_it_takes_it() {
    let (bench, mut receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["*"] })).await;
    receiver.answer(StatusCode::INTERNAL_SERVER_ERROR);
    receiver.answer((StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "600")]));
    bench.publish("a", "one").await;
    assert_eq!((bench.deliver().await, bench.deliver().await), (1, 0));
    let log = bench.log(&hook).await;
    assert_eq!((&log[0]["status"], &log[0]["last"]["statusCode"]), (&json!("pending"), &json!(500)));
    assert!(bench.state(&hook).await["failingSince"].is_string());
    bench.advance(4);
    assert_eq!(bench.deliver().await, 0, "not yet");
    bench.advance(3);
    assert_eq!(bench.deliver().await, 1);
    bench.advance(599);
    assert_eq!(bench.deliver().await, 0, "it asked for ten minutes");

    // Another engine on the same record goes on.
    let other = Bench::on(bench.store.clone(), bench.clock.clone(), loopback(), None).await;
    bench.advance(1);
    assert_eq!(other.deliver().await, 1);
    assert_eq!(bench.log(&hook).await[0]["status"], "delivered");
    assert_eq!(bench.state(&hook).await["failingSince"], Value::Null);
    for _ in 0..3 {
        assert_eq!(receiver.next().await.event(&hook)["id"], "one");
    }
}

#[tokio::test]
async fn one_that_never_takes_it_is_given_up_and_can_be_asked_for() {
    let (bench, receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["*"] })).await;
    bench.publish("a", "ex:1").await;
    for _ in 0..=RETRY_AFTER_S.len() {
        receiver.answer(StatusCode::BAD_GATEWAY);
        assert_eq!(bench.deliver().await, 1);
        bench.advance(2 * 28_800);
    }
    assert_eq!(bench.deliver().await, 0);
    let log = bench.log(&hook).await;
    assert_eq!((&log[0]["status"], &log[0]["attempts"]), (&json!("failed"), &json!(9)));
    let state = bench.state(&hook).await;
    assert_eq!((&state["state"], &state["active"]), (&json!("failing"), &json!(true)));

    let path = |event: &str| format!("/v1/webhooks/{}/deliveries/{event}", hook["id"].as_str().unwrap());
    bench.send("POST", &path("ex:1:redeliver"), &json!({})).await.expect(202);
    assert_eq!(bench.deliver().await, 1);
    assert_eq!(bench.log(&hook).await[0]["status"], "delivered");
    bench.send("POST", &path("other:redeliver"), &json!({})).await.problem(404, "DELIVERY_NOT_FOUND");
    bench.send("POST", &path("ex:1:other"), &json!({})).await.problem(404, "VERB_NOT_FOUND");
}

#[tokio::test]
async fn one_that_is_gone_gets_no_more_until_it_is_activated() {
    let (bench, receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["*"] })).await;
    receiver.answer(StatusCode::GONE);
    bench.publish("a", "one").await;
    bench.deliver().await;
    let state = bench.state(&hook).await;
    assert_eq!((&state["state"], &state["deactivated"]), (&json!("inactive"), &json!("gone")));
    assert_eq!(bench.log(&hook).await[0]["status"], "failed");
    bench.publish("a", "two").await;
    bench.advance(100);
    assert_eq!((bench.deliver().await, bench.log(&hook).await.len()), (0, 1));
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let changed = bench.send("PATCH", &path, &json!({ "active": true })).await.expect(200);
    assert_eq!((&changed["state"], &changed["events"]), (&json!("active"), &json!(["*"])));
    bench.publish("a", "three").await;
    assert_eq!(bench.deliver().await, 1);
    bench.send("DELETE", &path, &json!({})).await.expect(204);
    bench.server.get(&path).await.problem(404, "WEBHOOK_NOT_FOUND");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (bench, mut receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["*"] })).await;
    receiver.answer((StatusCode::TEMPORARY_REDIRECT, [("location", receiver.url.clone())]));
    bench.publish("a", "one").await;
    bench.deliver().await;
    receiver.next().await;
    assert!(receiver.received.try_recv().is_err(), "one request only");
    assert_eq!(bench.log(&hook).await[0]["last"]["error"], "redirects are not followed");
}

#[tokio::test]
async fn inner_addresses_are_refused() {
    let (bench, mut receiver) = (Bench::new().await, Receiver::new().await);
    let hook = bench.hook(json!({ "url": receiver.url, "events": ["*"] })).await;
    let named = receiver.url.replace("127.0.0.1", "localhost");
    bench.hook(json!({ "url": named, "events": ["*"] })).await;
    bench.publish("a", "one").await;
    let clock = bench.clock.clone();
    let strict = Bench::on(bench.store.clone(), clock, HttpPolicy::default(), None).await;
    assert_eq!(strict.deliver().await, 2, "an address, and a name that resolves to one");
    for hook in strict.server.get("/v1/webhooks").await.expect(200)["items"].as_array().unwrap() {
        let log = strict.log(hook).await;
        assert_eq!(log[0]["status"], "failed");
        assert!(log[0]["last"]["error"].as_str().unwrap().contains("not a public address"), "{log:?}");
    }
    assert!(receiver.received.try_recv().is_err());
    for url in ["http://169.254.169.254/", "http://[::1]/", "http://10.0.0.1/", "file:///etc/passwd", "x"] {
        let body = json!({ "url": url });
        let problem = strict.server.post("/v1/webhooks", &body).await.problem(422, "INVALID_REQUEST");
        assert_eq!(crate::pointers(&problem), ["/url"], "{url}");
    }
    let test = format!("/v1/webhooks/{}:test", hook["id"].as_str().unwrap());
    let refused = strict.send("POST", &test, &json!({})).await.expect(200);
    assert_eq!(refused["delivered"], false);
    let tested = bench.send("POST", &test, &json!({})).await.expect(200);
    assert_eq!((&tested["delivered"], &tested["statusCode"]), (&json!(true), &json!(204)));
    assert_eq!(receiver.next().await.event(&hook)["type"], "flowmonkey.webhook.test");
}

#[tokio::test]
async fn a_slow_receiver_holds_up_nobody_else() {
    let gate = Arc::new(Notify::new());
    let (mut slow, mut quick) = (Receiver::with(Some(gate.clone())).await, Receiver::new().await);
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let clock = Arc::new(Hand(AtomicI64::new(1_790_000_000_000)));
    let bench = Bench::on(Arc::new(MemoryStore::default()), clock, loopback(), Some(&tracker)).await;
    bench.hook(json!({ "url": slow.url, "events": ["*"] })).await;
    bench.hook(json!({ "url": quick.url, "events": ["*"] })).await;
    spawn_all(&bench.server.engine, &tracker, &shutdown);
    for number in 0..40 {
        let body = json!({ "name": "a", "id": number.to_string() });
        bench.server.post("/v1/events", &body).await.expect(202);
    }
    for _ in 0..40 {
        quick.next().await;
    }
    slow.next().await;
    let mut at_once = 1;
    while slow.received.try_recv().is_ok() {
        at_once += 1;
    }
    assert!(at_once <= flowmonkey_engine::webhooks::IN_FLIGHT_PER_WEBHOOK_MAX, "{at_once}");
    for _ in 0..40 {
        gate.notify_one();
    }
    shutdown.cancel();
}

#[tokio::test]
async fn ends_and_incidents_are_told_to_those_who_want_them() {
    let (bench, mut receiver) = (Bench::new().await, Receiver::new().await);
    let broken = json!({ "stop": { "type": "fail", "config": { "code": "BROKEN", "message": "no" } } });
    bench.server.post("/v1/flows", &flow("broken", broken)).await.expect(201);
    bench.server.post("/v1/flows", &flow("greet", greet())).await.expect(201);
    let quiet = bench.server.start("broken", json!({})).await;
    let events = bench.server.get("/v1/events").await.expect(200);
    assert_eq!(events["items"], json!([]), "nobody wants to know, nobody pays");

    let hook = bench.hook(json!({ "url": receiver.url })).await;
    assert_eq!(hook["events"], json!(["flowmonkey.execution.failed", "flowmonkey.execution.incident"]));
    bench.server.start("greet", json!({ "name": "x" })).await;
    let failed = bench.server.start("broken", json!({})).await;
    assert_ne!(quiet, failed);
    events::tick(&bench.server.engine).await.unwrap();
    assert_eq!(bench.deliver().await, 1, "a success is not among the defaults");
    let event = receiver.next().await.event(&hook);
    assert_eq!(event["type"], "flowmonkey.execution.failed");
    assert_eq!(event["source"], format!("/executions/{failed}"));
    assert_eq!(event["flowmonkeyexecution"], failed);
    assert_eq!(
        (&event["data"]["status"], &event["data"]["error"]["code"]),
        (&json!("failed"), &json!("BROKEN"))
    );
    let of = bench.server.get(&format!("/v1/executions/{failed}/events")).await.expect(200);
    assert_eq!(of["items"], json!([event]));
}

#[tokio::test]
async fn what_becomes_of_executions_is_told_once_each() {
    let (bench, receiver) = (Bench::new().await, Receiver::new().await);
    let toil = json!({ "toil": { "type": "toil", "outputKey": "done" } });
    bench.server.post("/v1/flows", &flow("toil", toil)).await.expect(201);
    bench.server.post("/v1/flows", &flow("greet", greet())).await.expect(201);
    bench.server.post("/v1/flows", &flow("listen", listen())).await.expect(201);
    let map = json!({ "type": "map", "config": { "items": { "type": "path", "path": "items" },
        "body": { "id": "one", "type": "echo" } } });
    bench.server.post("/v1/flows", &flow("each", json!({ "all": map }))).await.expect(201);
    bench.hook(json!({ "url": receiver.url, "events": ["flowmonkey.execution.*"] })).await;
    let told = async |id: &str| {
        let events = bench.server.get(&format!("/v1/executions/{id}/events")).await.expect(200);
        let kinds = events["items"].as_array().unwrap().iter().map(|event| {
            let name = event["type"].as_str().unwrap();
            let status = event["data"]["status"].as_str().unwrap();
            assert_eq!(event["data"]["executionId"], id);
            format!("{} {status}", name.strip_prefix("flowmonkey.execution.").unwrap())
        });
        let mut kinds: Vec<String> = kinds.collect();
        kinds.reverse();
        kinds
    };
    let done = bench.server.start("greet", json!({ "name": "x" })).await;
    assert_eq!(told(&done).await, ["completed completed"]);
    let each = bench.server.start("each", json!({ "items": [1, 2, 3] })).await;
    assert_eq!(told(&each).await, ["completed completed"]);
    let all = bench.server.get("/v1/events").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 2, "nothing is told of children");

    let waits = bench.server.start("listen", json!({})).await;
    assert_eq!(told(&waits).await, [""; 0]);
    bench.server.post(&format!("/v1/executions/{waits}:cancel"), &json!({})).await.expect(200);
    assert_eq!(told(&waits).await, ["cancelled cancelled"]);

    let stuck = bench.server.start("toil", json!({})).await;
    let engine = &bench.server.engine;
    let lose = async || {
        let id = stuck.parse().unwrap();
        let run = engine.execution(id).await.unwrap().task().unwrap().run.clone();
        let attempt = TaskAttempt { task: run.task, attempt: run.attempt };
        engine.command(id, Command::LeaseLost { attempt, saved_at: None }).await.unwrap();
    };
    let max_lost = EngineConfig::default().limits.max_lost;
    for _ in 0..max_lost {
        assert_eq!(told(&stuck).await, [""; 0]);
        lose().await;
    }
    assert_eq!(told(&stuck).await, ["incident incident"]);
    for verb in ["pause", "resume"] {
        bench.server.post(&format!("/v1/executions/{stuck}:{verb}"), &json!({})).await.expect(200);
    }
    assert_eq!(told(&stuck).await, ["incident incident"], "it is the same incident");
    bench.server.post(&format!("/v1/executions/{stuck}:retry"), &json!({})).await.expect(200);
    for _ in 0..max_lost {
        lose().await;
    }
    assert_eq!(told(&stuck).await, ["incident incident", "incident incident"]);
}

#[tokio::test]
async fn cloud_events_come_in_as_they_go_out() {
    let bench = Bench::new().await;
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "subject": "17",
        "time": "2026-01-02T03:04:05Z", "datacontenttype": "text/plain", "dataschema": "https://schema.example/",
        "data": "paid", "trace": "t", "number": 7,
    });
    let structured = "application/cloudevents+json; charset=utf-8";
    let answer = bench.server.text("/v1/events", structured, &event.to_string()).await.expect(202);
    assert_eq!(answer["created"], true);
    let again = bench.server.text("/v1/events", structured, &event.to_string()).await.expect(202);
    assert_eq!(again, json!({ "id": answer["id"], "created": false }));
    let mut shown = bench.server.get("/v1/events").await.expect(200)["items"][0].clone();
    assert_eq!(shown.as_object_mut().unwrap().shift_remove("flowmonkeyid"), Some(answer["id"].clone()));
    assert_eq!(shown, event);

    // The same id of another source is another event; in binary mode, the data is the body.
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/other%20shop"),
        ("ce-type", "order.paid"),
        ("content-type", "application/octet-stream"),
    ];
    let binary = request("POST", "/v1/events", &headers, Body::from(vec![0xff, 0]));
    assert_eq!(bench.server.send(binary).await.expect(202)["created"], true);
    let shown = bench.server.get("/v1/events?limit=1").await.expect(200);
    let item = &shown["items"][0];
    assert_eq!(
        (&item["source"], &item["data_base64"], item.get("data")),
        (&json!("/other shop"), &json!("/wA="), None)
    );
    let next = shown["nextCursor"].as_str().unwrap();
    let rest = bench.server.get(&format!("/v1/events?limit=1&cursor={next}")).await.expect(200);
    assert_eq!((&rest["items"][0]["source"], &rest["nextCursor"]), (&json!("/shop"), &Value::Null));

    let batch = json!([event, { "specversion": "1.0", "id": "2", "source": "/shop", "type": "b" }]);
    let media = "application/cloudevents-batch+json";
    let answer = bench.server.text("/v1/events", media, &batch.to_string()).await.expect(202);
    assert_eq!(
        (&answer["items"][0]["created"], &answer["items"][1]["created"]),
        (&json!(false), &json!(true))
    );
    let wrong = json!([
        { "specversion": "0.3", "id": "", "type": "flowmonkey.x", "time": "now", "Bad": 1, "list": [] },
        { "specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1, "data_base64": "" }, 7,
    ]);
    let problem =
        bench.server.text("/v1/events", media, &wrong.to_string()).await.problem(422, "INVALID_REQUEST");
    let mut pointers = crate::pointers(&problem);
    pointers.sort_unstable();
    let expected = [
        "/0/Bad",
        "/0/id",
        "/0/list",
        "/0/source",
        "/0/specversion",
        "/0/time",
        "/0/type",
        "/1/data_base64",
        "/2",
    ];
    assert_eq!(pointers, expected);
    let reserved = json!({ "name": "flowmonkey.execution.failed" });
    bench.server.post("/v1/events", &reserved).await.problem(422, "INVALID_REQUEST");
    let large = json!({ "name": "a", "data": "x".repeat(256 * 1024) });
    bench.server.post("/v1/events", &large).await.problem(413, "EVENT_TOO_LARGE");
    bench.server.get("/v1/events?cursor=x&since=y").await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn a_thousand_events_reach_each_of_those_who_wait_once() {
    let bench = Bench::new().await;
    let mut steps = listen();
    steps["hear"]["config"]["match"] = json!("event.data.n == context.n");
    bench.server.post("/v1/flows", &flow("listen", steps)).await.expect(201);
    let mut waiting = Vec::new();
    for number in [0, 499, 500, 999] {
        waiting.push((number, bench.server.start("listen", json!({ "n": number })).await));
    }
    let item = |number: usize| json!({ "specversion": "1.0", "id": number.to_string(), "source": "/s", "type": "rain", "data": { "n": number } });
    for half in [0..500, 500..1000] {
        let batch: Vec<Value> = half.map(item).collect();
        let media = "application/cloudevents-batch+json";
        let answer = bench.server.text("/v1/events", media, &json!(batch).to_string()).await.expect(202);
        assert!(answer["items"].as_array().unwrap().iter().all(|item| item["created"] == true));
    }
    let mut delivered = 0;
    loop {
        let events::Delivered { events } = events::tick(&bench.server.engine).await.unwrap();
        delivered += events;
        if events == 0 {
            break;
        }
    }
    assert_eq!(delivered, 1000);
    for (number, id) in waiting {
        let execution = bench.server.get(&format!("/v1/executions/{id}")).await.expect(200);
        assert_eq!(
            (&execution["status"], &execution["context"]["weather"]["n"]),
            (&json!("completed"), &json!(number))
        );
    }
}
