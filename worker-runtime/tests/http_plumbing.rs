//! A worker that reaches its engine over HTTP: a checkpoint outlives the attempt that saved it, and an attempt that is over
//! saves nothing any more.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![expect(clippy::disallowed_methods, reason = "the server lives as long as its test's runtime")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_core::execution::{Handlers, Status};
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_engine::api::{ApiOptions, router, serve};
use flowmonkey_engine::chores::{collector, reaper};
use flowmonkey_engine::objects::Objects;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_engine::watch::Update;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};
use flowmonkey_worker::{Completion, Failure, Handler, Registry, Task, Worker, WorkerConfig};
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time that moves when the test moves it: that of engine and queue.
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        Some(600_000)
    }
}

/// The first attempt saves, hangs until it has been given up, and saves again; the second goes on from the checkpoint.
struct Resumes {
    manifest: Manifest,
    saved: mpsc::Sender<String>,
    given_up: Arc<Notify>,
    zombie: mpsc::Sender<Result<String, PlumbingError>>,
}

#[async_trait]
impl Handler for Resumes {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        if task.message.attempt == 1 {
            assert_eq!(task.load_checkpoint().await.unwrap(), None);
            let first = task.save_checkpoint(large()).await.unwrap();
            assert_eq!(first.version, 1);
            assert_eq!(task.load_checkpoint().await.unwrap().unwrap().data, large().into());
            let saved = task.save_checkpoint(json!({ "at": 41 })).await.unwrap();
            assert_eq!(saved.version, 2);
            task.progress(41.0, None);
            self.saved.send(saved.id).await.unwrap();
            self.given_up.notified().await;
            let late = task.save_checkpoint(json!({ "at": 1 })).await;
            self.zombie.send(late.map(|saved| saved.id)).await.unwrap();
            return Ok(Completion::output(json!("of the dead")));
        }
        let loaded = task.load_checkpoint().await.unwrap();
        Ok(Completion::output(json!(loaded.map(|checkpoint| checkpoint.data.read::<Value>().unwrap()))))
    }
}

/// More than the record takes, and not JSON.
fn large() -> Vec<u8> {
    (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect()
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

#[tokio::test]
async fn a_checkpoint_outlives_its_attempt_and_a_zombie_saves_nothing() {
    let clock = Arc::new(TestClock(AtomicI64::new(1_767_225_600_000)));
    let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
    let deps = EngineDeps {
        store: Arc::new(MemoryStore::default()),
        queue: queue.clone(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
        handlers: Arc::new(AllHandlers),
        announced: None,
    };
    let objects = Some(Objects::new(Arc::new(InMemory::new())));
    let config = EngineConfig { objects, ..EngineConfig::default() };
    let engine = Engine::open(deps, config, None).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(serve(listener, router(engine.clone(), ApiOptions::default()), shutdown.clone()));

    let (saved, mut was_saved) = mpsc::channel(1);
    let (zombie, mut zombie_said) = mpsc::channel(1);
    let given_up = Arc::new(Notify::new());
    let mut registry = Registry::new();
    let manifest =
        Manifest { handler_type: "resumes".into(), version: "1.0.0".into(), ..Manifest::default() };
    let handler = Resumes { manifest, saved, given_up: given_up.clone(), zombie };
    registry.register(Arc::new(handler)).unwrap();
    let plumbing = Arc::new(HttpPlumbing::new(HttpPlumbingConfig::new([url])).unwrap());
    let worker =
        Worker::new(WorkerConfig::new("w-1"), registry, queue.clone(), plumbing.clone(), clock.clone())
            .unwrap();
    let worker = worker.start().unwrap();

    let mut updates = engine.watchers.follow();
    let flow = json!({ "id": "f", "version": "1.0.0", "status": "published", "initialStepId": "do",
        "steps": { "do": { "type": "resumes", "outputKey": "out" } } });
    let flow = parse_flow_value(&flow).unwrap_or_else(|issues| panic!("{issues:?}")).0;
    let start = Start::new(StartFlow::Inline { flow, bundle: Vec::new() }, json!({}));
    let id = engine.start(start).await.unwrap().id;
    let saved = soon(was_saved.recv()).await.unwrap();

    // What is volatile arrives, too.
    let (mut started, mut progress) = (false, false);
    while !(started && progress) {
        match soon(updates.recv()).await.unwrap() {
            Update::Started { worker, attempt: 1, .. } => started = worker == "w-1",
            Update::Progress { progress: said, .. } => progress = said.percent == 41.0,
            Update::Started { .. }
            | Update::Committed(_)
            | Update::Log { .. }
            | Update::Elsewhere { .. }
            | Update::Missed => {}
        }
    }

    // No heartbeat for longer than the lease: the reaper gives the attempt up, and the next one starts from the checkpoint.
    clock.0.fetch_add(61_000, Ordering::SeqCst);
    assert_eq!(reaper::tick(&engine).await.unwrap().expired, 1);
    let ended = engine.watchers.end_of(id);
    let collecting = async {
        loop {
            soon(flowmonkey_plumbing::queue::DispatchQueue::wait_for_results(&*queue)).await;
            if collector::tick(&engine).await.unwrap().applied > 0 {
                return;
            }
        }
    };
    soon(Box::pin(collecting)).await;
    let execution = soon(ended).await.unwrap();
    assert_eq!((execution.status(), &execution.context["out"]), (Status::Completed, &json!({ "at": 41 })));

    given_up.notify_one();
    let late = soon(zombie_said.recv()).await.unwrap();
    assert!(matches!(late, Err(PlumbingError::Stale { attempt: 1, .. })), "{late:?}");
    assert!(saved.starts_with("cp_"), "{saved}");
    let execution = engine.execution(id).await.unwrap();
    assert_eq!(execution.context["out"], json!({ "at": 41 }));

    soon(worker.drain(PATIENCE)).await;
    soon(plumbing.close(PATIENCE)).await;
    drop(plumbing);
    shutdown.cancel();
    soon(server).await.unwrap().unwrap();
}
