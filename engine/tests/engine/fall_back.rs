//! Handlers that fall back: what waits for workers that are gone runs in process.

use std::collections::BTreeSet;
use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::Command;
use flowmonkey_engine::chores::{collector, fall_back, presence, reaper};
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::{AnnouncedHandlers, EMBEDDED_POOLS, Engine, EngineDeps, InProcess};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, TaskQueue, WORKER_SILENT_AFTER, WorkerPresence};
use flowmonkey_plumbing::wire::TaskMessage;
use serde_json::json;

use crate::{Bench, WORK, echo, flow};

/// Looks at the workers until a pool that nobody serves is given up.
const LOOKS_MAX: usize = 20;

/// An engine beside the bench's, whose tasks of `work` fall back.
async fn falling_back(bench: &Bench) -> Arc<Engine> {
    let in_process = InProcess { fall_back: BTreeSet::from([WORK.to_owned()]), ..InProcess::default() };
    let announced = Arc::new(AnnouncedHandlers::new(UnknownHandler::Wait, in_process));
    let deps = EngineDeps {
        store: bench.store.clone(),
        queue: bench.queue.clone() as Arc<dyn DispatchQueue>,
        clock: bench.clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
        handlers: announced.clone(),
        announced: Some(announced),
    };
    Engine::open(deps, bench.config.clone(), None).await.unwrap()
}

async fn claim(bench: &Bench, pool: &str, max: usize) -> Vec<TaskMessage> {
    let claim = Claim { pool: pool.into(), worker: "w".into(), max, low_first: false };
    bench.queue.claim(claim).await.unwrap().into_iter().map(|claimed| claimed.task).collect()
}

#[tokio::test]
async fn what_waits_for_a_worker_that_has_died_runs_in_process() {
    let bench = Bench::new().await;
    let engine = falling_back(&bench).await;
    bench.publish(flow("work", json!({ "do": { "type": "work", "timeoutMs": 600_000 } }))).await;
    let there = WorkerPresence { worker: "w".into(), pools: vec![WORK.into()], ..WorkerPresence::default() };
    bench.queue.announce(&there).await.unwrap();
    presence::tick(&engine).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let published = StartFlow::Published { id: "work".into(), version: None };
        ids.push(engine.start(Start::new(published, json!({}))).await.unwrap().id);
    }
    let paused = ids[4];
    engine.command(paused, Command::Pause { reason: None }).await.unwrap();
    let in_hand = claim(&bench, WORK, 1).await.remove(0);
    // It is silent from now on.
    bench.clock.advance(i64::try_from(WORKER_SILENT_AFTER.as_millis()).unwrap() + 1);
    presence::tick(&engine).await.unwrap();
    assert_eq!(fall_back::tick(&engine).await.unwrap().moved, 0, "it may come back soon");
    let mut moved = 0;
    for _ in 0..LOOKS_MAX {
        presence::tick(&engine).await.unwrap();
        moved += fall_back::tick(&engine).await.unwrap().moved;
    }
    assert_eq!(moved, 3, "neither what it has in hand nor what is paused");
    engine.command(paused, Command::Unpause).await.unwrap();
    assert_eq!(fall_back::tick(&engine).await.unwrap().moved, 1);
    let embedded = format!("{EMBEDDED_POOLS}{WORK}");
    let mut tasks = claim(&bench, &embedded, 10).await;
    assert_eq!(tasks.iter().map(|task| task.attempt).collect::<Vec<_>>(), [2; 4]);
    assert!(claim(&bench, WORK, 10).await.is_empty());
    // The lease of the dead worker ends, before those of the others.
    bench.clock.advance(20_000);
    assert_eq!(reaper::tick(&engine).await.unwrap().expired, 1);
    tasks.extend(claim(&bench, &embedded, 10).await);
    let last = tasks.last().unwrap();
    assert_eq!((&last.task_id, last.attempt), (&in_hand.task_id, 2));
    bench.queue.finish(&embedded, "w", tasks.iter().map(echo).collect()).await.unwrap();
    collector::tick(&engine).await.unwrap();
    for id in ids {
        bench.expect(id, Status::Completed).await;
    }
    assert_eq!(bench.queue_depth().await, 0);
}
