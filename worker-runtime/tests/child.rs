//! Child processes behind the real worker: what they say, how they break, and that nothing of them stays.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![cfg(unix)]

#[expect(dead_code, reason = "handlers of closures are for the other tests")]
mod support;

use std::path::Path;
use std::sync::Arc;

use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::{
    ContextOperation, ContextUpdates, LogLevel, Outcome, ResultMessage, TaskError, TaskMessage,
};
use flowmonkey_worker::{ChildHandler, WorkerHandle};
use serde_json::{Value, json};
use support::{Memory, Probe, config, start, task};

fn children() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children"))
}

/// A worker with one child handler of type `child`.
struct Bench {
    queue: Arc<Probe>,
    memory: Arc<Memory>,
    _worker: WorkerHandle,
}

impl Bench {
    fn new(command: &[&str]) -> Self {
        Self::with(command, &json!({}))
    }

    /// With further fields of the manifest.
    fn with(command: &[&str], fields: &Value) -> Self {
        let mut manifest = json!({ "type": "child", "version": "1.2.0", "command": command });
        manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let handler = Arc::new(ChildHandler::new(manifest, children()).unwrap());
        let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
        let worker = start(config(), &queue, Arc::clone(&memory), [handler as Arc<_>]);
        Self { queue, memory, _worker: worker }
    }

    async fn run(&self, task: TaskMessage) -> ResultMessage {
        self.queue.queue.push(vec![task]).await.unwrap();
        self.queue.result().await
    }

    async fn fail(&self, task: TaskMessage) -> TaskError {
        let result = self.run(task).await;
        assert_eq!(result.outcome, Outcome::Failure, "{result:?}");
        result.error.unwrap()
    }
}

#[tokio::test]
async fn all_that_a_child_says_is_in_the_result() {
    let bench = Bench::new(&["python3", "greet.py"]);
    let result = bench.run(task("t", "child")).await;
    assert_eq!(
        (result.outcome, result.output),
        (Outcome::Success, Some(json!({ "id": "t" }))),
        "{:?}",
        result.error
    );
    assert_eq!((result.logs[0].level, result.logs[0].message.as_str()), (LogLevel::Warn, "hello"));
    assert_eq!(result.events[0].event, "greeting.sent");
    assert_eq!(result.cost.unwrap().tokens, 3);
    let set = ContextOperation::Set { path: "a.b".into(), value: json!(1) };
    assert_eq!(result.context_updates, Some(ContextUpdates::Operations(vec![set])));
    assert_eq!(bench.memory.progress.lock().unwrap()[0].percent, 45.0);
    assert_eq!(*bench.memory.checkpoint.lock().unwrap(), Some(json!({ "page": 2 })));
}

#[tokio::test]
async fn a_missing_program_is_a_terminal_failure_that_names_it() {
    let error = Bench::new(&["no-such-program"]).fail(task("t", "child")).await;
    assert_eq!((error.code.as_str(), error.retryable), ("HANDLER_ERROR", Some(false)));
    assert!(error.message.starts_with("cannot start `no-such-program`: "), "{}", error.message);
}
