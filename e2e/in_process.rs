//! Engines that run tasks themselves: a share of them, or while no worker is there.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::books::notes;
use crate::system::{Options, System, wait_for};

/// Executions of which about half run on each side: that all run on one has a probability of 2 to the power of -29.
const MANY: usize = 30;

const FLOWS: &str = "
id: changed
version: 1.0.0
initialStepId: a
steps:
  a: { type: transform, input: { type: static, value: { x: 1 } }, config: { operations: [] }, transitions: { onSuccess: b } }
  b: { type: transform, input: { type: static, value: { x: 1 } }, config: { operations: [] }, transitions: { onSuccess: c } }
  c: { type: transform, input: { type: static, value: { x: 1 } }, config: { operations: [] } }
---
id: slow
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, config: { sleepMs: 3000 }, transitions: { onSuccess: b } }
  b: { type: work }
";

async fn system(engines: usize, engine_args: &[&str]) -> System {
    let engine_args = engine_args.iter().map(|word| (*word).to_owned()).collect();
    let system = System::start(Options { engines, workers: 0, engine_args, ..Options::default() }).await;
    system.publish(FLOWS).await;
    system
}

/// The workers that ran an execution's tasks: whether each was in an engine.
async fn sides(system: &System, id: &str) -> BTreeSet<bool> {
    let record = system.ended(id).await;
    assert_eq!(record["status"], "completed", "{record}");
    let history = system.get(&format!("/v1/executions/{id}/history?limit=500")).await;
    let workers: Vec<&Value> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|recorded| &recorded["event"])
        .filter(|event| event["type"] == "attemptEnded")
        .map(|event| &event["workerId"])
        .collect();
    assert_eq!(workers.len(), 3, "{history}");
    workers.iter().map(|worker| worker.as_str().unwrap().starts_with("engine-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_goes_to_workers_at_0_percent_and_each_at_100() {
    for (percent, is_engine) in [("transform=0", true), ("transform=100", false)] {
        let mut system = system(1, &["--queue-percent", percent]).await;
        system.add_worker(&[]).await;
        for number in 0..4 {
            let id = system.begin("changed", json!({}), &format!("{number}")).await;
            assert_eq!(sides(&system, &id).await, BTreeSet::from([is_engine]), "{percent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_stays_on_its_side() {
    let mut system = system(2, &["--queue-percent", "transform=50"]).await;
    system.add_worker(&[]).await;
    let mut all = Vec::new();
    for number in 0..MANY {
        all.push(system.begin("changed", json!({}), &format!("{number}")).await);
    }
    let mut seen = BTreeSet::new();
    for id in &all {
        let sides = sides(&system, id).await;
        assert_eq!(sides.len(), 1, "{id} ran on both sides");
        seen.extend(sides);
    }
    assert_eq!(seen.len(), 2, "all ran on one side");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_runs_what_no_worker_is_there_for() {
    let mut system = system(1, &["--fall-back", "transform"]).await;
    let id = system.begin("changed", json!({}), "alone").await;
    assert_eq!(sides(&system, &id).await, BTreeSet::from([true]));
    system.add_worker(&[]).await;
    // The engine learns of workers by and by.
    let mut number = 0;
    wait_for("a worker gets the tasks", async || {
        number += 1;
        let id = system.begin("changed", json!({}), &format!("together-{number}")).await;
        (sides(&system, &id).await == BTreeSet::from([false])).then_some(())
    })
    .await;
}

/// The engine learns of a worker by and by; until then it runs the tasks itself.
async fn a_worker_gets_the_tasks(system: &System) {
    let mut number = 0;
    wait_for("the worker gets the tasks", async || {
        number += 1;
        let id = system.begin("slow", json!({}), &format!("first-{number}")).await;
        let worker = wait_for("its first task has ended", async || ended_by(system, &id).await.pop()).await;
        worker.starts_with("worker-").then_some(())
    })
    .await;
}

/// Who reported the attempts of an execution that were reported, in order.
async fn ended_by(system: &System, id: &str) -> Vec<String> {
    let history = system.get(&format!("/v1/executions/{id}/history?limit=500")).await;
    let events = history["items"].as_array().unwrap().iter().map(|recorded| &recorded["event"]);
    let ended = events.filter(|event| event["type"] == "attemptEnded");
    ended.filter_map(|event| event["workerId"].as_str().map(str::to_owned)).collect()
}

/// Also what was waiting for the last of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_workers_that_are_gone_runs_in_an_engine() {
    let mut system = system(1, &["--fall-back", "work", "--handlers", "handlers.json"]).await;
    system.options.concurrency = 1;
    system.add_worker(&[]).await;
    a_worker_gets_the_tasks(&system).await;
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(system.begin("slow", json!({}), &format!("{number}")).await);
    }
    // It ends what it runs, and goes.
    system.workers.remove(0).stop().await;
    for id in all {
        assert_eq!(system.ended(&id).await["status"], "completed");
    }
}

/// A worker that is killed gives nothing back and does not take leave: what it ran comes back with its lease, and what waited
/// for it moves when it has been silent for long enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_ran_and_what_waited_for_it_runs_in_an_engine() {
    let mut system = system(1, &["--fall-back", "work", "--handlers", "handlers.json"]).await;
    system.options.concurrency = 1;
    system.add_worker(&[]).await;
    a_worker_gets_the_tasks(&system).await;
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(system.begin("slow", json!({}), &format!("{number}")).await);
    }
    let task_of = |id: &String| format!("tk_{}_1", id.trim_start_matches("ex_"));
    let attempts = |system: &System, id: &String| -> Vec<u64> {
        let notes = notes(system).into_iter().filter(|note| note.what == "begin" && note.task == task_of(id));
        notes.map(|note| note.attempt).collect()
    };
    // One is in its hands, the others are in the queue.
    let held =
        wait_for("it runs one", async || all.iter().find(|id| !attempts(&system, id).is_empty())).await;
    let mut worker = system.workers.remove(0);
    worker.kill();
    for id in &all {
        assert_eq!(system.ended(id).await["status"], "completed");
        let workers = ended_by(&system, id).await;
        assert!(workers.len() >= 2 && workers.iter().all(|one| one.starts_with("engine-")), "{workers:?}");
        // Attempts that only wait in a queue are not begun: the lease that ended made one, and moving makes one.
        let begun = attempts(&system, id);
        let expected = if id == held { 2 } else { 1 };
        assert_eq!(begun.len(), expected, "{id}: {begun:?}");
        assert_eq!(begun[0] == 1, id == held, "{id}: {begun:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_engine_finishes_what_a_dead_one_ran() {
    let mut system = system(1, &["--queue-percent", "work=0", "--handlers", "handlers.json"]).await;
    let id = system.begin("slow", json!({}), "slow").await;
    wait_for("it runs", async || (!notes(&system).is_empty()).then_some(())).await;
    let mut first = system.engines.remove(0);
    system.add_engine(&[]).await;
    first.kill();
    assert_eq!(system.ended(&id).await["status"], "completed");
    let notes = notes(&system);
    let begun: Vec<u64> = notes.iter().filter(|note| note.what == "begin").map(|note| note.attempt).collect();
    assert_eq!(begun, [1, 2, 1], "{notes:?}");
    assert_eq!(notes[0].key, notes.iter().find(|note| note.attempt == 2).unwrap().key);
}
