//! What this engine knows of pools: which there are, and whether their queues are what the record says they are.
//!
//! The record holds a generation per pool, the queue mirrors it. A queue without it, or with another one, has been emptied,
//! replaced or restored: it is rebuilt from the record before it gets the record's generation. Workers that see it change
//! re-assert the leases of what they run; until they have had the time for that, what is absent from such a queue is not
//! taken for lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flowmonkey_core::time::Timestamp;

use crate::engine::{Engine, EngineError};

/// The generation of a queue that is being rebuilt. Should the queue be emptied once more meanwhile, it is gone.
const REBUILDING: u64 = 0;

/// Pools that this engine has met.
#[derive(Default)]
pub(crate) struct Pools(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The servers that the generations are of.
    server_id: Option<String>,
    pools: BTreeMap<String, Pool>,
    /// Comparisons that have begun.
    begun: u64,
    /// The comparison whose answer is known. Several may be under way; an answer that a later one has overtaken is old.
    known: u64,
}

#[derive(Clone, Copy, Default)]
struct Pool {
    /// The record's; none: not asked yet.
    generation: Option<u64>,
    /// What the queue held when it was asked last.
    found: Option<u64>,
    /// Since when its queue has not had the record's generation; none: it has.
    unsettled_since: Option<Timestamp>,
    /// Whether its queue has been compared at all.
    compared: bool,
}

impl Pools {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is such a pool.
    pub(crate) fn note<'a>(&self, pools: impl IntoIterator<Item = &'a str>) {
        let mut known = self.known();
        for pool in pools {
            if !known.pools.contains_key(pool) {
                known.pools.insert(pool.to_owned(), Pool::default());
            }
        }
    }

    /// Pools whose queues have not had the record's generation for so long that their workers have re-asserted what they
    /// run.
    pub(crate) fn to_rebuild(&self, now: Timestamp, grace_ms: u64) -> BTreeSet<String> {
        let due = |pool: &Pool| pool.unsettled_since.is_some_and(|since| since.plus(grace_ms) <= now);
        let known = self.known();
        known.pools.iter().filter(|(_, pool)| due(pool)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether something absent from the pool's queue is missing for certain.
    pub(crate) fn is_settled(&self, pool: &str) -> bool {
        self.known().pools.get(pool).is_some_and(|pool| pool.compared && pool.unsettled_since.is_none())
    }

    /// Whether the queue had everything when it was compared last: what it should, or what a rebuild has made of it so far.
    fn is_whole(&self, pool: &str, is_rebuilt: bool) -> bool {
        self.known().pools.get(pool).is_some_and(|pool| {
            let is_settled = pool.compared && pool.unsettled_since.is_none();
            is_settled || (is_rebuilt && pool.found == Some(REBUILDING))
        })
    }

    fn unasked(&self, server_id: &str) -> Vec<String> {
        let mut known = self.known();
        if known.server_id.as_deref() != Some(server_id) {
            known.server_id = Some(server_id.to_owned());
            for pool in known.pools.values_mut() {
                pool.generation = None;
            }
        }
        let unasked = known.pools.iter().filter(|(_, pool)| pool.generation.is_none());
        unasked.map(|(name, _)| name.clone()).collect()
    }

    fn answered(&self, server_id: &str, pool: &str, generation: u64) {
        let mut known = self.known();
        if known.server_id.as_deref() == Some(server_id)
            && let Some(pool) = known.pools.get_mut(pool)
        {
            pool.generation = Some(generation);
        }
    }

    fn asked(&self) -> BTreeMap<String, u64> {
        let known = self.known();
        known.pools.iter().filter_map(|(name, pool)| Some((name.clone(), pool.generation?))).collect()
    }

    /// Before the queue is asked for generations.
    fn begin_comparison(&self) -> u64 {
        let mut known = self.known();
        known.begun += 1;
        known.begun
    }

    /// The queue has answered the comparison with this number.
    fn end_comparison(&self, number: u64, found: Vec<(String, u64, Option<u64>)>, now: Timestamp) {
        let mut known = self.known();
        if number <= known.known {
            return;
        }
        known.known = number;
        for (name, wanted, found) in found {
            if let Some(pool) = known.pools.get_mut(&name) {
                pool.compare(&name, wanted, found, now);
            }
        }
    }

    /// What the pool's queue held when it was asked last.
    fn found(&self, pool: &str) -> Option<u64> {
        self.known().pools.get(pool).and_then(|pool| pool.found)
    }

    /// The pool's queue was marked as being rebuilt: what a comparison says that is under way is old.
    fn marked(&self, pool: &str) {
        let mut known = self.known();
        known.known = known.begun;
        if let Some(pool) = known.pools.get_mut(pool) {
            pool.found = Some(REBUILDING);
        }
    }
}

impl Pool {
    fn compare(&mut self, name: &str, wanted: u64, found: Option<u64>, now: Timestamp) {
        let is_new = !std::mem::replace(&mut self.compared, true);
        let before = std::mem::replace(&mut self.found, found);
        if found == Some(wanted) {
            self.unsettled_since = None;
            return;
        }
        // Another engine may have raised the record's generation since it was asked: two engines that each hold on to their
        // own would rebuild the queue against each other for ever.
        if found.is_some_and(|found| found != REBUILDING) {
            self.generation = None;
        }
        if self.unsettled_since.is_none() {
            if !is_new || wanted > 1 {
                tracing::warn!(
                    pool = name,
                    wanted,
                    ?found,
                    "the queue was emptied or replaced; it is rebuilt"
                );
            }
            self.unsettled_since = Some(now);
        } else if found.is_none() && before.is_some() {
            // Its workers have the time anew.
            tracing::warn!(pool = name, "the queue was emptied again before it was rebuilt");
            self.unsettled_since = Some(now);
        }
    }
}

impl Engine {
    /// Compares the generations of all pools that this engine knows.
    pub(crate) async fn compare_pools(&self) -> Result<(), EngineError> {
        let server_id = self.queue.server_id().await?;
        for pool in self.pools.unasked(&server_id) {
            let generation = self.store.pool_generation(&pool, &server_id).await?;
            self.pools.answered(&server_id, &pool, generation);
        }
        let (names, wanted): (Vec<String>, Vec<u64>) = self.pools.asked().into_iter().unzip();
        if names.is_empty() {
            return Ok(());
        }
        let number = self.pools.begin_comparison();
        let found = self.queue.generations(&names).await?;
        let found =
            names.into_iter().zip(wanted).zip(found).map(|((name, wanted), found)| (name, wanted, found));
        self.pools.end_comparison(number, found.collect(), self.now());
        Ok(())
    }

    /// Marks the queues of `pools` as being rebuilt.
    pub(crate) async fn begin_rebuild(&self, pools: &BTreeSet<String>) -> Result<(), EngineError> {
        for pool in pools {
            // One that has changed since it was asked is compared anew first: it may have been emptied again.
            if self.queue.change_generation(pool, self.pools.found(pool), REBUILDING).await? {
                self.pools.marked(pool);
            }
        }
        Ok(())
    }

    /// Of `pools`, in whose queues something was found absent, those whose queues do not hold the record's generation, nor
    /// that of a rebuild where they are `rebuilt`. They were emptied before that, and absence proves nothing.
    pub(crate) async fn emptied_meanwhile(
        &self,
        pools: BTreeSet<&str>,
        rebuilt: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, EngineError> {
        if pools.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.pools.note(pools.iter().copied());
        self.compare_pools().await?;
        let is_whole = |pool: &&str| self.pools.is_whole(pool, rebuilt.contains(*pool));
        Ok(pools.into_iter().filter(|pool| !is_whole(pool)).map(ToOwned::to_owned).collect())
    }

    /// Gives the queues of `pools`, which have been rebuilt, the record's generation; not those that were emptied again
    /// meanwhile.
    pub(crate) async fn end_rebuild(&self, pools: BTreeSet<String>) -> Result<(), EngineError> {
        let names: Vec<String> = pools.into_iter().collect();
        if names.is_empty() {
            return Ok(());
        }
        let wanted = self.pools.asked();
        for (pool, generation) in names.iter().filter_map(|pool| wanted.get_key_value(pool)) {
            self.queue.change_generation(pool, Some(REBUILDING), *generation).await?;
        }
        self.compare_pools().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_MS: u64 = 3_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A pool whose generation is 1 for the record.
    fn pools() -> Pools {
        let pools = Pools::default();
        pools.note(["a"]);
        assert_eq!(pools.unasked("s1"), ["a"]);
        pools.answered("s1", "a", 1);
        pools
    }

    fn finds(pools: &Pools, found: Option<u64>, now: i64) {
        let number = pools.begin_comparison();
        pools.end_comparison(number, vec![("a".into(), 1, found)], at(now));
    }

    fn is_due(pools: &Pools, now: i64) -> bool {
        !pools.to_rebuild(at(now), GRACE_MS).is_empty()
    }

    #[test]
    fn a_queue_that_is_emptied_again_gives_its_workers_the_time_anew() {
        let pools = pools();
        finds(&pools, None, 0);
        finds(&pools, None, 1_000);
        assert!(!is_due(&pools, 2_999));
        assert!(is_due(&pools, 3_000));
        pools.marked("a");
        assert!(pools.is_whole("a", true) && !pools.is_whole("a", false));
        finds(&pools, Some(REBUILDING), 3_100);
        assert!(is_due(&pools, 3_100));
        finds(&pools, None, 3_200);
        assert!(!is_due(&pools, 6_199) && !pools.is_whole("a", true));
        finds(&pools, Some(1), 6_300);
        assert!(!is_due(&pools, 99_000) && pools.is_settled("a"));
    }

    #[test]
    fn an_answer_that_a_later_one_has_overtaken_is_old() {
        let pools = pools();
        let early = pools.begin_comparison();
        finds(&pools, None, 0);
        pools.end_comparison(early, vec![("a".into(), 1, Some(1))], at(0));
        assert!(!pools.is_settled("a"));
        let early = pools.begin_comparison();
        pools.marked("a");
        pools.end_comparison(early, vec![("a".into(), 1, None)], at(5_000));
        assert!(is_due(&pools, 5_000), "it was not emptied again");
    }

    #[test]
    fn another_engines_generation_is_looked_up() {
        let pools = pools();
        finds(&pools, Some(REBUILDING), 0);
        assert!(pools.unasked("s1").is_empty());
        finds(&pools, Some(4), 0);
        assert_eq!(pools.unasked("s1"), ["a"], "the record may have gone on");
        assert!(!pools.is_settled("a"));
    }
}
