//! Work that goes on while things fail.

use std::pin::pin;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::books::{Audit, Books, Expected, Note, notes};
use crate::system::{System, wait_for};
use crate::workload::{self, ITEMS, start_mix};

/// Beside those that all tests use.
const FLOWS: &str = r"
id: steady
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, config: { sleepMs: 150 }, transitions: { onSuccess: b } }
  b: { type: work, config: { sleepMs: 150 }, transitions: { onSuccess: c } }
  c: { type: work, config: { sleepMs: 150 } }
---
id: delayed
version: 1.0.0
initialStepId: pause
steps:
  pause: { type: delay, config: { ms: 1500 }, transitions: { onSuccess: last } }
  last: { type: work }
---
id: poison
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, config: { killWorker: true } }
---
id: forgiving
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, config: { sleepMs: 1500 }, retry: { maxAttempts: 20, initialDelayMs: 10 }, outputKey: a }
---
id: short
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, config: { sleepMs: 700 }, outputKey: a }
";
/// Tasks that one round of `start_mix` carries out.
const MIX_TASKS: usize = 2 + 2 + (ITEMS + 1) + 3 + 1;
/// Tasks of `steady`.
const STEADY_TASKS: usize = 3;
/// Tasks that no handler has begun yet, from which on no further round is started.
const OPEN_MAX: usize = 60;
/// Time between rounds, at least: the machine has other tests to run.
const ROUND_EVERY: Duration = Duration::from_millis(200);

/// What was found at the end.
pub(super) struct Report {
    /// Rounds, each with one attempt that failed as asked.
    pub(super) rounds: usize,
    pub(super) audit: Audit,
}

/// Executions that are started, and what is expected of them.
pub(super) struct Load {
    pub(super) books: Books,
    /// Rounds that were started whole. Each has one attempt that fails as asked.
    pub(super) rounds: usize,
    /// Executions that were started one by one.
    singles: usize,
    /// Tasks of all that was started.
    tasks: usize,
}

impl Load {
    /// Publishes the flows.
    pub(super) async fn new(system: &System) -> Self {
        system.publish(workload::FLOWS).await;
        system.publish(FLOWS).await;
        Self { books: Books::default(), rounds: 0, singles: 0, tasks: 0 }
    }

    /// Starts an execution that carries out so many tasks and completes.
    pub(super) async fn start(&mut self, system: &System, flow: &str, input: Value, tasks: usize) -> String {
        let id = system.begin(flow, input, &format!("single-{}", self.singles)).await;
        self.singles += 1;
        self.tasks += tasks;
        self.books.started(id.clone(), Expected { status: "completed", tasks: Some(tasks) });
        id
    }

    /// Starts one execution of each kind. When this is dropped half-way, the next call goes on with the same round.
    pub(super) async fn round(&mut self, system: &System) {
        let key = format!("steady-{}", self.rounds);
        let id = system.begin("steady", json!({}), &key).await;
        self.books.started(id, Expected { status: "completed", tasks: Some(STEADY_TASKS) });
        start_mix(system, &mut self.books, self.rounds).await;
        self.rounds += 1;
        self.tasks += MIX_TASKS + STEADY_TASKS;
    }

    /// Starts rounds, as the system takes them, until `fault` is over.
    pub(super) async fn during<T>(&mut self, system: &System, fault: impl Future<Output = T>) -> T {
        let mut fault = pin!(fault);
        loop {
            let one = async {
                self.round(system).await;
                let tasks = self.tasks;
                wait_for("handlers keep up", async || (count_begun(system) + OPEN_MAX > tasks).then_some(()))
                    .await;
                tokio::time::sleep(ROUND_EVERY).await;
            };
            tokio::select! {
                biased;
                done = &mut fault => return done,
                () = one => {}
            }
        }
    }

    /// Waits for the end of everything, and holds it against the books.
    pub(super) async fn check(mut self, system: &System) -> Report {
        // One that was dropped half-way is made whole.
        self.round(system).await;
        let audit = self.books.check(system).await;
        println!("{} rounds: {audit:?}", self.rounds);
        Report { rounds: self.rounds, audit }
    }
}

/// Tasks that handlers have begun, each once.
pub(super) fn count_begun(system: &System) -> usize {
    notes(system).iter().filter(|note| note.what == "begin" && note.attempt == 1).count()
}

/// Waits until handlers have begun so many more tasks: the system works.
pub(super) async fn progress(system: &System, more: usize) {
    let wanted = count_begun(system) + more;
    wait_for("the work goes on", async || (count_begun(system) >= wanted).then_some(())).await;
}

/// What handlers noted of an execution, without its children.
pub(super) fn notes_of(system: &System, id: &str, what: &str) -> Vec<Note> {
    let task = format!("tk_{}_", id.trim_start_matches("ex_"));
    notes(system).into_iter().filter(|note| note.what == what && note.task.starts_with(&task)).collect()
}

/// Waits until a handler has noted `what` of this attempt of the first task of an execution.
pub(super) async fn noted(system: &System, id: &str, what: &str, attempt: u64) {
    let task = format!("tk_{}_1", id.trim_start_matches("ex_"));
    wait_for(&format!("{what} of attempt {attempt} of {id} is noted"), async || {
        let notes = notes_of(system, id, what);
        notes.iter().any(|note| note.task == task && note.attempt == attempt).then_some(())
    })
    .await;
}

/// The history of an execution: its events of one type.
pub(super) async fn events_of(system: &System, id: &str, event_type: &str) -> Vec<Value> {
    let path = format!("/v1/executions/{id}/history?limit=500");
    let (status, page) = system.call(Method::GET, &path, None).await;
    assert_eq!(status, 200, "{page}");
    let events = page["items"].as_array().unwrap().iter().map(|item| item["event"].clone());
    events.filter(|event| event["type"] == event_type).collect()
}
