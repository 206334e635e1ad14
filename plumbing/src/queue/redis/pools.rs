//! Which pools there are.
//!
//! Engines keep a set of them in Redis, for each other and for engines that start. It is in another slot than the pools,
//! and gone after `FLUSHALL`, so each engine adds what it knows again whenever it looks.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{POOL_BYTES_MAX, PoolKeys, is_pool};
use super::shared::Shared;
use super::values::Answer;
use crate::queue::QueueError;

/// How old the view of other engines' pools may be.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Pools that are looked at. More are not dispatched to by one engine, and only garbage comes near.
const POOLS_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Pools {
    state: Mutex<PoolsState>,
    /// One refresh at a time.
    refresh: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct PoolsState {
    known: BTreeSet<String>,
    refreshed: Option<Instant>,
    /// Where the next round begins, so that no pool is always the last.
    turn: usize,
}

impl Pools {
    fn state(&self) -> MutexGuard<'_, PoolsState> {
        // Plain data, and every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes pools without asking Redis; returns whether one of them is new.
    pub(super) fn note<'a>(&self, pools: impl IntoIterator<Item = &'a str>) -> bool {
        let mut state = self.state();
        let mut new = false;
        for pool in pools {
            if !state.known.contains(pool) && state.known.len() < POOLS_MAX && is_pool(pool) {
                state.known.insert(pool.to_owned());
                new = true;
            }
        }
        if new {
            state.refreshed = None;
        }
        new
    }

    fn is_fresh(&self) -> bool {
        self.state().refreshed.is_some_and(|at| at.elapsed() < REFRESH_EVERY)
    }
}

impl Shared {
    /// All pools, beginning with another one each time.
    pub(super) async fn all_pools(&self) -> Result<Vec<PoolKeys>, QueueError> {
        if !self.pools.is_fresh() {
            let _one_at_a_time = self.pools.refresh.lock().await;
            if !self.pools.is_fresh() {
                self.refresh_pools().await?;
            }
        }
        let mut state = self.pools.state();
        let mut pools: Vec<PoolKeys> = state.known.iter().filter_map(|pool| self.keys.pool(pool)).collect();
        turn_by(&mut pools, state.turn);
        state.turn = state.turn.wrapping_add(1);
        Ok(pools)
    }

    async fn refresh_pools(&self) -> Result<(), QueueError> {
        let key = self.keys.pools();
        let failed = |error: super::RedisFailure| error.into_queue_error(&key);
        let mut command = redis::cmd("SMEMBERS");
        command.arg(&key);
        let answer = match self.calls.query("reading the pools", &command).await {
            Err(error) if error.is_wrong_type() => {
                let mut command = redis::cmd("DEL");
                command.arg(&key);
                self.calls.query("removing a key of the wrong type", &command).await.map_err(failed)?;
                self.counters.keys_put_aside.add(1);
                redis::Value::Nil
            }
            answer => answer.map_err(failed)?,
        };
        let mut found = BTreeSet::new();
        for pool in Answer::new("reading the pools", answer).list().map_err(failed)? {
            let pool = pool.text().map_err(failed)?;
            if pool.len() <= POOL_BYTES_MAX && is_pool(&pool) {
                found.insert(pool);
            }
        }
        self.pools.note(found.iter().map(String::as_str));
        let missing: Vec<String> = {
            let mut state = self.pools.state();
            state.refreshed = Some(Instant::now());
            state.known.difference(&found).cloned().collect()
        };
        if !missing.is_empty() {
            let mut command = redis::cmd("SADD");
            command.arg(&key).arg(&missing);
            self.calls.query("noting the pools", &command).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Begins with another element: turns the list.
fn turn_by(pools: &mut [PoolKeys], turn: usize) {
    if !pools.is_empty() {
        let by = turn % pools.len();
        pools.rotate_left(by);
    }
}
