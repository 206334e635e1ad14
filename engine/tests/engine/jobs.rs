//! Jobs: their rows, their heartbeats, their pauses, and the grace that they have when their queue was lost.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::Engine;
use flowmonkey_engine::chores::{collector, events, jobs, reaper, reconciler, timer};
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::store::{JobFilter, JobRow, MemoryStore, PublishedEvent, Store};
use flowmonkey_plumbing::api::{
    CheckpointApi, Heartbeat, HeartbeatAnswer, JobApi, JobStatus, PlumbingError, Progress, TaskAccess,
};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::{Claim, Lease, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_plumbing::wire::{EventWait, Outcome, ResultMessage, TaskMessage};
use serde_json::{Value, json};

use crate::{Bench, JOB, echo, failure, flow, open, result, sqlite};

/// The lease of [`flowmonkey_engine::EngineConfig::default`], in milliseconds.
const LEASE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * 60 * 1000;

async fn claim(queue: &LocalQueue, worker: &str) -> Option<TaskMessage> {
    let claim = Claim { pool: JOB.into(), worker: worker.into(), max: 1, low_first: false };
    queue.claim(claim).await.unwrap().pop().map(|claimed| claimed.task)
}

async fn finish(bench: &Bench, worker: &str, result: ResultMessage) {
    assert_eq!(bench.queue.finish(JOB, worker, vec![result]).await.unwrap(), []);
    collector::tick(&bench.engine).await.unwrap();
}

async fn beat(
    engine: &Arc<Engine>,
    task: &TaskMessage,
    worker: &str,
    status: JobStatus,
) -> Result<HeartbeatAnswer, PlumbingError> {
    let progress = Progress { percent: 40.0, message: Some("frame 4 of 10".into()), ..Progress::default() };
    let heartbeat = Heartbeat {
        task_id: task.task_id.clone(),
        attempt: task.attempt,
        worker_id: worker.into(),
        status,
        progress: Some(progress),
        checkpoint: task.checkpoint.clone(),
        heartbeat_at: String::new(),
    };
    EnginePlumbing::new(engine.clone()).heartbeat(&TaskAccess::from(task), &heartbeat).await
}

async fn job(store: &Arc<dyn Store>, execution: ExecutionId) -> JobRow {
    let filter = JobFilter { execution: Some(execution), max: 10, ..JobFilter::default() };
    store.jobs(&filter).await.unwrap().pop().unwrap()
}

fn pause(task: &TaskMessage, until: Option<Timestamp>, event: Option<EventWait>) -> ResultMessage {
    ResultMessage {
        run_again: true,
        wait_until: until.map(Timestamp::to_rfc3339),
        wait_for_event: event,
        resume_token: Some("tok".into()),
        ..result(task, Outcome::Wait)
    }
}

async fn with_job() -> (Bench, ExecutionId) {
    with_job_on(Arc::new(MemoryStore::default())).await
}

async fn with_job_on(store: Arc<dyn Store>) -> (Bench, ExecutionId) {
    let bench = Bench::on(store).await;
    let retry = json!({ "maxAttempts": 2, "backoffMs": 1000, "jitter": "none" });
    bench.publish(flow("video", json!({ "do": { "type": JOB, "retry": retry, "outputKey": "out" } }))).await;
    let id = bench.start("video", json!({})).await;
    (bench, id)
}

async fn both() -> [(Arc<dyn Store>, Option<tempfile::TempDir>); 2] {
    let directory = tempfile::tempdir().unwrap();
    let file = sqlite(&directory).await;
    [(Arc::new(MemoryStore::default()), None), (file, Some(directory))]
}

#[tokio::test]
async fn a_job_pauses_for_hours_and_another_worker_goes_on_from_its_checkpoint() {
    for (store, _directory) in both().await {
        let (bench, id) = with_job_on(store).await;
        let row = job(&bench.store, id).await;
        assert_eq!((row.status, row.attempt, row.max_retries), (JobStatus::Pending, 1, Some(2)));
        assert!(row.timeout_ms.is_some());

        let first = claim(&bench.queue, "w1").await.unwrap();
        let answer = beat(&bench.engine, &first, "w1", JobStatus::Claimed).await.unwrap();
        assert_eq!(answer, HeartbeatAnswer::default());
        assert_eq!(job(&bench.store, id).await.status, JobStatus::Claimed);
        beat(&bench.engine, &first, "w1", JobStatus::Running).await.unwrap();
        let plumbing = EnginePlumbing::new(bench.engine.clone());
        plumbing.save_checkpoint(&TaskAccess::from(&first), json!({ "frame": 4 }).into()).await.unwrap();
        let until = Timestamp::from_millis(bench.clock.now_ms() + 9 * HOUR_MS);
        finish(&bench, "w1", pause(&first, Some(until), None)).await;
        let row = job(&bench.store, id).await;
        assert_eq!((row.status, row.worker.as_deref()), (JobStatus::Paused, Some("w1")));
        assert_eq!((row.progress_percent, row.completed_at), (Some(40.0), None));
        assert_eq!(bench.queue_depth().await, 0, "no worker is held");
        jobs::tick(&bench.engine).await.unwrap();
        assert_eq!(job(&bench.store, id).await, row, "there is nothing to put right");

        bench.clock.advance(9 * HOUR_MS);
        timer::tick(&bench.engine).await.unwrap();
        let row = job(&bench.store, id).await;
        assert_eq!((row.status, row.attempt, row.worker), (JobStatus::Pending, 2, None));
        let second = claim(&bench.queue, "w2").await.unwrap();
        assert_eq!((&second.task_id, second.attempt), (&first.task_id, 2));
        assert_eq!(second.idempotency_key, first.idempotency_key);
        assert_eq!(second.metadata.other["resumed"], json!({ "by": "time" }));
        assert!(second.checkpoint.is_some());
        let saved = plumbing.load_checkpoint(&TaskAccess::from(&second)).await.unwrap().unwrap();
        assert_eq!(saved.data, json!({ "frame": 4 }).into());
        beat(&bench.engine, &second, "w2", JobStatus::Running).await.unwrap();
        let stale = beat(&bench.engine, &first, "w1", JobStatus::Running).await;
        assert!(matches!(stale, Err(PlumbingError::Stale { attempt: 1, .. })));
        assert_eq!(job(&bench.store, id).await.worker.as_deref(), Some("w2"));

        // The result comes after hours, too.
        bench.clock.advance(30_000);
        let done = ResultMessage { output: Some(json!("film")), ..result(&second, Outcome::Success) };
        finish(&bench, "w2", done).await;
        let execution = bench.expect(id, Status::Completed).await;
        assert_eq!(execution.context["out"], json!("film"));
        let row = job(&bench.store, id).await;
        assert_eq!((row.status, row.retry_count, row.error), (JobStatus::Completed, 0, None));
        assert!(row.completed_at.is_some());
    }
}

#[tokio::test]
async fn a_job_that_gets_on_may_lose_many_workers_and_one_that_does_not_is_parked() {
    for (store, _directory) in both().await {
        let (bench, id) = with_job_on(store).await;
        let plumbing = EnginePlumbing::new(bench.engine.clone());
        let lose = async |frame: Option<u32>| {
            let task = claim(&bench.queue, "w1").await.unwrap();
            if let Some(frame) = frame {
                bench.clock.advance(1000);
                let data = json!({ "frame": frame }).into();
                plumbing.save_checkpoint(&TaskAccess::from(&task), data).await.unwrap();
            }
            bench.clock.advance(LEASE_MS);
            assert_eq!(reaper::tick(&bench.engine).await.unwrap().expired, 1);
        };
        let max = bench.config.limits.max_lost;
        for frame in 0..2 * max {
            lose(Some(frame)).await;
        }
        let run = bench.get(id).await.task().unwrap().run.clone();
        assert_eq!((run.attempt, run.lost, run.retry), (2 * max + 1, 1, 0));
        for _ in 1..max {
            assert_eq!(bench.get(id).await.status(), Status::WaitingForWorker);
            lose(None).await;
        }
        bench.expect(id, Status::Incident).await;
    }
}

#[tokio::test]
async fn an_event_that_matches_ends_a_pause_and_its_data_reaches_the_handler() {
    for (store, _directory) in both().await {
        let (bench, id) = with_job_on(store).await;
        let first = claim(&bench.queue, "w1").await.unwrap();
        let wait = EventWait { event: "freed".into(), condition: Some("event.data.gpus > 1".into()) };
        finish(&bench, "w1", pause(&first, None, Some(wait))).await;
        for (number, gpus) in [1, 4].into_iter().enumerate() {
            let event = PublishedEvent {
                tenant: None,
                id: format!("e{number}"),
                name: "freed".into(),
                data: json!({ "gpus": gpus }),
                source: None,
                attributes: None,
                at: Timestamp::from_millis(bench.clock.now_ms()),
            };
            bench.store.publish_event(&event).await.unwrap();
        }
        while events::tick(&bench.engine).await.unwrap().events > 0 {}
        let second = claim(&bench.queue, "w2").await.unwrap();
        let resumed = json!({ "by": "event", "id": "e1", "name": "freed", "data": { "gpus": 4 } });
        assert_eq!(second.metadata.other["resumed"], resumed);
        // Lost on the way: the one after it still knows what woke the job.
        finish(&bench, "w2", result(&second, Outcome::Released)).await;
        let third = claim(&bench.queue, "w3").await.unwrap();
        assert_eq!((third.attempt, &third.metadata.other["resumed"]), (3, &resumed));
        finish(&bench, "w3", echo(&third)).await;
        bench.expect(id, Status::Completed).await;
    }
}

#[tokio::test]
async fn a_wait_that_cannot_be_understood_fails_the_attempt() {
    for event in ["", "freed"] {
        let (bench, id) = with_job().await;
        let first = claim(&bench.queue, "w1").await.unwrap();
        let wait = EventWait { event: event.into(), condition: Some("event.data >".into()) };
        finish(&bench, "w1", pause(&first, None, Some(wait))).await;
        let execution = bench.get(id).await;
        let known = serde_json::to_value(&execution).unwrap().to_string();
        assert!(known.contains("INVALID_RESULT"), "{known}");
    }
}

#[tokio::test]
async fn a_cancel_reaches_a_running_job_and_closes_a_paused_one() {
    let (bench, id) = with_job().await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    let cancel = || Command::Cancel { source: CancelSource::User, reason: None };
    beat(&bench.engine, &task, "w1", JobStatus::Running).await.unwrap();
    bench.engine.command(id, cancel()).await.unwrap();
    let answer = beat(&bench.engine, &task, "w1", JobStatus::Running).await.unwrap();
    assert_eq!(answer, HeartbeatAnswer { cancel_requested: true, lease_lost: false });
    finish(&bench, "w1", failure(&task)).await;
    bench.expect(id, Status::Cancelled).await;
    assert_eq!(job(&bench.store, id).await.status, JobStatus::Cancelled);

    let paused = bench.start("video", json!({})).await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    finish(&bench, "w1", pause(&task, None, None)).await;
    bench.engine.command(paused, cancel()).await.unwrap();
    bench.expect(paused, Status::Cancelled).await;
    assert_eq!(jobs::tick(&bench.engine).await.unwrap().repaired, 1);
    assert_eq!(job(&bench.store, paused).await.status, JobStatus::Cancelled);
    assert_eq!(jobs::tick(&bench.engine).await.unwrap(), jobs::TendedJobs::default());
    assert!(claim(&bench.queue, "w2").await.is_none());
}

#[tokio::test]
async fn an_attempt_of_a_job_is_one_workers() {
    let (bench, id) = with_job().await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    beat(&bench.engine, &task, "w1", JobStatus::Running).await.unwrap();
    let other = beat(&bench.engine, &task, "w2", JobStatus::Running).await.unwrap();
    assert!(other.lease_lost);
    assert_eq!(job(&bench.store, id).await.worker.as_deref(), Some("w1"));
    let odd = beat(&bench.engine, &task, "w1", JobStatus::Completed).await;
    assert!(matches!(odd, Err(PlumbingError::Refused { .. })));
}

#[tokio::test]
async fn failures_are_shown_and_rows_are_put_right() {
    let (bench, id) = with_job().await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    let mut retryable = failure(&task);
    retryable.error.as_mut().unwrap().retryable = Some(true);
    finish(&bench, "w1", retryable).await;
    let row = job(&bench.store, id).await;
    assert_eq!((row.status, row.attempt, row.retry_count), (JobStatus::Pending, 2, 1));
    assert_eq!(row.error, Some(json!({ "code": "BROKEN", "message": "broken" })));
    bench.clock.advance(1000);
    timer::tick(&bench.engine).await.unwrap();
    let task = claim(&bench.queue, "w1").await.unwrap();
    finish(&bench, "w1", failure(&task)).await;
    assert_eq!(job(&bench.store, id).await.status, JobStatus::Failed);

    // A job that the engine was not told is one: nothing but the chore looks after its row.
    bench.publish(flow("plain", json!({ "do": { "type": crate::WORK } }))).await;
    let plain = bench.start("plain", json!({})).await;
    let task = bench.claim().await.remove(0);
    beat(&bench.engine, &task, "w", JobStatus::Running).await.unwrap();
    assert_eq!(job(&bench.store, plain).await.status, JobStatus::Running);
    bench.finish(vec![echo(&task)]).await;
    collector::tick(&bench.engine).await.unwrap();
    assert_eq!(job(&bench.store, plain).await.status, JobStatus::Running);
    assert_eq!(jobs::tick(&bench.engine).await.unwrap().repaired, 1);
    assert_eq!(job(&bench.store, plain).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn a_lost_queue_does_not_run_a_job_twice_whose_worker_lives() {
    for (store, _directory) in both().await {
        let (bench, alive) = with_job_on(store).await;
        let silent = bench.start("video", json!({})).await;
        let tasks = [claim(&bench.queue, "w1").await.unwrap(), claim(&bench.queue, "w2").await.unwrap()];
        let of = |id: ExecutionId| tasks.iter().find(|task| task.execution_id == id.to_string()).unwrap();
        let emptied = Arc::new(LocalQueue::new(bench.clock.clone(), LocalQueueLimits::default()));
        let engine = open(&bench.store, &emptied, &bench.clock, bench.config.clone()).await;
        bench.clock.advance(3_000);
        beat(&engine, of(alive), "w1", JobStatus::Running).await.unwrap();
        reconciler::tick(&engine).await.unwrap();
        bench.clock.advance(3_100);
        assert_eq!(reconciler::tick(&engine).await.unwrap().republished, 1);
        let attempt = async |id| bench.store.load(&[id]).await.unwrap()[0].task().unwrap().run.attempt;
        assert_eq!((attempt(alive).await, attempt(silent).await), (1, 2));
        // The queue is whole for the engine, and the worker still has its time.
        bench.clock.advance(30_000);
        beat(&engine, of(alive), "w1", JobStatus::Running).await.unwrap();
        assert_eq!(reconciler::tick(&engine).await.unwrap().republished, 0);
        let lease = Lease { delivery: of(alive).delivery(), lease_ms: 60_000, remaining_ms: 600_000 };
        assert_eq!(emptied.reassert(JOB, "w1", &[lease]).await.unwrap().lost, []);
        bench.clock.advance(29_000);
        beat(&engine, of(alive), "w1", JobStatus::Running).await.unwrap();
        assert_eq!(reconciler::tick(&engine).await.unwrap().republished, 0);
        emptied.finish(JOB, "w1", vec![echo(of(alive))]).await.unwrap();
        collector::tick(&engine).await.unwrap();
        let ended = bench.store.load(&[alive]).await.unwrap();
        assert_eq!(ended[0].status(), Status::Completed);
    }
}

#[tokio::test]
async fn a_worker_that_never_puts_its_lease_back_has_one_staleness() {
    let (bench, id) = with_job().await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    let emptied = Arc::new(LocalQueue::new(bench.clock.clone(), LocalQueueLimits::default()));
    let engine = open(&bench.store, &emptied, &bench.clock, bench.config.clone()).await;
    bench.clock.advance(3_000);
    reconciler::tick(&engine).await.unwrap();
    let mut republished = 0;
    for _ in 0..LEASE_MS / 10_000 {
        beat(&engine, &task, "w1", JobStatus::Running).await.unwrap();
        bench.clock.advance(10_000);
        republished += reconciler::tick(&engine).await.unwrap().republished;
    }
    assert_eq!(republished, 0);
    beat(&engine, &task, "w1", JobStatus::Running).await.unwrap();
    bench.clock.advance(10_000);
    assert_eq!(reconciler::tick(&engine).await.unwrap().republished, 1);
    let stale = beat(&engine, &task, "w1", JobStatus::Running).await;
    assert!(matches!(stale, Err(PlumbingError::Stale { .. })));
    let row: Value = serde_json::to_value(job(&bench.store, id).await.status).unwrap();
    assert_eq!(row, json!("pending"));
}

#[tokio::test]
async fn a_process_that_was_alone_waits_for_nobody() {
    let (bench, id) = with_job().await;
    let task = claim(&bench.queue, "w1").await.unwrap();
    beat(&bench.engine, &task, "w1", JobStatus::Running).await.unwrap();
    let store = bench.store.clone();
    let bench = bench.restart(store).await;
    let again = claim(&bench.queue, "w2").await.unwrap();
    assert_eq!((again.execution_id, again.attempt), (id.to_string(), 2));
}
