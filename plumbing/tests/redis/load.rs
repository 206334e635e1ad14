//! Load on a queue, and the books of whoever checks it: what each task came to, as a record would know it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::{result, task};
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{Claim, Delivery, DispatchQueue, Dispatched, TaskQueue};
use flowmonkey_plumbing::wire::TaskMessage;
use flowmonkey_test_support::wait_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::support::queue_with;

pub(crate) const POOLS: [&str; 4] = ["p0", "p1", "p2", "p3"];
const WORKERS: usize = 4;
const ENGINES: [&str; 2] = ["e1", "e2"];
/// Tasks that are under way at most: the load goes on for as long as a test needs it.
const UNDER_WAY_MAX: usize = 40;
/// Between calls that fail.
const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// A task, as the record has it.
#[derive(Debug)]
struct Entry {
    pool: &'static str,
    /// Counts; results of others do not.
    attempt: u32,
    is_done: bool,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Book {
    tasks: BTreeMap<String, Entry>,
    /// How often each delivery was claimed, and how often its result was taken.
    claims: BTreeMap<Delivery, usize>,
    results: BTreeMap<Delivery, usize>,
    /// Results that counted.
    done: usize,
}

impl Book {
    fn under_way(&self) -> usize {
        self.tasks.len() - self.done
    }

    /// As an engine does it: a result counts when its attempt is the record's, and once.
    fn take(&mut self, delivery: &Delivery) {
        *self.results.entry(delivery.clone()).or_default() += 1;
        let entry = self.tasks.get_mut(&delivery.task_id).unwrap();
        if entry.attempt == delivery.attempt && !entry.is_done {
            entry.is_done = true;
            self.done += 1;
        }
    }

    /// Every task has one result that counted, of the attempt that the record has.
    pub(crate) fn assert_none_lost(&self) {
        assert_eq!(self.done, self.tasks.len());
        for (id, entry) in &self.tasks {
            let counted = Delivery { task_id: id.clone(), attempt: entry.attempt };
            assert!(entry.is_done && self.results.contains_key(&counted), "{id}: {entry:?}");
        }
        assert!(self.results.keys().all(|delivery| self.claims.contains_key(delivery)), "results of nobody");
    }

    /// Every task was delivered once, claimed once, and its result was taken once.
    pub(crate) fn assert_each_once(&self) {
        assert!(self.tasks.values().all(|entry| entry.is_done && entry.attempt == 1));
        for counts in [&self.claims, &self.results] {
            assert_eq!(counts.len(), self.tasks.len());
            assert_eq!(counts.iter().find(|(_, count)| **count != 1), None);
        }
    }
}

/// Engines that push and take, and workers that claim and finish, each with connections of its own.
pub(crate) struct Load {
    book: Arc<Mutex<Book>>,
    queue: Arc<RedisQueue>,
    tracker: TaskTracker,
    /// No more tasks are pushed.
    full: CancellationToken,
    /// Everything ends.
    over: CancellationToken,
}

impl Load {
    pub(crate) async fn start(options: RedisOptions) -> Self {
        let load = Self {
            book: Arc::default(),
            queue: queue_with(options.clone()).await.0,
            tracker: TaskTracker::new(),
            full: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        for number in 0..WORKERS {
            let queue = queue_with(options.clone()).await.0;
            let (book, over) = (Arc::clone(&load.book), load.over.clone());
            load.tracker.spawn(over.run_until_cancelled_owned(work(queue, book, format!("w{number}"))));
        }
        for engine in ENGINES {
            let queue = queue_with(options.clone()).await.0;
            let (book, over) = (Arc::clone(&load.book), load.over.clone());
            load.tracker.spawn(over.run_until_cancelled_owned(collect(queue, book, engine)));
        }
        let queue = queue_with(options).await.0;
        let (book, full) = (Arc::clone(&load.book), load.full.clone());
        load.tracker.spawn(produce(queue, book, full));
        load
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Waits until so many more tasks are done.
    pub(crate) async fn goes_on(&self, tasks: usize) {
        let goal = self.book().done + tasks;
        wait_until("the load goes on", PATIENCE, async || self.book().done >= goal).await;
    }

    /// Publishes anew what the queue has lost, as engines do when a server was replaced.
    pub(crate) async fn reconcile(&self) -> usize {
        let of = |(id, entry): (&String, &Entry)| Dispatched {
            pool: entry.pool.into(),
            delivery: Delivery { task_id: id.clone(), attempt: entry.attempt },
        };
        let asked: Vec<Dispatched> =
            self.book().tasks.iter().filter(|(_, entry)| !entry.is_done).map(of).collect();
        let present = insist(|| self.queue.present(&asked)).await;
        let mut anew = Vec::new();
        for (Dispatched { pool, delivery }, _) in asked.iter().zip(present).filter(|(_, present)| !present) {
            let mut book = self.book();
            let entry = book.tasks.get_mut(&delivery.task_id).unwrap();
            if !entry.is_done {
                entry.attempt += 1;
                anew.push(long_task(&delivery.task_id, entry.attempt, pool));
            }
        }
        insist(|| self.queue.push(anew.clone())).await;
        anew.len()
    }

    /// Pushes no more, waits until all is done, and gives the book.
    pub(crate) async fn finish(self) -> Book {
        self.full.cancel();
        wait_until("everything is done", PATIENCE, async || self.book().under_way() == 0).await;
        wait_until("the queue is empty", PATIENCE, async || {
            self.queue.is_idle().await.is_ok_and(|idle| idle)
        })
        .await;
        self.over.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.unwrap();
        std::mem::take(&mut *self.book())
    }
}

/// A task that lasts far longer than any test.
fn long_task(id: &str, attempt: u32, pool: &str) -> TaskMessage {
    TaskMessage { lease_ms: 600_000, remaining_ms: 600_000, ..task(id, attempt, pool) }
}

/// Calls until it succeeds.
async fn insist<T, E, F: Future<Output = Result<T, E>>>(mut call: impl FnMut() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(_) => tokio::time::sleep(PACE).await,
        }
    }
}

async fn produce(queue: Arc<RedisQueue>, book: Arc<Mutex<Book>>, full: CancellationToken) {
    for number in 0_usize.. {
        let (id, pool) = (format!("t{number}"), POOLS[number % POOLS.len()]);
        while book.lock().unwrap().under_way() >= UNDER_WAY_MAX && !full.is_cancelled() {
            // Pacing only: what comes is decided by the book.
            tokio::time::sleep(PACE).await;
        }
        if full.is_cancelled() {
            return;
        }
        book.lock().unwrap().tasks.insert(id.clone(), Entry { pool, attempt: 1, is_done: false });
        insist(|| queue.push(vec![long_task(&id, 1, pool)])).await;
    }
}

async fn work(queue: Arc<RedisQueue>, book: Arc<Mutex<Book>>, worker: String) {
    let pools = POOLS.map(str::to_owned);
    loop {
        let mut is_idle = true;
        for pool in &pools {
            let claim = Claim { pool: pool.clone(), worker: worker.clone(), max: 3, low_first: false };
            // Not repeated at once: another pool may be well.
            let Ok(claimed) = queue.claim(claim).await else { continue };
            for claimed in claimed {
                is_idle = false;
                let result = result(&claimed.task);
                *book.lock().unwrap().claims.entry(result.delivery()).or_default() += 1;
                insist(|| queue.finish(pool, &worker, vec![result.clone()])).await;
            }
        }
        if is_idle {
            // Bells may be out of reach, too.
            queue.wait_for_tasks(&pools, PACE).await;
        }
    }
}

async fn collect(queue: Arc<RedisQueue>, book: Arc<Mutex<Book>>, engine: &'static str) {
    loop {
        let taken = insist(|| queue.take(engine, 7)).await;
        let deliveries: Vec<_> = taken.into_iter().map(|taken| taken.dispatched).collect();
        for dispatched in &deliveries {
            book.lock().unwrap().take(&dispatched.delivery);
        }
        insist(|| queue.acknowledge(engine, &deliveries)).await;
        if deliveries.is_empty() {
            drop(tokio::time::timeout(PACE, queue.wait_for_results()).await);
        }
    }
}
