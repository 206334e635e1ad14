//! The task queue and the result queue of a pool, as traits. One conformance suite holds for every implementation.
//!
//! Lists hold ids `<task>:<attempt>`; a task is in exactly one place: ready, in a worker's hands (with a lease), or among
//! the results. The queue is disposable: the record can always rebuild it.

#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod local;

use async_trait::async_trait;

pub use local::{LocalQueue, LocalQueueLimits};

use crate::wire::{ResultMessage, TaskMessage};

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

impl TaskMessage {
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

/// What a worker learns when it extends its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// Deliveries that the worker no longer owns: stop them, their results will be refused.
    pub lost: Vec<Delivery>,
    /// Deliveries whose cancellation was asked for.
    pub cancelled: Vec<Delivery>,
    /// The pool's generation; changed: re-assert the leases.
    pub generation: u64,
}

/// A lease that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredLease {
    /// The pool.
    pub pool: String,
    /// Which delivery.
    pub delivery: Delivery,
    /// The worker that held it.
    pub worker: String,
    /// True: the attempt's hard end passed (a timeout); false: heartbeats stopped (a lost lease).
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

    /// Waits until one of `pools` may have a task; may return early and for no reason. Losing a wake-up is harmless as
    /// long as callers claim now and then.
    async fn wait_for_tasks(&self, pools: &[String]);

    /// Renews the leases of `deliveries`, never past their hard ends.
    async fn extend(&self, pool: &str, worker: &str, deliveries: &[Delivery])
    -> Result<Extended, QueueError>;

    /// Hands in results and ends their leases. Refuses only where another owner is recorded; returns the refused.
    async fn finish(
        &self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Gives back tasks whose handler has not started: same attempt, to the head of the line.
    async fn release(&self, pool: &str, worker: &str, deliveries: &[Delivery]) -> Result<(), QueueError>;
}

/// The engine's side of all pools' queues.
#[async_trait]
pub trait DispatchQueue: Send + Sync {
    /// Makes tasks ready. Repeatable: a delivery that is present anywhere is left as it is. Older attempts of the same
    /// task that are still ready are removed. All or nothing: on an error no task of the call has become ready, or the
    /// caller cannot know and pushes again.
    async fn push(&self, tasks: Vec<TaskMessage>) -> Result<(), QueueError>;

    /// Takes up to `max` results for `engine`; they stay with it until acknowledged.
    async fn take(&self, engine: &str, max: usize) -> Result<Vec<ResultMessage>, QueueError>;

    /// Waits until there may be results; may return early and for no reason.
    async fn wait_for_results(&self);

    /// Forgets results and payloads after the commit.
    async fn acknowledge(&self, engine: &str, deliveries: &[Delivery]) -> Result<(), QueueError>;

    /// Makes the results that `engine` took and never acknowledged available to be taken again; returns how many. For
    /// engines that have died, and for an engine that starts again under its old name.
    async fn adopt_results(&self, engine: &str) -> Result<usize, QueueError>;

    /// Leases that ended, at most `max`. Read only: the record changes first, then [`Self::drop_deliveries`].
    async fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>, QueueError>;

    /// Removes deliveries wherever they are, after the record moved on.
    async fn drop_deliveries(&self, deliveries: &[Delivery]) -> Result<(), QueueError>;

    /// Asks the owners of `deliveries` to cancel. A delivery that is only ready is removed and returned.
    async fn request_cancel(&self, deliveries: &[Delivery]) -> Result<Vec<Delivery>, QueueError>;

    /// Removes those of `deliveries` that are only ready, and returns them; what is in a worker's hands stays there.
    async fn take_back(&self, deliveries: &[Delivery]) -> Result<Vec<Delivery>, QueueError>;

    /// Which of `deliveries` are present: ready, in a worker's hands, or among the results.
    async fn present(&self, deliveries: &[Delivery]) -> Result<Vec<bool>, QueueError>;

    /// How many tasks each pool holds, by pool.
    async fn depths(&self) -> Result<Vec<(String, Depth)>, QueueError>;

    /// Whether nothing is ready, in a worker's hands, or among the results.
    async fn is_idle(&self) -> Result<bool, QueueError>;
}
