//! The task queue and the result queue of a pool, as traits. One conformance suite holds for every implementation.
//!
//! Lists hold ids `<task>:<attempt>`; a task is in exactly one place: ready, in a worker's hands (with a lease), or among
//! the results. The queue is disposable: the record can always rebuild it.

#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod local;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use local::{LocalQueue, LocalQueueLimits};

use crate::mac::Seal;
use crate::manifest::Manifest;
use crate::wire::{ResultMessage, TaskMessage, WireError};

/// How often workers announce themselves.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// A worker that has not announced itself for so long is taken for dead in what people see; its leases end by themselves.
pub const WORKER_SILENT_AFTER: Duration = Duration::from_secs(45);

/// One delivery of a task: what every queue operation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delivery {
    /// The task.
    pub task_id: String,
    /// The fence.
    pub attempt: u32,
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.task_id, self.attempt)
    }
}

/// A delivery and the pool whose queue carries it: what the engine's side names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dispatched {
    /// The pool.
    pub pool: String,
    /// Which delivery.
    pub delivery: Delivery,
}

impl TaskMessage {
    /// Which delivery the message is, and where.
    #[must_use]
    pub fn dispatched(&self) -> Dispatched {
        Dispatched { pool: self.pool.clone(), delivery: self.delivery() }
    }

    /// Which delivery the message is.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery { task_id: self.task_id.clone(), attempt: self.attempt }
    }
}

impl ResultMessage {
    /// Which delivery the result is of.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery { task_id: self.task_id.clone(), attempt: self.attempt }
    }
}

/// What went wrong, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Back off and try again.
    #[error("the queue is unreachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The queue refuses more tasks until some are taken; the record holds the backlog.
    #[error("the queue is full ({limit})")]
    Full {
        /// Which limit.
        limit: String,
    },
    /// An entry cannot be read; it is put aside and named.
    #[error("queue entry `{entry}` is not readable: {reason}")]
    Corrupt {
        /// Which entry.
        entry: String,
        /// Why.
        reason: String,
    },
}

/// Asks for tasks.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The pool.
    pub pool: String,
    /// The worker instance that will own the leases.
    pub worker: String,
    /// At most this many tasks.
    pub max: usize,
    /// True: look at the low list first (every tenth claim, so that low tasks do not starve).
    pub low_first: bool,
}

/// A task in a worker's hands.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// The message.
    pub task: TaskMessage,
    /// The pool's generation at the claim.
    pub generation: u64,
}

/// A lease that a worker believes to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Of which delivery.
    pub delivery: Delivery,
    /// Milliseconds without a heartbeat after which it ends.
    pub lease_ms: u64,
    /// Milliseconds that are left of the attempt.
    pub remaining_ms: u64,
}

/// What a worker learns when it extends or re-asserts its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// Deliveries that the worker no longer owns: stop them, their results will be refused.
    pub lost: Vec<Delivery>,
    /// Deliveries whose cancellation was asked for.
    pub cancelled: Vec<Delivery>,
    /// The pool's generation. Changed: the queue may have forgotten the leases, so that `lost` says nothing yet; re-assert
    /// them. 0: the queue has been emptied and is not rebuilt yet.
    pub generation: u64,
}

/// A result that an engine took.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Of which delivery, and the pool that it came from.
    pub dispatched: Dispatched,
    /// The result; an error: its bytes cannot be understood, or it is not of that delivery.
    pub result: Result<ResultMessage, WireError>,
    /// The seal that the result came with. A queue within one process has none.
    pub seal: Option<Seal>,
}

/// A worker as it announces itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPresence {
    /// The worker instance.
    pub worker: String,
    /// Pools it serves.
    pub pools: Vec<String>,
    /// Tasks that it runs at a time.
    pub slots: u32,
    /// Tasks that it runs now.
    pub running: u32,
    /// Version of its program.
    pub version: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// RFC 3339, by the worker's clock.
    pub started_at: String,
    /// Whether it takes no more tasks.
    #[serde(default)]
    pub draining: bool,
    /// What it offers, in the order of handler types.
    #[serde(default)]
    pub manifests: Vec<Manifest>,
    /// Milliseconds since it was heard of; filled in by the queue.
    #[serde(default)]
    pub silent_ms: u64,
}

/// A lease that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredLease {
    /// Which delivery, and where.
    pub dispatched: Dispatched,
    /// The worker that held it.
    pub worker: String,
    /// True: the worker gave signs of life past the attempt's hard end and did not report it (a timeout); false: heartbeats
    /// stopped (a lost lease).
    pub hard_end: bool,
}

/// How many tasks a pool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready, high priority.
    pub high: usize,
    /// Ready, normal priority.
    pub normal: usize,
    /// Ready, low priority.
    pub low: usize,
    /// In workers' hands.
    pub in_flight: usize,
    /// Results not yet acknowledged.
    pub results: usize,
    /// Milliseconds the oldest ready task has waited.
    pub oldest_age_ms: u64,
}

/// The worker's side of a pool's queue.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// Takes up to `max` tasks: high, then normal, then low. A claimed task is invisible to others until its lease ends.
    /// The lease lasts `lease_ms` of the task, its hard end is `remaining_ms` after the claim.
    async fn claim(&self, claim: Claim) -> Result<Vec<ClaimedTask>, QueueError>;

    /// Waits until one of `pools` may have a task, for `longest` at most, and tells which. None: nothing is known; may come
    /// early and for no reason. Losing a wake-up is harmless as long as callers claim now and then from every pool.
    async fn wait_for_tasks(&self, pools: &[String], longest: Duration) -> Option<String>;

    /// As [`Self::claim`], of a pool that had nothing a moment ago: waits until it may have something, for `longest` at most.
    /// May be dropped: what is claimed nevertheless goes back. This default is for queues of which that is true of a claim, too.
    async fn claim_when_ready(
        &self,
        claim: Claim,
        longest: Duration,
    ) -> Result<Vec<ClaimedTask>, QueueError> {
        self.wait_for_tasks(std::slice::from_ref(&claim.pool), longest).await;
        self.claim(claim).await
    }

    /// Renews the leases of `deliveries`. A sign of life after an attempt's hard end renews nothing: the attempt then ends a
    /// third of its lease after its hard end, as a timeout. Silence is a lost lease, before the hard end and after it.
    async fn extend(&self, pool: &str, worker: &str, deliveries: &[Delivery])
    -> Result<Extended, QueueError>;

    /// Puts leases back that the queue has forgotten: whatever became of the pool, the deliveries are in this worker's hands
    /// again, and nowhere else. Refused (lost) where another owner is recorded, a result is there, or a newer attempt of
    /// the task has been pushed. A lease that the worker still has is extended.
    async fn reassert(&self, pool: &str, worker: &str, leases: &[Lease]) -> Result<Extended, QueueError>;

    /// Hands in results and ends their leases. Refuses only where another owner is recorded; returns the refused.
    async fn finish(
        &self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Gives back tasks whose handler has not started: same attempt, to the head of the line.
    async fn release(&self, pool: &str, worker: &str, deliveries: &[Delivery]) -> Result<(), QueueError>;

    /// Tells engines and people that the worker is there; to be repeated at least every
    /// [`ANNOUNCE_EVERY`](crate::queue::ANNOUNCE_EVERY). True: somebody has asked the worker to drain; it is told again until it
    /// retires, or for a while.
    async fn announce(&self, presence: &WorkerPresence) -> Result<bool, QueueError>;

    /// Tells that the worker has ended.
    async fn retire(&self, worker: &str, pools: &[String]) -> Result<(), QueueError>;
}

/// The engine's side of all pools' queues.
#[async_trait]
pub trait DispatchQueue: Send + Sync {
    /// Makes tasks ready. Repeatable: a delivery that is present anywhere is left as it is. Older attempts of the same
    /// task that are still ready are removed. All or nothing: on an error no task of the call has become ready, or the
    /// caller cannot know and pushes again.
    async fn push(&self, tasks: Vec<TaskMessage>) -> Result<(), QueueError>;

    /// Takes up to `max` results for `engine`; they stay with it until acknowledged.
    async fn take(&self, engine: &str, max: usize) -> Result<Vec<Taken>, QueueError>;

    /// Waits until there may be results; may return early and for no reason.
    async fn wait_for_results(&self);

    /// Forgets results and payloads after the commit.
    async fn acknowledge(&self, engine: &str, deliveries: &[Dispatched]) -> Result<(), QueueError>;

    /// Makes the results that `engine` took and never acknowledged available to be taken again; returns how many. For
    /// engines that have died, and for an engine that starts again under its old name.
    async fn adopt_results(&self, engine: &str) -> Result<usize, QueueError>;

    /// Notes that `engine` is alive, and makes the results available again that engines took which have not been heard of
    /// for a while, and those that a damaged queue has in no list; returns how many. To be repeated every few seconds.
    async fn keep_alive(&self, engine: &str) -> Result<usize, QueueError>;

    /// Leases that ended, at most `max`. Read only: the record changes first, then [`Self::drop_deliveries`].
    async fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>, QueueError>;

    /// Removes deliveries wherever they are, after the record moved on.
    async fn drop_deliveries(&self, deliveries: &[Dispatched]) -> Result<(), QueueError>;

    /// Asks the owners of `deliveries` to cancel. A delivery that is only ready is removed and returned.
    async fn request_cancel(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError>;

    /// Removes those of `deliveries` that are only ready, and returns them; what is in a worker's hands stays there.
    async fn take_back(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError>;

    /// Which of `deliveries` are present: ready, in a worker's hands, or among the results.
    async fn present(&self, deliveries: &[Dispatched]) -> Result<Vec<bool>, QueueError>;

    /// How many tasks each pool holds, by pool.
    async fn depths(&self) -> Result<Vec<(String, Depth)>, QueueError>;

    /// The workers that announced themselves and have not fallen silent.
    async fn workers(&self) -> Result<Vec<WorkerPresence>, QueueError>;

    /// Asks a worker to drain: it learns of it with its next announcement. Another process that takes the worker's name
    /// later is not meant. Repeatable.
    async fn ask_to_drain(&self, worker: &WorkerPresence) -> Result<(), QueueError>;

    /// The generation that the queue holds for each of `pools`; none: the queue has forgotten the pool.
    async fn generations(&self, pools: &[String]) -> Result<Vec<Option<u64>>, QueueError>;

    /// Notes the generation of a pool. Generations only go forward: a lower one than the queue holds is ignored, as a
    /// later writer has overtaken this one; 0, the mark of a queue that is being rebuilt, follows any.
    async fn set_generation(&self, pool: &str, generation: u64) -> Result<(), QueueError>;

    /// Replaces the generation of a pool when the queue holds `from` (none: it has forgotten the pool), in one step; returns
    /// whether it did. A writer that must not hide that the queue was emptied since it looked uses this.
    async fn change_generation(&self, pool: &str, from: Option<u64>, to: u64) -> Result<bool, QueueError>;

    /// Names the servers as they run: changes whenever one of them is started anew or replaced.
    async fn server_id(&self) -> Result<String, QueueError>;

    /// Whether nothing is ready, in a worker's hands, or among the results.
    async fn is_idle(&self) -> Result<bool, QueueError>;
}
