//! What the worker's tests share: handlers from closures, a queue that can be made to fail, and plumbing that remembers.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointApi, CheckpointData, ContextApi, EmittedEvent, EventApi, Heartbeat,
    HeartbeatAnswer, JobApi, PlumbingError, Progress, ProgressApi, SavedCheckpoint, TaskAccess,
};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::{
    Claim, ClaimedTask, Delivery, DispatchQueue, Extended, Lease, LocalQueue, LocalQueueLimits, QueueError,
    TaskQueue, WorkerPresence,
};
use flowmonkey_plumbing::wire::{ContextOperation, LogLine, ResultMessage, TaskMessage};
use flowmonkey_worker::{Completion, Failure, Handler, Registry, Task, Worker, WorkerConfig, WorkerHandle};
use serde_json::{Value, json};
use tokio::sync::watch;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that nobody rings for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

type Run = dyn for<'a> Fn(&'a Task) -> Pin<Box<dyn Future<Output = Result<Completion, Failure>> + Send + 'a>>
    + Send
    + Sync;

/// A handler from a closure.
pub(crate) struct Closure {
    manifest: Manifest,
    run: Box<Run>,
}

#[async_trait]
impl Handler for Closure {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        (self.run)(task).await
    }
}

/// A handler of type `handler_type` that does `run`.
pub(crate) fn handler<F>(handler_type: &str, concurrency: Option<u32>, run: F) -> Arc<dyn Handler>
where
    F: for<'a> Fn(&'a Task) -> Pin<Box<dyn Future<Output = Result<Completion, Failure>> + Send + 'a>>
        + Send
        + Sync
        + 'static,
{
    let manifest = Manifest {
        handler_type: handler_type.into(),
        version: "1.2.0".into(),
        concurrency,
        ..Manifest::default()
    };
    Arc::new(Closure { manifest, run: Box::new(run) })
}

/// A task for `handler_type` with long limits.
pub(crate) fn task(id: &str, handler_type: &str) -> TaskMessage {
    serde_json::from_value(json!({
        "v": 1, "taskId": id, "attempt": 1, "executionId": "e", "flowId": "f", "flowVersion": "1.0.0", "stepId": "s",
        "handler": { "type": handler_type }, "pool": handler_type, "input": { "id": id }, "idempotencyKey": id,
        "deadline": "2100-01-01T00:00:00Z", "remainingMs": 600_000, "heartbeatIntervalMs": 15_000, "leaseMs": 60_000,
    }))
    .unwrap()
}

/// A queue that does as it is told.
pub(crate) struct Probe {
    pub(crate) queue: LocalQueue,
    /// So many calls of `finish` will fail.
    pub(crate) failing_finishes: AtomicUsize,
    /// Whether a failing `finish` reaches the queue before its answer is lost.
    pub(crate) finish_answers_get_lost: AtomicBool,
    /// Nothing reaches the queue.
    pub(crate) away: AtomicBool,
    /// Calls of `finish` wait until this is true.
    pub(crate) finishes_open: watch::Sender<bool>,
    /// Announcements fail.
    pub(crate) failing_announcements: AtomicBool,
    /// Whether announcements are answered with the request to drain.
    pub(crate) asks_to_drain: AtomicBool,
    /// What was called, in order: claims and announcements.
    pub(crate) calls: Mutex<Vec<String>>,
    /// The announcements.
    pub(crate) announced: watch::Sender<Vec<WorkerPresence>>,
    /// Calls of `extend` and `reassert` fail.
    pub(crate) failing_extends: AtomicBool,
    /// Calls of `extend` and `reassert` so far.
    pub(crate) extends: watch::Sender<usize>,
    /// Calls of `finish` that were accepted, by size.
    pub(crate) finished: Mutex<Vec<usize>>,
    /// Claims wait until this is true.
    pub(crate) claims_open: watch::Sender<bool>,
    /// Claims that have begun.
    pub(crate) claims: watch::Sender<usize>,
    /// `low_first` of the claims.
    pub(crate) low_first: Mutex<Vec<bool>>,
    /// The pool whose rings are lost.
    pub(crate) deaf_to: Mutex<Option<String>>,
    /// Claims that waited: for how many tasks, and for how long at most.
    pub(crate) waits: Mutex<Vec<(usize, Duration)>>,
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: LocalQueue::new(Arc::new(SystemClock), LocalQueueLimits::default()),
            failing_finishes: AtomicUsize::new(0),
            finish_answers_get_lost: AtomicBool::new(false),
            away: AtomicBool::new(false),
            finishes_open: watch::Sender::new(true),
            failing_announcements: AtomicBool::new(false),
            asks_to_drain: AtomicBool::new(false),
            calls: Mutex::default(),
            announced: watch::Sender::new(Vec::new()),
            failing_extends: AtomicBool::new(false),
            extends: watch::Sender::new(0),
            finished: Mutex::default(),
            claims_open: watch::Sender::new(true),
            claims: watch::Sender::new(0),
            low_first: Mutex::default(),
            deaf_to: Mutex::default(),
            waits: Mutex::default(),
        })
    }

    fn reach(&self) -> Result<(), QueueError> {
        if self.away.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
    }

    /// Takes results until there are `count`, without acknowledging them.
    pub(crate) async fn results(&self, count: usize) -> Vec<ResultMessage> {
        let mut results = Vec::new();
        while results.len() < count {
            soon(self.queue.wait_for_results()).await;
            let taken = self.queue.take("engine", count - results.len()).await.unwrap();
            results.extend(taken.into_iter().map(|taken| taken.result.unwrap()));
        }
        results
    }

    /// The one result that comes.
    pub(crate) async fn result(&self) -> ResultMessage {
        self.results(1).await.remove(0)
    }
}

fn unavailable() -> QueueError {
    QueueError::Unavailable("unplugged".into())
}

#[async_trait]
impl TaskQueue for Probe {
    async fn claim(&self, claim: Claim) -> Result<Vec<ClaimedTask>, QueueError> {
        self.calls.lock().unwrap().push("claim".into());
        self.reach()?;
        self.low_first.lock().unwrap().push(claim.low_first);
        let claimed = self.queue.claim(claim).await?;
        self.claims.send_modify(|count| *count += 1);
        self.claims_open.subscribe().wait_for(|open| *open).await.unwrap();
        Ok(claimed)
    }

    async fn wait_for_tasks(&self, pools: &[String], longest: Duration) -> Option<String> {
        let heard = |pool: &&String| self.deaf_to.lock().unwrap().as_ref() != Some(*pool);
        let pools: Vec<String> = pools.iter().filter(heard).cloned().collect();
        self.queue.wait_for_tasks(&pools, longest).await
    }

    async fn claim_when_ready(
        &self,
        claim: Claim,
        longest: Duration,
    ) -> Result<Vec<ClaimedTask>, QueueError> {
        self.waits.lock().unwrap().push((claim.max, longest));
        self.wait_for_tasks(std::slice::from_ref(&claim.pool), longest).await;
        self.claim(claim).await
    }

    async fn extend(&self, pool: &str, worker: &str, ids: &[Delivery]) -> Result<Extended, QueueError> {
        let answer = if self.failing_extends.load(Ordering::SeqCst) || self.away.load(Ordering::SeqCst) {
            Err(unavailable())
        } else {
            self.queue.extend(pool, worker, ids).await
        };
        self.extends.send_modify(|count| *count += 1);
        answer
    }

    async fn finish(
        &self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError> {
        self.finishes_open.subscribe().wait_for(|open| *open).await.unwrap();
        self.reach()?;
        let fails = |left: usize| left.checked_sub(1);
        let fails = self.failing_finishes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok();
        if fails && !self.finish_answers_get_lost.load(Ordering::SeqCst) {
            return Err(unavailable());
        }
        let count = results.len();
        let refused = self.queue.finish(pool, worker, results).await?;
        if fails {
            return Err(unavailable());
        }
        self.finished.lock().unwrap().push(count);
        Ok(refused)
    }

    async fn release(&self, pool: &str, worker: &str, deliveries: &[Delivery]) -> Result<(), QueueError> {
        self.queue.release(pool, worker, deliveries).await
    }

    async fn reassert(&self, pool: &str, worker: &str, leases: &[Lease]) -> Result<Extended, QueueError> {
        let answer = if self.failing_extends.load(Ordering::SeqCst) || self.away.load(Ordering::SeqCst) {
            Err(unavailable())
        } else {
            self.queue.reassert(pool, worker, leases).await
        };
        self.extends.send_modify(|count| *count += 1);
        answer
    }

    async fn announce(&self, presence: &WorkerPresence) -> Result<bool, QueueError> {
        self.calls.lock().unwrap().push(format!("announce, draining: {}", presence.draining));
        self.reach()?;
        if self.failing_announcements.load(Ordering::SeqCst) {
            return Err(unavailable());
        }
        self.announced.send_modify(|announced| announced.push(presence.clone()));
        let asked = self.queue.announce(presence).await?;
        Ok(asked || self.asks_to_drain.load(Ordering::SeqCst))
    }

    async fn retire(&self, worker: &str, pools: &[String]) -> Result<(), QueueError> {
        self.calls.lock().unwrap().push("retire".into());
        self.reach()?;
        self.queue.retire(worker, pools).await
    }
}

/// Plumbing that remembers.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) checkpoint: Mutex<Option<Value>>,
    pub(crate) progress: Mutex<Vec<Progress>>,
    pub(crate) logs: Mutex<Vec<String>>,
    pub(crate) started: Mutex<Vec<Delivery>>,
    pub(crate) context: Mutex<Value>,
    /// What was read of the context.
    pub(crate) reads: Mutex<Vec<Option<String>>>,
    pub(crate) patches: Mutex<Vec<(u32, Vec<ContextOperation>)>>,
    /// What was published at once.
    pub(crate) emitted: Mutex<Vec<EmittedEvent>>,
    /// Nothing can be loaded.
    /// What was saved, in order.
    pub(crate) saves: watch::Sender<Vec<Value>>,
    /// Nothing can be loaded or saved.
    pub(crate) away: AtomicBool,
    /// What was told of jobs.
    pub(crate) beats: watch::Sender<Vec<Heartbeat>>,
    /// What is answered to the next heartbeats.
    pub(crate) beat_answer: Mutex<HeartbeatAnswer>,
}

#[async_trait]
impl JobApi for Memory {
    async fn heartbeat(
        &self,
        _access: &TaskAccess,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        self.beats.send_modify(|beats| beats.push(heartbeat.clone()));
        Ok(*self.beat_answer.lock().unwrap())
    }
}

#[async_trait]
impl CheckpointApi for Memory {
    async fn save_checkpoint(
        &self,
        _access: &TaskAccess,
        data: CheckpointData,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PlumbingError::Unavailable("nobody is there".into()));
        }
        let data = data.as_json().unwrap().clone();
        let bytes = data.to_string().len() as u64;
        self.saves.send_modify(|saves| saves.push(data.clone()));
        *self.checkpoint.lock().unwrap() = Some(data);
        let (id, saved_at) = ("c1".into(), "2030-01-01T00:00:00Z".into());
        Ok(SavedCheckpoint { id, saved_at, version: 1, bytes })
    }

    async fn load_checkpoint(&self, _access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PlumbingError::Unavailable("nobody is there".into()));
        }
        let data = self.checkpoint.lock().unwrap().clone();
        Ok(data.map(|data| Checkpoint {
            id: "c1".into(),
            saved_at: "2030-01-01T00:00:00Z".into(),
            version: 1,
            data: data.into(),
        }))
    }

    async fn clear_checkpoint(&self, _access: &TaskAccess) -> Result<(), PlumbingError> {
        *self.checkpoint.lock().unwrap() = None;
        Ok(())
    }
}

#[async_trait]
impl ContextApi for Memory {
    async fn read_context(
        &self,
        _access: &TaskAccess,
        path: Option<&str>,
    ) -> Result<Option<Value>, PlumbingError> {
        self.reads.lock().unwrap().push(path.map(Into::into));
        let context = self.context.lock().unwrap();
        Ok(match path {
            None => Some(context.clone()),
            Some(path) => context.pointer(&format!("/{}", path.replace('.', "/"))).cloned(),
        })
    }

    async fn stage_context(
        &self,
        _access: &TaskAccess,
        sequence: u32,
        patch: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        self.patches.lock().unwrap().push((sequence, patch.to_vec()));
        Ok(())
    }
}

#[async_trait]
impl EventApi for Memory {
    async fn emit_events(
        &self,
        _: &TaskAccess,
        events: Vec<EmittedEvent>,
    ) -> Result<Vec<String>, PlumbingError> {
        self.emitted.lock().unwrap().extend(events.iter().cloned());
        let named =
            events.into_iter().zip(1..).map(|(event, place)| event.id.unwrap_or(format!("ev_{place}")));
        Ok(named.collect())
    }
}

impl ProgressApi for Memory {
    fn started(&self, access: &TaskAccess, _worker: &str) {
        self.started.lock().unwrap().push(access.delivery.clone());
    }

    fn progress(&self, _access: &TaskAccess, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }

    fn log(&self, _access: &TaskAccess, line: &LogLine) {
        self.logs.lock().unwrap().push(line.message.clone());
    }
}

/// A worker's configuration for tests: claims only when the bell rings, so that lost rings show.
pub(crate) fn config() -> WorkerConfig {
    WorkerConfig { poll_ms: 600_000, ..WorkerConfig::new("worker-1") }
}

/// Waits until something holds that nobody rings for.
pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}

/// Starts a worker with these handlers.
pub(crate) fn start(
    config: WorkerConfig,
    queue: &Arc<Probe>,
    plumbing: Arc<Memory>,
    handlers: impl IntoIterator<Item = Arc<dyn Handler>>,
) -> WorkerHandle {
    build(config, queue, plumbing, handlers).start().unwrap()
}

/// Puts a worker together.
pub(crate) fn build(
    config: WorkerConfig,
    queue: &Arc<Probe>,
    plumbing: Arc<Memory>,
    handlers: impl IntoIterator<Item = Arc<dyn Handler>>,
) -> Worker {
    let mut registry = Registry::new();
    for handler in handlers {
        registry.register(handler).unwrap();
    }
    let queue = Arc::clone(queue) as Arc<dyn TaskQueue>;
    Worker::new(config, registry, queue, plumbing, Arc::new(SystemClock)).unwrap()
}
