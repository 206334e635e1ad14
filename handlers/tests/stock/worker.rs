//! The stock handlers in a real worker, by a real queue.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_handlers::StockPolicy;
use flowmonkey_plumbing::api::Plumbing;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::queue::{DispatchQueue, LocalQueue, LocalQueueLimits};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage};
use flowmonkey_worker::{Registry, Worker, WorkerConfig};
use serde_json::{Value, json};

use crate::support::Bench;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn tasks_of_the_stock_handlers_come_back_as_results() {
    let bench = Bench::with_jq();
    let mut registry = Registry::new();
    for handler in bench.handlers() {
        registry.register(Arc::clone(handler)).unwrap();
    }
    let queue = Arc::new(LocalQueue::new(Arc::new(SystemClock), LocalQueueLimits::default()));
    let config = WorkerConfig::new("worker-1");
    let plumbing = Arc::clone(&bench.memory) as Arc<dyn Plumbing>;
    let worker =
        Worker::new(config, registry, Arc::clone(&queue) as _, plumbing, Arc::new(SystemClock)).unwrap();
    let worker = worker.start().unwrap();

    let tasks = [
        (
            "table-insert",
            json!({ "tableId": "t", "mappings": [{ "sourcePath": "", "column": "c" }] }),
            json!(7),
        ),
        ("transform", json!({ "jq": ". * 2" }), json!(21)),
        ("batch-process", json!({ "program": ". + 1" }), json!([1, 2])),
        ("file", json!({ "operation": "read", "path": "x" }), Value::Null),
    ];
    let count = tasks.len();
    let messages = tasks.into_iter().map(|(handler, config, input)| {
        let mut message = bench.task(handler, config, input).message;
        message.task_id = format!("task-{handler}");
        message.step_id = handler.into();
        message
    });
    queue.push(messages.collect()).await.unwrap();
    let results = tokio::time::timeout(PATIENCE, async {
        let mut results: Vec<ResultMessage> = Vec::new();
        while results.len() < count {
            queue.wait_for_results().await;
            let taken = queue.take("engine", count).await.unwrap();
            results.extend(taken.into_iter().map(|taken| taken.result.unwrap()));
        }
        results
    });
    let results = results.await.unwrap();
    let of = |handler: &str| results.iter().find(|result| result.step_id == handler).unwrap();

    let insert = of("table-insert");
    assert_eq!(Value::Object(insert.rows[0].row.clone()), json!({ "c": 7 }));
    assert_eq!(insert.output, Some(json!({ "rowId": insert.rows[0].row_id, "success": true })));
    assert_eq!(of("transform").output, Some(json!(42)));
    assert_eq!(of("batch-process").output.as_ref().unwrap()["processedCount"], 2);
    let refused = of("file");
    assert_eq!(refused.outcome, Outcome::Failure);
    assert_eq!(refused.error.as_ref().unwrap().code, "FILE_FORBIDDEN");
    worker.drain(PATIENCE).await;
}

#[tokio::test]
async fn every_stock_handler_can_be_registered() {
    let mut registry = Registry::new();
    for handler in flowmonkey_handlers::stock(StockPolicy::default()) {
        registry.register(handler).unwrap();
    }
    let types: Vec<&str> = registry.manifests().map(|manifest| manifest.handler_type.as_str()).collect();
    for handler in [
        "http-request",
        "transform",
        "batch-process",
        "command",
        "file",
        "video-processing",
        "table-insert",
        "email",
    ] {
        assert!(types.contains(&handler), "{handler}");
    }
}
