//! The engine: what its parts share.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowmonkey_core::execution::state::Status;
use flowmonkey_core::execution::{Dataset, DatasetReference, Execution, Handlers, JoinSpec, StartError};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::{Moment, Timestamp};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::ids::Entropy;
use flowmonkey_plumbing::queue::{DispatchQueue, QueueError};
use flowmonkey_plumbing::token::TokenKey;
use flowmonkey_plumbing::wire::TaskMessage;
use lru::LruCache;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::chores::sweeper::Sweep;
use crate::chores::timer::Stuck;
use crate::commit::Committer;
use crate::config::{
    DATASETS_CACHED_MAX, EngineConfig, HOT_BYTES_MAX, HOT_CONTEXT_BYTES_MAX, HOT_EXECUTIONS_MAX,
    HOT_EXTRAS_MAX, JOINS_CACHED_BYTES_MAX, JOINS_CACHED_MAX, OUR_WAKES_MAX,
};
use crate::contexts::Contexts;
use crate::controls::Controls;
use crate::evidence::Evidence;
use crate::flows::FlowCache;
use crate::handlers::AnnouncedHandlers;
use crate::jobs::AbsentJobs;
use crate::left::LeftOver;
use crate::pools::Pools;
use crate::rounds::Rounds;
use crate::store::{Store, StoreError};
use crate::talk::Talk;
use crate::tokens::{RESUME_KEY, ResumeTokens, SIGNING_KEY_BYTES, TASK_KEY};
use crate::watch::Watchers;
use crate::webhooks::Hooks;
use crate::weighed::{WeighedCache, join_bytes, snapshot_bytes};

/// What the engine stands on.
#[derive(Clone)]
pub struct EngineDeps {
    /// The record.
    pub store: Arc<dyn Store>,
    /// The queues.
    pub queue: Arc<dyn DispatchQueue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and chance.
    pub entropy: Arc<dyn Entropy>,
    /// What is known of handlers.
    pub handlers: Arc<dyn Handlers>,
    /// To be told of the workers that are there; the same as `handlers` where these come from announcements.
    pub announced: Option<Arc<AnnouncedHandlers>>,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The record failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The flow, or its version, does not exist.
    #[error("Flow \"{0}\" not found")]
    FlowNotFound(String),
    /// The execution does not exist.
    #[error("execution {0} not found")]
    ExecutionNotFound(ExecutionId),
    /// The execution cannot be created.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The id is taken by another execution.
    #[error("execution {0} exists already")]
    IdTaken(ExecutionId),
    /// The execution has not ended; it can be run again only then.
    #[error("execution {0} has not ended yet; only one that has can be run again")]
    NotEnded(ExecutionId),
    /// Too many others change the same execution at the same time.
    #[error("execution {0} is being changed by too many at once; try again")]
    Contended(ExecutionId),
}

/// Counters of what the engine did, for metrics and tests.
#[derive(Debug, Default)]
pub struct Counters {
    /// Results that were refused, because the record had moved on.
    pub results_refused: AtomicU64,
    /// Results that could not be understood.
    pub results_invalid: AtomicU64,
    /// Version conflicts.
    pub conflicts: AtomicU64,
    /// Leases that ended.
    pub leases_expired: AtomicU64,
    /// Results that were taken over from engines that had died.
    pub results_adopted: AtomicU64,
    /// Tasks that were missing from the queue.
    pub republished: AtomicU64,
    /// Fan-outs that nobody had looked after for a while.
    pub late_joins: AtomicU64,
    /// Children that had not been told of the end of their parents.
    pub late_children: AtomicU64,
    /// Waits that had not been told of an earlier event.
    pub late_events: AtomicU64,
    /// Objects that were not what was stored, or not there.
    pub objects_corrupt: AtomicU64,
    /// Decisions that were stored.
    pub decisions: AtomicU64,
    /// Bytes of contexts that were read through the Context API over HTTP, before their compression.
    pub context_bytes_read: AtomicU64,
    /// The same as they were sent.
    pub context_bytes_sent: AtomicU64,
    /// Calls of the plumbing APIs that were refused over HTTP, as their attempt is over.
    pub plumbing_refused: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The engine: decides, stores, dispatches. Cheap to share; its chores run beside it.
pub struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn DispatchQueue>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) handlers: Arc<dyn Handlers>,
    pub(crate) announced: Option<Arc<AnnouncedHandlers>>,
    pub(crate) config: EngineConfig,
    pub(crate) committer: Committer,
    pub(crate) flows: FlowCache,
    pub(crate) tokens: ResumeTokens,
    pub(crate) task_tokens: TokenKey,
    /// Who watches.
    pub watchers: Watchers,
    /// What running tasks say of themselves.
    pub talk: Talk,
    /// What was done.
    pub counters: Counters,
    /// Results that did not count.
    pub evidence: Evidence,
    /// Rung when a wake may be earlier than the timer thinks.
    pub(crate) timer_bell: Notify,
    /// When the timer looks again by itself, as milliseconds.
    pub(crate) timer_next: AtomicI64,
    /// Rung when events were published.
    pub(crate) event_bell: Notify,
    /// What was due and did not move.
    pub(crate) stuck: Mutex<Stuck>,
    /// What follows from commits and could not be done.
    pub(crate) left_over: LeftOver,
    /// The open job that was looked after last; none: the next one is the first.
    pub(crate) jobs_walked: Mutex<Option<TaskId>>,
    /// Jobs whose workers have the time to put their leases back.
    pub(crate) absent_jobs: AbsentJobs,
    /// What the sweeper remembers.
    pub(crate) sweep: Mutex<Sweep>,
    /// Pools that were met.
    pub(crate) pools: Pools,
    /// Tasks on their way to the queue.
    pub(crate) publishing: Rounds<Vec<TaskMessage>, ()>,
    /// Whether the queue refused tasks when it was told last.
    pub(crate) queue_full: AtomicBool,
    /// Commands and starts that are being decided, stored, or followed up at this moment.
    working: AtomicUsize,
    /// How many there have been.
    worked: AtomicU64,
    /// Executions whose next wake this engine stored, where it shares the record.
    pub(crate) our_wakes: Mutex<LruCache<ExecutionId, ()>>,
    /// What people have paused and archived.
    pub(crate) controls: Controls,
    /// Who is told of events over HTTP.
    pub(crate) hooks: Hooks,
    hot: Mutex<WeighedCache<ExecutionId, Arc<Execution>>>,
    /// Contexts that do not travel with their tasks.
    pub(crate) contexts: Contexts,
    /// Read lately; they do not change any more.
    pub(crate) datasets: Mutex<LruCache<DatasetReference, Dataset>>,
    joins: Mutex<WeighedCache<(ExecutionId, u32), Arc<JoinSpec>>>,
    snapshots: Mutex<WeighedCache<(ExecutionId, u32), Arc<Snapshot>>>,
}

/// Something that is being worked on.
pub(crate) struct Work<'a>(&'a AtomicUsize);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn fresh_key(entropy: &dyn Entropy) -> [u8; SIGNING_KEY_BYTES] {
    let mut fresh = [0_u8; SIGNING_KEY_BYTES];
    fresh[..16].copy_from_slice(&entropy.bits().to_ne_bytes());
    fresh[16..].copy_from_slice(&entropy.bits().to_ne_bytes());
    fresh
}

fn cache<K: std::hash::Hash + Eq, V>(max: usize) -> Mutex<LruCache<K, V>> {
    Mutex::new(LruCache::new(NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN)))
}

impl Engine {
    /// Opens the engine on its record. `tracker` runs what the engine spawns for itself; without one, each batch is
    /// stored in its caller's task (for deterministic simulation).
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn open(
        deps: EngineDeps,
        config: EngineConfig,
        tracker: Option<&TaskTracker>,
    ) -> Result<Arc<Self>, EngineError> {
        let resume_key = deps.store.signing_key(RESUME_KEY, &fresh_key(&*deps.entropy)).await?;
        let task_key = deps.store.signing_key(TASK_KEY, &fresh_key(&*deps.entropy)).await?;
        let committer = match tracker {
            Some(tracker) => {
                let (committer, runs) = Committer::grouped(&deps.store, config.commits_in_flight);
                for run in runs {
                    tracker.spawn(run);
                }
                committer
            }
            None => Committer::Direct,
        };
        let our_wakes = cache(if config.shares_record { OUR_WAKES_MAX } else { 1 });
        let engine = Arc::new(Self {
            hooks: Hooks::new(config.webhook_policy.clone()),
            store: deps.store,
            queue: deps.queue,
            clock: deps.clock,
            entropy: deps.entropy,
            handlers: deps.handlers,
            announced: deps.announced,
            pools: Pools::default(),
            publishing: Rounds::default(),
            config,
            committer,
            flows: FlowCache::default(),
            tokens: ResumeTokens::new(&resume_key),
            task_tokens: TokenKey::new(&task_key),
            watchers: Watchers::default(),
            talk: Talk::default(),
            counters: Counters::default(),
            evidence: Evidence::default(),
            stuck: Mutex::default(),
            left_over: LeftOver::default(),
            jobs_walked: Mutex::default(),
            absent_jobs: AbsentJobs::default(),
            sweep: Mutex::default(),
            queue_full: AtomicBool::new(false),
            timer_bell: Notify::new(),
            timer_next: AtomicI64::new(i64::MIN),
            event_bell: Notify::new(),
            working: AtomicUsize::new(0),
            worked: AtomicU64::new(0),
            our_wakes,
            hot: Mutex::new(WeighedCache::new(HOT_EXECUTIONS_MAX, HOT_BYTES_MAX)),
            contexts: Contexts::default(),
            controls: Controls::default(),
            datasets: cache(DATASETS_CACHED_MAX),
            joins: Mutex::new(WeighedCache::new(JOINS_CACHED_MAX, JOINS_CACHED_BYTES_MAX)),
            snapshots: Mutex::new(WeighedCache::new(JOINS_CACHED_MAX, JOINS_CACHED_BYTES_MAX)),
        });
        // What happens before the first look of the chore is told, too.
        if tracker.is_some() {
            engine.read_webhooks().await?;
            engine.read_controls().await?;
        }
        Ok(engine)
    }

    /// The record.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The queues.
    #[must_use]
    pub fn queue(&self) -> &Arc<dyn DispatchQueue> {
        &self.queue
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Resume tokens of this record.
    #[must_use]
    pub fn tokens(&self) -> &ResumeTokens {
        &self.tokens
    }

    /// Task tokens of this record.
    #[must_use]
    pub fn task_tokens(&self) -> &TokenKey {
        &self.task_tokens
    }

    /// Now, by the engine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now_ms())
    }

    /// None while something is being decided, stored, or followed up; else how often that has happened. Two equal answers
    /// mean that this engine changed nothing in between.
    #[must_use]
    pub fn rest(&self) -> Option<u64> {
        // In this order: work that begins after the second look has raised the count that the next caller sees.
        let worked = self.worked.load(Ordering::SeqCst);
        (self.working.load(Ordering::SeqCst) == 0).then_some(worked)
    }

    /// Notes that something is being worked on, until the guard is dropped.
    pub(crate) fn work(&self) -> Work<'_> {
        self.working.fetch_add(1, Ordering::SeqCst);
        self.worked.fetch_add(1, Ordering::SeqCst);
        Work(&self.working)
    }

    /// Whether this engine may do now what one of several engines does for all, until `lasting` from now.
    pub(crate) async fn has_turn(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        if !self.config.shares_record {
            return Ok(true);
        }
        let now = self.now();
        let until = now.plus(u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX));
        self.store.take_turn(name, &self.config.engine_id, now, until).await
    }

    pub(crate) fn moment(&self) -> Moment {
        #[expect(clippy::cast_possible_truncation, reason = "64 of 128 random bits are wanted")]
        let chance = self.entropy.bits() as u64;
        Moment { now: self.now(), chance }
    }

    pub(crate) fn resume_url(&self, execution: ExecutionId, step: &str, visit: u32) -> String {
        format!("{}/v1/resume/{}", self.config.public_url, self.tokens.token(execution, step, visit))
    }

    /// The executions with these ids, from memory where they moved lately and are not `distrusted`; with each, whether it
    /// was read from the record now. The version guard makes an old copy harmless where it leads to a commit.
    pub(crate) async fn hot(
        &self,
        ids: &BTreeSet<ExecutionId>,
        distrusted: &BTreeSet<ExecutionId>,
    ) -> Result<Vec<(Arc<Execution>, bool)>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        {
            let mut hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                match hot.get(id).filter(|_| !distrusted.contains(id)) {
                    Some(execution) => found.push((execution.clone(), false)),
                    None => missing.push(*id),
                }
            }
        }
        if !missing.is_empty() {
            let loaded = self.store.load(&missing).await?;
            found.extend(loaded.into_iter().map(|execution| (Arc::new(execution), true)));
        }
        Ok(found)
    }

    /// The copy in memory of an execution that moved lately.
    pub(crate) fn peek_hot(&self, id: ExecutionId) -> Option<Arc<Execution>> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn keep_hot(&self, execution: &Arc<Execution>) {
        let mut hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = match execution.status() {
            // A task's result is on its way; others may rest for days.
            Status::WaitingForWorker | Status::Pending | Status::Cancelling | Status::Compensating => {
                execution.context_bytes <= HOT_CONTEXT_BYTES_MAX
                    && execution.compensations.len() + execution.signals.len() <= HOT_EXTRAS_MAX
            }
            Status::Waiting
            | Status::Paused
            | Status::Incident
            | Status::Completed
            | Status::Failed
            | Status::Cancelled => false,
        };
        // Commits of one execution may be noted in another order than they were made in.
        if hot.peek(&execution.id()).is_some_and(|kept| kept.version > execution.version) {
            return;
        }
        if keep {
            hot.put(execution.id(), execution.clone(), execution.context_bytes);
        } else {
            hot.pop(&execution.id());
        }
    }

    pub(crate) fn forget_hot(&self, id: ExecutionId) {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner).pop(&id);
    }

    /// What the children of a fan-out are made of.
    pub(crate) async fn join_spec(
        &self,
        parent: ExecutionId,
        join: u32,
    ) -> Result<Option<Arc<JoinSpec>>, StoreError> {
        if let Some(spec) = self.joins.lock().unwrap_or_else(PoisonError::into_inner).get(&(parent, join)) {
            return Ok(Some(spec.clone()));
        }
        let Some(join_row) = self.store.join(parent, join).await? else { return Ok(None) };
        self.keep_join(&join_row.spec);
        Ok(Some(join_row.spec))
    }

    pub(crate) fn keep_join(&self, spec: &Arc<JoinSpec>) {
        let key = (spec.parent, spec.join);
        self.keep_snapshot(key, &spec.snapshot);
        let bytes = join_bytes(spec);
        self.joins.lock().unwrap_or_else(PoisonError::into_inner).put(key, spec.clone(), bytes);
    }

    fn keep_snapshot(&self, key: (ExecutionId, u32), snapshot: &Arc<Snapshot>) {
        let bytes = snapshot_bytes(snapshot);
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).put(key, snapshot.clone(), bytes);
    }

    pub(crate) fn forget_join(&self, parent: ExecutionId, join: u32) {
        self.joins.lock().unwrap_or_else(PoisonError::into_inner).pop(&(parent, join));
    }

    /// The parent's context at the fan-out that made `execution`; none for whole flows.
    pub(crate) async fn outer(&self, execution: &Execution) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let identity = &execution.identity;
        let Some(parent) = identity.parent.filter(|_| !identity.graph.is_empty()) else { return Ok(None) };
        let key = (parent.execution, parent.join);
        if let Some(snapshot) = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Some(snapshot.clone()));
        }
        let snapshot = self.store.snapshot(parent.execution, parent.join).await?;
        if let Some(snapshot) = &snapshot {
            self.keep_snapshot(key, snapshot);
        }
        Ok(snapshot)
    }

    /// One execution.
    ///
    /// # Errors
    /// When the record cannot be read, or the execution does not exist.
    pub async fn execution(&self, id: ExecutionId) -> Result<Execution, EngineError> {
        self.store.load(&[id]).await?.pop().ok_or(EngineError::ExecutionNotFound(id))
    }
}
