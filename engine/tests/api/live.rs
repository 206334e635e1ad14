//! Live connections, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::{Event, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::access::{Principal, Scope, Visibility};
use flowmonkey_engine::api::{ApiOptions, LiveOptions, router, serve};
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::talk::spread;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::{Progress, ProgressApi, TaskAccess};
use flowmonkey_plumbing::broadcast::{Broadcast, LocalBroadcast};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, LocalQueue, LocalQueueLimits, TaskQueue, WorkerPresence};
use flowmonkey_plumbing::wire::{LogLevel, LogLine, TaskMessage};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::away::Away;
use crate::{AllHandlers, Server, ask, flow, greet, work};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine that is served on a port.
struct Served {
    server: Server,
    queue: Arc<LocalQueue>,
    address: SocketAddr,
    end: CancellationToken,
    tracker: TaskTracker,
}

impl Served {
    async fn new() -> Self {
        Self::with(LiveOptions::default()).await
    }

    async fn with(live: LiveOptions) -> Self {
        let clock = Arc::new(SystemClock);
        let queue = Arc::new(LocalQueue::new(clock, LocalQueueLimits::default()));
        Self::on(Arc::default(), queue, "e1", live).await
    }

    async fn on(record: Arc<Away>, queue: Arc<LocalQueue>, name: &str, live: LiveOptions) -> Self {
        let deps = EngineDeps {
            store: record.clone(),
            queue: queue.clone(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllHandlers),
            announced: None,
        };
        let config = EngineConfig { engine_id: name.into(), shares_record: true, ..EngineConfig::default() };
        let engine = Engine::open(deps, config, None).await.unwrap();
        let (end, tracker) = (CancellationToken::new(), TaskTracker::new());
        let options =
            ApiOptions { shutdown: end.clone(), work: tracker.clone(), live, ..ApiOptions::default() };
        let router = router(engine.clone(), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tracker.spawn(serve(listener, router.clone(), end.clone()));
        let server = Server { engine, record, router, queue: queue.clone() };
        for flow in [flow("greet", greet()), flow("ask", ask()), flow("work", work())] {
            let status = server.post("/v1/flows", &flow).await.status.as_u16();
            assert!(status == 201 || status == 200, "{status}");
        }
        Self { server, queue, address, end, tracker }
    }

    async fn socket(&self) -> Client {
        let (socket, _) = connect_async(format!("ws://{}/v1/ws", self.address)).await.unwrap();
        Client(socket)
    }

    /// An execution that waits, and can be paused and resumed.
    async fn waiting(&self) -> String {
        self.server.start("ask", json!({})).await
    }

    /// So many commits of one event each.
    async fn commits(&self, id: &str, count: usize) {
        let id: ExecutionId = id.parse().unwrap();
        for number in 0..count {
            let command = if number % 2 == 0 { Command::Pause { reason: None } } else { Command::Unpause };
            self.server.engine.command(id, command).await.unwrap();
        }
    }

    async fn history(&self, id: &str) -> Vec<RecordedEvent> {
        self.server.engine.whole_history(id.parse().unwrap()).await.unwrap()
    }

    /// The next task of `work`.
    async fn task(&self) -> TaskMessage {
        let claim = Claim { pool: "toil".into(), worker: "w".into(), max: 1, low_first: false };
        self.queue.claim(claim).await.unwrap().remove(0).task
    }

    /// Ends it; everything that it spawned ends, too.
    async fn close(self) {
        self.end.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.expect("nothing is left behind");
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("something is said")
    }

    /// The next message.
    async fn next(&mut self) -> Value {
        loop {
            match self.frame().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other @ (Message::Binary(_) | Message::Close(_) | Message::Frame(_)) => panic!("{other:?}"),
            }
        }
    }

    async fn subscribe(&mut self, id: &str, filter: Value, resume_from: Option<u64>) -> Value {
        let mut message = json!({ "type": "subscribe", "id": id, "filter": filter });
        if let Some(from) = resume_from {
            message["resumeFrom"] = from.into();
        }
        self.say(message).await;
        self.next().await
    }

    /// Says something that is refused; the code.
    async fn refused(&mut self, message: Value) -> String {
        self.say(message).await;
        let answer = self.next().await;
        assert_eq!(answer["type"], "error", "{answer}");
        assert!(answer["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        answer["code"].as_str().unwrap().to_owned()
    }

    /// Committed events until the one of this sequence.
    async fn events_until(&mut self, last: u64) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        while events.last().and_then(|event| event["seq"].as_u64()) != Some(last) {
            let event = self.next().await;
            if event.get("seq").is_some() {
                events.push(event);
            }
        }
        events
    }

    /// The code it is closed with.
    async fn closed(&mut self) -> CloseCode {
        loop {
            match self.frame().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Whether these are all events of a history behind `from`, in order.
fn assert_whole(events: &[Value], history: &[RecordedEvent], from: u64) {
    let told: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    let recorded: Vec<u64> = history.iter().map(|one| one.sequence).filter(|seq| *seq > from).collect();
    assert_eq!(told, recorded);
    for (event, recorded) in events.iter().zip(history.iter().filter(|one| one.sequence > from)) {
        let own = serde_json::to_value(&recorded.event).unwrap();
        let (_, kind) = event["type"].as_str().unwrap().split_once('.').unwrap();
        assert_eq!((&event["event"], &own["type"]), (&own, &json!(kind)));
        assert_eq!(event["at"], recorded.at.to_rfc3339());
    }
}

#[tokio::test]
async fn an_execution_is_told_from_where_the_client_left_it() {
    let served = Served::new().await;
    let id = served.waiting().await;
    let before = served.history(&id).await.len() as u64;
    assert!(before >= 3, "{before}");
    let mut client = served.socket().await;
    let subscribed = client.subscribe("s", json!({ "executionId": id }), Some(2)).await;
    assert_eq!(subscribed, json!({ "type": "subscribed", "id": "s", "seq": before }));
    served.commits(&id, 40).await;
    let history = served.history(&id).await;
    let last = history.last().unwrap().sequence;
    let events = client.events_until(last).await;
    assert_whole(&events, &history, 2);
    assert!(events.iter().all(|event| event["executionId"] == id && event["flowId"] == "ask"));

    client.say(json!({ "type": "unsubscribe", "id": "s" })).await;
    assert_eq!(client.next().await, json!({ "type": "unsubscribed", "id": "s" }));
    served.commits(&id, 2).await;
    let again = client.subscribe("s", json!({ "executionId": id }), None).await;
    assert_eq!(again["seq"], last + 2, "nothing is told in between");
    served.commits(&id, 1).await;
    assert_eq!(client.next().await["seq"], last + 3, "without `resumeFrom`: what comes");
    client.say(json!({ "type": "ping" })).await;
    assert_eq!(client.next().await, json!({ "type": "pong" }));
    served.close().await;
}

#[tokio::test]
async fn a_tenant_is_told_of_its_own_executions_only() {
    let served = Served::new().await;
    let other = Principal {
        name: "key:test".into(),
        visibility: Visibility::Tenant("other".into()),
        scopes: Scope::ALL.into(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = served.server.router.clone().layer(axum::Extension(other));
    served.tracker.spawn(serve(listener, router, served.end.clone()));
    let start = async |tenant: &str| {
        let body = json!({ "flowId": "ask", "tenantId": tenant });
        served.server.post("/v1/executions", &body).await.expect(202)["id"].as_str().unwrap().to_owned()
    };
    for tenant in ["acme", "other"] {
        let path = format!("/v1/flows?tenantId={tenant}");
        served.server.post(&path, &flow("ask", ask())).await.expect(201);
    }
    let foreign = start("acme").await;
    let (socket, _) = connect_async(format!("ws://{address}/v1/ws")).await.unwrap();
    let mut client = Client(socket);
    for id in [foreign.as_str(), "ex_0192000000007000800000000000ffff"] {
        let subscribe = json!({ "type": "subscribe", "id": "s", "filter": { "executionId": id } });
        assert_eq!(client.refused(subscribe).await, "EXECUTION_NOT_FOUND");
    }
    client.subscribe("all", json!({}), None).await;
    served.commits(&foreign, 4).await;
    let own = start("other").await;
    served.commits(&own, 2).await;
    let last = served.history(&own).await.last().unwrap().sequence;
    let events = client.events_until(last).await;
    assert!(!events.is_empty() && events.iter().all(|event| event["executionId"] == own), "{events:?}");
    served.close().await;
}

#[tokio::test]
async fn what_was_not_heard_is_read() {
    let clock = Arc::new(SystemClock);
    let queue = Arc::new(LocalQueue::new(clock, LocalQueueLimits::default()));
    let record = Arc::<Away>::default();
    let one = Served::on(record.clone(), queue.clone(), "e1", LiveOptions::default()).await;
    let other = Served::on(record, queue, "e2", LiveOptions::default()).await;
    let id = one.waiting().await;
    let (mut exact, mut wide) = (one.socket().await, one.socket().await);
    exact.subscribe("s", json!({ "executionId": id }), Some(0)).await;
    wide.subscribe("all", json!({}), None).await;
    // Nobody tells this engine what the other one does: it is looked for.
    other.commits(&id, 6).await;
    let history = one.history(&id).await;
    let last = history.last().unwrap().sequence;
    assert_whole(&exact.events_until(last).await, &history, 0);
    // A gap: what was done elsewhere before is read, too. Whoever watches all is told once more what was missed.
    one.commits(&id, 2).await;
    let history = one.history(&id).await;
    assert_whole(&exact.events_until(last + 2).await, &history, last);

    // From now on they talk to each other.
    let broadcast: Arc<dyn Broadcast> = Arc::new(LocalBroadcast::default());
    for engine in [&one, &other] {
        spread::join(&engine.server.engine, &broadcast, &engine.tracker, &engine.end);
    }
    let mut told = last + 2;
    assert_eq!(wide.events_until(told).await.len(), 2);
    // Once it is known there that somebody watches here, a snapshot comes.
    let snapshot = loop {
        other.commits(&id, 2).await;
        if let Ok(Some(Ok(Message::Text(text)))) =
            tokio::time::timeout(Duration::from_millis(100), wide.0.next()).await
        {
            break serde_json::from_str::<Value>(&text).unwrap();
        }
    };
    let now = one.history(&id).await.last().unwrap().sequence;
    assert_eq!((&snapshot["type"], &snapshot["executionId"]), (&json!("snapshot"), &json!(id)));
    assert_eq!(snapshot["flowId"], "ask");
    // After the first of the two commits, or after both.
    assert!(["paused", "waiting"].contains(&snapshot["status"].as_str().unwrap()), "{snapshot}");
    assert!((told..=now).contains(&snapshot["seq"].as_u64().unwrap()), "{snapshot}");
    assert_whole(&exact.events_until(now).await, &one.history(&id).await, told);
    told = now;

    // A connection to the others that was lost.
    broadcast.publish(bytes::Bytes::from_static(br#"{"v":9,"engine":"e9","notices":[]}"#));
    let missed = async { while wide.next().await != json!({ "type": "missed", "id": "all" }) {} };
    tokio::time::timeout(PATIENCE, missed).await.unwrap();
    one.commits(&id, 1).await;
    assert_eq!(exact.events_until(told + 1).await.len(), 1, "none twice");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody_and_misses_nothing() {
    let served = Served::new().await;
    let slow_id = served.waiting().await;
    let mut slow = served.socket().await;
    slow.subscribe("s", json!({ "executionId": slow_id, "children": true }), Some(0)).await;
    let mut wide = served.socket().await;
    wide.subscribe("all", json!({ "types": ["execution.*"] }), None).await;
    let mut quick = served.socket().await;
    let quick_id = served.waiting().await;
    quick.subscribe("s", json!({ "executionId": quick_id }), None).await;
    // Far more than any buffer holds, while neither of the two reads.
    let reason = "x".repeat(20_000);
    let id: ExecutionId = slow_id.parse().unwrap();
    for _ in 0..600 {
        let pause = Command::Pause { reason: Some(reason.clone()) };
        served.server.engine.command(id, pause).await.unwrap();
        served.server.engine.command(id, Command::Unpause).await.unwrap();
    }
    served.commits(&quick_id, 1).await;
    assert_eq!(quick.next().await["type"], "execution.paused");
    let history = served.history(&slow_id).await;
    assert!(history.len() > 1200);
    let last = history.last().unwrap().sequence;
    assert_whole(&slow.events_until(last).await, &history, 0);

    let mut seen = 0;
    let mut snapshots = 0;
    while seen < last {
        let message = wide.next().await;
        if message["executionId"] != json!(slow_id) {
            continue;
        }
        let sequence = message["seq"].as_u64().unwrap();
        assert!(sequence > seen, "never back: {message}");
        if message["type"] == "snapshot" {
            assert_eq!((&message["currentStepId"], &message["flowId"]), (&json!("approve"), &json!("ask")));
            snapshots += 1;
        } else {
            assert_eq!(sequence, seen.max(sequence - 1) + 1);
        }
        seen = sequence;
    }
    assert!(snapshots > 0, "what it had no room for is a snapshot");
    served.close().await;
}

#[tokio::test]
async fn filters_choose_and_volatile_events_come_as_they_happen() {
    let served = Served::new().await;
    let mut client = served.socket().await;
    let types = json!(["execution.created", "execution.progress", "task.log", "step.started"]);
    client.subscribe("w", json!({ "flowId": "work", "types": types }), None).await;
    let mut one = served.socket().await;
    served.waiting().await;
    let id = served.server.start("work", json!({})).await;
    let created = client.next().await;
    assert_eq!((&created["type"], &created["executionId"]), (&json!("execution.created"), &json!(id)));
    one.subscribe("s", json!({ "executionId": id, "types": ["execution.progress"] }), None).await;

    let task = served.task().await;
    let (plumbing, access) = (EnginePlumbing::new(served.server.engine.clone()), TaskAccess::from(&task));
    let progress = Progress { percent: 40.0, message: Some("far".into()), ..Progress::default() };
    plumbing.progress(&access, progress);
    for client in [&mut client, &mut one] {
        let told = client.next().await;
        let at = told["progress"]["updatedAt"].clone();
        assert_eq!(
            told,
            json!({ "type": "execution.progress", "executionId": id, "stepId": "do",
                "progress": { "percent": 40.0, "message": "far", "updatedAt": at } })
        );
    }
    let line = LogLine { line: 1, level: LogLevel::Warn, message: "hot".into(), timestamp: String::new() };
    plumbing.log(&access, &line);
    let told = client.next().await;
    assert_eq!(
        (&told["type"], &told["message"], &told["line"]),
        (&json!("task.log"), &json!("hot"), &json!(1))
    );
    assert_eq!((&told["stepId"], &told["level"], told.get("seq")), (&json!("do"), &json!("warn"), None));
    served.close().await;
}

#[tokio::test]
async fn queues_and_workers_are_told_while_somebody_asks() {
    let served = Served::new().await;
    let presence =
        WorkerPresence { worker: "w1".into(), pools: vec!["toil".into()], slots: 2, ..Default::default() };
    served.queue.announce(&presence).await.unwrap();
    served.server.start("work", json!({})).await;
    let mut client = served.socket().await;
    client.subscribe("b", json!({ "types": ["queue.depth", "worker.*"] }), None).await;
    let (mut depth, mut worker) = (Value::Null, Value::Null);
    while depth.is_null() || worker.is_null() {
        let told = client.next().await;
        match told["type"].as_str().unwrap() {
            "queue.depth" => depth = told,
            "worker.joined" => worker = told,
            other => panic!("{other}"),
        }
    }
    assert_eq!((&depth["handler"], &depth["ready"]["normal"]), (&json!("toil"), &json!(1)));
    assert_eq!((&worker["worker"]["worker"], &worker["worker"]["slots"]), (&json!("w1"), &json!(2)));
    served.close().await;
}

#[tokio::test]
async fn resume_tokens_are_not_shown() {
    let served = Served::new().await;
    let id = served.server.start("work", json!({})).await;
    let task = served.task().await;
    let mut client = served.socket().await;
    client.subscribe("s", json!({ "executionId": id }), Some(0)).await;
    let wait = flowmonkey_plumbing::wire::ResultMessage {
        execution_id: task.execution_id.clone(),
        step_id: task.step_id.clone(),
        resume_token: Some("sesame".into()),
        wait_reason: Some("for an answer".into()),
        ..flowmonkey_plumbing::wire::ResultMessage::new(
            task.task_id.clone(),
            task.attempt,
            flowmonkey_plumbing::wire::Outcome::Wait,
        )
    };
    served.queue.finish("toil", "w", vec![wait]).await.unwrap();
    assert_eq!(flowmonkey_engine::chores::collector::tick(&served.server.engine).await.unwrap().applied, 1);
    let history = served.history(&id).await;
    let has_token = serde_json::to_string(&history).unwrap().contains("sesame");
    assert!(has_token && history.iter().any(|one| matches!(one.event, Event::WaitBegan(_))));
    // Live, and read from the record.
    let live = client.events_until(history.len() as u64).await;
    client.say(json!({ "type": "unsubscribe", "id": "s" })).await;
    client.next().await;
    client.subscribe("s", json!({ "executionId": id }), Some(0)).await;
    let read = client.events_until(history.len() as u64).await;
    for events in [live, read] {
        assert_eq!(events.len(), history.len());
        let text = serde_json::to_string(&events).unwrap();
        assert!(text.contains("for an answer") && !text.contains("sesame"), "{text}");
    }
    served.close().await;
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let served = Served::new().await;
    let id = served.waiting().await;
    let last = served.history(&id).await.len() as u64;
    let mut client = served.socket().await;
    let subscribe = |id: &str, filter: Value| json!({ "type": "subscribe", "id": id, "filter": filter });
    client.subscribe("s", json!({ "executionId": id }), None).await;
    let unknown = ExecutionId::from_uuid(uuid::Uuid::from_u128(7));
    for (message, code) in [
        (json!({ "type": "shout" }), "INVALID_MESSAGE"),
        (json!([1]), "INVALID_MESSAGE"),
        (subscribe("t", json!({ "tenant": "x" })), "INVALID_MESSAGE"),
        (subscribe("t", json!({ "types": ["nothing"] })), "INVALID_MESSAGE"),
        (subscribe("s", json!({})), "SUBSCRIPTION_EXISTS"),
        (subscribe("t", json!({ "executionId": id })), "SUBSCRIPTION_EXISTS"),
        (subscribe("t", json!({ "executionId": unknown })), "EXECUTION_NOT_FOUND"),
        (json!({ "type": "unsubscribe", "id": "t" }), "SUBSCRIPTION_NOT_FOUND"),
    ] {
        assert_eq!(client.refused(message.clone()).await, code, "{message}");
    }
    client.say(json!({ "type": "unsubscribe", "id": "s" })).await;
    client.next().await;
    let mut ahead = subscribe("s", json!({ "executionId": id }));
    ahead["resumeFrom"] = (last + 1).into();
    assert_eq!(client.refused(ahead).await, "RESUME_AHEAD");
    for number in 0..64 {
        client.subscribe(&format!("n{number}"), json!({}), None).await;
    }
    assert_eq!(client.refused(subscribe("more", json!({}))).await, "SUBSCRIPTION_LIMIT");
    // It has been refused often, and goes on.
    for _ in 0..32 {
        client.0.send(Message::text("{")).await.unwrap();
    }
    assert_eq!(client.closed().await, CloseCode::Policy);

    let mut long = served.socket().await;
    long.0.send(Message::text("x".repeat(20_000))).await.unwrap();
    assert!(!matches!(long.frame().await, Some(Ok(Message::Text(_)))));
    let mut binary = served.socket().await;
    binary.0.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(binary.closed().await, CloseCode::Unsupported);
    served.close().await;
}

#[tokio::test]
async fn connections_are_limited_and_pages_of_others_are_refused() {
    let served = Served::with(LiveOptions { connections_max: 1, ..LiveOptions::default() }).await;
    let url = format!("ws://{}/v1/ws", served.address);
    let mut foreign = url.as_str().into_client_request().unwrap();
    foreign.headers_mut().insert("origin", "https://elsewhere.example".parse().unwrap());
    let Err(Error::Http(answer)) = connect_async(foreign).await else { panic!("it was let in") };
    assert_eq!(answer.status(), 403);
    let code = |answer: &[u8]| serde_json::from_slice::<Value>(answer).unwrap()["code"].clone();
    assert_eq!(code(answer.body().as_ref().unwrap()), "ORIGIN_NOT_ALLOWED");

    let mut own = url.as_str().into_client_request().unwrap();
    own.headers_mut().insert("origin", format!("http://{}", served.address).parse().unwrap());
    let offer = "flowmonkey.v1, flowmonkey.bearer.key";
    own.headers_mut().insert("sec-websocket-protocol", offer.parse().unwrap());
    let (client, answer) = connect_async(own).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "flowmonkey.v1", "the key is not answered");

    let Err(Error::Http(answer)) = connect_async(&url).await else { panic!("it was let in") };
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    served.server.get("/v1/stream").await.problem(429, "TOO_MANY_CONNECTIONS");
    drop(client);
    let let_in = async {
        while connect_async(&url).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, let_in).await.expect("there is room again");
    served.server.get("/v1/ws").await.problem(400, "WEBSOCKET_EXPECTED");
    served.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_given_up() {
    let served =
        Served::with(LiveOptions { ping_every: Duration::from_millis(50), ..LiveOptions::default() }).await;
    // It is not read here, so that no ping is answered.
    let mut silent = served.socket().await;
    let MaybeTlsStream::Plain(stream) = silent.0.get_mut() else { panic!("no TLS") };
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let pings = bytes.iter().filter(|byte| **byte == 0x89).count();
    assert_eq!(pings, 2, "{bytes:x?}");
    // One that answers stays.
    let mut lively = served.socket().await;
    let mut heard = 0;
    while heard < 6 {
        if let Message::Ping(_) = lively.frame().await.unwrap().unwrap() {
            heard += 1;
        }
    }
    served.end.cancel();
    assert_eq!(lively.closed().await, CloseCode::Away);
    served.close().await;
}

/// A stream of server-sent events.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(served: &Served, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", served.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self(BufReader::new(stream));
        assert_eq!(events.line().await.unwrap(), "HTTP/1.1 200 OK");
        let mut is_stream = false;
        loop {
            let header = events.line().await.unwrap();
            is_stream |= header == "content-type: text/event-stream";
            if header.is_empty() {
                break;
            }
        }
        assert!(is_stream);
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.unwrap();
        (read.unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event, with its id; none: the stream has ended.
    async fn next(&mut self) -> Option<(Option<u64>, Value)> {
        let mut id = None;
        loop {
            let line = self.line().await?;
            if let Some(number) = line.strip_prefix("id: ") {
                id = Some(number.parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((id, serde_json::from_str(data).unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn server_sent_events_are_the_same_and_resume() {
    let served =
        Served::with(LiveOptions { ping_every: Duration::from_millis(50), ..LiveOptions::default() }).await;
    let id = served.waiting().await;
    let path = format!("/v1/executions/{id}/stream");
    let before = served.history(&id).await.len() as u64;
    let mut events = Events::open(&served, &format!("{path}?resumeFrom=0"), "").await;
    assert_eq!(
        events.next().await.unwrap(),
        (None, json!({ "type": "subscribed", "id": "stream", "seq": before }))
    );
    served.commits(&id, 3).await;
    let history = served.history(&id).await;
    let mut told = Vec::new();
    for _ in &history {
        let (id, event) = events.next().await.unwrap();
        assert_eq!(id, event["seq"].as_u64());
        told.push(event);
    }
    assert_whole(&told, &history, 0);
    while events.line().await.unwrap() != ": still here" {}

    let mut again = Events::open(&served, &format!("{path}?resumeFrom=0"), "Last-Event-ID: 4\r\n").await;
    assert_eq!(again.next().await.unwrap().1["type"], "subscribed");
    assert_eq!(again.next().await.unwrap().0, Some(5), "what the client has seen counts");
    let mut all = Events::open(&served, "/v1/stream?flowId=greet&types=execution.completed", "").await;
    assert_eq!(all.next().await.unwrap().1, json!({ "type": "subscribed", "id": "stream" }));
    let other = served.server.start("greet", json!({ "name": "n" })).await;
    let (place, completed) = all.next().await.unwrap();
    assert_eq!(
        (place, &completed["executionId"]),
        (None, &json!(other)),
        "sequences are those of one execution"
    );
    assert_eq!(
        (&completed["type"], &completed["status"]),
        (&json!("execution.completed"), &json!("completed"))
    );

    served.server.get(&format!("{path}?types=x")).await.problem(422, "INVALID_PARAMETER");
    served.server.get(&format!("{path}?resumeFrom=99")).await.problem(409, "RESUME_AHEAD");
    let unknown = ExecutionId::from_uuid(uuid::Uuid::from_u128(7));
    served.server.get(&format!("/v1/executions/{unknown}/stream")).await.problem(404, "EXECUTION_NOT_FOUND");
    served.end.cancel();
    while events.line().await.is_some() {}
    served.close().await;
}

#[tokio::test]
async fn nobody_who_watches_costs_nothing() {
    let served = Served::new().await;
    let mut client = served.socket().await;
    let updates = &served.server.engine.watchers;
    assert_eq!(updates.followers(), 0, "a connection that asked for nothing");
    client.subscribe("a", json!({}), None).await;
    let mut other = served.socket().await;
    other.subscribe("a", json!({}), None).await;
    assert_eq!(updates.followers(), 1, "one for all connections");
    client.say(json!({ "type": "unsubscribe", "id": "a" })).await;
    client.next().await;
    drop(other);
    let gone = async {
        while updates.followers() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    client.subscribe("a", json!({}), None).await;
    served.waiting().await;
    assert_eq!(client.next().await["type"], "execution.created", "it begins anew");
    served.close().await;
}
