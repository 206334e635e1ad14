//! What running tasks say: how much of it is stored and told, and how it is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flowmonkey_core::execution::Status;
use flowmonkey_engine::api::{ApiOptions, router};
use flowmonkey_engine::chores::{self, collector};
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::store::{MemoryStore, ProgressStore};
use flowmonkey_engine::talk::spread;
use flowmonkey_engine::watch::Update;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::{Counter, Progress, ProgressApi, TaskAccess};
use flowmonkey_plumbing::broadcast::{Broadcast, LocalBroadcast, Subscription};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_plumbing::wire::{LogLevel, LogLine, Outcome, ResultMessage, TaskMessage};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{AllHandlers, Server, flow, request, work};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A clock that moves when it is told to.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Bench {
    server: Server,
    store: Arc<MemoryStore>,
    queue: Arc<LocalQueue>,
    clock: Arc<Hand>,
    plumbing: EnginePlumbing,
}

impl Bench {
    async fn new() -> Self {
        let clock = Arc::new(Hand(AtomicI64::new(1_790_000_000_000)));
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        Self::on(Arc::default(), queue, clock, "e1").await
    }

    /// Another engine on the same record.
    async fn beside(&self, name: &str) -> Self {
        Self::on(self.store.clone(), self.queue.clone(), self.clock.clone(), name).await
    }

    async fn on(store: Arc<MemoryStore>, queue: Arc<LocalQueue>, clock: Arc<Hand>, name: &str) -> Self {
        let deps = EngineDeps {
            store: store.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllHandlers),
            announced: None,
        };
        let config = EngineConfig { engine_id: name.into(), ..EngineConfig::default() };
        let engine = Engine::open(deps, config, None).await.unwrap();
        let plumbing = EnginePlumbing::new(engine.clone());
        let server = Server {
            router: router(engine.clone(), ApiOptions::default()),
            engine,
            record: Arc::default(),
            queue: queue.clone(),
        };
        Self { server, store, queue, clock, plumbing }
    }

    fn tick(&self, millis: i64) {
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }

    async fn flush(&self) {
        while chores::progress::tick(&self.server.engine).await.unwrap().lines > 0 {}
    }

    async fn claim(&self, max: usize) -> Vec<TaskMessage> {
        let claim = Claim { pool: "toil".into(), worker: "w".into(), max, low_first: false };
        self.queue.claim(claim).await.unwrap().into_iter().map(|claimed| claimed.task).collect()
    }

    /// A task of a flow with one step.
    async fn task(&self) -> TaskMessage {
        self.server.post("/v1/flows", &flow("work", work())).await;
        self.server.start("work", json!({ "a": 1 })).await;
        self.claim(1).await.remove(0)
    }

    fn progress(&self, task: &TaskMessage, percent: f64) {
        self.plumbing.progress(&TaskAccess::from(task), Progress { percent, ..Progress::default() });
    }

    async fn finish(&self, task: &TaskMessage, logs: Vec<LogLine>) {
        let result = ResultMessage {
            logs,
            step_id: task.step_id.clone(),
            execution_id: task.execution_id.clone(),
            ..ResultMessage::new(task.task_id.clone(), task.attempt, Outcome::Success)
        };
        self.queue.finish("toil", "w", vec![result]).await.unwrap();
        assert_eq!(collector::tick(&self.server.engine).await.unwrap().applied, 1);
    }

    async fn get(&self, task: &TaskMessage, rest: &str) -> Value {
        self.server.get(&format!("/v1/executions/{}{rest}", task.execution_id)).await.expect(200)
    }
}

async fn next(updates: &mut Receiver<Update>) -> Update {
    tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap()
}

fn told(updates: &mut Receiver<Update>) -> Vec<Update> {
    std::iter::from_fn(|| updates.try_recv().ok()).collect()
}

fn line(number: u32, message: &str) -> LogLine {
    LogLine { line: number, level: LogLevel::Info, message: message.into(), timestamp: String::new() }
}

#[tokio::test]
async fn ten_thousand_updates_a_second_are_a_row_for_each_task_and_second() {
    let bench = Bench::new().await;
    bench.server.post("/v1/flows", &flow("work", work())).await.expect(201);
    for _ in 0..100 {
        bench.server.start("work", json!({})).await;
    }
    let tasks = bench.claim(100).await;
    assert_eq!(tasks.len(), 100);
    let mut updates = bench.server.engine.watchers.follow();
    let mut live: BTreeMap<String, usize> = BTreeMap::new();
    // A second in steps of ten milliseconds, with a flush where the flusher would do it.
    for round in 0..100_u32 {
        for task in &tasks {
            bench.progress(task, f64::from(round));
        }
        if round % 25 == 24 {
            bench.flush().await;
        }
        bench.tick(10);
        for update in told(&mut updates) {
            let Update::Progress { execution, .. } = update else { panic!("{update:?}") };
            *live.entry(execution.to_string()).or_default() += 1;
        }
    }
    bench.tick(1000);
    bench.flush().await;
    let talk = &bench.server.engine.talk.counters;
    assert_eq!(talk.progress_heard.load(Ordering::Relaxed), 10_000);
    assert_eq!(talk.progress_dropped.load(Ordering::Relaxed), 0);
    let rows = bench.store.dump().progress;
    assert!(rows.len() <= 200, "{} rows: one at once, one after the second", rows.len());
    for task in &tasks {
        let task = task.task_id.parse().unwrap();
        let latest = bench.store.latest_progress(task).await.unwrap().unwrap();
        assert_eq!((latest.progress.percent, latest.step.as_str()), (99.0, "do"));
    }
    assert_eq!(live.len(), 100);
    assert!(live.values().all(|count| (5..=11).contains(count)), "{live:?}");
}

#[tokio::test]
async fn progress_shows_in_the_record_live_and_by_page() {
    let bench = Bench::new().await;
    let task = bench.task().await;
    assert_eq!(bench.get(&task, "").await.get("progress"), None);
    let mut updates = bench.server.engine.watchers.follow();
    let counter = Counter { value: 3.0, total: Some(9.0), unit: Some("rows".into()) };
    let progress = Progress {
        percent: 41.0,
        message: Some("far".into()),
        estimated_completion: Some("2030-01-01T00:00:00Z".into()),
        counters: [("done".to_owned(), counter)].into(),
    };
    bench.plumbing.progress(&TaskAccess::from(&task), progress);
    let shown = json!({ "percent": 41.0, "message": "far", "estimatedCompletion": "2030-01-01T00:00:00Z",
        "counters": { "done": { "value": 3.0, "total": 9.0, "unit": "rows" } },
        "updatedAt": bench.server.engine.now().to_rfc3339() });
    let live = next(&mut updates).await.progress_json().unwrap();
    assert_eq!(
        live,
        json!({ "type": "execution.progress", "executionId": task.execution_id, "stepId": "do", "progress": shown })
    );
    bench.flush().await;
    assert_eq!(bench.get(&task, "").await["progress"], shown);
    bench.tick(1000);
    bench.progress(&task, 50.0);
    bench.flush().await;
    let page = bench.get(&task, "/progress?limit=1").await;
    assert_eq!(page["items"], json!([{ "task": 1, "attempt": 1, "stepId": "do", "progress": shown }]));
    let after = page["nextCursor"].as_str().unwrap();
    let rest = bench.get(&task, &format!("/progress?after={after}")).await;
    assert_eq!(
        (rest["items"][0]["progress"]["percent"].as_f64(), &rest["nextCursor"]),
        (Some(50.0), &Value::Null)
    );
    bench.finish(&task, Vec::new()).await;
    assert_eq!(bench.get(&task, "").await.get("progress"), None, "it has ended");
    let path = format!("/v1/executions/{}/progress?after=x", task.execution_id);
    bench.server.get(&path).await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn lines_that_came_live_and_with_the_result_are_kept_once() {
    let bench = Bench::new().await;
    let task = bench.task().await;
    let access = TaskAccess::from(&task);
    bench.plumbing.log(&access, &line(1, "a"));
    bench.plumbing.log(&access, &line(3, &"c".repeat(20_000)));
    bench.plumbing.log(&access, &line(0, "not counted"));
    bench.plumbing.log(&access, &line(1002, "past the limit"));
    bench.flush().await;
    let lines = async |rest: &str| {
        let page = bench.get(&task, &format!("/logs{rest}")).await;
        let items = page["items"].as_array().unwrap().clone();
        (items.iter().map(|item| item["line"].as_u64().unwrap()).collect::<Vec<_>>(), page)
    };
    assert_eq!(lines("").await.0, [1, 3], "of an attempt that is killed now");
    bench
        .finish(&task, vec![line(1, "a"), line(2, "b"), line(3, "c"), line(1001, "note"), line(1002, "d")])
        .await;
    let (numbers, page) = lines("").await;
    assert_eq!(numbers, [1, 2, 3, 1001]);
    let first = &page["items"][0];
    assert_eq!((&first["stepId"], &first["task"], &first["attempt"]), (&json!("do"), &json!(1), &json!(1)));
    assert_eq!((&first["level"], &first["message"]), (&json!("info"), &json!("a")));
    assert_eq!(page["items"][2]["message"].as_str().unwrap().len(), 16 * 1024);
    let (numbers, page) = lines("?limit=2&task=1&attempt=1").await;
    assert_eq!((numbers, &page["nextCursor"]), (vec![1, 2], &json!("1.1.2")));
    assert_eq!(lines("?after=1.1.2").await.0, [3, 1001]);
    assert_eq!(lines("?task=2").await.0, [0; 0]);

    let foreign = bench.task().await;
    bench.finish(&foreign, vec![line(0, "x"), line(0, "y")]).await;
    let items = bench.get(&foreign, "/logs").await["items"].clone();
    let numbered =
        |item: &Value| (item["line"].as_u64().unwrap(), item["message"].as_str().unwrap().to_owned());
    let items: Vec<_> = items.as_array().unwrap().iter().map(numbered).collect();
    assert_eq!(items, [(1, "x".to_owned()), (2, "y".to_owned())]);
}

#[tokio::test]
async fn followed_lines_come_as_they_are_written_until_the_end() {
    let bench = Bench::new().await;
    let task = bench.task().await;
    let access = TaskAccess::from(&task);
    bench.plumbing.log(&access, &line(1, "before"));
    bench.flush().await;
    let path = format!("/v1/executions/{}/logs?follow=true", task.execution_id);
    let response =
        tower::ServiceExt::oneshot(bench.server.router.clone(), request("GET", &path, &[], Body::empty()))
            .await
            .unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut body = response.into_body().into_data_stream();
    let mut line_of = async || {
        let bytes: Option<Bytes> =
            tokio::time::timeout(PATIENCE, body.next()).await.unwrap().map(Result::unwrap);
        bytes.map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap()["message"].clone())
    };
    assert_eq!(line_of().await.unwrap(), "before");
    bench.plumbing.log(&access, &line(2, "now"));
    bench.flush().await;
    assert_eq!(line_of().await.unwrap(), "now");
    bench.plumbing.log(&access, &line(0, "not counted"));
    assert_eq!(line_of().await.unwrap(), "not counted");
    bench.finish(&task, vec![line(1, "before"), line(2, "now"), line(3, "last")]).await;
    assert_eq!(line_of().await.unwrap(), "last");
    assert_eq!(line_of().await, None);
}

#[tokio::test]
async fn a_map_shows_how_far_its_children_are() {
    let bench = Bench::new().await;
    let body = json!({ "id": "do", "type": "toil" });
    let map = json!({ "type": "map", "config": { "items": { "type": "path", "path": "items" }, "as": "item",
        "maxConcurrency": 8, "body": body } });
    bench.server.post("/v1/flows", &flow("each", json!({ "all": map }))).await.expect(201);
    let id = bench.server.start("each", json!({ "items": [1, 2, 3, 4] })).await;
    let mut updates = bench.server.engine.watchers.follow();
    let tasks = bench.claim(4).await;
    assert_eq!(tasks.len(), 4);
    let shown = async || {
        let record = bench.server.get(&format!("/v1/executions/{id}")).await.expect(200);
        record["progress"]["percent"].as_f64().unwrap()
    };
    assert_eq!(shown().await, 0.0);
    bench.progress(&tasks[0], 50.0);
    bench.flush().await;
    assert_eq!(shown().await, 12.5);
    bench.finish(&tasks[1], Vec::new()).await;
    bench.flush().await;
    assert_eq!(shown().await, 37.5);
    let of_the_map: Vec<Value> = told(&mut updates)
        .iter()
        .filter(|update| matches!(update, Update::Progress { task: None, .. }))
        .filter_map(Update::progress_json)
        .collect();
    let percents: Vec<_> =
        of_the_map.iter().map(|update| update["progress"]["percent"].as_f64().unwrap()).collect();
    assert_eq!(percents, [12.5, 37.5]);
    assert_eq!((&of_the_map[0]["executionId"], &of_the_map[0]["stepId"]), (&json!(id), &json!("all")));
    bench.flush().await;
    assert!(told(&mut updates).is_empty(), "what has not changed is not told again");
}

#[tokio::test]
async fn a_map_of_sub_flows_that_are_maps_shows_how_far_their_tasks_are() {
    let bench = Bench::new().await;
    let map = |path: &str, body: Value| {
        json!({ "all": { "type": "map", "config": { "items": { "type": "path", "path": path }, "as": "item",
            "maxConcurrency": 8, "body": body } } })
    };
    let inner = map("parts", json!({ "id": "do", "type": "toil" }));
    bench.server.post("/v1/flows", &flow("inner", inner)).await.expect(201);
    let sub = json!({ "id": "sub", "type": "sub-flow", "config": { "flowId": "inner" },
        "input": { "type": "static", "value": { "parts": [1, 2, 3, 4] } } });
    bench.server.post("/v1/flows", &flow("outer", map("items", sub))).await.expect(201);
    let id = bench.server.start("outer", json!({ "items": [1, 2] })).await;
    let mut updates = bench.server.engine.watchers.follow();
    let tasks = bench.claim(8).await;
    assert_eq!(tasks.len(), 8);
    let shown = async || {
        let record = bench.server.get(&format!("/v1/executions/{id}")).await.expect(200);
        record["progress"]["percent"].as_f64().unwrap()
    };
    assert_eq!(shown().await, 0.0);
    bench.progress(&tasks[0], 80.0);
    bench.flush().await;
    assert_eq!(shown().await, 10.0);
    bench.finish(&tasks[1], Vec::new()).await;
    bench.flush().await;
    assert_eq!(shown().await, 22.5);
    // Each level is told in a flush of its own.
    for _ in 0..4 {
        bench.flush().await;
    }
    let told = told(&mut updates);
    let mut of_the_root = told.iter().filter_map(|update| {
        let Update::Progress { execution, task: None, progress, .. } = update else { return None };
        (execution.to_string() == id).then_some(progress.percent)
    });
    assert_eq!(of_the_root.next_back(), Some(22.5), "{told:?}");
}

/// Counts what is published.
#[derive(Default)]
struct Counted(LocalBroadcast, AtomicI64);

impl Broadcast for Counted {
    fn publish(&self, message: Bytes) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.publish(message);
    }

    fn subscribe(&self) -> Subscription {
        self.0.subscribe()
    }

    fn dropped(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn watchers_of_any_engine_are_told_of_all() {
    let (tracker, end) = (TaskTracker::new(), CancellationToken::new());
    let counted = Arc::new(Counted::default());
    let broadcast: Arc<dyn Broadcast> = counted.clone();
    let one = Bench::new().await;
    let other = one.beside("e2").await;
    for engine in [&one, &other] {
        spread::join(&engine.server.engine, &broadcast, &tracker, &end);
    }
    let task = one.task().await;
    one.progress(&task, 1.0);
    assert_eq!(counted.1.load(Ordering::SeqCst), 0, "nobody watches");

    let mut here = one.server.engine.watchers.follow();
    let mut there = other.server.engine.watchers.follow();
    // Both have said that they watch as soon as both have heard of an update of the other one.
    let mut percent = 1.0;
    let heard = loop {
        one.tick(100);
        percent += 1.0;
        one.progress(&task, percent);
        match tokio::time::timeout(Duration::from_millis(20), there.recv()).await {
            Ok(update) => break update.unwrap(),
            Err(_) => continue,
        }
    };
    let Update::Progress { step, task: Some(1), progress, .. } = heard else { panic!("{heard:?}") };
    assert_eq!(step.as_deref(), Some("do"));
    assert!(progress.percent > 1.0);
    let own = told(&mut here).len();
    let ended = other.server.engine.watchers.end_of(task.execution_id.parse().unwrap());
    one.plumbing.log(&TaskAccess::from(&task), &line(1, "hello"));
    one.finish(&task, Vec::new()).await;
    let mut said = Vec::new();
    loop {
        match next(&mut there).await {
            Update::Log { line, step, .. } => said.push((line.message, step)),
            Update::Elsewhere { status: Status::Completed, execution, .. } => {
                assert_eq!(execution.to_string(), task.execution_id);
                break;
            }
            Update::Elsewhere { .. } | Update::Progress { .. } => {}
            update @ (Update::Committed(_) | Update::Started { .. } | Update::Missed) => panic!("{update:?}"),
        }
    }
    assert_eq!(said, [("hello".to_owned(), Some(Arc::from("do")))]);
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert_eq!(ended.status(), Status::Completed, "whoever waits at another engine hears of the end");
    assert!(own >= 1);
    let twice = told(&mut here).into_iter().any(|update| matches!(update, Update::Elsewhere { .. }));
    assert!(!twice, "what an engine did itself is not news to it");

    counted.publish(Bytes::from_static(b"{"));
    counted.publish(Bytes::from_static(br#"{"v":9,"engine":"e9","notices":[]}"#));
    let missed = async { while !matches!(there.recv().await.unwrap(), Update::Missed) {} };
    tokio::time::timeout(PATIENCE, missed).await.expect("what a newer engine says may matter");
    end.cancel();
    tracker.close();
    tracker.wait().await;
}
