//! What workers do with the queue.

use std::sync::Arc;

use super::super::{Claim, ClaimedTask, Delivery, Extended, QueueError};
use super::{Done, Entry, Lease, LeaseClaim, Number, Place, Ready, State};
use crate::queue::WorkerPresence;
use crate::wire::{Priority, ResultMessage};

impl State {
    /// Whether the worker is asked to drain.
    pub(in crate::queue::local) fn announce(&mut self, presence: &WorkerPresence, now_ms: i64) -> bool {
        self.workers.insert(presence.worker.clone(), (presence.clone(), now_ms));
        self.drains.get(&presence.worker) == Some(&presence.started_at)
    }

    pub(in crate::queue::local) fn retire(&mut self, worker: &str) {
        self.workers.remove(worker);
        self.drains.remove(worker);
    }

    pub(in crate::queue::local) fn has_ready(&self, pool: &str) -> bool {
        self.pools.get(pool).is_some_and(|pool| !pool.ready_since.is_empty())
    }

    pub(in crate::queue::local) fn claim(&mut self, claim: &Claim, now_ms: i64) -> Vec<ClaimedTask> {
        let order = if claim.low_first {
            [Priority::Low, Priority::High, Priority::Normal]
        } else {
            [Priority::High, Priority::Normal, Priority::Low]
        };
        let worker: Arc<str> = claim.worker.as_str().into();
        let mut claimed = Vec::new();
        while claimed.len() < claim.max {
            let Some(pool) = self.pools.get(claim.pool.as_str()) else { break };
            let first = order.iter().find_map(|priority| pool.list(*priority).first_key_value());
            let Some((_, &number)) = first else { break };
            let Some(entry) = self.displace(number) else { break };
            let Place::Ready(Ready { task, since_ms, .. }) = entry.place else { break };
            let hard_end_ms = now_ms.saturating_add_unsigned(task.remaining_ms);
            let generation = self.generation(&claim.pool);
            claimed.push(ClaimedTask { task: (*task).clone(), generation });
            let (worker, lease_ms) = (Arc::clone(&worker), task.lease_ms);
            let task = Some(task);
            let mut lease =
                Lease { task, worker, lease_ms, ends_ms: now_ms, hard_end_ms, overran: false, since_ms };
            lease.keep(now_ms);
            self.place(number, Entry { place: Place::Held(lease), ..entry });
        }
        claimed
    }

    pub(in crate::queue::local) fn extend(
        &mut self,
        pool: &str,
        worker: &str,
        deliveries: &[Delivery],
        now_ms: i64,
    ) -> Extended {
        let mut extended = Extended { generation: self.generation(pool), ..Extended::default() };
        for delivery in deliveries {
            match self.held_by(delivery, pool, worker) {
                Some(number) => self.extend_one(number, now_ms, &mut extended),
                None => extended.lost.push(delivery.clone()),
            }
        }
        extended
    }

    fn extend_one(&mut self, number: Number, now_ms: i64, extended: &mut Extended) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        if let Place::Held(lease) = &mut entry.place {
            self.leases.remove(&(lease.ends_ms, number));
            lease.keep(now_ms);
            self.leases.insert((lease.ends_ms, number));
        }
        if entry.cancel_requested {
            extended.cancelled.push(entry.delivery.clone());
        }
    }

    pub(in crate::queue::local) fn reassert(
        &mut self,
        pool: &str,
        worker: &str,
        leases: &[LeaseClaim],
        now_ms: i64,
    ) -> Extended {
        let mut extended = Extended { generation: self.generation(pool), ..Extended::default() };
        for lease in leases {
            let delivery = &lease.delivery;
            if let Some(number) = self.held_by(delivery, pool, worker) {
                self.extend_one(number, now_ms, &mut extended);
                continue;
            }
            let newer = self.attempts.get(&delivery.task_id).and_then(|attempts| attempts.last_key_value());
            let is_old = newer.is_some_and(|(attempt, _)| *attempt > delivery.attempt);
            let known = self.numbers.get(delivery).copied();
            if is_old || known.is_some_and(|number| !self.is_ready(number)) {
                extended.lost.push(delivery.clone());
                continue;
            }
            let entry = known.and_then(|number| self.displace(number));
            let cancel_requested = entry.as_ref().is_some_and(|entry| entry.cancel_requested);
            if cancel_requested {
                extended.cancelled.push(delivery.clone());
            }
            let (task, since_ms) = match entry.map(|entry| entry.place) {
                Some(Place::Ready(ready)) => (Some(ready.task), ready.since_ms),
                Some(Place::Held(_) | Place::Done(_)) | None => (None, now_ms),
            };
            let hard_end_ms = now_ms.saturating_add_unsigned(lease.remaining_ms);
            let mut held = Lease {
                task,
                worker: worker.into(),
                lease_ms: lease.lease_ms,
                ends_ms: now_ms,
                hard_end_ms,
                overran: false,
                since_ms,
            };
            held.keep(now_ms);
            let place = Place::Held(held);
            let pool = self.pool_name(pool);
            match known {
                Some(number) => {
                    let delivery = delivery.clone();
                    self.place(number, Entry { delivery, pool, cancel_requested, place });
                }
                None => self.insert(delivery.clone(), pool, place),
            }
        }
        extended
    }

    /// The number of the delivery, if `worker` holds it.
    fn held_by(&self, delivery: &Delivery, pool: &str, worker: &str) -> Option<Number> {
        let number = *self.numbers.get(delivery)?;
        let entry = self.entries.get(&number)?;
        match &entry.place {
            Place::Held(lease) if *lease.worker == *worker && *entry.pool == *pool => Some(number),
            Place::Held(_) | Place::Ready(_) | Place::Done(_) => None,
        }
    }

    pub(in crate::queue::local) fn finish(
        &mut self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError> {
        let late = results.iter().filter(|result| !self.numbers.contains_key(&result.delivery())).count();
        let late_results_max = self.limits.late_results_max;
        if late > 0 && self.late_results + late > late_results_max {
            return Err(QueueError::Full { limit: format!("late_results_max = {late_results_max}") });
        }
        let mut refused = Vec::new();
        for result in results {
            let delivery = result.delivery();
            let Some(&number) = self.numbers.get(&delivery) else {
                // No owner is recorded: the record judges.
                let pool = self.pool_name(pool);
                let done = self.done(result, true);
                self.insert(delivery, pool, done);
                continue;
            };
            match self.entries.get(&number).map(|entry| &entry.place) {
                Some(Place::Held(lease)) if *lease.worker != *worker => refused.push(delivery),
                // The worker repeats itself because an answer was lost.
                Some(Place::Done(_)) | None => {}
                Some(Place::Held(_) | Place::Ready(_)) => {
                    let place = self.done(result, false);
                    if let Some(entry) = self.displace(number) {
                        self.place(number, Entry { place, ..entry });
                    }
                }
            }
        }
        Ok(refused)
    }

    fn done(&mut self, result: ResultMessage, late: bool) -> Place {
        let order = self.next_order;
        self.next_order += 1;
        Place::Done(Done { result: Box::new(result), order, taken_by: None, late })
    }

    pub(in crate::queue::local) fn release(&mut self, pool: &str, worker: &str, deliveries: &[Delivery]) {
        // Backwards, so that the first of them is again the first in line.
        for delivery in deliveries.iter().rev() {
            let Some(number) = self.held_by(delivery, pool, worker) else { continue };
            let Some(entry) = self.displace(number) else { continue };
            let Place::Held(Lease { task, since_ms, .. }) = entry.place else { continue };
            let Some(task) = task else {
                // Nothing is known of it but its name: the record publishes it anew.
                self.forget(&entry.delivery);
                continue;
            };
            let place = Place::Ready(Ready { task, position: self.next_head, since_ms });
            self.next_head -= 1;
            self.place(number, Entry { place, ..entry });
        }
    }
}
