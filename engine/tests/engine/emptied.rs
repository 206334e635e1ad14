//! What an emptied queue says, and what it does not.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_engine::EngineConfig;
use flowmonkey_engine::chores::{collector, reconciler, timer};
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, Lease, LocalQueue, LocalQueueLimits, TaskQueue};
use serde_json::json;

use crate::{Bench, WORK, echo, flow, open};

/// The grace of [`EngineConfig::default`] and a little more, in milliseconds.
const AFTER_GRACE_MS: i64 = 3_100;

#[tokio::test]
async fn what_a_worker_has_was_started_though_the_queue_has_forgotten_it() {
    let bench = Bench::new().await;
    bench.publish(flow("late", json!({ "do": { "type": WORK, "scheduleToStartMs": 1000 } }))).await;
    let (kept, lost) = (bench.start("late", json!({})).await, bench.start("late", json!({})).await);
    let tasks = bench.claim().await;
    let emptied = Arc::new(LocalQueue::new(bench.clock.clone(), LocalQueueLimits::default()));
    let engine = open(&bench.store, &emptied, &bench.clock, bench.config.clone()).await;
    bench.clock.advance(1500);
    assert_eq!(timer::tick(&engine).await.unwrap(), timer::Woken { due: 2, moved: 0 });
    let task = tasks.iter().find(|task| task.execution_id == kept.to_string()).unwrap();
    let lease = Lease { delivery: task.delivery(), lease_ms: 60_000, remaining_ms: 600_000 };
    assert_eq!(emptied.reassert(WORK, "w", &[lease]).await.unwrap().lost, []);
    assert_eq!(timer::tick(&engine).await.unwrap(), timer::Woken { due: 2, moved: 1 });
    // The other worker has had the time to say so.
    bench.clock.advance(AFTER_GRACE_MS);
    let reconciled = reconciler::tick(&engine).await.unwrap();
    assert_eq!(reconciled, reconciler::Reconciled { looked_at: 2, republished: 1 });
    assert_eq!(bench.store.load(&[lost]).await.unwrap()[0].task().unwrap().run.attempt, 2);
    emptied.finish(WORK, "w", vec![echo(task)]).await.unwrap();
    assert_eq!(collector::tick(&engine).await.unwrap().applied, 1);
    assert_eq!(bench.store.load(&[kept]).await.unwrap()[0].status(), Status::Completed);
}

#[tokio::test]
async fn a_pool_without_room_does_not_hold_up_the_others() {
    let limits = LocalQueueLimits { ready_per_pool_max: 10, ..LocalQueueLimits::default() };
    let bench = Bench::with(Arc::new(MemoryStore::default()), EngineConfig::default(), limits).await;
    bench.publish(flow("work", json!({ "do": { "type": WORK } }))).await;
    bench.publish(flow("other", json!({ "do": { "type": "zebra" } }))).await;
    for _ in 0..100 {
        bench.start("work", json!({})).await;
    }
    let claim = || Claim { pool: "zebra".into(), worker: "w".into(), max: 100, low_first: false };
    let id = bench.start("other", json!({})).await;
    let task = bench.queue.claim(claim()).await.unwrap().remove(0).task;
    // It is in the queue no more, and behind all those that find no room.
    bench.queue.drop_deliveries(&[task.dispatched()]).await.unwrap();
    // The pools become known; what is missing is delivered in one go, until there is no room; then pool by pool.
    for _ in 0..3 {
        bench.clock.advance(5000);
        reconciler::tick(&bench.engine).await.unwrap();
    }
    let again = bench.queue.claim(claim()).await.unwrap().remove(0).task;
    assert_eq!((again.execution_id, again.attempt), (id.to_string(), 3));
}
