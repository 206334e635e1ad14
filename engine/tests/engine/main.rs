//! The engine round a record and a queue, its chores driven by hand: what follows from commits, what is lost and found,
//! and what happens when several engines work at the same things.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::disallowed_methods, reason = "each test joins what it spawns")]

mod bulk;
mod chores;
mod contexts;
mod crashes;
mod datasets;
mod emptied;
mod fall_back;
mod fans;
mod fused;
mod jobs;
mod leftovers;
mod origins;
mod published;
mod races;
mod undoing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use flowmonkey_core::execution::{Execution, Handlers, Status};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::chores::{collector, events, reconciler, sweeper, timer};
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::{
    Durability, ExecutionFilter, ExecutionSummary, MemoryStore, SqliteOptions, SqliteStore, Store,
};
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage, TableRow, TaskError, TaskMessage};
use serde_json::{Value, json};

/// Rounds after which a bench that should come to rest is taken to be going in circles.
const ROUNDS_MAX: usize = 100_000;
/// A stateful handler type.
const JOB: &str = "job";
/// The handler type of most of these tests, and so the pool.
const WORK: &str = "work";

/// Time that moves when a test moves it, and by a millisecond with each look where that is asked for.
#[derive(Debug)]
pub(crate) struct TestClock {
    now: AtomicI64,
    step: AtomicI64,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { now: AtomicI64::new(1_767_225_600_000), step: AtomicI64::new(0) }
    }
}

impl TestClock {
    pub(crate) fn advance(&self, millis: i64) {
        self.now.fetch_add(millis, Ordering::SeqCst);
    }

    /// Each look at the clock moves it by this.
    pub(crate) fn creep(&self, millis: i64) {
        self.step.store(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.now.fetch_add(self.step.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        None
    }

    fn is_stateful(&self, handler_type: &str) -> bool {
        handler_type == JOB
    }

    fn any_stateful(&self) -> bool {
        true
    }
}

/// An engine with what it stands on.
pub(crate) struct Bench {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<LocalQueue>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) config: EngineConfig,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::default())).await
    }

    pub(crate) async fn on(store: Arc<dyn Store>) -> Self {
        Self::with(store, EngineConfig::default(), LocalQueueLimits::default()).await
    }

    pub(crate) async fn with(store: Arc<dyn Store>, config: EngineConfig, limits: LocalQueueLimits) -> Self {
        let clock = Arc::new(TestClock::default());
        let queue = Arc::new(LocalQueue::new(clock.clone(), limits));
        let engine = open(&store, &queue, &clock, config.clone()).await;
        Self { engine, store, queue, clock, config }
    }

    /// Another engine beside this one.
    pub(crate) async fn another(&self, engine_id: &str) -> Arc<Engine> {
        let config = EngineConfig { engine_id: engine_id.into(), ..self.config.clone() };
        open(&self.store, &self.queue, &self.clock, config).await
    }

    /// The process dies, and a new one starts on `store` with an empty queue.
    pub(crate) async fn restart(self, store: Arc<dyn Store>) -> Self {
        let Self { clock, config, .. } = self;
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        let engine = open(&store, &queue, &clock, config.clone()).await;
        reconciler::reconcile(&engine, reconciler::Patience::NONE).await.unwrap();
        sweeper::tick(&engine).await.unwrap();
        Self { engine, store, queue, clock, config }
    }

    pub(crate) async fn publish(&self, flow: Value) -> Arc<Flow> {
        let flow = parsed(&flow);
        self.engine.publish(&flow).await.unwrap();
        flow
    }

    pub(crate) async fn start(&self, flow: &str, input: Value) -> ExecutionId {
        let published = StartFlow::Published { id: flow.into(), version: None };
        self.engine.start(Start::new(published, input)).await.unwrap().id
    }

    pub(crate) async fn claim(&self) -> Vec<TaskMessage> {
        let claim = Claim { pool: WORK.into(), worker: "w".into(), max: 500, low_first: false };
        self.queue.claim(claim).await.unwrap().into_iter().map(|claimed| claimed.task).collect()
    }

    pub(crate) async fn finish(&self, results: Vec<ResultMessage>) {
        self.queue.finish(WORK, "w", results).await.unwrap();
    }

    /// Works until nothing moves any more. Time stands still.
    pub(crate) async fn work(&self, handler: impl Fn(&TaskMessage) -> ResultMessage) {
        for _ in 0..ROUNDS_MAX {
            let results: Vec<_> = self.claim().await.iter().map(&handler).collect();
            let worked = !results.is_empty();
            self.finish(results).await;
            let Ok(collected) = collector::tick(&self.engine).await else { return };
            let Ok(woken) = timer::tick(&self.engine).await else { return };
            if events::tick(&self.engine).await.is_err() {
                return;
            }
            if !worked && collected == collector::Collected::default() && woken.moved == 0 {
                return;
            }
        }
        panic!("it goes in circles");
    }

    pub(crate) async fn get(&self, id: ExecutionId) -> Execution {
        self.engine.execution(id).await.unwrap()
    }

    pub(crate) async fn all(&self) -> Vec<ExecutionSummary> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let filter =
                ExecutionFilter { include_children: true, before, max: 1000, ..ExecutionFilter::default() };
            let page = self.store.list(&filter).await.unwrap();
            all.extend(page.items);
            before = page.next;
            if before.is_none() {
                return all;
            }
        }
    }

    /// How many executions have each status.
    pub(crate) async fn statuses(&self) -> BTreeMap<&'static str, usize> {
        let mut statuses = BTreeMap::new();
        for one in self.all().await {
            *statuses.entry(one.status.as_str()).or_default() += 1;
        }
        statuses
    }

    /// Each row's id with the number of times it is there.
    pub(crate) async fn rows(&self) -> BTreeMap<String, usize> {
        let mut rows = BTreeMap::new();
        for row in self.store.table_rows(None, "t", None, usize::MAX >> 1).await.unwrap() {
            *rows.entry(row.id).or_default() += 1;
        }
        rows
    }

    pub(crate) async fn expect(&self, id: ExecutionId, status: Status) -> Execution {
        let execution = self.get(id).await;
        assert_eq!(execution.status(), status, "{:?} {:?}", execution.error(), execution.waiting_reason());
        execution
    }
}

async fn open(
    store: &Arc<dyn Store>,
    queue: &Arc<LocalQueue>,
    clock: &Arc<TestClock>,
    config: EngineConfig,
) -> Arc<Engine> {
    let deps = EngineDeps {
        store: store.clone(),
        queue: queue.clone() as Arc<dyn DispatchQueue>,
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
        handlers: Arc::new(AllHandlers),
        announced: None,
    };
    Engine::open(deps, config, None).await.unwrap()
}

/// A record in a file of `directory`.
pub(crate) async fn sqlite(directory: &tempfile::TempDir) -> Arc<dyn Store> {
    let options = SqliteOptions { durability: Durability::Relaxed, max_pages: None };
    Arc::new(SqliteStore::open(&directory.path().join("record.db"), options).await.unwrap())
}

pub(crate) fn parsed(flow: &Value) -> Arc<Flow> {
    parse_flow_value(flow).unwrap_or_else(|issues| panic!("{issues:?}")).0
}

/// A flow of steps, the first of which is the first.
pub(crate) fn flow(id: &str, steps: Value) -> Value {
    let first = steps.as_object().unwrap().keys().next().unwrap().clone();
    json!({ "id": id, "version": "1.0.0", "status": "published", "initialStepId": first, "steps": steps })
}

/// A flow with one map over `items`.
pub(crate) fn fan(id: &str, max_concurrency: u32, config: Value, body: Value) -> Value {
    let mut whole = json!({
        "items": { "type": "path", "path": "items" }, "maxConcurrency": max_concurrency, "body": body,
    });
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    flow(id, json!({ "fan": { "type": "map", "config": whole, "outputKey": "results" } }))
}

pub(crate) fn work_step() -> Value {
    json!({ "id": "do", "type": WORK, "input": { "type": "key", "key": "item" } })
}

/// A result with nothing in it.
pub(crate) fn result(task: &TaskMessage, outcome: Outcome) -> ResultMessage {
    ResultMessage {
        execution_id: task.execution_id.clone(),
        step_id: task.step_id.clone(),
        ..ResultMessage::new(task.task_id.clone(), task.attempt, outcome)
    }
}

/// Gives the input back, and leaves a row that names the visit.
pub(crate) fn echo(task: &TaskMessage) -> ResultMessage {
    let row =
        TableRow { table_id: "t".into(), row_id: task.idempotency_key.clone(), row: serde_json::Map::new() };
    ResultMessage { output: task.input.clone(), rows: vec![row], ..result(task, Outcome::Success) }
}

pub(crate) fn failure(task: &TaskMessage) -> ResultMessage {
    let error =
        TaskError { code: "BROKEN".into(), message: "broken".into(), retryable: Some(false), details: None };
    ResultMessage { error: Some(error), ..result(task, Outcome::Failure) }
}

pub(crate) fn numbers(count: usize) -> Value {
    json!({ "items": (0..count).collect::<Vec<_>>() })
}

impl Bench {
    /// Tasks that are ready or in workers' hands.
    pub(crate) async fn queue_depth(&self) -> usize {
        self.queue.depths().await.unwrap().iter().map(|(_, depth)| depth.normal + depth.in_flight).sum()
    }
}
