//! A context of 20 MB between an engine, behind HTTP, and a worker: read in parts and as a whole, changed in stages, while the
//! lease is kept.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![expect(clippy::disallowed_methods, reason = "the server lives as long as its test's runtime")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::sync::Arc;

use flowmonkey_core::execution::{Handlers, Status};
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_engine::api::{ApiOptions, router, serve};
use flowmonkey_engine::chores::{collector, reaper};
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{DispatchQueue, LocalQueue, LocalQueueLimits};
use flowmonkey_plumbing::wire::ContextOperation;
use flowmonkey_worker::{Completion, Failure, Registry, Task, Worker, WorkerConfig};
use serde_json::{Value, json};
use support::{PATIENCE, handler, soon};
use tokio_util::sync::CancellationToken;

const ROWS: usize = 200;
const ROW_BYTES: usize = 100_000;

struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        Some(600_000)
    }
}

async fn toil(task: &Task) -> Result<Completion, Failure> {
    let failed = |error| Failure::new("CONTEXT", format!("{error}"));
    assert_eq!((task.context(), task.message.context_url.is_some()), (&json!({}), true));
    let part = task.read_context("rows.r7.name").await.map_err(failed)?;
    assert_eq!(part, Some(json!("row 7")));
    assert_eq!(task.read_context("rows.r7.none").await.map_err(failed)?, None);
    let whole = task.load_context().await.map_err(failed)?;
    let bytes: usize =
        whole["rows"].as_object().unwrap().values().map(|row| row["text"].as_str().unwrap().len()).sum();
    // Each row anew, in patches of 2 MB.
    task.update_context(ContextOperation::Set { path: "first".into(), value: json!(true) });
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(20) {
        let change =
            |n: &usize| ContextOperation::Set { path: format!("rows.r{n}.text"), value: text(n + 1).into() };
        task.stage_context(chunk.iter().map(change).collect()).await.map_err(failed)?;
    }
    task.update_context(ContextOperation::Set { path: "rows.r0.text".into(), value: json!("last") });
    Ok(Completion::output(json!(bytes)))
}

fn text(number: usize) -> String {
    format!("{number:>10}").repeat(ROW_BYTES / 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_are_read_and_changed_and_nothing_is_lost() {
    let clock = Arc::new(SystemClock);
    let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
    let deps = EngineDeps {
        store: Arc::new(MemoryStore::default()),
        queue: queue.clone(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
        handlers: Arc::new(AllHandlers),
        announced: None,
    };
    let mut config = EngineConfig::default();
    config.limits.context.max_total_size = 32 << 20;
    // A lease that does not survive a runtime that hangs for long.
    config.lease = std::time::Duration::from_secs(3);
    config.heartbeat = std::time::Duration::from_secs(1);
    config.limits.context.max_value_size = 32 << 20;
    let engine = Engine::open(deps, config, None).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(serve(listener, router(engine.clone(), ApiOptions::default()), shutdown.clone()));

    let mut registry = Registry::new();
    registry.register(handler("toil", None, |task| Box::pin(toil(task)))).unwrap();
    let plumbing = Arc::new(HttpPlumbing::new(HttpPlumbingConfig::new([url])).unwrap());
    let worker =
        Worker::new(WorkerConfig::new("w-1"), registry, queue.clone(), plumbing.clone(), clock.clone())
            .unwrap();
    let worker = worker.start().unwrap();

    let flow = json!({ "id": "f", "version": "1.0.0", "status": "published", "initialStepId": "do", "steps": {
        "do": { "type": "toil", "input": { "type": "static", "value": 1 }, "outputKey": "bytes",
            "context": ["rows"] } } });
    let flow = parse_flow_value(&flow).unwrap_or_else(|issues| panic!("{issues:?}")).0;
    let row = |n: usize| (format!("r{n}"), json!({ "name": format!("row {n}"), "text": text(n) }));
    let rows: serde_json::Map<String, Value> = (0..ROWS).map(row).collect();
    let start = Start::new(StartFlow::Inline { flow, bundle: Vec::new() }, json!({ "rows": rows }));
    let id = engine.start(start).await.unwrap().id;
    let ended = engine.watchers.end_of(id);
    let collecting = async {
        loop {
            queue.wait_for_results().await;
            assert_eq!(reaper::tick(&engine).await.unwrap().expired, 0, "the lease is kept");
            if collector::tick(&engine).await.unwrap().applied > 0 {
                return;
            }
        }
    };
    soon(Box::pin(collecting)).await;
    let execution = soon(ended).await.unwrap();
    assert_eq!(execution.status(), Status::Completed, "{:?}", execution.error());
    assert_eq!(execution.context["bytes"], json!(ROWS * ROW_BYTES));
    assert_eq!(execution.context["first"], json!(true));
    assert_eq!(execution.context["rows"]["r0"]["text"], json!("last"));
    for n in 1..ROWS {
        assert!(execution.context["rows"][format!("r{n}")]["text"] == json!(text(n + 1)), "row {n}");
        assert_eq!(execution.context["rows"][format!("r{n}")]["name"], json!(format!("row {n}")));
    }
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let (read, sent) = (load(&engine.counters.context_bytes_read), load(&engine.counters.context_bytes_sent));
    assert!(read > 20_000_000 && sent < read / 10, "{sent} of {read}");

    soon(worker.drain(PATIENCE)).await;
    soon(plumbing.close(PATIENCE)).await;
    drop(plumbing);
    shutdown.cancel();
    soon(server).await.unwrap().unwrap();
}
