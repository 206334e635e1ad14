//! The local queue against a model of it that is simple enough to be believed: a list that is searched from end to end. Random
//! sequences of operations are done to both; all answers, and what is where, must agree after each.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::conformance::{STEP_MS, result, task};
use flowmonkey_plumbing::queue::{
    Claim, Delivery, Depth, DispatchQueue, Dispatched, LocalQueue, LocalQueueLimits, TaskQueue,
};
use flowmonkey_plumbing::wire::{Priority, TaskMessage};
use proptest::prelude::*;

/// Tasks; the even ones are in the pool `a`, the others in `b`.
const TASKS: u8 = 4;
const ATTEMPTS: u32 = 3;
const WORKERS: [&str; 2] = ["w0", "w1"];
const ENGINES: [&str; 2] = ["e0", "e1"];
const POOLS: [&str; 2] = ["a", "b"];

/// One of the deliveries that the sequences are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    task: u8,
    attempt: u32,
}

impl Id {
    const fn pool(self) -> &'static str {
        POOLS[(self.task % 2) as usize]
    }

    const fn priority(self) -> Priority {
        match self.task {
            0 | 1 => Priority::Normal,
            2 => Priority::High,
            _ => Priority::Low,
        }
    }

    fn message(self) -> TaskMessage {
        TaskMessage {
            priority: self.priority(),
            ..task(&format!("t{}", self.task), self.attempt, self.pool())
        }
    }

    fn delivery(self) -> Delivery {
        self.message().delivery()
    }

    fn dispatched(self) -> Dispatched {
        self.message().dispatched()
    }

    fn of(delivery: &Delivery) -> Self {
        Self { task: delivery.task_id[1..].parse().unwrap(), attempt: delivery.attempt }
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..TASKS).flat_map(|task| (1..=ATTEMPTS).map(move |attempt| Self { task, attempt }))
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Push(Id),
    Claim { pool: usize, worker: usize, max: usize, low_first: bool },
    Extend(Id, usize),
    Finish(Id, usize),
    Release(Vec<Id>, usize),
    Take { engine: usize, max: usize },
    Acknowledge(Id, usize),
    Adopt(usize),
    Drop(Id),
    Cancel(Id),
    TakeBack(Id),
    Advance(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = || (0..TASKS, 1..=ATTEMPTS).prop_map(|(task, attempt)| Id { task, attempt });
    let (worker, engine) = (|| 0..WORKERS.len(), || 0..ENGINES.len());
    prop_oneof![
        6 => id().prop_map(Operation::Push),
        6 => (0..POOLS.len(), worker(), 1..4_usize, any::<bool>())
            .prop_map(|(pool, worker, max, low_first)| Operation::Claim { pool, worker, max, low_first }),
        3 => (id(), worker()).prop_map(|(id, worker)| Operation::Extend(id, worker)),
        4 => (id(), worker()).prop_map(|(id, worker)| Operation::Finish(id, worker)),
        3 => (proptest::collection::vec(id(), 1..4), worker()).prop_map(|(ids, worker)| Operation::Release(ids, worker)),
        3 => (engine(), 1..3_usize).prop_map(|(engine, max)| Operation::Take { engine, max }),
        3 => (id(), engine()).prop_map(|(id, engine)| Operation::Acknowledge(id, engine)),
        1 => engine().prop_map(Operation::Adopt),
        2 => id().prop_map(Operation::Drop),
        2 => id().prop_map(Operation::Cancel),
        2 => id().prop_map(Operation::TakeBack),
        3 => (1..2 * STEP_MS).prop_map(Operation::Advance),
    ]
}

#[derive(Clone, Debug)]
enum Place {
    /// The lower the position, the earlier in line.
    Ready {
        position: i64,
        since: i64,
    },
    Held {
        worker: usize,
        ends: i64,
        hard_end: i64,
        overran: bool,
        since: i64,
    },
    Done {
        order: i64,
        taken_by: Option<usize>,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    id: Id,
    cancel: bool,
    place: Place,
}

#[derive(Debug, Default)]
struct Model {
    entries: Vec<Entry>,
    now: i64,
    /// Grows with everything that is put somewhere.
    count: i64,
}

fn millis(steps: u64) -> i64 {
    i64::try_from(steps * STEP_MS).unwrap()
}

impl Model {
    fn find(&mut self, id: Id) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    fn remove(&mut self, id: Id) {
        self.entries.retain(|entry| entry.id != id);
    }

    fn is_ready(&mut self, id: Id) -> bool {
        self.find(id).is_some_and(|entry| matches!(entry.place, Place::Ready { .. }))
    }

    fn count(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    fn held_by(&mut self, id: Id, by: usize) -> Option<&mut Entry> {
        self.find(id).filter(|entry| matches!(entry.place, Place::Held { worker, .. } if worker == by))
    }

    fn push(&mut self, id: Id) {
        if self.find(id).is_some() {
            return;
        }
        self.entries.retain(|entry| {
            entry.id.task != id.task
                || entry.id.attempt > id.attempt
                || !matches!(entry.place, Place::Ready { .. })
        });
        let place = Place::Ready { position: self.count(), since: self.now };
        self.entries.push(Entry { id, cancel: false, place });
    }

    fn claim(&mut self, pool: &str, by: usize, max: usize, low_first: bool) -> Vec<Id> {
        let rank = |id: Id| match (id.priority(), low_first) {
            (Priority::Low, true) => 0,
            (Priority::High, _) => 1,
            (Priority::Normal, _) => 2,
            (Priority::Low, false) => 3,
        };
        let now = self.now;
        let in_pool = self.entries.iter_mut().filter(|entry| entry.id.pool() == pool);
        let mut ready: Vec<(i32, i64, i64, &mut Entry)> = in_pool
            .filter_map(|entry| match entry.place {
                Place::Ready { position, since } => Some((rank(entry.id), position, since, entry)),
                Place::Held { .. } | Place::Done { .. } => None,
            })
            .collect();
        ready.sort_by_key(|(rank, position, ..)| (*rank, *position));
        let mut claimed = Vec::new();
        for (_, _, since, entry) in ready.into_iter().take(max) {
            let (ends, hard_end) = (now + millis(2), now + millis(5));
            entry.place = Place::Held { worker: by, ends, hard_end, overran: false, since };
            claimed.push(entry.id);
        }
        claimed
    }

    /// Whether it is lost, and whether its cancellation was asked for.
    fn extend(&mut self, id: Id, by: usize) -> (bool, bool) {
        let now = self.now;
        let Some(entry) = self.held_by(id, by) else { return (true, false) };
        if let Place::Held { ends, hard_end, overran, .. } = &mut entry.place {
            *overran = now >= *hard_end;
            *ends = if *overran { *hard_end + millis(2) / 3 } else { now + millis(2) };
        }
        (false, entry.cancel)
    }

    /// Whether it is refused.
    fn finish(&mut self, id: Id, by: usize) -> bool {
        let order = self.count();
        let done = Place::Done { order, taken_by: None };
        match self.find(id) {
            None => self.entries.push(Entry { id, cancel: false, place: done }),
            Some(entry) => match entry.place {
                Place::Held { worker, .. } if worker != by => return true,
                Place::Held { .. } | Place::Ready { .. } => entry.place = done,
                Place::Done { .. } => {}
            },
        }
        false
    }

    fn release(&mut self, ids: &[Id], by: usize) {
        for id in ids.iter().rev() {
            let head = -self.count();
            let Some(entry) = self.held_by(*id, by) else { continue };
            if let Place::Held { since, .. } = entry.place {
                entry.place = Place::Ready { position: head, since };
            }
        }
    }

    fn take(&mut self, engine: usize, max: usize) -> Vec<Id> {
        let mut done: Vec<(i64, &mut Entry)> = self
            .entries
            .iter_mut()
            .filter_map(|entry| match entry.place {
                Place::Done { order, taken_by: None } => Some((order, entry)),
                Place::Done { .. } | Place::Held { .. } | Place::Ready { .. } => None,
            })
            .collect();
        done.sort_by_key(|(order, _)| *order);
        let mut taken = Vec::new();
        for (order, entry) in done.into_iter().take(max) {
            entry.place = Place::Done { order, taken_by: Some(engine) };
            taken.push(entry.id);
        }
        taken
    }

    fn adopt(&mut self, engine: usize) -> usize {
        let mut adopted = 0;
        for entry in &mut self.entries {
            if let Place::Done { taken_by, .. } = &mut entry.place
                && *taken_by == Some(engine)
            {
                *taken_by = None;
                adopted += 1;
            }
        }
        adopted
    }

    fn acknowledge(&mut self, id: Id, engine: usize) {
        self.entries.retain(|entry| {
            entry.id != id || !matches!(entry.place, Place::Done { taken_by: Some(by), .. } if by == engine)
        });
    }

    /// Whether it was only ready, and is gone.
    fn cancel(&mut self, id: Id) -> bool {
        if self.is_ready(id) {
            self.remove(id);
            return true;
        }
        if let Some(entry) = self.find(id)
            && matches!(entry.place, Place::Held { .. })
        {
            entry.cancel = true;
        }
        false
    }

    /// Leases that have ended, and whether the attempt has.
    fn expired(&self) -> Vec<(Id, String, bool)> {
        let expired = self.entries.iter().filter_map(|entry| match entry.place {
            Place::Held { worker, ends, overran, .. } if ends <= self.now => {
                Some((entry.id, WORKERS[worker].to_owned(), overran))
            }
            Place::Held { .. } | Place::Ready { .. } | Place::Done { .. } => None,
        });
        let mut expired: Vec<_> = expired.collect();
        expired.sort();
        expired
    }

    fn depths(&self) -> Vec<(String, Depth)> {
        let depth = |pool: &str| {
            let (mut depth, mut oldest) = (Depth::default(), self.now);
            for entry in self.entries.iter().filter(|entry| entry.id.pool() == pool) {
                match (&entry.place, entry.id.priority()) {
                    (Place::Held { .. }, _) => depth.in_flight += 1,
                    (Place::Done { .. }, _) => depth.results += 1,
                    (Place::Ready { .. }, Priority::High) => depth.high += 1,
                    (Place::Ready { .. }, Priority::Normal) => depth.normal += 1,
                    (Place::Ready { .. }, Priority::Low) => depth.low += 1,
                }
                if let Place::Ready { since, .. } = entry.place {
                    oldest = oldest.min(since);
                }
            }
            depth.oldest_age_ms = u64::try_from(self.now - oldest).unwrap();
            depth
        };
        let used = POOLS.into_iter().filter(|pool| self.entries.iter().any(|entry| entry.id.pool() == *pool));
        used.map(|pool| (pool.to_owned(), depth(pool))).collect()
    }
}

#[derive(Default)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Does one operation to both, and compares the answers.
async fn step(queue: &LocalQueue, clock: &ManualClock, model: &mut Model, operation: &Operation) {
    let ids = |found: &[Dispatched]| found.iter().map(|one| Id::of(&one.delivery)).collect::<Vec<_>>();
    match operation {
        Operation::Push(id) => {
            queue.push(vec![id.message()]).await.unwrap();
            model.push(*id);
        }
        Operation::Claim { pool, worker, max, low_first } => {
            let (name, max, low_first) = (POOLS[*pool], *max, *low_first);
            let claim = Claim { pool: name.into(), worker: WORKERS[*worker].into(), max, low_first };
            let claimed = queue.claim(claim).await.unwrap();
            let claimed: Vec<Id> = claimed.iter().map(|one| Id::of(&one.task.delivery())).collect();
            assert_eq!(claimed, model.claim(name, *worker, max, low_first));
        }
        Operation::Extend(id, worker) => {
            let extended = queue.extend(id.pool(), WORKERS[*worker], &[id.delivery()]).await.unwrap();
            let answer = (!extended.lost.is_empty(), !extended.cancelled.is_empty());
            assert_eq!(answer, model.extend(*id, *worker));
        }
        Operation::Finish(id, worker) => {
            let results = vec![result(&id.message())];
            let refused = queue.finish(id.pool(), WORKERS[*worker], results).await.unwrap();
            assert_eq!(!refused.is_empty(), model.finish(*id, *worker));
        }
        Operation::Release(ids, worker) => {
            // One call is about one pool.
            let ids: Vec<Id> = ids.iter().copied().filter(|id| id.pool() == ids[0].pool()).collect();
            let deliveries: Vec<Delivery> = ids.iter().map(|id| id.delivery()).collect();
            queue.release(ids[0].pool(), WORKERS[*worker], &deliveries).await.unwrap();
            model.release(&ids, *worker);
        }
        Operation::Take { engine, max } => {
            let taken = queue.take(ENGINES[*engine], *max).await.unwrap();
            let taken: Vec<Id> = taken.iter().map(|one| Id::of(&one.dispatched.delivery)).collect();
            assert_eq!(taken, model.take(*engine, *max));
        }
        Operation::Acknowledge(id, engine) => {
            queue.acknowledge(ENGINES[*engine], &[id.dispatched()]).await.unwrap();
            model.acknowledge(*id, *engine);
        }
        Operation::Adopt(engine) => {
            assert_eq!(queue.adopt_results(ENGINES[*engine]).await.unwrap(), model.adopt(*engine));
        }
        Operation::Drop(id) => {
            queue.drop_deliveries(&[id.dispatched()]).await.unwrap();
            model.remove(*id);
        }
        Operation::Cancel(id) => {
            let removed = queue.request_cancel(&[id.dispatched()]).await.unwrap();
            let expected = if model.cancel(*id) { vec![*id] } else { Vec::new() };
            assert_eq!(ids(&removed), expected);
        }
        Operation::TakeBack(id) => {
            let removed = queue.take_back(&[id.dispatched()]).await.unwrap();
            let expected = if model.is_ready(*id) { vec![*id] } else { Vec::new() };
            expected.iter().for_each(|id| model.remove(*id));
            assert_eq!(ids(&removed), expected);
        }
        Operation::Advance(ms) => {
            let ms = i64::try_from(*ms).unwrap();
            clock.0.fetch_add(ms, Ordering::SeqCst);
            model.now += ms;
        }
    }
}

/// Compares what is where.
async fn compare(queue: &LocalQueue, model: &mut Model) {
    let all: Vec<Dispatched> = Id::all().map(Id::dispatched).collect();
    let present: Vec<bool> = Id::all().map(|id| model.find(id).is_some()).collect();
    assert_eq!(queue.present(&all).await.unwrap(), present);
    assert_eq!(queue.depths().await.unwrap(), model.depths());
    assert_eq!(queue.is_idle().await.unwrap(), model.entries.is_empty());
    let expired = queue.expired(all.len()).await.unwrap().into_iter();
    let mut expired: Vec<(Id, String, bool)> =
        expired.map(|lease| (Id::of(&lease.dispatched.delivery), lease.worker, lease.hard_end)).collect();
    expired.sort();
    assert_eq!(expired, model.expired());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_queue_does_what_its_model_does(operations in proptest::collection::vec(operation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let clock = Arc::new(ManualClock::default());
            let queue = LocalQueue::new(Arc::clone(&clock) as Arc<dyn Clock>, LocalQueueLimits::default());
            let mut model = Model::default();
            for operation in &operations {
                step(&queue, &clock, &mut model, operation).await;
                compare(&queue, &mut model).await;
            }
        });
    }
}
