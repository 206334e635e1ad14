//! Several engines on one record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_engine::chores::collector;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::{MemoryStore, PostgresOptions, PostgresStore, Store};
use flowmonkey_engine::{Engine, EngineError};
use flowmonkey_plumbing::queue::{Claim, TaskQueue};
use flowmonkey_test_support::Postgres;
use serde_json::{Value, json};

use crate::fused::Fused;
use crate::{Bench, WORK, echo, flow, parsed, sqlite};

fn chain(length: usize) -> Value {
    let mut steps = serde_json::Map::new();
    for number in 0..length {
        let mut step = json!({ "type": "work" });
        if number + 1 < length {
            step["transitions"] = json!({ "onSuccess": format!("s{:02}", number + 1) });
        }
        steps.insert(format!("s{number:02}"), step);
    }
    flow("chain", Value::Object(steps))
}

#[tokio::test]
async fn an_old_copy_in_memory_refuses_nothing() {
    let bench = Bench::new().await;
    bench.publish(chain(2)).await;
    let other = bench.another("other").await;
    let id = bench.start("chain", json!({})).await;
    let lost = bench.claim().await.remove(0);
    // The other engine finds the lease lost; this one still has the first attempt in memory.
    other
        .command(id, Command::LeaseLost { attempt: TaskAttempt { task: 1, attempt: 1 }, saved_at: None })
        .await
        .unwrap();
    let task = bench.claim().await.remove(0);
    assert_eq!((lost.attempt, task.attempt), (1, 2));
    bench.finish(vec![echo(&task)]).await;
    let collected = collector::tick(&bench.engine).await.unwrap();
    assert_eq!(collected, collector::Collected { applied: 1, refused: 0 });
    bench.work(echo).await;
    bench.expect(id, Status::Completed).await;
}

#[tokio::test]
async fn a_conflict_does_not_leave_a_second_child_behind() {
    let bench = Bench::new().await;
    bench.publish(flow("leaf", json!({ "do": { "type": "work" } }))).await;
    bench
        .publish(flow(
            "parent",
            json!({
                "first": { "type": "work", "transitions": { "onSuccess": "side" } },
                "side": {
                    "type": "sub-flow",
                    "config": { "flowId": "leaf", "waitForCompletion": false, "onParentClose": "abandon" },
                },
            }),
        ))
        .await;
    // Ids of children hold the time.
    bench.clock.creep(1);
    let other = bench.another("other").await;
    let id = bench.start("parent", json!({})).await;
    let task = bench.claim().await.remove(0);
    other.command(id, Command::Pause { reason: None }).await.unwrap();
    other.command(id, Command::Unpause).await.unwrap();
    bench.finish(vec![echo(&task)]).await;
    assert_eq!(collector::tick(&bench.engine).await.unwrap().applied, 1);
    assert_eq!(bench.engine.counters.conflicts.load(Ordering::Relaxed), 1, "the race that is tested");
    bench.work(echo).await;
    let leaves = bench.all().await.into_iter().filter(|one| one.flow_id == "leaf").count();
    assert_eq!(leaves, 1);
    assert_eq!(bench.statuses().await, [("completed", 2)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_starts_under_one_key_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::on(sqlite(&directory).await).await;
    bench.publish(chain(1)).await;
    let engines = [bench.engine.clone(), bench.another("other").await];
    let starts: Vec<_> = (0..100)
        .map(|number| {
            let engine = engines[number % 2].clone();
            let published = StartFlow::Published { id: "chain".into(), version: None };
            let key = Some("order-1".to_owned());
            let start = Start { idempotency_key: key, ..Start::new(published, json!({ "n": number % 3 })) };
            tokio::spawn(async move { engine.start(start).await.unwrap() })
        })
        .collect();
    let mut ids = BTreeSet::new();
    let mut created = 0;
    for start in starts {
        let started = start.await.unwrap();
        ids.insert(started.id);
        created += usize::from(started.created);
    }
    assert_eq!((ids.len(), created), (1, 1));
    assert_eq!(bench.all().await.len(), 1);
}

async fn worker(bench: Arc<Bench>, name: String, done: Arc<AtomicBool>) {
    while !done.load(Ordering::SeqCst) {
        let claim = Claim { pool: "work".into(), worker: name.clone(), max: 7, low_first: false };
        let tasks = bench.queue.claim(claim).await.unwrap();
        let results = tasks.iter().map(|claimed| echo(&claimed.task)).collect();
        bench.queue.finish("work", &name, results).await.unwrap();
        tokio::task::yield_now().await;
    }
}

async fn collects(engine: Arc<Engine>, done: Arc<AtomicBool>, applied: Arc<AtomicUsize>) {
    let mut collector = collector::Collector::default();
    while !done.load(Ordering::SeqCst) {
        applied.fetch_add(collector.tick(&engine).await.unwrap().applied, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_engines_share_thousands_of_commands_and_lose_none() {
    const EXECUTIONS: usize = 150;
    const STEPS: usize = 8;
    let bench = Arc::new(Bench::new().await);
    bench.publish(chain(STEPS)).await;
    let engines = [bench.engine.clone(), bench.another("other").await];
    let done = Arc::new(AtomicBool::new(false));
    let applied = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for (number, engine) in engines.iter().enumerate() {
        tasks.push(tokio::spawn(worker(bench.clone(), format!("w{number}"), done.clone())));
        tasks.push(tokio::spawn(collects(engine.clone(), done.clone(), applied.clone())));
    }
    let mut ids = Vec::new();
    for number in 0..EXECUTIONS {
        let published = StartFlow::Published { id: "chain".into(), version: None };
        ids.push(engines[number % 2].start(Start::new(published, json!({}))).await.unwrap().id);
    }
    // People interfere: each execution is paused by one engine and resumed by the other, again and again.
    let mut rounds = 0;
    loop {
        let mut left = 0;
        for (number, id) in ids.iter().enumerate() {
            let (one, two) = (&engines[(number + rounds) % 2], &engines[(number + rounds + 1) % 2]);
            let paused = one.command(*id, Command::Pause { reason: None }).await.is_ok();
            let resumed = two.command(*id, Command::Unpause).await.is_ok();
            assert_eq!(paused, resumed, "who is paused can be resumed");
            left += usize::from(!bench.get(*id).await.is_terminal());
        }
        rounds += 1;
        if left == 0 {
            break;
        }
        assert!(rounds < 10_000, "{left} are left");
    }
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(bench.statuses().await, [("completed", EXECUTIONS)].into());
    let rows = bench.rows().await;
    assert_eq!(rows.len(), EXECUTIONS * STEPS);
    assert!(rows.values().all(|count| *count == 1));
    assert!(applied.load(Ordering::SeqCst) >= EXECUTIONS * STEPS);
    for id in ids {
        let execution = bench.get(id).await;
        assert_eq!(execution.step_count as usize, STEPS);
        let history = bench.engine.whole_history(id).await.unwrap();
        let sequences: Vec<u64> = history.iter().map(|recorded| recorded.sequence).collect();
        assert_eq!(sequences, (1..=execution.events).collect::<Vec<_>>(), "no fact is lost or doubled");
    }
}

/// Starts flows on an engine whose look-ups are counted, while another engine publishes.
struct Versions {
    fused: Arc<Fused>,
    bench: Bench,
    other: Arc<Engine>,
    others: Arc<dyn Store>,
}

impl Versions {
    /// The engines have a record each, which is the same one.
    async fn over(ours: Arc<dyn Store>, others: Arc<dyn Store>) -> Self {
        let fused = Arc::new(Fused::new(ours, i64::MAX));
        let bench = Bench::on(fused.clone()).await;
        let other = Bench::on(others.clone()).await.engine;
        Self { fused, bench, other, others }
    }

    async fn in_memory() -> Self {
        let store = Arc::new(MemoryStore::default());
        Self::over(store.clone(), store).await
    }

    /// The other engine publishes a version of a flow.
    async fn publish(&self, version: &str, with: Value) {
        let mut flow = flow("work", json!({ "do": { "type": WORK } }));
        flow["version"] = version.into();
        flow.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        self.other.publish(&parsed(&flow)).await.unwrap();
    }

    /// The version that starts, and how many looks that took.
    async fn start(&self, exact: Option<&str>) -> Result<(String, usize), EngineError> {
        self.fused.take_sizes();
        let flow = StartFlow::Published { id: "work".into(), version: exact.map(Into::into) };
        let started = self.bench.engine.start(Start::new(flow, json!({ "float": 0.1 }))).await?;
        assert!(started.created);
        let execution = self.bench.get(started.id).await;
        assert_eq!(execution.context["float"], json!(0.1));
        Ok((execution.identity.flow.version.clone(), self.fused.take_sizes().lookups))
    }

    async fn expect(&self, exact: Option<&str>, version: &str, looks: usize) {
        assert_eq!(self.start(exact).await.unwrap(), (version.into(), looks));
    }
}

/// What an exact version means never changes; which version is the latest does, with each publication, by whichever engine. A start
/// that is asked for after a publication was answered is of the new version.
#[tokio::test]
async fn a_flow_is_looked_up_once_until_flows_change() {
    let database = Postgres::shared().await.database().await;
    let options = PostgresOptions { connections: 3, ..PostgresOptions::new(database.url()) };
    let postgres = async || {
        PostgresStore::migrate(&options).await.unwrap();
        PostgresStore::connect(options.clone()).await.unwrap()
    };
    let (ours, others) = (postgres().await, postgres().await);
    let over_postgres = Versions::over(Arc::new(ours.clone()), Arc::new(others.clone())).await;
    for engines in [Versions::in_memory().await, over_postgres] {
        assert!(
            matches!(engines.start(Some("1.0.0")).await, Err(EngineError::FlowNotFound(_))),
            "it is not published yet"
        );
        engines.publish("1.0.0", json!({})).await;
        engines.expect(Some("1.0.0"), "1.0.0", 1).await;
        engines.expect(Some("1.0.0"), "1.0.0", 0).await;
        engines.expect(None, "1.0.0", 1).await;
        for round in 1..20 {
            let before = format!("1.{}.0", round - 1);
            engines.expect(None, &before, 0).await;
            engines.expect(None, &before, 0).await;
            let now = format!("1.{round}.0");
            engines.publish(&now, json!({})).await;
            engines.expect(None, &now, 1).await;
        }
        engines.expect(Some("1.0.0"), "1.0.0", 0).await;
        engines.others.archive_flow(None, "work", Some("1.19.0"), true).await.unwrap();
        engines.expect(None, "1.18.0", 1).await;
        engines.expect(None, "1.18.0", 0).await;
        engines.others.archive_flow(None, "work", None, true).await.unwrap();
        assert!(engines.start(None).await.is_err(), "all are archived");
        engines.others.archive_flow(None, "work", Some("1.7.0"), false).await.unwrap();
        engines.expect(None, "1.7.0", 1).await;
    }
    ours.close().await;
    others.close().await;
}

#[tokio::test]
async fn a_version_that_was_replaced_refuses_nothing() {
    let engines = Versions::in_memory().await;
    engines.publish("1.0.0", json!({})).await;
    engines.expect(None, "1.0.0", 1).await;
    let demanding = json!({ "inputSchema": { "type": "object", "required": ["name"] } });
    engines.publish("1.1.0", demanding).await;
    for _ in 0..2 {
        assert!(matches!(engines.start(None).await, Err(EngineError::Start(_))));
    }
    engines.publish("1.2.0", json!({})).await;
    engines.expect(None, "1.2.0", 1).await;
}

#[tokio::test]
async fn a_start_under_a_key_is_the_same_one_after_flows_have_changed() {
    let engines = Versions::in_memory().await;
    engines.publish("1.0.0", json!({})).await;
    engines.expect(None, "1.0.0", 1).await;
    let start = async |input: Value| {
        let flow = StartFlow::Published { id: "work".into(), version: None };
        let start = Start { idempotency_key: Some("key".into()), ..Start::new(flow, input) };
        engines.bench.engine.start(start).await.unwrap()
    };
    let first = start(json!({ "n": 1 })).await;
    engines.publish("1.1.0", json!({})).await;
    let second = start(json!({ "n": 1 })).await;
    assert_eq!((second.id, second.created, second.input_differs), (first.id, false, false));
    let third = start(json!({ "n": 2 })).await;
    assert_eq!((third.id, third.created, third.input_differs), (first.id, false, true));
    engines.expect(None, "1.1.0", 1).await;
}

/// Only a start says which generation it is of: a sub-flow is looked up.
#[tokio::test]
async fn a_sub_flow_is_the_latest_version() {
    let engines = Versions::in_memory().await;
    engines.publish("1.0.0", json!({})).await;
    let call = json!({ "call": { "type": "sub-flow", "config": { "flowId": "work" } } });
    engines.bench.publish(flow("parent", call)).await;
    engines.expect(None, "1.0.0", 1).await;
    engines.bench.start("parent", json!({})).await;
    engines.publish("1.1.0", json!({})).await;
    engines.bench.start("parent", json!({})).await;
    let children = engines.bench.all().await.into_iter().filter(|one| one.parent_execution_id.is_some());
    let mut versions: Vec<_> = children.map(|child| child.flow_version).collect();
    versions.sort_unstable();
    assert_eq!(versions, ["1.0.0", "1.1.0"]);
}
