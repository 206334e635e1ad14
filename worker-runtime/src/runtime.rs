//! A worker as a whole: start, and the orderly end.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::api::Plumbing;
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::ids::{self, SystemEntropy};
use flowmonkey_plumbing::queue::TaskQueue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::announce::ANNOUNCE_LIMIT;
use crate::claim::Claimer;
use crate::config::{WorkerConfig, WorkerConfigError};
use crate::metrics::WorkerMetrics;
use crate::registry::Registry;
use crate::report::Outlets;
use crate::route::ResultRoute;
use crate::running::{Running, Stop};
use crate::spill::Spill;
use crate::{heartbeat, report, spill};

/// A worker that has not started.
pub struct Worker {
    shared: Arc<Shared>,
    route: Option<Arc<dyn ResultRoute>>,
}

/// What all parts of a worker share.
pub(crate) struct Shared {
    pub(crate) config: WorkerConfig,
    pub(crate) registry: Registry,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) plumbing: Arc<dyn Plumbing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) running: Running,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// The claimer.
    claimer: TaskTracker,
    /// One task per attempt, until its result is on its way.
    pub(crate) attempts: TaskTracker,
    /// One task per handler. Not waited for: a handler that blocks its thread cannot be ended.
    pub(crate) handlers: TaskTracker,
    /// The reporter, and what sends results from disk.
    reporter: TaskTracker,
    /// Cancelled: nothing is claimed any more.
    pub(crate) draining: CancellationToken,
    /// Cancelled: somebody has asked the worker to drain.
    pub(crate) asked_to_drain: CancellationToken,
    /// Cancelled: leases are no longer kept.
    pub(crate) heartbeats_end: CancellationToken,
    /// Cancelled: the worker was announced, or that has failed once.
    pub(crate) announced: CancellationToken,
    /// Cancelled: nothing of the worker calls the queue any more.
    pub(crate) retired: CancellationToken,
}

impl Worker {
    /// Puts a worker together; nothing happens before [`Self::start`].
    ///
    /// # Errors
    /// Names everything that is wrong with `config`.
    pub fn new(
        config: WorkerConfig,
        registry: Registry,
        queue: Arc<dyn TaskQueue>,
        plumbing: Arc<dyn Plumbing>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WorkerConfigError> {
        config.check()?;
        let shared = Shared {
            config,
            registry,
            queue,
            plumbing,
            clock,
            running: Running::default(),
            metrics: Arc::default(),
            claimer: TaskTracker::new(),
            attempts: TaskTracker::new(),
            handlers: TaskTracker::new(),
            reporter: TaskTracker::new(),
            draining: CancellationToken::new(),
            asked_to_drain: CancellationToken::new(),
            heartbeats_end: CancellationToken::new(),
            announced: CancellationToken::new(),
            retired: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared), route: None })
    }

    /// Gives the worker another way for results, which it takes while the queue is away.
    #[must_use]
    pub fn with_result_route(self, route: Arc<dyn ResultRoute>) -> Self {
        Self { route: Some(route), ..self }
    }

    /// Starts to claim and run tasks on the current tokio runtime, which needs its time enabled.
    ///
    /// # Errors
    /// When the thread that keeps the leases cannot be started, or the spill directory cannot be written.
    pub fn start(self) -> std::io::Result<WorkerHandle> {
        let Self { shared, route } = self;
        let spill = open_spill(&shared)?;
        heartbeat::spawn(Arc::clone(&shared))?;
        let (sender, receiver) = mpsc::channel(report::PENDING_MAX);
        let reported = CancellationToken::new();
        let outlets = Outlets { spill: spill.clone(), route };
        if let Some(spill) = spill {
            let send = spill::run(Arc::clone(&shared), spill, outlets.clone(), reported.clone());
            shared.reporter.spawn(send);
        }
        let report = report::run(Arc::clone(&shared), outlets, receiver, reported.drop_guard());
        shared.reporter.spawn(report);
        shared.claimer.spawn(Claimer::new(Arc::clone(&shared), sender).run());
        shared.handlers.spawn(drain_when_asked(Arc::clone(&shared)));
        tracing::info!(worker = %shared.config.worker_id, slots = shared.config.concurrency, "worker started");
        Ok(WorkerHandle {
            _stop_claiming: shared.draining.clone().drop_guard(),
            _end_heartbeats: shared.heartbeats_end.clone().drop_guard(),
            shared,
        })
    }
}

fn open_spill(shared: &Shared) -> std::io::Result<Option<Arc<Spill>>> {
    let Some(root) = &shared.config.spill_dir else { return Ok(None) };
    let name = ids::new_uuid(&*shared.clock, &SystemEntropy::new()).simple().to_string();
    let metrics = Arc::clone(&shared.metrics);
    let spill = Spill::open(root, &name, shared.config.spill_bytes_max, metrics).map_err(|error| {
        std::io::Error::new(error.kind(), format!("the spill directory {}: {error}", root.display()))
    })?;
    Ok(Some(Arc::new(spill)))
}

/// A running worker. When it is dropped without [`Self::drain`], the worker claims no more, stops its handlers and lets
/// their leases end: those tasks run again elsewhere.
pub struct WorkerHandle {
    shared: Arc<Shared>,
    _stop_claiming: DropGuard,
    _end_heartbeats: DropGuard,
}

/// What became of a worker's tasks in its drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Attempts that ended by themselves within the grace.
    pub finished: u64,
    /// Attempts that were stopped and handed back as `released`.
    pub stopped: u64,
    /// Tasks that were handed back before their handler had started.
    pub released: u64,
    /// Attempts whose result the queue did not take in time, but is on disk for the next process that uses the directory.
    pub spilled: u64,
    /// Attempts whose result the queue did not take in time and which is lost: their leases will end and they run again.
    pub unreported: u64,
}

impl WorkerHandle {
    /// What the worker has counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Attempts in the worker's hands, until their results are accepted.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.shared.running.len()
    }

    /// Ends the worker: claims no more, gives handlers `grace` to end by themselves, stops the rest and hands it back, and
    /// reports all of it. Takes at most `grace` and the configured `stop_grace_ms` and `flush_ms`.
    pub async fn drain(self, grace: Duration) -> DrainReport {
        drain(&self.shared, grace).await
    }

    /// Waits until the worker has left because somebody asked it to drain through the queue: it has claimed no more since,
    /// what it had has ended within the configured `drain_grace_ms` or was handed back, and it is out of the books.
    pub async fn drained(&self) {
        self.shared.asked_to_drain.cancelled().await;
        self.shared.retired.cancelled().await;
    }
}

async fn drain_when_asked(shared: Arc<Shared>) {
    tokio::select! {
        biased;
        () = shared.asked_to_drain.cancelled() => {}
        // It ends anyhow.
        () = shared.draining.cancelled() => return,
    }
    let report = drain(&shared, shared.config.drain_grace()).await;
    tracing::info!(?report, "the worker has drained");
}

async fn drain(shared: &Shared, grace: Duration) -> DrainReport {
    let metrics = &shared.metrics;
    let ended = || {
        let WorkerMetrics { succeeded, failed, waited, .. } = &**metrics;
        succeeded.get() + failed.get() + waited.get()
    };
    let (ended_before, stopped_before, released_before) =
        (ended(), metrics.stopped.get(), metrics.released.get());
    shared.draining.cancel();
    for tracker in [&shared.claimer, &shared.attempts, &shared.reporter] {
        tracker.close();
    }
    let work = async {
        shared.claimer.wait().await;
        shared.attempts.wait().await;
    };
    if timeout(grace, work).await.is_err() {
        tracing::info!(attempts = shared.attempts.len(), "the drain's grace has passed; stopping handlers");
        shared.running.stop_all(Stop::Drain);
    }
    let flush = Duration::from_millis(shared.config.flush_ms);
    let rest = async {
        shared.claimer.wait().await;
        shared.attempts.wait().await;
        shared.reporter.wait().await;
    };
    if timeout(shared.config.stop_grace() + flush, rest).await.is_err() {
        tracing::warn!(attempts = shared.running.len(), "the drain ended before everything was reported");
    }
    shared.heartbeats_end.cancel();
    if timeout(2 * ANNOUNCE_LIMIT, shared.retired.cancelled()).await.is_err() {
        tracing::warn!("the worker's end could not be announced in time");
    }
    let spilled = shared.running.spilled();
    DrainReport {
        finished: ended() - ended_before,
        stopped: metrics.stopped.get() - stopped_before,
        released: metrics.released.get() - released_before,
        spilled: u64::try_from(spilled).unwrap_or(u64::MAX),
        unreported: u64::try_from(shared.running.len().saturating_sub(spilled)).unwrap_or(u64::MAX),
    }
}
