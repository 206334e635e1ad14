//! Many workers and engines at once, each with connections of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::{result, task};
use flowmonkey_plumbing::queue::{Claim, Delivery, DispatchQueue, TaskQueue};
use flowmonkey_plumbing::wire::TaskMessage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::support::{options, queue_with, shared_server};

const TASKS: usize = 1_500;
const WORKERS: usize = 9;
/// Who waits looks at least this often.
const POLL: Duration = Duration::from_secs(1);

/// Each task is claimed once, each result is taken once, nobody sleeps through a bell.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_share_the_tasks_and_lose_none() {
    let options = options(shared_server().await.url());
    let claimed = Arc::new(Mutex::new(BTreeMap::<Delivery, usize>::new()));
    let collected = Arc::new(Mutex::new(BTreeMap::<Delivery, usize>::new()));
    let (tracker, done) = (TaskTracker::new(), CancellationToken::new());
    for number in 0..WORKERS {
        let (options, claimed, done) = (options.clone(), Arc::clone(&claimed), done.clone());
        tracker.spawn(async move {
            let queue = queue_with(options).await.0;
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
        let (options, collected, done) = (options.clone(), Arc::clone(&collected), done.clone());
        tracker.spawn(async move {
            let queue = queue_with(options).await.0;
            while !done.is_cancelled() {
                let taken = queue.take(engine, 7).await.unwrap();
                let deliveries: Vec<_> = taken.into_iter().map(|taken| taken.dispatched).collect();
                queue.acknowledge(engine, &deliveries).await.unwrap();
                let all = {
                    let mut collected = collected.lock().unwrap();
                    for dispatched in deliveries {
                        *collected.entry(dispatched.delivery).or_default() += 1;
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
    let queue = queue_with(options).await.0;
    for number in 0..TASKS {
        let pool = format!("p{}", number % 3);
        let task = TaskMessage { lease_ms: 600_000, ..task(&format!("t{number}"), 1, &pool) };
        queue.push(vec![task]).await.unwrap();
    }
    tracker.close();
    tokio::time::timeout(Duration::from_secs(120), tracker.wait()).await.unwrap();
    for counts in [&claimed, &collected] {
        let counts = counts.lock().unwrap();
        assert_eq!(counts.len(), TASKS);
        assert!(counts.values().all(|count| *count == 1));
    }
    assert!(queue.is_idle().await.unwrap());
}
