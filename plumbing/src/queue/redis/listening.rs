//! Results come back to the engine that sent the task, which has the execution at hand: another one would have to read it, and
//! the first would go on with an old copy. An engine says again and again that it takes its results; when it falls silent, or
//! too many wait for it, they are for all engines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::functions::Function;
use super::keys::PoolKeys;
use super::shared::Shared;
use crate::queue::QueueError;

/// How often an engine says that it takes its results, well within `LISTENER_SILENT` of `scripts/common.lua`.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// Every so many takes, one looks at the results for all engines first.
const ALL_FIRST_EVERY: u64 = 2;

#[derive(Default)]
pub(super) struct Listening {
    last: Mutex<Option<Instant>>,
    takes: AtomicU64,
}

impl Listening {
    /// Whether it is time to say so again; the caller does.
    fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= LISTEN_EVERY);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

impl Shared {
    /// Says that this engine takes its results, if that is due.
    pub(super) async fn keep_listening(&self) -> Result<(), QueueError> {
        match &self.options.engine {
            Some(engine) if self.listening.is_due() => self.listen(engine, false).await,
            _ => Ok(()),
        }
    }

    /// Says at all pools that `engine` takes its results, or that it takes no more. Those of silent engines are for all then.
    pub(super) async fn listen(&self, engine: &str, leaves: bool) -> Result<(), QueueError> {
        let words = |pool: &PoolKeys| {
            let leaves = if leaves { "1" } else { "0" };
            [engine.as_bytes().to_vec(), leaves.into(), pool.results_bell().into_bytes()]
        };
        self.on_all_pools(|pool| {
            let words = words(&pool);
            async move { self.call(Function::Listen, "listen", &pool, &[], &words).await?.count() }
        })
        .await
        .map(drop)
    }

    /// The lists of results that this engine may take: its own, and that for all.
    pub(super) fn lists_of_results(&self, pool: &PoolKeys) -> Vec<String> {
        let own = self.options.engine.as_deref().map(|engine| pool.addressed(engine));
        own.into_iter().chain([pool.results()]).collect()
    }

    /// The same for a take: the one to look at first first.
    pub(super) fn lists_to_take(&self, pool: &PoolKeys) -> Vec<String> {
        let mut lists = self.lists_of_results(pool);
        if self.listening.takes.fetch_add(1, Ordering::Relaxed).is_multiple_of(ALL_FIRST_EVERY) {
            lists.reverse();
        }
        lists
    }

    /// The lists of results that are with engines, or for them: those that are known, and those that this process serves.
    pub(super) fn lists_of_engines(&self, pool: &PoolKeys, engines: &[String]) -> Vec<String> {
        let mut names = self.engines_hands.names(pool.pool());
        names.extend(engines.iter().cloned());
        names.extend(self.options.engine.clone());
        names.iter().flat_map(|name| [pool.taken(name), pool.addressed(name)]).collect()
    }
}
