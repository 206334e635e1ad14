//! Checkpoints that the runtime saves by itself, and those that cannot be loaded.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, reason = "each test program uses a part")]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::manifest::{AutoCheckpoint, Manifest};
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::{Outcome, TaskMessage};
use flowmonkey_worker::{Completion, Failure, Handler, Task, WorkerConfig};
use serde_json::json;
use support::{Memory, Probe, config, soon, start, task};

type Work = Box<dyn Fn(Arc<Memory>, &Task) -> Result<Completion, Failure> + Send + Sync>;

/// Keeps three checkpoints, waits until as many are saved as wanted, and ends.
struct Keeps {
    manifest: Manifest,
    memory: Arc<Memory>,
    wait_for: usize,
    end: Work,
}

fn manifest(interval_ms: u64) -> Manifest {
    let checkpoint = Some(AutoCheckpoint { enabled: true, interval_ms });
    Manifest { handler_type: "keeps".into(), version: "1.0.0".into(), checkpoint, ..Manifest::default() }
}

#[async_trait]
impl Handler for Keeps {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        for page in 1..=3 {
            task.keep_checkpoint(json!({ "page": page }));
        }
        let mut saves = self.memory.saves.subscribe();
        saves.wait_for(|saves| saves.len() >= self.wait_for).await.unwrap();
        (self.end)(Arc::clone(&self.memory), task)
    }
}

async fn run(manifest: Manifest, wait_for: usize, end: Work) -> (Arc<Memory>, Outcome) {
    let memory = Arc::new(Memory::default());
    let handler = Keeps { manifest, memory: Arc::clone(&memory), wait_for, end };
    let queue = Probe::new();
    let _worker = start(config(), &queue, Arc::clone(&memory), [Arc::new(handler) as Arc<_>]);
    queue.queue.push(vec![task("t", "keeps")]).await.unwrap();
    let outcome = soon(queue.result()).await.outcome;
    (memory, outcome)
}

#[tokio::test]
async fn the_latest_is_saved_once_in_an_interval() {
    let end: Work = Box::new(|_, task| {
        assert_eq!(task.message.attempt, 1);
        Ok(Completion::Success(None))
    });
    let (memory, outcome) = run(manifest(1), 1, end).await;
    assert_eq!(outcome, Outcome::Success);
    assert_eq!(memory.saves.borrow().last(), Some(&json!({ "page": 3 })));
}

#[tokio::test]
async fn what_is_kept_is_saved_before_the_result_unless_the_step_is_done() {
    let hour = 3_600_000;
    let fails: Work = Box::new(|_, task| {
        assert!(!task.checkpoint_due());
        Err(Failure::new("BROKEN", "for a test"))
    });
    let (memory, outcome) = run(manifest(hour), 0, fails).await;
    assert_eq!((outcome, memory.saves.borrow().clone()), (Outcome::Failure, vec![json!({ "page": 3 })]));
    let succeeds: Work = Box::new(|_, _| Ok(Completion::Success(None)));
    let (memory, outcome) = run(manifest(hour), 0, succeeds).await;
    assert_eq!((outcome, memory.saves.borrow().len()), (Outcome::Success, 0));
}

#[tokio::test]
async fn a_checkpoint_that_is_not_saved_is_said_to_be_and_the_task_goes_on() {
    let fails: Work = Box::new(|memory, _| {
        memory.away.store(true, Ordering::SeqCst);
        Err(Failure::new("BROKEN", "for a test"))
    });
    let (memory, outcome) = run(manifest(3_600_000), 0, fails).await;
    assert_eq!((outcome, memory.saves.borrow().len()), (Outcome::Failure, 0));
    let logs = memory.logs.lock().unwrap();
    assert!(logs.iter().any(|line| line.contains("the last good one stays")), "{logs:?}");
}

/// Goes on from its checkpoint, or fails.
struct Loads(Manifest);

#[async_trait]
impl Handler for Loads {
    fn manifest(&self) -> &Manifest {
        &self.0
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        match task.load_checkpoint().await {
            Ok(_) => Ok(Completion::Success(None)),
            Err(PlumbingError::Unavailable(error)) => Err(Failure::new("HANDLER_ERROR", error.to_string())),
            Err(other) => Err(Failure::terminal("OTHER", other.to_string())),
        }
    }
}

#[tokio::test]
async fn an_attempt_whose_checkpoint_cannot_be_loaded_is_handed_back() {
    let memory = Arc::new(Memory::default());
    memory.away.store(true, Ordering::SeqCst);
    let queue = Probe::new();
    let config = WorkerConfig { checkpoint_wait_ms: 20, ..config() };
    let _worker = start(config, &queue, Arc::clone(&memory), [Arc::new(Loads(manifest(1))) as Arc<_>]);
    queue.queue.push(vec![TaskMessage { attempt: 2, ..task("t", "keeps") }]).await.unwrap();
    let result = soon(queue.result()).await;
    assert_eq!((result.outcome, result.error), (Outcome::Released, None));
}
