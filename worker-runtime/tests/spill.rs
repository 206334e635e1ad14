//! Results that the queue does not take: on disk, past the queue, and never lost.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::queue::{DispatchQueue, LocalQueue};
use flowmonkey_worker::{
    Completion, Handler, ResultRoute, RouteError, Routed, UnsentResult, WorkerConfig, WorkerHandle,
};
use support::{Probe, build, config, handler, soon, start, task, until};
use tokio::runtime::Runtime;

const LONG: Duration = Duration::from_secs(60);

fn echo() -> Arc<dyn Handler> {
    handler("echo", None, |task| Box::pin(async { Ok(Completion::output(task.input().clone())) }))
}

fn spilling(name: &str, folder: &Path) -> WorkerConfig {
    let (worker_id, spill_dir) = (name.to_owned(), Some(folder.to_owned()));
    WorkerConfig { worker_id, spill_dir, spill_after_ms: 0, flush_ms: 200, poll_ms: 50, ..config() }
}

async fn push(queue: &LocalQueue, count: usize) {
    queue.push((0..count).map(|number| task(&format!("t{number:04}"), "echo")).collect()).await.unwrap();
}

async fn spilled(worker: &WorkerHandle, goal: u64) {
    let metrics = worker.metrics();
    until(async || metrics.spilled.get() >= goal).await;
}

/// The spilled results in `folder`, whosever they are.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == "corrupt" {
            continue;
        }
        // Not a folder, or removed meanwhile.
        let Ok(entries) = std::fs::read_dir(path) else { continue };
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    files
}

/// A worker that carries out `count` tasks while the queue takes no results, and dies.
fn die_with_results(queue: &Arc<Probe>, folder: &Path, count: usize) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        push(&queue.queue, count).await;
        queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
        let worker = start(spilling("dead", folder), queue, Arc::default(), [echo()]);
        spilled(&worker, u64::try_from(count).unwrap()).await;
        // Its tasks end with the runtime, wherever they are.
        queue.away.store(true, Ordering::SeqCst);
    });
    drop(runtime);
    assert_eq!(files(folder).len(), count);
    queue.failing_finishes.store(0, Ordering::SeqCst);
    queue.away.store(false, Ordering::SeqCst);
}

#[test]
fn the_next_worker_delivers_what_a_dead_one_left_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Probe::new();
    die_with_results(&queue, folder.path(), 30);
    Runtime::new().unwrap().block_on(async {
        let worker = start(spilling("next", folder.path()), &queue, Arc::default(), [echo()]);
        let results = queue.results(30).await;
        let ids: BTreeSet<&str> = results.iter().map(|result| result.task_id.as_str()).collect();
        assert_eq!(ids.len(), 30);
        assert!(results.iter().all(|result| result.metrics.worker_id == "dead"));
        let metrics = worker.metrics();
        soon(worker.drain(LONG)).await;
        assert_eq!((metrics.unspilled.get(), metrics.refused.get()), (30, 0));
        until(async || files(folder.path()).is_empty()).await;
        // Leases of the dead worker ended with its results.
        assert_eq!(queue.queue.depths().await.unwrap()[0].1.in_flight, 0);
    });
}

#[test]
fn files_that_are_damaged_are_put_aside_and_block_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Probe::new();
    die_with_results(&queue, folder.path(), 4);
    let spilled = files(folder.path());
    let mut flipped = std::fs::read(&spilled[0]).unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&spilled[0], flipped).unwrap();
    let whole = std::fs::read(&spilled[1]).unwrap();
    std::fs::write(&spilled[1], &whole[..whole.len() / 2]).unwrap();
    std::fs::write(&spilled[2], "no result").unwrap();
    std::fs::write(spilled[3].with_extension("tmp"), "half").unwrap();
    Runtime::new().unwrap().block_on(async {
        let worker = start(spilling("next", folder.path()), &queue, Arc::default(), [echo()]);
        queue.result().await;
        let metrics = worker.metrics();
        until(async || metrics.spill_corrupt.get() == 3 && metrics.unspilled.get() == 1).await;
        assert_eq!(std::fs::read_dir(folder.path().join("corrupt")).unwrap().count(), 3);
        assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
        soon(worker.drain(LONG)).await;
    });
}

#[tokio::test]
async fn two_workers_share_a_folder_and_send_only_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, other) = (Probe::new(), Probe::new());
    queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
    let one = start(spilling("one", folder.path()), &queue, Arc::default(), [echo()]);
    push(&queue.queue, 5).await;
    spilled(&one, 5).await;
    let two = start(spilling("two", folder.path()), &other, Arc::default(), [echo()]);
    push(&other.queue, 1).await;
    other.result().await;
    let metrics = two.metrics();
    soon(two.drain(LONG)).await;
    assert_eq!((metrics.unspilled.get(), files(folder.path()).len()), (0, 5));
    queue.failing_finishes.store(0, Ordering::SeqCst);
    assert_eq!(queue.results(5).await.len(), 5);
    until(async || one.metrics().unspilled.get() == 5 && one.in_hand() == 0).await;
    soon(one.drain(LONG)).await;
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_full_folder_leaves_results_in_memory_until_the_queue_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Probe::new();
    queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
    let config = WorkerConfig { spill_bytes_max: 700, ..spilling("full", folder.path()) };
    let worker = start(config, &queue, Arc::default(), [echo()]);
    push(&queue.queue, 20).await;
    let metrics = worker.metrics();
    until(async || metrics.spill_errors.get() > 0 && metrics.succeeded.get() == 20).await;
    let bytes: u64 = files(folder.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes > 0 && bytes <= 700, "{bytes}");
    queue.failing_finishes.store(0, Ordering::SeqCst);
    assert_eq!(queue.results(20).await.len(), 20);
    assert_eq!(soon(worker.drain(LONG)).await.unreported, 0);
}

#[tokio::test]
async fn a_drain_says_what_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Probe::new();
    queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
    let config = WorkerConfig { spill_after_ms: 600_000, stop_grace_ms: 0, ..spilling("one", folder.path()) };
    let worker = start(config, &queue, Arc::default(), [echo()]);
    push(&queue.queue, 3).await;
    until(async || worker.metrics().succeeded.get() == 3).await;
    let report = soon(worker.drain(LONG)).await;
    assert_eq!((report.spilled, report.unreported), (3, 0));
    assert_eq!(files(folder.path()).len(), 3);
}

/// Whatever the queue does with results, each arrives, and none is left behind.
#[tokio::test]
async fn nothing_is_lost_however_often_results_are_not_taken() {
    const TASKS: usize = 60;
    for seed in 1..=8_usize {
        let folder = tempfile::tempdir().unwrap();
        let queue = Probe::new();
        let answers_get_lost = seed.is_multiple_of(2);
        queue.finish_answers_get_lost.store(answers_get_lost, Ordering::SeqCst);
        let config = WorkerConfig { concurrency: 1 + seed, ..spilling("w", folder.path()) };
        let worker = start(config, &queue, Arc::default(), [echo()]);
        let mut ids = BTreeSet::new();
        push(&queue.queue, TASKS).await;
        while ids.len() < TASKS {
            // So many calls fail before the next results come through.
            queue.failing_finishes.store(seed % 4, Ordering::SeqCst);
            soon(queue.queue.wait_for_results()).await;
            for taken in queue.queue.take("engine", seed).await.unwrap() {
                let is_new = ids.insert(taken.result.unwrap().task_id);
                assert!(is_new || answers_get_lost, "seed {seed}: a result came twice");
                queue.queue.acknowledge("engine", &[taken.dispatched]).await.unwrap();
            }
        }
        queue.failing_finishes.store(0, Ordering::SeqCst);
        let metrics = worker.metrics();
        until(async || worker.in_hand() == 0).await;
        let report = soon(worker.drain(LONG)).await;
        assert_eq!((report.spilled, report.unreported), (0, 0), "seed {seed}");
        assert_eq!(metrics.spilled.get(), metrics.unspilled.get(), "seed {seed}");
        assert_eq!(files(folder.path()), [] as [PathBuf; 0], "seed {seed}");
    }
}

#[derive(Default)]
struct Route(Mutex<Vec<UnsentResult>>);

#[async_trait]
impl ResultRoute for Route {
    async fn send(&self, unsent: &UnsentResult) -> Result<Routed, RouteError> {
        match unsent.result.task_id.as_str() {
            "t0000" => return Ok(Routed::Stale),
            "t0001" => return Err(RouteError::NotAllowed { reason: "its token has ended".into() }),
            _ => {}
        }
        self.0.lock().unwrap().push(unsent.clone());
        Ok(Routed::Applied)
    }
}

#[tokio::test]
async fn results_go_past_a_queue_that_is_away() {
    let queue = Probe::new();
    let route = Arc::new(Route::default());
    queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
    let config = WorkerConfig { spill_after_ms: 0, ..config() };
    let worker = build(config, &queue, Arc::default(), [echo()]).with_result_route(Arc::clone(&route) as _);
    let worker = worker.start().unwrap();
    push(&queue.queue, 4).await;
    let metrics = worker.metrics();
    until(async || metrics.rerouted.get() == 2 && worker.in_hand() == 1).await;
    let sent: BTreeSet<String> =
        route.0.lock().unwrap().iter().map(|one| one.result.task_id.clone()).collect();
    assert_eq!(sent.into_iter().collect::<Vec<_>>(), ["t0002", "t0003"]);
    assert_eq!(route.0.lock().unwrap()[0].worker, "worker-1");
    // What the engine does not take that way waits for the queue.
    queue.failing_finishes.store(0, Ordering::SeqCst);
    assert_eq!(queue.result().await.task_id, "t0001");
}
