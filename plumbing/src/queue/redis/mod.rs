//! The queue in Redis (7.0 and newer, Valkey): one server, Sentinels, or a Cluster.
//!
//! Every transition is one function inside Redis (`scripts/*.lua`) on the keys of one pool (`keys.rs`). Nothing blocks on
//! data: whoever waits blocks on a bell, and then asks. Leases run on the clock of Redis. What is lost with Redis is rebuilt
//! from the record.

mod acl;
mod address;
mod bells;
mod broadcast;
mod check;
mod dispatch;
mod engine;
mod failure;
mod functions;
mod hands;
mod keys;
mod link;
mod listening;
mod memory;
mod options;
mod pools;
mod shared;
mod stats;
mod tasks;
mod values;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

pub use acl::{AclRole, acl_rules};
pub use broadcast::RedisBroadcast;
pub use check::{Finding, Severity};
pub use failure::RedisFailure;
pub use functions::{LIBRARY, library_source};
pub use keys::{POOL_BYTES_MAX, is_pool};
pub use options::{ENGINE_STALE, MEMORY_RATIO_MAX, PREFIX, RedisOptions, RedisOptionsError};
pub use stats::RedisStats;
pub use tasks::{RESULT_UNWRITABLE, TASK_UNREADABLE};

use super::QueueError;
use shared::Shared;
use tokio::time::timeout;

/// The queue in Redis. Both sides: a worker uses it as a `TaskQueue`, an engine as a `DispatchQueue`.
///
/// Connections are opened when they are needed, and again after they broke, with growing and jittered pauses; until then
/// calls answer [`QueueError::Unavailable`] at once. The runtime that makes the first call carries the connection and must
/// live as long as the queue is used; heartbeats may come from another runtime and then have a connection of their own.
pub struct RedisQueue {
    shared: Arc<Shared>,
    /// Ends the listeners when the queue is dropped.
    _stop: DropGuard,
}

impl RedisQueue {
    /// A queue that has not connected yet. Reads the files for TLS.
    ///
    /// # Errors
    /// When the options cannot be used.
    pub fn new(options: RedisOptions) -> Result<Self, RedisOptionsError> {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(options, stop.clone())?);
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// Connects, and loads the functions where this user may.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached, refuses the user, or has no functions and the user may not
    /// load them (then an engine has to start first). Options that cannot be used are such an error too.
    pub async fn connect(options: RedisOptions) -> Result<Self, QueueError> {
        let queue = Self::new(options).map_err(|error| QueueError::Unavailable(Box::new(error)))?;
        queue.reach().await?;
        Ok(queue)
    }

    /// Connects now, and loads the functions where this user may. After an error it may be tried again, if that is any use:
    /// [`RedisFailure::lasts`].
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] as with [`RedisQueue::connect`].
    pub async fn reach(&self) -> Result<(), QueueError> {
        self.shared.ping().await?;
        match self.shared.load_functions().await {
            Ok(()) => Ok(()),
            // Workers need not be able to: if the functions are missing, their calls say so.
            Err(RedisFailure::FunctionsMissing { .. }) => Ok(()),
            Err(error) => Err(error.into_queue_error("the functions")),
        }
    }

    /// Looks whether Redis is set up as it should be, for engines at their start and for people.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached or refuses the user.
    pub async fn check(&self) -> Result<Vec<Finding>, QueueError> {
        self.shared.check().await
    }

    /// The share of `maxmemory` that the fullest primary uses; 0 without a limit.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached or refuses the user.
    pub async fn memory_ratio(&self) -> Result<f64, QueueError> {
        self.shared.memory_ratio().await.map_err(|error| error.into_queue_error("memory of Redis"))
    }

    /// What was met so far that should not be there, and how often connections were opened.
    pub async fn stats(&self) -> RedisStats {
        self.shared.stats().await
    }

    /// Waits until the exchanges under way have ended, at most for `deadline`. Results that wait for this engine are for all
    /// then. Call it after the last use.
    pub async fn close(&self, deadline: Duration) {
        if let Some(engine) = &self.shared.options.engine {
            // Else it is silent from now on, which is noticed after a while.
            drop(timeout(deadline, self.shared.listen(engine, true)).await);
        }
        self.shared.close(deadline).await;
    }
}

impl std::fmt::Debug for RedisQueue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RedisQueue").field("options", &self.shared.options).finish_non_exhaustive()
    }
}
