//! Who was granted what, and who handed in what.

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::TaskMessage;

use crate::engines::REBUILD_GRACE;
use crate::workload::POOLS;

/// One attempt in a worker's hands.
#[derive(Clone, Debug)]
struct Grant {
    worker: String,
    ends_ms: i64,
    hard_end_ms: i64,
    /// Whether there was an instant at which the lease had ended.
    ended: bool,
    pool: String,
    /// Since when the queue has been without what it should hold, when it first forgot this.
    forgotten_ms: Option<i64>,
    /// Whether the worker has handed in a result, or given it back.
    over: bool,
}

impl Grant {
    fn is_live(&self, now_ms: i64) -> bool {
        !self.over && !self.ended && self.ends_ms > now_ms
    }
}

/// Grants and results.
#[derive(Debug, Default)]
pub struct Leases {
    grants: BTreeMap<Delivery, Vec<Grant>>,
    results: BTreeSet<(Delivery, String)>,
    /// Attempts that were absent when no worker could have had them: their relay had not come yet, or had failed.
    absent: BTreeSet<Delivery>,
    /// Since when the queues of pools have been emptied and not rebuilt.
    emptied: BTreeMap<String, i64>,
    keys: BTreeMap<String, String>,
    tasks: BTreeMap<String, String>,
}

impl Leases {
    /// A worker was given a task. What is wrong with it, if anything is.
    pub fn granted(&mut self, task: &TaskMessage, worker: &str, now_ms: i64) -> Result<(), String> {
        let hard_end_ms = now_ms.saturating_add_unsigned(task.remaining_ms);
        let ends_ms = now_ms.saturating_add_unsigned(task.lease_ms);
        let delivery = task.delivery();
        let grant = Grant {
            worker: worker.into(),
            pool: task.pool.clone(),
            ends_ms,
            hard_end_ms,
            ended: false,
            forgotten_ms: None,
            over: false,
        };
        self.grants.entry(delivery).or_default().push(grant);
        let key = self.keys.entry(task.task_id.clone()).or_insert_with(|| task.idempotency_key.clone());
        if *key != task.idempotency_key {
            return Err(format!("{} had the key {key} and now has {}", task.task_id, task.idempotency_key));
        }
        let owner = self.tasks.entry(task.idempotency_key.clone()).or_insert_with(|| task.task_id.clone());
        if *owner != task.task_id {
            return Err(format!("{} and {owner} have the same key {}", task.task_id, task.idempotency_key));
        }
        Ok(())
    }

    /// The queue renewed a lease.
    pub fn extended(&mut self, delivery: &Delivery, worker: &str, lease_ms: u64, now_ms: i64) {
        for grant in self.grants.entry(delivery.clone()).or_default() {
            if grant.worker == worker {
                grant.ended |= grant.ends_ms <= now_ms;
                grant.ends_ms = if now_ms < grant.hard_end_ms {
                    now_ms.saturating_add_unsigned(lease_ms)
                } else {
                    grant.hard_end_ms.saturating_add_unsigned(lease_ms / 3)
                };
            }
        }
    }

    /// The queue was emptied, perhaps once more before it was rebuilt.
    pub fn forgotten(&mut self, now_ms: i64) {
        for pool in POOLS {
            self.emptied.entry((*pool).to_owned()).or_insert(now_ms);
        }
        for grant in self.grants.values_mut().flatten().filter(|grant| grant.is_live(now_ms)) {
            let since = self.emptied.get(&grant.pool).copied().unwrap_or(now_ms);
            grant.forgotten_ms.get_or_insert(since);
        }
    }

    /// A generation was noted for a queue that had been emptied since it was last asked for its own. It cannot do both in
    /// one step: what it has forgotten is missing, and nobody can know that its workers had no time.
    pub fn unnoticed(&mut self, pool: &str) {
        self.emptied.insert(pool.to_owned(), i64::MIN);
        let of_pool = |grant: &&mut Grant| grant.pool == pool && grant.forgotten_ms.is_some();
        for grant in self.grants.values_mut().flatten().filter(of_pool) {
            grant.forgotten_ms = Some(i64::MIN);
        }
    }

    /// The queue of a pool has what it should hold.
    pub fn rebuilt(&mut self, pool: &str) {
        self.emptied.remove(pool);
    }

    /// A worker has nothing to do with an attempt any more.
    pub fn given_up(&mut self, delivery: &Delivery, worker: &str) {
        for grant in self.grants.entry(delivery.clone()).or_default() {
            grant.over |= grant.worker == worker;
        }
    }

    /// A worker reports an attempt.
    pub fn handed_in(&mut self, delivery: &Delivery, worker: &str) {
        self.given_up(delivery, worker);
        self.results.insert((delivery.clone(), worker.into()));
    }

    /// Whether any worker reported the attempt.
    pub(super) fn was_handed_in(&self, delivery: &Delivery) -> bool {
        let from = (delivery.clone(), String::new());
        self.results.range(from..).next().is_some_and(|(found, _)| found == delivery)
    }

    /// Whether an accepted result is one that this worker was entitled to and gave.
    pub(super) fn may_be_accepted(&self, delivery: &Delivery, worker: &str) -> Result<(), String> {
        let grants = self.grants.get(delivery).map_or(&[][..], Vec::as_slice);
        if !grants.iter().any(|grant| grant.worker == worker) {
            return Err(format!("{delivery} of {worker} was accepted and never granted to it"));
        }
        if !self.results.contains(&(delivery.clone(), worker.into())) {
            return Err(format!("{delivery} of {worker} was accepted and never handed in"));
        }
        Ok(())
    }

    /// An engine was told that the queue does not have an attempt. It may act on that later, when it has come.
    pub fn told_absent(&mut self, delivery: &Delivery, now_ms: i64) {
        if self.may_be_missing(delivery, now_ms).is_ok() {
            self.absent.insert(delivery.clone());
        }
    }

    /// Whether an attempt that nobody ended may be delivered anew: no worker has it, or the queue was emptied, and those
    /// who have it had the time to say so.
    pub(super) fn may_be_missing(&self, delivery: &Delivery, now_ms: i64) -> Result<(), String> {
        if self.absent.contains(delivery) {
            return Ok(());
        }
        let grace_ms = i64::try_from(REBUILD_GRACE.as_millis()).unwrap_or(i64::MAX);
        let grants = self.grants.get(delivery).map_or(&[][..], Vec::as_slice);
        let had_time =
            |grant: &Grant| grant.forgotten_ms.is_some_and(|at| at.saturating_add(grace_ms) <= now_ms);
        match grants.iter().find(|grant| grant.is_live(now_ms) && !had_time(grant)) {
            None => Ok(()),
            Some(grant) => Err(format!("{delivery} was taken for missing at {now_ms}: {grant:?}")),
        }
    }

    /// Whether the lease of an attempt that is taken to be lost has ended.
    pub(super) fn may_be_lost(&self, delivery: &Delivery, now_ms: i64) -> Result<(), String> {
        let grants = self.grants.get(delivery).map_or(&[][..], Vec::as_slice);
        if grants.iter().any(|grant| grant.ended || grant.ends_ms <= now_ms) {
            return Ok(());
        }
        Err(format!("the lease of {delivery} was taken from its worker before its end: {grants:?}"))
    }
}
