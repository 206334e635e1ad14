//! What a local queue holds. Plain data and plain functions: nothing here waits or reads a clock.
//!
//! Every delivery has a number, and one place. The indexes hold numbers and follow the place: [`State::place`] and
//! [`State::displace`] are the only functions that touch them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::super::{Lease as LeaseClaim, Taken, WORKER_SILENT_AFTER, WorkerPresence};
use super::{
    Claim, ClaimedTask, Delivery, Depth, Dispatched, ExpiredLease, Extended, LocalQueueLimits, QueueError,
};
use crate::wire::{Priority, ResultMessage, TaskMessage};

/// Names a delivery in the indexes.
type Number = u64;

/// One delivery.
struct Entry {
    delivery: Delivery,
    pool: Arc<str>,
    /// Its owner learns of it at the next heartbeat, and so does a later owner.
    cancel_requested: bool,
    place: Place,
}

/// Where a delivery is.
enum Place {
    /// Waits for a worker.
    Ready(Ready),
    /// In a worker's hands.
    Held(Lease),
    /// Among the results.
    Done(Done),
}

struct Ready {
    task: Box<TaskMessage>,
    /// Order within the priority.
    position: i64,
    since_ms: i64,
}

struct Lease {
    /// None: the queue had forgotten the delivery when its worker re-asserted the lease.
    task: Option<Box<TaskMessage>>,
    worker: Arc<str>,
    lease_ms: u64,
    /// Never past `hard_end_ms`.
    ends_ms: i64,
    hard_end_ms: i64,
    /// Since when the task was ready, should it be released.
    since_ms: i64,
}

struct Done {
    result: Box<ResultMessage>,
    order: u64,
    /// The engine that took it; none: nobody yet.
    taken_by: Option<Arc<str>>,
    /// Whether the queue did not hold the delivery when its result came.
    late: bool,
}

/// The indexes of one pool.
#[derive(Default)]
struct Pool {
    high: BTreeMap<i64, Number>,
    normal: BTreeMap<i64, Number>,
    low: BTreeMap<i64, Number>,
    ready_since: BTreeSet<(i64, Number)>,
    held: usize,
    done: usize,
}

impl Pool {
    fn list(&self, priority: Priority) -> &BTreeMap<i64, Number> {
        match priority {
            Priority::High => &self.high,
            Priority::Normal => &self.normal,
            Priority::Low => &self.low,
        }
    }

    fn list_mut(&mut self, priority: Priority) -> &mut BTreeMap<i64, Number> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
            Priority::Low => &mut self.low,
        }
    }

    fn is_empty(&self) -> bool {
        self.ready_since.is_empty() && self.held == 0 && self.done == 0
    }
}

/// All that a local queue holds.
pub(super) struct State {
    limits: LocalQueueLimits,
    entries: HashMap<Number, Entry>,
    numbers: HashMap<Delivery, Number>,
    /// The attempts of a task, to tell older ones.
    attempts: HashMap<String, BTreeMap<u32, Number>>,
    /// Pools that hold something.
    pools: HashMap<Arc<str>, Pool>,
    /// Leases by their end.
    leases: BTreeSet<(i64, Number)>,
    /// Results that nobody has taken, in order.
    untaken: BTreeMap<u64, Number>,
    /// Results by the engine that took them.
    taken: HashMap<Arc<str>, BTreeSet<Number>>,
    /// Results of deliveries that the queue did not hold.
    late_results: usize,
    /// Of pools that have been built.
    generations: HashMap<String, u64>,
    /// Workers, and when they were last heard of.
    workers: BTreeMap<String, (WorkerPresence, i64)>,
    next_number: Number,
    next_tail: i64,
    next_head: i64,
    next_order: u64,
}

impl State {
    pub(super) fn new(limits: LocalQueueLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            numbers: HashMap::new(),
            attempts: HashMap::new(),
            pools: HashMap::new(),
            leases: BTreeSet::new(),
            untaken: BTreeMap::new(),
            taken: HashMap::new(),
            late_results: 0,
            generations: HashMap::new(),
            workers: BTreeMap::new(),
            next_number: 0,
            next_tail: 0,
            next_head: -1,
            next_order: 0,
        }
    }

    pub(super) fn push(&mut self, tasks: Vec<TaskMessage>, now_ms: i64) -> Result<(), QueueError> {
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

    fn is_ready(&self, number: Number) -> bool {
        self.entries.get(&number).is_some_and(|entry| matches!(entry.place, Place::Ready(_)))
    }

    fn generation(&self, pool: &str) -> u64 {
        self.generations.get(pool).copied().unwrap_or(0)
    }

    pub(super) fn generations(&self, pools: &[String]) -> Vec<Option<u64>> {
        pools.iter().map(|pool| self.generations.get(pool).copied()).collect()
    }

    pub(super) fn set_generation(&mut self, pool: &str, generation: u64) {
        self.generations.insert(pool.to_owned(), generation);
    }

    pub(super) fn announce(&mut self, presence: &WorkerPresence, now_ms: i64) {
        self.workers.insert(presence.worker.clone(), (presence.clone(), now_ms));
    }

    pub(super) fn retire(&mut self, worker: &str) {
        self.workers.remove(worker);
    }

    pub(super) fn workers(&mut self, now_ms: i64) -> Vec<WorkerPresence> {
        let silent_ms = |heard: i64| u64::try_from(now_ms.saturating_sub(heard)).unwrap_or(0);
        let is_there = |heard: i64| u128::from(silent_ms(heard)) < WORKER_SILENT_AFTER.as_millis();
        self.workers.retain(|_, (_, heard)| is_there(*heard));
        let workers = self.workers.values();
        workers.map(|(one, heard)| WorkerPresence { silent_ms: silent_ms(*heard), ..one.clone() }).collect()
    }

    pub(super) fn has_ready(&self, pool: &str) -> bool {
        self.pools.get(pool).is_some_and(|pool| !pool.ready_since.is_empty())
    }

    pub(super) fn claim(&mut self, claim: &Claim, now_ms: i64) -> Vec<ClaimedTask> {
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
            let ends_ms = now_ms.saturating_add_unsigned(task.lease_ms).min(hard_end_ms);
            let generation = self.generation(&claim.pool);
            claimed.push(ClaimedTask { task: (*task).clone(), generation });
            let (worker, lease_ms) = (Arc::clone(&worker), task.lease_ms);
            let task = Some(task);
            let place = Place::Held(Lease { task, worker, lease_ms, ends_ms, hard_end_ms, since_ms });
            self.place(number, Entry { place, ..entry });
        }
        claimed
    }

    pub(super) fn extend(
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
            lease.ends_ms = now_ms.saturating_add_unsigned(lease.lease_ms).min(lease.hard_end_ms);
            self.leases.insert((lease.ends_ms, number));
        }
        if entry.cancel_requested {
            extended.cancelled.push(entry.delivery.clone());
        }
    }

    pub(super) fn reassert(
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
            let place = Place::Held(Lease {
                task,
                worker: worker.into(),
                lease_ms: lease.lease_ms,
                ends_ms: now_ms.saturating_add_unsigned(lease.lease_ms).min(hard_end_ms),
                hard_end_ms,
                since_ms,
            });
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

    pub(super) fn finish(
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

    pub(super) fn release(&mut self, pool: &str, worker: &str, deliveries: &[Delivery]) {
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

    pub(super) fn has_results(&self) -> bool {
        !self.untaken.is_empty()
    }

    pub(super) fn take(&mut self, engine: &str, max: usize) -> Vec<Taken> {
        let engine: Arc<str> = engine.into();
        let mut results = Vec::new();
        while results.len() < max {
            let Some((_, number)) = self.untaken.pop_first() else { break };
            let Some(Entry { place: Place::Done(done), pool, delivery, .. }) = self.entries.get_mut(&number)
            else {
                continue;
            };
            let dispatched = Dispatched { pool: pool.to_string(), delivery: delivery.clone() };
            results.push(Taken { dispatched, result: Ok((*done.result).clone()) });
            done.taken_by = Some(Arc::clone(&engine));
            self.taken.entry(Arc::clone(&engine)).or_default().insert(number);
        }
        results
    }

    pub(super) fn acknowledge(&mut self, engine: &str, deliveries: &[Dispatched]) {
        for dispatched in deliveries {
            let Some(number) = self.number_of(dispatched) else { continue };
            let held = self.taken.get(engine).is_some_and(|numbers| numbers.contains(&number));
            if held {
                self.remove(number);
            }
        }
    }

    pub(super) fn adopt_results(&mut self, engine: &str) -> usize {
        let Some(numbers) = self.taken.remove(engine) else { return 0 };
        for number in &numbers {
            if let Some(Entry { place: Place::Done(done), .. }) = self.entries.get_mut(number) {
                done.taken_by = None;
                self.untaken.insert(done.order, *number);
            }
        }
        numbers.len()
    }

    pub(super) fn expired(&self, max: usize, now_ms: i64) -> Vec<ExpiredLease> {
        let due = self.leases.range(..=(now_ms, Number::MAX)).take(max);
        due.filter_map(|(_, number)| {
            let entry = self.entries.get(number)?;
            let Place::Held(lease) = &entry.place else { return None };
            Some(ExpiredLease {
                dispatched: Dispatched { pool: entry.pool.to_string(), delivery: entry.delivery.clone() },
                worker: lease.worker.to_string(),
                hard_end: now_ms >= lease.hard_end_ms,
            })
        })
        .collect()
    }

    pub(super) fn drop_deliveries(&mut self, deliveries: &[Dispatched]) {
        for dispatched in deliveries {
            if let Some(number) = self.number_of(dispatched) {
                self.remove(number);
            }
        }
    }

    pub(super) fn request_cancel(&mut self, deliveries: &[Dispatched]) -> Vec<Dispatched> {
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

    pub(super) fn take_back(&mut self, deliveries: &[Dispatched]) -> Vec<Dispatched> {
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

    pub(super) fn present(&self, deliveries: &[Dispatched]) -> Vec<bool> {
        deliveries.iter().map(|dispatched| self.number_of(dispatched).is_some()).collect()
    }

    /// The number of a delivery that its pool holds.
    fn number_of(&self, dispatched: &Dispatched) -> Option<Number> {
        let number = *self.numbers.get(&dispatched.delivery)?;
        self.entries.get(&number).is_some_and(|entry| *entry.pool == *dispatched.pool).then_some(number)
    }

    pub(super) fn depths(&self, now_ms: i64) -> Vec<(String, Depth)> {
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

    pub(super) fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pool's name, shared with the deliveries that are there already.
    fn pool_name(&self, pool: &str) -> Arc<str> {
        self.pools.get_key_value(pool).map_or_else(|| pool.into(), |(name, _)| Arc::clone(name))
    }

    fn insert(&mut self, delivery: Delivery, pool: Arc<str>, place: Place) {
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(delivery.clone(), number);
        let attempts = self.attempts.entry(delivery.task_id.clone()).or_default();
        attempts.insert(delivery.attempt, number);
        self.place(number, Entry { delivery, pool, cancel_requested: false, place });
    }

    fn remove(&mut self, number: Number) {
        if let Some(entry) = self.displace(number) {
            self.forget(&entry.delivery);
        }
    }

    /// Forgets the name of a delivery that has no place any more.
    fn forget(&mut self, delivery: &Delivery) {
        self.numbers.remove(delivery);
        if let Some(attempts) = self.attempts.get_mut(&delivery.task_id) {
            attempts.remove(&delivery.attempt);
            if attempts.is_empty() {
                self.attempts.remove(&delivery.task_id);
            }
        }
    }

    /// Puts an entry where its place says.
    fn place(&mut self, number: Number, entry: Entry) {
        let pool = self.pools.entry(Arc::clone(&entry.pool)).or_default();
        match &entry.place {
            Place::Ready(ready) => {
                pool.list_mut(ready.task.priority).insert(ready.position, number);
                pool.ready_since.insert((ready.since_ms, number));
            }
            Place::Held(lease) => {
                pool.held += 1;
                self.leases.insert((lease.ends_ms, number));
            }
            Place::Done(done) => {
                pool.done += 1;
                self.late_results += usize::from(done.late);
                match &done.taken_by {
                    None => {
                        self.untaken.insert(done.order, number);
                    }
                    Some(engine) => {
                        self.taken.entry(Arc::clone(engine)).or_default().insert(number);
                    }
                }
            }
        }
        self.entries.insert(number, entry);
    }

    /// Takes an entry out of its place and out of every index of places.
    fn displace(&mut self, number: Number) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        if let Some(pool) = self.pools.get_mut(&entry.pool) {
            match &entry.place {
                Place::Ready(ready) => {
                    pool.list_mut(ready.task.priority).remove(&ready.position);
                    pool.ready_since.remove(&(ready.since_ms, number));
                }
                Place::Held(_) => pool.held -= 1,
                Place::Done(done) => {
                    pool.done -= 1;
                    self.late_results -= usize::from(done.late);
                }
            }
            if pool.is_empty() {
                self.pools.remove(&entry.pool);
            }
        }
        match &entry.place {
            Place::Ready(_) => {}
            Place::Held(lease) => {
                self.leases.remove(&(lease.ends_ms, number));
            }
            Place::Done(done) => match &done.taken_by {
                None => {
                    self.untaken.remove(&done.order);
                }
                Some(engine) => {
                    if let Some(numbers) = self.taken.get_mut(engine) {
                        numbers.remove(&number);
                        if numbers.is_empty() {
                            self.taken.remove(engine);
                        }
                    }
                }
            },
        }
        Some(entry)
    }
}
