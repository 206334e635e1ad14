//! The local queue: the rules of every queue, its limits, and many workers at once.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::conformance::{QueueUnderTest, result, task};
use flowmonkey_plumbing::queue::{
    Claim, Delivery, DispatchQueue, LocalQueue, LocalQueueLimits, QueueError, TaskQueue,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who waits looks at least this often.
const POLL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Local {
    clock: Arc<ManualClock>,
    queue: Arc<LocalQueue>,
}

impl Local {
    fn with(limits: LocalQueueLimits) -> Self {
        let clock = Arc::new(ManualClock::default());
        let queue = Arc::new(LocalQueue::new(Arc::clone(&clock) as Arc<dyn Clock>, limits));
        Self { clock, queue }
    }
}

#[async_trait]
impl QueueUnderTest for Local {
    fn tasks(&self) -> Arc<dyn TaskQueue> {
        Arc::clone(&self.queue) as Arc<dyn TaskQueue>
    }

    fn dispatch(&self) -> Arc<dyn DispatchQueue> {
        Arc::clone(&self.queue) as Arc<dyn DispatchQueue>
    }

    async fn advance(&self, ms: u64) {
        self.clock.0.fetch_add(i64::try_from(ms).unwrap(), Ordering::SeqCst);
    }
}

async fn new_queue() -> Local {
    Local::with(LocalQueueLimits::default())
}

mod rules {
    use super::new_queue;

    flowmonkey_plumbing::queue_conformance!(new_queue);
}

#[tokio::test]
async fn a_full_queue_takes_nothing_of_a_push_and_names_the_limit() {
    let limits = LocalQueueLimits { deliveries_max: 3, ready_per_pool_max: 2, late_results_max: 1 };
    let queue = Local::with(limits).queue;
    let full = |error: QueueError| matches!(error, QueueError::Full { limit } if limit.contains("_max"));
    let three = ["t1", "t2", "t3"].map(|id| task(id, 1, "a")).to_vec();
    assert!(full(queue.push(three.clone()).await.unwrap_err()));
    assert!(queue.is_idle().await.unwrap());
    queue.push(three[..2].to_vec()).await.unwrap();
    // What is there already takes no room.
    queue.push(three[..2].to_vec()).await.unwrap();
    queue.push(vec![task("u", 1, "b")]).await.unwrap();
    assert!(full(queue.push(vec![task("v", 1, "c")]).await.unwrap_err()));
    // Results are taken even so; only late ones are bounded.
    assert_eq!(queue.finish("b", "w", vec![result(&task("u", 1, "b"))]).await.unwrap(), []);
    assert_eq!(queue.finish("c", "w", vec![result(&task("v", 1, "c"))]).await.unwrap(), []);
    assert!(full(queue.finish("c", "w", vec![result(&task("x", 1, "c"))]).await.unwrap_err()));
}

/// Each task is claimed once, each result is taken once, nobody sleeps through a bell.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_share_the_tasks_and_lose_none() {
    const TASKS: usize = 4_000;
    let queue = new_queue().await.queue;
    let claimed = Arc::new(Mutex::new(BTreeMap::<Delivery, usize>::new()));
    let collected = Arc::new(Mutex::new(BTreeMap::<Delivery, usize>::new()));
    let (tracker, done) = (TaskTracker::new(), CancellationToken::new());
    for number in 0..24 {
        let (queue, claimed, done) = (Arc::clone(&queue), Arc::clone(&claimed), done.clone());
        tracker.spawn(async move {
            let pools = [format!("p{}", number % 3), format!("p{}", (number + 1) % 3)];
            let worker = format!("w{number}");
            while !done.is_cancelled() {
                for pool in &pools {
                    let claim =
                        Claim { pool: pool.clone(), worker: worker.clone(), max: 3, low_first: false };
                    let tasks = queue.claim(claim).await.unwrap();
                    let results: Vec<_> = tasks.iter().map(|claimed| result(&claimed.task)).collect();
                    for result in &results {
                        *claimed.lock().unwrap().entry(result.delivery()).or_default() += 1;
                    }
                    tokio::task::yield_now().await;
                    assert_eq!(queue.finish(pool, &worker, results).await.unwrap(), []);
                }
                tokio::select! {
                    () = done.cancelled() => {}
                    _ = queue.wait_for_tasks(&pools, POLL) => {}
                }
            }
        });
    }
    for engine in ["e1", "e2"] {
        let (queue, collected, done) = (Arc::clone(&queue), Arc::clone(&collected), done.clone());
        tracker.spawn(async move {
            while !done.is_cancelled() {
                let taken = queue.take(engine, 7).await.unwrap();
                let deliveries: Vec<_> = taken.iter().map(|taken| taken.dispatched.clone()).collect();
                queue.acknowledge(engine, &deliveries).await.unwrap();
                let all = {
                    let mut collected = collected.lock().unwrap();
                    for delivery in deliveries {
                        *collected.entry(delivery.delivery).or_default() += 1;
                    }
                    collected.len() == TASKS
                };
                if all {
                    done.cancel();
                }
                tokio::select! {
                    () = done.cancelled() => {}
                    () = queue.wait_for_results() => {}
                }
            }
        });
    }
    for number in 0..TASKS {
        queue.push(vec![task(&format!("t{number}"), 1, &format!("p{}", number % 3))]).await.unwrap();
    }
    tracker.close();
    tokio::time::timeout(Duration::from_secs(60), tracker.wait()).await.unwrap();
    for counts in [&claimed, &collected] {
        let counts = counts.lock().unwrap();
        assert_eq!(counts.len(), TASKS);
        assert!(counts.values().all(|count| *count == 1));
    }
    assert!(queue.is_idle().await.unwrap());
}
