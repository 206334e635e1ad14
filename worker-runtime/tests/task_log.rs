//! What Rust handlers say while they run: `tracing` as log lines, progress with estimates and counters.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

#[expect(dead_code, reason = "each test program uses a part")]
mod support;

use std::sync::Arc;

use flowmonkey_plumbing::api::{Counter, Progress};
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Completion, TaskLogLayer};
use serde_json::json;
use support::{Memory, Probe, config, handler, soon, start, task};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

#[tokio::test]
async fn what_a_handler_traces_is_a_line_of_its_task() {
    let subscriber = tracing_subscriber::registry().with(TaskLogLayer::default());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let talker = handler("talker", None, |task| {
        Box::pin(async move {
            tracing::info!(rows = 3, place = "here", "read {}", "all");
            tracing::debug!("too little to tell");
            tracing::info!(target: "flowmonkey_engine::store", "of the engine");
            tracing::error!("bad");
            async { tracing::warn!("within a span") }.instrument(tracing::info_span!("inner", x = 1)).await;
            task.log(LogLevel::Debug, "said");
            Ok(Completion::Success(None))
        })
    });
    let worker = start(config(), &queue, Arc::clone(&memory), [talker]);
    tracing::info!("of no task");
    queue.queue.push(vec![task("t", "talker")]).await.unwrap();
    soon(queue.queue.wait_for_results()).await;
    let result = queue.queue.take("e", 1).await.unwrap().remove(0).result.unwrap();
    let lines: Vec<_> =
        result.logs.iter().map(|line| (line.line, line.level, line.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            (1, LogLevel::Info, "read all rows=3 place=\"here\""),
            (2, LogLevel::Error, "bad"),
            (3, LogLevel::Warn, "within a span"),
            (4, LogLevel::Debug, "said"),
        ]
    );
    assert_eq!(memory.logs.lock().unwrap().len(), 4, "live, too");
    drop(worker);
}

#[tokio::test]
async fn estimates_and_counters_stay_until_they_change() {
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let counter = |value| Counter { value, total: Some(9.0), unit: None };
    let talker = handler("steady", None, move |task| {
        Box::pin(async move {
            task.set_estimated_completion("2030-01-01T00:00:00Z".to_owned());
            task.set_counter("rows", counter(1.0));
            task.progress(250.0, "far".to_owned());
            task.report(Progress { percent: 7.0, ..Progress::default() });
            task.progress(f64::NAN, None);
            Ok(Completion::output(json!(1)))
        })
    });
    let worker = start(config(), &queue, Arc::clone(&memory), [talker]);
    queue.queue.push(vec![task("t", "steady")]).await.unwrap();
    soon(queue.queue.wait_for_results()).await;
    let said = memory.progress.lock().unwrap().clone();
    let whole = Progress {
        percent: 100.0,
        message: Some("far".into()),
        estimated_completion: Some("2030-01-01T00:00:00Z".into()),
        counters: [("rows".to_owned(), counter(1.0))].into(),
    };
    assert_eq!(said[2], whole);
    assert_eq!(said[3..], [Progress { percent: 7.0, ..Progress::default() }, Progress::default()]);
    drop(worker);
}
