//! The queues are lost as a whole, and come back from the record.
//!
//! `FLOWMONKEY_REBUILD_TASKS` says how many tasks there are (default 2,000). From 10,000 on it is a measurement: the times
//! and the engine's memory are printed, and the tasks are not run.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::books::notes;
use crate::system::{Options, Process, System, wait_for};

/// Tasks of the test, unless told otherwise.
const TASKS: usize = 2_000;
/// From so many on, they are not run.
const MEASUREMENT_FROM: usize = 10_000;
/// Items of each map: as many as may be alive at a time.
const ITEMS: usize = 1_000;
/// Longest time that a measurement may take for any of its parts.
const PART_MAX: Duration = Duration::from_secs(1_800);

const FLOWS: &str = "
id: heap
version: 1.0.0
initialStepId: all
steps:
  all:
    type: map
    config:
      items: { type: key, key: items }
      maxConcurrency: 1000
      body: { initialStepId: a, steps: { a: { type: work, timeoutMs: 3600000 } } }
---
id: job
version: 1.0.0
initialStepId: a
steps:
  a: { type: toil, config: { sleepMs: 12000 } }
";

#[tokio::test(flavor = "multi_thread")]
async fn all_work_is_back_after_the_queues_were_emptied() {
    let tasks = std::env::var("FLOWMONKEY_REBUILD_TASKS").map_or(TASKS, |text| text.parse().unwrap());
    let maps = tasks.div_ceil(ITEMS);
    let tasks = maps * ITEMS;
    let mut system = System::start(Options { engines: 1, workers: 0, ..Options::default() }).await;
    system.publish(FLOWS).await;
    let items: Vec<usize> = (0..ITEMS).collect();
    let mut ids = Vec::new();
    let filling = Instant::now();
    for map in 0..maps {
        ids.push(system.begin("heap", json!({ "items": items }), &format!("heap-{map}")).await);
    }
    until_queued(&system, tasks).await;
    println!("{tasks} tasks queued in {} ms", filling.elapsed().as_millis());
    system.add_worker_for("toil", &[]).await;
    let job = system.begin("job", json!({}), "job").await;
    wait_for("the job runs", async || (!notes(&system).is_empty()).then_some(())).await;

    // A queue that is new counts as one that was emptied.
    let generation = ["GET", "flowmonkey:generation:{work}"];
    wait_for("the queue is known to be whole", async || {
        let found: String = redis::from_redis_value(system.redis.command(&generation).await).ok()?;
        (found.parse::<u64>().ok()? > 0).then_some(())
    })
    .await;

    let memory_before = memory(&system.engines[0]);
    let emptied_at = Instant::now();
    system.redis.command(&["FLUSHALL"]).await;
    wait_for("it was noticed", async || system.engines[0].log().contains("was emptied").then_some(())).await;
    let noticed = emptied_at.elapsed();
    until_some_queued(&system).await;
    let first = emptied_at.elapsed();
    until_queued(&system, tasks).await;
    println!(
        "emptied with {tasks} tasks: noticed after {} ms, the first are back after {} ms, all after {} ms; \
         the engine's memory was {memory_before} before and {} at most since",
        noticed.as_millis(),
        first.as_millis(),
        emptied_at.elapsed().as_millis(),
        memory(&system.engines[0]),
    );

    // What was running kept its lease.
    assert_eq!(system.ended(&job).await["status"], "completed");
    let of_job = notes(&system);
    assert_eq!(of_job.iter().filter(|note| note.what == "begin").count(), 1, "{of_job:?}");
    if tasks >= MEASUREMENT_FROM {
        return;
    }
    system.add_worker_for("work", &[]).await;
    for id in &ids {
        assert_eq!(system.ended(id).await["status"], "completed");
    }
    let begun = notes(&system).iter().filter(|note| note.what == "begin").count();
    assert_eq!(begun, tasks + 1, "each task once, and the job");
}

async fn queued(system: &System) -> usize {
    let queues = system.get("/v1/queues").await;
    let of_work = queues["items"].as_array().unwrap().iter().find(|queue| queue["handler"] == "work");
    of_work.map_or(0, |queue| usize::try_from(queue["ready"]["normal"].as_u64().unwrap()).unwrap())
}

async fn until_queued(system: &System, tasks: usize) {
    let began = Instant::now();
    loop {
        let queued = queued(system).await;
        assert!(queued <= tasks, "{queued} of {tasks} tasks are queued");
        if queued == tasks {
            return;
        }
        assert!(began.elapsed() < PART_MAX, "{queued} of {tasks} tasks are queued");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_some_queued(system: &System) {
    wait_for("something is back", async || (queued(system).await > 0).then_some(())).await;
}

/// The most memory that a process has had, as the kernel tells it.
fn memory(process: &Process) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap().trim().to_owned()
}
