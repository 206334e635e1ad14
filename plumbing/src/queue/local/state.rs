//! What a local queue holds. Plain data and plain functions: nothing here waits or reads a clock.
//!
//! Every delivery has a number, and one place. The indexes hold numbers and follow the place: [`State::place`] and
//! [`State::displace`] are the only functions that touch them.

mod engine;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::{Lease as LeaseClaim, WorkerPresence};
use super::{Delivery, Dispatched, LocalQueueLimits};
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
    ends_ms: i64,
    hard_end_ms: i64,
    /// Whether the worker gave a sign of life after the hard end.
    overran: bool,
    /// Since when the task was ready, should it be released.
    since_ms: i64,
}

impl Lease {
    /// Notes a sign of life. Before the attempt's hard end the silence after it is a lost lease, whenever that is; after it,
    /// the worker has overrun the attempt, which gets the time of one heartbeat more to be reported.
    fn keep(&mut self, now_ms: i64) {
        self.overran = now_ms >= self.hard_end_ms;
        self.ends_ms = if self.overran {
            self.hard_end_ms.saturating_add_unsigned(self.lease_ms / 3)
        } else {
            now_ms.saturating_add_unsigned(self.lease_ms)
        };
    }
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
    /// Workers that are asked to drain, by when they were started.
    drains: BTreeMap<String, String>,
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
            drains: BTreeMap::new(),
            next_number: 0,
            next_tail: 0,
            next_head: -1,
            next_order: 0,
        }
    }

    fn is_ready(&self, number: Number) -> bool {
        self.entries.get(&number).is_some_and(|entry| matches!(entry.place, Place::Ready(_)))
    }

    fn generation(&self, pool: &str) -> u64 {
        self.generations.get(pool).copied().unwrap_or(0)
    }

    /// The number of a delivery that its pool holds.
    fn number_of(&self, dispatched: &Dispatched) -> Option<Number> {
        let number = *self.numbers.get(&dispatched.delivery)?;
        self.entries.get(&number).is_some_and(|entry| *entry.pool == *dispatched.pool).then_some(number)
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
