//! What engines do with the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::{Delivery, Depth, Dispatched, ExpiredLease, LocalQueueLimits, QueueError};
use super::{Entry, Number, Place, Ready, State};
use crate::queue::{Taken, WORKER_SILENT_AFTER, WorkerPresence};
use crate::wire::TaskMessage;

impl State {
    pub(in crate::queue::local) fn push(
        &mut self,
        tasks: Vec<TaskMessage>,
        now_ms: i64,
    ) -> Result<(), QueueError> {
        self.check_room(&tasks)?;
        for task in tasks {
            let delivery = task.delivery();
            if self.numbers.contains_key(&delivery) {
                continue;
            }
            self.drop_older_ready(&delivery);
            let pool = self.pool_name(&task.pool);
            let ready = Ready { task: Box::new(task), position: self.next_tail, since_ms: now_ms };
            self.next_tail += 1;
            self.insert(delivery, pool, Place::Ready(ready));
        }
        Ok(())
    }

    fn check_room(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        let mut new = HashSet::new();
        let mut per_pool: HashMap<&str, usize> = HashMap::new();
        for task in tasks {
            let delivery = task.delivery();
            if !self.numbers.contains_key(&delivery) && new.insert(delivery) {
                *per_pool.entry(&task.pool).or_default() += 1;
            }
        }
        let LocalQueueLimits { deliveries_max, ready_per_pool_max, .. } = self.limits;
        if !new.is_empty() && self.entries.len() + new.len() > deliveries_max {
            return Err(QueueError::Full { limit: format!("deliveries_max = {deliveries_max}") });
        }
        for (pool, more) in per_pool {
            let ready = self.pools.get(pool).map_or(0, |pool| pool.ready_since.len());
            if ready + more > ready_per_pool_max {
                let limit = format!("ready_per_pool_max = {ready_per_pool_max}, pool {pool}");
                return Err(QueueError::Full { limit });
            }
        }
        Ok(())
    }

    fn drop_older_ready(&mut self, delivery: &Delivery) {
        let Some(attempts) = self.attempts.get(&delivery.task_id) else { return };
        let older: Vec<Number> = attempts.range(..delivery.attempt).map(|(_, number)| *number).collect();
        for number in older {
            if self.is_ready(number) {
                self.remove(number);
            }
        }
    }

    pub(in crate::queue::local) fn generations(&self, pools: &[String]) -> Vec<Option<u64>> {
        pools.iter().map(|pool| self.generations.get(pool).copied()).collect()
    }

    pub(in crate::queue::local) fn set_generation(&mut self, pool: &str, generation: u64) {
        if generation == 0 || self.generation(pool) <= generation {
            self.generations.insert(pool.to_owned(), generation);
        }
    }

    pub(in crate::queue::local) fn change_generation(
        &mut self,
        pool: &str,
        from: Option<u64>,
        to: u64,
    ) -> bool {
        let holds = self.generations.get(pool).copied() == from;
        if holds {
            self.generations.insert(pool.to_owned(), to);
        }
        holds
    }

    pub(in crate::queue::local) fn workers(&mut self, now_ms: i64) -> Vec<WorkerPresence> {
        let silent_ms = |heard: i64| u64::try_from(now_ms.saturating_sub(heard)).unwrap_or(0);
        let is_there = |heard: i64| u128::from(silent_ms(heard)) < WORKER_SILENT_AFTER.as_millis();
        self.workers.retain(|_, (_, heard)| is_there(*heard));
        self.drains.retain(|worker, _| self.workers.contains_key(worker));
        let workers = self.workers.values();
        workers.map(|(one, heard)| WorkerPresence { silent_ms: silent_ms(*heard), ..one.clone() }).collect()
    }

    pub(in crate::queue::local) fn ask_to_drain(&mut self, worker: &WorkerPresence) {
        self.drains.insert(worker.worker.clone(), worker.started_at.clone());
    }

    pub(in crate::queue::local) fn has_results(&self) -> bool {
        !self.untaken.is_empty()
    }

    pub(in crate::queue::local) fn take(&mut self, engine: &str, max: usize) -> Vec<Taken> {
        let engine: Arc<str> = engine.into();
        let mut results = Vec::new();
        while results.len() < max {
            let Some((_, number)) = self.untaken.pop_first() else { break };
            let Some(Entry { place: Place::Done(done), pool, delivery, .. }) = self.entries.get_mut(&number)
            else {
                continue;
            };
            let dispatched = Dispatched { pool: pool.to_string(), delivery: delivery.clone() };
            results.push(Taken { dispatched, result: Ok((*done.result).clone()), seal: None });
            done.taken_by = Some(Arc::clone(&engine));
            self.taken.entry(Arc::clone(&engine)).or_default().insert(number);
        }
        results
    }

    pub(in crate::queue::local) fn acknowledge(&mut self, engine: &str, deliveries: &[Dispatched]) {
        for dispatched in deliveries {
            let Some(number) = self.number_of(dispatched) else { continue };
            let held = self.taken.get(engine).is_some_and(|numbers| numbers.contains(&number));
            if held {
                self.remove(number);
            }
        }
    }

    pub(in crate::queue::local) fn adopt_results(&mut self, engine: &str) -> usize {
        let Some(numbers) = self.taken.remove(engine) else { return 0 };
        for number in &numbers {
            if let Some(Entry { place: Place::Done(done), .. }) = self.entries.get_mut(number) {
                done.taken_by = None;
                self.untaken.insert(done.order, *number);
            }
        }
        numbers.len()
    }

    pub(in crate::queue::local) fn expired(&self, max: usize, now_ms: i64) -> Vec<ExpiredLease> {
        let due = self.leases.range(..=(now_ms, Number::MAX)).take(max);
        due.filter_map(|(_, number)| {
            let entry = self.entries.get(number)?;
            let Place::Held(lease) = &entry.place else { return None };
            Some(ExpiredLease {
                dispatched: Dispatched { pool: entry.pool.to_string(), delivery: entry.delivery.clone() },
                worker: lease.worker.to_string(),
                hard_end: lease.overran,
            })
        })
        .collect()
    }

    pub(in crate::queue::local) fn drop_deliveries(&mut self, deliveries: &[Dispatched]) {
        for dispatched in deliveries {
            if let Some(number) = self.number_of(dispatched) {
                self.remove(number);
            }
        }
    }

    pub(in crate::queue::local) fn request_cancel(&mut self, deliveries: &[Dispatched]) -> Vec<Dispatched> {
        let mut removed = Vec::new();
        for dispatched in deliveries {
            let Some(number) = self.number_of(dispatched) else { continue };
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            match entry.place {
                Place::Ready(_) => {
                    self.remove(number);
                    removed.push(dispatched.clone());
                }
                Place::Held(_) => entry.cancel_requested = true,
                Place::Done(_) => {}
            }
        }
        removed
    }

    pub(in crate::queue::local) fn take_back(&mut self, deliveries: &[Dispatched]) -> Vec<Dispatched> {
        let mut removed = Vec::new();
        for dispatched in deliveries {
            let Some(number) = self.number_of(dispatched) else { continue };
            if self.is_ready(number) {
                self.remove(number);
                removed.push(dispatched.clone());
            }
        }
        removed
    }

    pub(in crate::queue::local) fn present(&self, deliveries: &[Dispatched]) -> Vec<bool> {
        deliveries.iter().map(|dispatched| self.number_of(dispatched).is_some()).collect()
    }

    pub(in crate::queue::local) fn depths(&self, now_ms: i64) -> Vec<(String, Depth)> {
        let mut depths: Vec<_> = self
            .pools
            .iter()
            .map(|(name, pool)| {
                let oldest = pool.ready_since.first().map_or(now_ms, |(since, _)| *since);
                let depth = Depth {
                    high: pool.high.len(),
                    normal: pool.normal.len(),
                    low: pool.low.len(),
                    in_flight: pool.held,
                    results: pool.done,
                    oldest_age_ms: u64::try_from(now_ms.saturating_sub(oldest)).unwrap_or(0),
                };
                (name.to_string(), depth)
            })
            .collect();
        depths.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        depths
    }

    pub(in crate::queue::local) fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }
}
