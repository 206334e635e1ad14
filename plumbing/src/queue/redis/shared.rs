//! What both sides of the queue share: the connections, and how a function is called.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bells::{ResultsBell, TasksBells};
use super::failure::RedisFailure;
use super::functions::{self, Call, Function};
use super::hands::{Hands, Holder};
use super::keys::{Keys, PoolKeys, is_name};
use super::link::{Client, Line};
use super::listening::Listening;
use super::memory::Memory;
use super::options::{RedisOptions, RedisOptionsError};
use super::pools::Pools;
use super::stats::{Counters, RedisStats};
use super::values::Answer;
use crate::queue::QueueError;

/// Runtimes that heartbeats come from, at most; more only when runtimes come and go, and then all begin anew.
const HEARTBEAT_LINES_MAX: usize = 16;

pub(super) struct Shared {
    pub(super) keys: Keys,
    pub(super) options: RedisOptions,
    pub(super) client: Arc<Client>,
    /// All but heartbeats, bells and subscriptions.
    pub(super) calls: Line,
    /// Heartbeats: large transfers on the other connection must not delay them. By runtime, because a connection stands
    /// still with the runtime that opened it.
    heartbeats: Mutex<HashMap<Id, Arc<Line>>>,
    pub(super) tasks_bells: TasksBells,
    pub(super) results_bell: ResultsBell,
    pub(super) pools: Pools,
    pub(super) memory: Memory,
    pub(super) workers_hands: Hands,
    pub(super) engines_hands: Hands,
    pub(super) listening: Listening,
    pub(super) counters: Counters,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(options: RedisOptions, stop: CancellationToken) -> Result<Self, RedisOptionsError> {
        let address = options.address()?;
        let client = Arc::new(Client::new(&address, &options)?);
        Ok(Self {
            keys: Keys::new(&options.prefix),
            calls: Line::new(Arc::clone(&client)),
            heartbeats: Mutex::default(),
            tasks_bells: TasksBells::new(Arc::clone(&client)),
            results_bell: ResultsBell::default(),
            pools: Pools::default(),
            memory: Memory::default(),
            workers_hands: Hands::default(),
            engines_hands: Hands::default(),
            listening: Listening::default(),
            counters: Counters::default(),
            tracker: TaskTracker::new(),
            stop,
            client,
            options,
        })
    }

    pub(super) async fn ping(&self) -> Result<(), QueueError> {
        let answer = self.calls.query("ping", &redis::cmd("PING")).await;
        answer.map(drop).map_err(|error| error.into_queue_error("ping"))
    }

    pub(super) async fn load_functions(&self) -> Result<(), RedisFailure> {
        functions::load(&self.calls).await
    }

    pub(super) async fn stats(&self) -> RedisStats {
        self.counters.read(self.calls.opened().await)
    }

    pub(super) async fn close(&self, deadline: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_err() {
            tracing::warn!(exchanges = self.tracker.len(), "exchanges with Redis have not ended in time");
        }
    }

    /// The connection for heartbeats of the runtime that asks.
    pub(super) fn heartbeats(&self) -> Arc<Line> {
        let mut lines = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = Handle::current().id();
        if lines.len() >= HEARTBEAT_LINES_MAX && !lines.contains_key(&runtime) {
            lines.clear();
        }
        Arc::clone(lines.entry(runtime).or_insert_with(|| Arc::new(Line::new(Arc::clone(&self.client)))))
    }

    /// The keys of a pool, for callers that may name anything.
    pub(super) fn pool(&self, pool: &str) -> Result<PoolKeys, QueueError> {
        self.keys.pool(pool).ok_or_else(|| QueueError::Corrupt {
            entry: pool.chars().take(super::keys::POOL_BYTES_MAX).collect(),
            reason: "a pool is `[tenant@][region/]handler`, each of a-z, 0-9, `.`, `_`, `-`".to_owned(),
        })
    }

    /// Calls a function on a pool over the connection for all but heartbeats.
    pub(super) async fn call(
        &self,
        function: Function,
        doing: &'static str,
        pool: &PoolKeys,
        own: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<Answer, RedisFailure> {
        let call = Call::on_pool(function, pool, own).arg(arguments);
        Ok(Answer::new(doing, call.on(&self.calls).await?))
    }
}

/// Who holds what at a pool; refuses names that cannot be part of a key.
pub(super) fn holder(pool: &PoolKeys, name: &str) -> Result<Holder, QueueError> {
    if !is_name(name) {
        let entry = name.chars().take(super::keys::NAME_BYTES_MAX).collect();
        let reason = "a worker's or engine's name is 1 to 200 bytes without control characters".to_owned();
        return Err(QueueError::Corrupt { entry, reason });
    }
    Ok(Holder { pool: pool.pool().to_owned(), name: name.to_owned() })
}
