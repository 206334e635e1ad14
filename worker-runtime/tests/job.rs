//! Stateful handlers: what their workers tell of them, their pauses, and their soft limit.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

#[expect(dead_code, reason = "each test program uses a part")]
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{Heartbeat, HeartbeatAnswer, JobStatus};
use flowmonkey_plumbing::manifest::{Manifest, Mode, Ttl};
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::{EventWait, LogLevel, Outcome, ResultMessage};
use flowmonkey_worker::{Completion, Failure, Handler, Pause, Task, WorkerConfig};
use serde_json::{Value, json};
use support::{Memory, Probe, config, soon, start, task};

type Run = for<'a> fn(&'a Task) -> Pin<Box<dyn Future<Output = Result<Completion, Failure>> + Send + 'a>>;

/// A stateful handler of the type `job`.
struct Job {
    manifest: Manifest,
    run: Run,
}

#[async_trait]
impl Handler for Job {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        (self.run)(task).await
    }
}

fn job(ttl: Option<Ttl>, run: Run) -> Arc<dyn Handler> {
    let manifest = Manifest {
        handler_type: "job".into(),
        version: "1.0.0".into(),
        mode: Mode::Stateful,
        ttl,
        ..Manifest::default()
    };
    Arc::new(Job { manifest, run })
}

fn quick(worker: &str) -> WorkerConfig {
    WorkerConfig { job_heartbeat_ms: 10, worker_id: worker.into(), ..config() }
}

async fn beat(memory: &Memory, wanted: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
    let mut beats = memory.beats.subscribe();
    let seen = soon(beats.wait_for(|beats| beats.iter().any(&wanted))).await.unwrap();
    seen.iter().find(|beat| wanted(beat)).unwrap().clone()
}

/// Puts the result aside, and the same task into the queue once more, as the engine does after a pause.
async fn resume(queue: &Probe, result: &ResultMessage, resumed: Value) {
    let taken = queue.queue.take("engine", 1).await.unwrap();
    assert_eq!(taken, [], "there is one result, and it was taken");
    let mut again = task("t", "job");
    again.attempt = result.attempt + 1;
    again.metadata.other.insert("resumed".into(), resumed);
    queue.queue.push(vec![again]).await.unwrap();
}

#[tokio::test]
async fn a_paused_job_frees_its_slot_and_goes_on_elsewhere_from_its_checkpoint() {
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let run: Run = |task| {
        Box::pin(async move {
            if task.input()["id"] == "other" {
                return Ok(Completion::output(json!("the slot was free")));
            }
            match task.load_checkpoint().await.unwrap() {
                None => {
                    task.save_checkpoint(json!({ "frame": 4 })).await.unwrap();
                    let event = EventWait { event: "freed".into(), condition: Some("event.data > 1".into()) };
                    let until = Some("2031-01-01T00:00:00Z".into());
                    let reason = Some("no GPU".into());
                    Ok(Completion::Pause(Pause { until, event: Some(event), reason, resume_token: None }))
                }
                Some(saved) => Ok(Completion::output(json!([saved.data, task.resumed()]))),
            }
        })
    };
    let first = start(quick("w1"), &queue, Arc::clone(&memory), [job(None, run)]);
    queue.queue.push(vec![task("t", "job")]).await.unwrap();
    let paused = queue.result().await;
    assert_eq!((paused.outcome, paused.run_again), (Outcome::Wait, true));
    assert_eq!(paused.wait_until.as_deref(), Some("2031-01-01T00:00:00Z"));
    assert_eq!(paused.wait_for_event.as_ref().unwrap().condition.as_deref(), Some("event.data > 1"));
    assert_eq!(paused.wait_reason.as_deref(), Some("no GPU"));
    // A stateful handler has one slot; the task that pauses does not hold it.
    queue.queue.push(vec![task("other", "job")]).await.unwrap();
    assert_eq!(queue.result().await.output, Some(json!("the slot was free")));
    soon(first.drain(support::PATIENCE)).await;

    let _second = start(quick("w2"), &queue, Arc::clone(&memory), [job(None, run)]);
    let resumed = json!({ "by": "event", "id": "e1", "name": "freed", "data": 2 });
    resume(&queue, &paused, resumed.clone()).await;
    let done = queue.result().await;
    assert_eq!((done.attempt, done.metrics.worker_id.as_str()), (2, "w2"));
    assert_eq!(done.output, Some(json!([{ "frame": 4 }, resumed])));
}

#[tokio::test]
async fn heartbeats_tell_of_the_claim_the_progress_and_the_checkpoint_until_the_end() {
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let run: Run = |task| {
        Box::pin(async move {
            task.progress(40.0, Some("frame 4 of 10".into()));
            task.save_checkpoint(json!({ "frame": 4 })).await.unwrap();
            task.cancelled.cancelled().await;
            Ok(Completion::Success(None))
        })
    };
    let _worker = start(quick("w1"), &queue, Arc::clone(&memory), [job(None, run)]);
    queue.queue.push(vec![task("t", "job")]).await.unwrap();
    let told = beat(&memory, |beat| beat.status == JobStatus::Running && beat.checkpoint.is_some()).await;
    assert_eq!((told.task_id.as_str(), told.attempt, told.worker_id.as_str()), ("t", 1, "w1"));
    assert_eq!(told.progress.unwrap().message.as_deref(), Some("frame 4 of 10"));
    let checkpoint = told.checkpoint.unwrap();
    assert_eq!((checkpoint.id.as_str(), checkpoint.size), ("c1", 11));
    assert_eq!(memory.beats.borrow()[0].status, JobStatus::Claimed);
    // What the engine answers reaches the handler.
    *memory.beat_answer.lock().unwrap() = HeartbeatAnswer { cancel_requested: true, lease_lost: false };
    assert_eq!(queue.result().await.outcome, Outcome::Success);
    *memory.beat_answer.lock().unwrap() = HeartbeatAnswer::default();
    let mut beats = memory.beats.subscribe();
    beats.mark_unchanged();
    queue.queue.push(vec![task("next", "job")]).await.unwrap();
    let next = beat(&memory, |beat| beat.task_id == "next" && beat.status == JobStatus::Running).await;
    assert_eq!(next.status, JobStatus::Running);
    let told = memory.beats.borrow().iter().rposition(|beat| beat.task_id == "t");
    let begun = memory.beats.borrow().iter().position(|beat| beat.task_id == "next");
    assert!(told < begun, "nothing is told of an attempt that has ended");
}

#[tokio::test]
async fn a_job_that_is_another_workers_is_let_go() {
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let run: Run = |task| {
        Box::pin(async move {
            task.cancelled.cancelled().await;
            Ok(Completion::Success(None))
        })
    };
    *memory.beat_answer.lock().unwrap() = HeartbeatAnswer { cancel_requested: false, lease_lost: true };
    let worker = start(quick("w1"), &queue, Arc::clone(&memory), [job(None, run)]);
    queue.queue.push(vec![task("t", "job")]).await.unwrap();
    support::until(async || worker.metrics().lost.get() == 1).await;
    assert_eq!(queue.queue.take("engine", 1).await.unwrap(), [], "nothing is reported");
    assert_eq!(memory.beats.borrow().len(), 1);
}

#[tokio::test]
async fn the_soft_limit_is_told_and_ends_nothing() {
    let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
    let run: Run = |task| {
        Box::pin(async move {
            task.soft_limit().cancelled().await;
            task.log(LogLevel::Info, "coming to an end");
            Ok(Completion::output(json!(task.cancelled.is_cancelled())))
        })
    };
    let ttl = Ttl { soft_ms: Some(20), hard_ms: Some(600_000) };
    let _worker = start(quick("w1"), &queue, Arc::clone(&memory), [job(Some(ttl), run)]);
    queue.queue.push(vec![task("t", "job")]).await.unwrap();
    let result = queue.result().await;
    assert_eq!((result.outcome, result.output), (Outcome::Success, Some(json!(false))));
    let levels: Vec<LogLevel> = result.logs.iter().map(|line| line.level).collect();
    assert_eq!(levels, [LogLevel::Warn, LogLevel::Info]);
    assert!(result.logs[0].message.contains("soft limit of 20 ms"), "{}", result.logs[0].message);
}
