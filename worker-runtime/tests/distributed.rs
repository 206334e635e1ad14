//! A worker whose queue is emptied, goes away and comes back: leases, announcements, fencing, back-pressure.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flowmonkey_plumbing::queue::{Delivery, DispatchQueue, Dispatched};
use flowmonkey_plumbing::wire::{Outcome, TaskMessage};
use flowmonkey_worker::{Completion, DrainReport, Handler, WorkerConfig};
use support::{Probe, config, handler, soon, start, task, until};
use tokio::sync::{Semaphore, watch};

const LONG: Duration = Duration::from_secs(60);
/// Sooner than the heartbeat of these tests, which is 15 s.
const BEFORE_THE_HEARTBEAT: Duration = Duration::from_secs(10);

fn on(id: &str) -> Dispatched {
    Dispatched { pool: "gated".into(), delivery: Delivery { task_id: id.into(), attempt: 1 } }
}

/// Ends when the gate opens; rings when it starts and when it is dropped.
struct Gated {
    gate: Arc<Semaphore>,
    started: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
}

struct Dropped(watch::Sender<usize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl Gated {
    fn new() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            started: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
        }
    }

    fn handler(&self) -> Arc<dyn Handler> {
        let (gate, started, dropped) = (Arc::clone(&self.gate), self.started.clone(), self.dropped.clone());
        handler("gated", None, move |_| {
            let (gate, started) = (Arc::clone(&gate), started.clone());
            let dropped = Dropped(dropped.clone());
            Box::pin(async move {
                let _dropped = dropped;
                started.send_modify(|count| *count += 1);
                gate.acquire().await.unwrap().forget();
                Ok(Completion::Success(None))
            })
        })
    }
}

async fn wait_for(count: &watch::Sender<usize>, goal: usize) {
    soon(count.subscribe().wait_for(|count| *count >= goal)).await.unwrap();
}

async fn is_present(queue: &Probe, id: &str) -> bool {
    queue.queue.present(&[on(id)]).await.unwrap()[0]
}

#[tokio::test]
async fn a_queue_that_forgets_everything_gets_the_leases_back() {
    let queue = Probe::new();
    let gated = Gated::new();
    queue.queue.set_generation("gated", 7).await.unwrap();
    let config = WorkerConfig { heartbeat_ms: 10, ..config() };
    let worker = start(config, &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![task("t", "gated"), task("u", "gated")]).await.unwrap();
    wait_for(&gated.started, 2).await;
    // Emptied, twice before it is rebuilt.
    queue.queue.set_generation("gated", 0).await.unwrap();
    for _ in 0..2 {
        queue.queue.drop_deliveries(&[on("t"), on("u")]).await.unwrap();
        until(async || is_present(&queue, "t").await && is_present(&queue, "u").await).await;
    }
    queue.queue.set_generation("gated", 8).await.unwrap();
    let seen = *queue.extends.borrow();
    wait_for(&queue.extends, seen + 5).await;
    assert_eq!((worker.metrics().lost.get(), *gated.dropped.borrow()), (0, 0));
    gated.gate.add_permits(2);
    let results = queue.results(2).await;
    assert!(results.iter().all(|result| result.outcome == Outcome::Success));
    assert!(worker.metrics().reasserted.get() >= 6);
}

#[tokio::test]
async fn a_new_generation_is_seen_long_before_the_next_heartbeat() {
    let queue = Probe::new();
    let gated = Gated::new();
    queue.queue.set_generation("gated", 7).await.unwrap();
    let worker = start(config(), &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![task("t", "gated")]).await.unwrap();
    wait_for(&gated.started, 1).await;
    let begin = Instant::now();
    queue.queue.drop_deliveries(&[on("t")]).await.unwrap();
    queue.queue.set_generation("gated", 8).await.unwrap();
    until(async || is_present(&queue, "t").await).await;
    assert!(begin.elapsed() < BEFORE_THE_HEARTBEAT);
    assert_eq!((worker.metrics().lost.get(), *gated.dropped.borrow()), (0, 0));
}

#[tokio::test]
async fn a_newer_attempt_stops_the_old_one_after_a_rebuild() {
    let queue = Probe::new();
    let gated = Gated::new();
    queue.queue.set_generation("gated", 7).await.unwrap();
    let config = WorkerConfig { concurrency: 1, ..config() };
    let worker = start(config, &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![task("t", "gated")]).await.unwrap();
    wait_for(&gated.started, 1).await;
    queue.queue.drop_deliveries(&[on("t")]).await.unwrap();
    queue.queue.push(vec![TaskMessage { attempt: 2, ..task("t", "gated") }]).await.unwrap();
    queue.queue.set_generation("gated", 8).await.unwrap();
    wait_for(&gated.dropped, 1).await;
    assert_eq!(worker.metrics().lost.get(), 1);
    // Its slot is free again: it runs the newer one.
    gated.gate.add_permits(1);
    assert_eq!(queue.result().await.attempt, 2);
}

#[tokio::test]
async fn workers_are_announced_before_they_claim_and_retire_at_the_end() {
    let queue = Probe::new();
    let gated = Gated::new();
    let config = WorkerConfig { pool_prefix: "eu/".into(), version: "9.1.0".into(), ..config() };
    let worker = start(config, &queue, Arc::default(), [gated.handler()]);
    soon(queue.claims.subscribe().wait_for(|claims| *claims > 0)).await.unwrap();
    let present = queue.queue.workers().await.unwrap();
    assert_eq!((present.len(), present[0].worker.as_str()), (1, "worker-1"));
    let one = &present[0];
    assert_eq!((one.pools.clone(), one.slots, one.draining), (vec!["eu/gated".to_owned()], 16, false));
    assert_eq!((one.version.as_str(), one.region.as_deref()), ("9.1.0", Some("eu")));
    assert_eq!(one.manifests[0].handler_type, "gated");
    assert_eq!(soon(worker.drain(LONG)).await, DrainReport::default());
    assert_eq!(queue.queue.workers().await.unwrap(), []);
    let calls = queue.calls.lock().unwrap().clone();
    assert_eq!(calls[..2], ["announce, draining: false", "claim"]);
    assert_eq!(calls[calls.len() - 2..], ["announce, draining: true", "retire"]);
}

#[tokio::test]
async fn a_worker_that_is_asked_to_drain_finishes_what_it_has_and_leaves() {
    let queue = Probe::new();
    let gated = Gated::new();
    // It is announced again soon.
    queue.failing_announcements.store(true, Ordering::SeqCst);
    let worker = start(config(), &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![task("t", "gated")]).await.unwrap();
    wait_for(&gated.started, 1).await;
    queue.asks_to_drain.store(true, Ordering::SeqCst);
    queue.failing_announcements.store(false, Ordering::SeqCst);
    let mut announced = queue.announced.subscribe();
    soon(announced.wait_for(|announced| announced.iter().any(|presence| presence.draining))).await.unwrap();
    queue.queue.push(vec![task("later", "gated")]).await.unwrap();
    gated.gate.add_permits(1);
    assert_eq!(queue.result().await.task_id, "t");
    soon(worker.drained()).await;
    assert_eq!(queue.queue.workers().await.unwrap(), []);
    let depths = queue.queue.depths().await.unwrap();
    assert_eq!((depths[0].1.normal, depths[0].1.in_flight), (1, 0), "it has claimed no more");
    assert_eq!(soon(worker.drain(LONG)).await, DrainReport::default());
}

#[tokio::test]
async fn announcements_that_fail_hold_nothing_up_and_are_repeated() {
    let queue = Probe::new();
    let gated = Gated::new();
    queue.failing_announcements.store(true, Ordering::SeqCst);
    let worker = start(config(), &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![task("t", "gated")]).await.unwrap();
    wait_for(&gated.started, 1).await;
    assert!(worker.metrics().announce_errors.get() > 0);
    queue.failing_announcements.store(false, Ordering::SeqCst);
    let mut announced = queue.announced.subscribe();
    let running = soon(announced.wait_for(|announced| !announced.is_empty())).await.unwrap()[0].running;
    assert_eq!(running, 1);
}

#[tokio::test]
async fn a_fenced_worker_goes_on_when_its_queue_is_back() {
    let queue = Probe::new();
    let gated = Gated::new();
    let config = WorkerConfig { heartbeat_ms: 10, ..config() };
    let worker = start(config, &queue, Arc::default(), [gated.handler()]);
    queue.queue.push(vec![TaskMessage { lease_ms: 1_200, ..task("t", "gated") }]).await.unwrap();
    wait_for(&gated.started, 1).await;
    queue.away.store(true, Ordering::SeqCst);
    wait_for(&gated.dropped, 1).await;
    assert_eq!(worker.metrics().fenced.get(), 1);
    // The claimer notices that the queue is away.
    queue.queue.push(vec![task("u", "gated")]).await.unwrap();
    until(async || worker.metrics().claim_errors.get() > 0).await;
    queue.away.store(false, Ordering::SeqCst);
    gated.gate.add_permits(1);
    assert_eq!(queue.result().await.task_id, "u");
}

#[tokio::test]
async fn results_that_nobody_takes_stop_the_claims() {
    const TASKS: usize = 3_000;
    let queue = Probe::new();
    let echo = handler("echo", None, |_| Box::pin(async { Ok(Completion::Success(None)) }));
    queue.finishes_open.send_replace(false);
    let worker = start(config(), &queue, Arc::default(), [echo]);
    let tasks = (0..TASKS).map(|number| task(&format!("t{number}"), "echo"));
    queue.queue.push(tasks.collect()).await.unwrap();
    until(async || worker.in_hand() >= 1_024).await;
    let more = async {
        while worker.in_hand() < 2_200 {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), more).await.is_err(), "{}", worker.in_hand());
    queue.finishes_open.send_replace(true);
    assert_eq!(queue.results(TASKS).await.len(), TASKS);
}
