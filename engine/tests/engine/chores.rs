//! Chores: what each does once, it does not do twice; what is broken is not in the way of what is well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::chores::{collector, events, pruner, reaper, reconciler, sweeper, timer};
use flowmonkey_engine::config::{COMMIT_BATCH_MAX, RECONCILE_BATCH_MAX, TIMER_BATCH_MAX};
use flowmonkey_engine::evidence::RefusedFor;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::conformance::fixture;
use flowmonkey_engine::store::{MemoryStore, PublishedEvent, StoreError};
use flowmonkey_engine::{CommandError, EngineConfig, EngineError};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::{Dispatched, LocalQueueLimits, Taken};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::fused::Fused;
use crate::{Bench, echo, flow, parsed, result, sqlite};

fn work() -> serde_json::Value {
    flow("work", json!({ "do": { "type": "work", "timeoutMs": 600_000 } }))
}

fn sleeper(id: &str) -> serde_json::Value {
    flow(id, json!({ "rest": { "type": "delay", "config": { "ms": 1000 } } }))
}

#[tokio::test]
async fn a_second_look_finds_nothing_to_do() {
    let bench = Bench::new().await;
    bench.publish(work()).await;
    bench.publish(sleeper("sleep")).await;
    let (id, asleep) = (bench.start("work", json!({})).await, bench.start("sleep", json!({})).await);
    bench.clock.advance(3000);
    assert_eq!(timer::tick(&bench.engine).await.unwrap(), timer::Woken { due: 1, moved: 1 });
    assert_eq!(timer::tick(&bench.engine).await.unwrap(), timer::Woken { due: 0, moved: 0 });
    bench.expect(asleep, Status::Completed).await;

    let task = bench.claim().await.remove(0);
    let nothing = reconciler::Reconciled { looked_at: 1, republished: 0 };
    assert_eq!(reconciler::tick(&bench.engine).await.unwrap(), nothing);
    bench.clock.advance(60_001);
    assert_eq!(reaper::tick(&bench.engine).await.unwrap(), reaper::Reaped { expired: 1 });
    assert_eq!(reaper::tick(&bench.engine).await.unwrap(), reaper::Reaped { expired: 0 });
    bench.finish(vec![echo(&task)]).await;
    let refused = collector::Collected { applied: 0, refused: 1 };
    assert_eq!(collector::tick(&bench.engine).await.unwrap(), refused, "its lease had ended");
    assert_eq!(bench.engine.evidence.counts()[&RefusedFor::Stale], 1);
    assert_eq!(bench.engine.evidence.latest()[0].attempt, 1);

    bench.work(echo).await;
    bench.expect(id, Status::Completed).await;
    bench.clock.advance(1000 * 60 * 60 * 24 * 31);
    assert!(pruner::tick(&bench.engine).await.unwrap().rows > 0);
    assert_eq!(pruner::tick(&bench.engine).await.unwrap(), pruner::Pruned { rows: 0, operations: 0 });
}

/// As the queue hands it out.
fn taken(result: ResultMessage) -> Taken {
    let delivery = result.delivery();
    Taken { dispatched: Dispatched { pool: "echo".into(), delivery }, result: Ok(result), seal: None }
}

#[tokio::test]
async fn a_result_applied_twice_leaves_one_row() {
    let bench = Bench::new().await;
    bench.publish(work()).await;
    bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    let mut twice = vec![taken(echo(&task)), taken(echo(&task))];
    let collected = collector::apply(&bench.engine, "engine", &mut twice).await.unwrap();
    assert_eq!(collected, collector::Collected { applied: 1, refused: 1 });
    let collected = collector::apply(&bench.engine, "engine", &mut vec![taken(echo(&task))]).await.unwrap();
    assert_eq!(collected, collector::Collected { applied: 0, refused: 1 });
    assert_eq!(bench.rows().await.into_values().collect::<Vec<_>>(), [1]);
    assert_eq!(bench.engine.evidence.counts()[&RefusedFor::Finished], 2);
}

#[tokio::test]
async fn what_cannot_be_understood_is_kept_as_evidence() {
    let bench = Bench::new().await;
    bench.publish(work()).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    let mut nonsense = result(&task, Outcome::Success);
    nonsense.task_id = "nonsense".into();
    let mut results = vec![taken(nonsense), taken(echo(&task))];
    let collected = collector::apply(&bench.engine, "engine", &mut results).await.unwrap();
    assert_eq!(collected, collector::Collected { applied: 1, refused: 1 });
    assert!(results.is_empty());
    assert_eq!(bench.engine.evidence.latest()[0].reason, RefusedFor::Invalid);
    bench.expect(id, Status::Completed).await;
}

#[tokio::test]
async fn timers_that_cannot_move_are_not_in_the_way_of_others() {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    let lost = bench.publish(sleeper("lost")).await;
    bench.publish(sleeper("well")).await;
    for _ in 0..700 {
        bench.start("lost", json!({})).await;
    }
    bench.clock.advance(10);
    let well = bench.start("well", json!({})).await;
    bench.clock.advance(2000);
    fused.lose_flow(&lost.hash);
    // A new process: the old one has the flow in memory.
    let bench = bench.restart(fused).await;
    let mut ticks = 0;
    while timer::tick(&bench.engine).await.unwrap().moved == 0 {
        ticks += 1;
        assert!(ticks < 6, "{ticks} ticks");
    }
    bench.expect(well, Status::Completed).await;
}

#[tokio::test]
async fn an_execution_whose_flow_is_lost_is_there_but_cannot_be_moved() {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    let lost =
        bench.publish(flow("lost", json!({ "do": { "type": "work" }, "then": { "type": "work" } }))).await;
    bench.publish(work()).await;
    let (broken, well) = (bench.start("lost", json!({})).await, bench.start("work", json!({})).await);
    fused.lose_flow(&lost.hash);
    let tasks = bench.claim().await;
    let bench = bench.restart(fused).await;
    let cancel = Command::Cancel { source: CancelSource::User, reason: None };
    let error = bench.engine.command(broken, cancel).await.unwrap_err();
    assert!(
        matches!(error, CommandError::Engine(EngineError::Store(StoreError::Corrupt { .. }))),
        "not found would be a lie: {error}"
    );
    bench.finish(tasks.iter().map(echo).collect()).await;
    let collected = collector::tick(&bench.engine).await.unwrap();
    assert_eq!(collected.refused, 2, "one cannot be applied, the other was delivered anew");
    assert_eq!(bench.engine.evidence.counts()[&RefusedFor::Unusable], 1);
    bench.work(echo).await;
    bench.expect(well, Status::Completed).await;
}

#[tokio::test]
async fn a_decision_that_the_record_refuses_does_not_stop_its_batch() {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    bench.publish(work()).await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(bench.start("work", json!({})).await);
    }
    let cursed = ids.swap_remove(17);
    fused.curse(cursed);
    bench.finish(bench.claim().await.iter().map(echo).collect()).await;
    let collected = collector::tick(&bench.engine).await.unwrap();
    assert_eq!(collected, collector::Collected { applied: 49, refused: 1 });
    for id in ids {
        bench.expect(id, Status::Completed).await;
    }
    bench.expect(cursed, Status::WaitingForWorker).await;
}

#[tokio::test]
async fn a_full_queue_uses_up_no_attempts() {
    let limits = LocalQueueLimits { ready_per_pool_max: 10, ..LocalQueueLimits::default() };
    let bench = Bench::with(Arc::new(MemoryStore::default()), EngineConfig::default(), limits).await;
    bench.publish(work()).await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(bench.start("work", json!({})).await);
    }
    for _ in 0..5 {
        bench.clock.advance(5000);
        reconciler::tick(&bench.engine).await.unwrap();
    }
    let mut untouched = 0;
    for id in &ids {
        untouched += usize::from(bench.get(*id).await.task().unwrap().run.attempt == 1);
    }
    assert!(untouched >= 150, "only the few that met the full queue were delivered anew: {untouched}");
    for _ in 0..200 {
        bench.work(echo).await;
        bench.clock.advance(5000);
        if reconciler::tick(&bench.engine).await.unwrap().looked_at == 0 {
            break;
        }
    }
    assert_eq!(bench.statuses().await, [("completed", 200)].into());
}

#[tokio::test]
async fn a_later_delivery_names_the_checkpoint() {
    use flowmonkey_engine::services::EnginePlumbing;
    use flowmonkey_plumbing::api::{CheckpointApi, TaskAccess};

    let bench = Bench::new().await;
    bench.publish(work()).await;
    bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    assert_eq!(task.checkpoint, None);
    let plumbing = EnginePlumbing::new(bench.engine.clone());
    let saved = plumbing.save_checkpoint(&TaskAccess::from(&task), json!({ "at": 41 }).into()).await.unwrap();
    bench.finish(vec![result(&task, Outcome::Released)]).await;
    collector::tick(&bench.engine).await.unwrap();
    let again = bench.claim().await.remove(0);
    let named = again.checkpoint.unwrap();
    assert_eq!((again.attempt, named.id, named.size), (2, saved.id, r#"{"at":41}"#.len() as u64));
}

#[tokio::test]
async fn an_event_reaches_ten_thousand_and_is_kept_for_those_who_come_late() {
    let bench = Bench::new().await;
    bench
        .publish(flow("listen", json!({ "hear": { "type": "wait-event", "config": { "event": "rain" } } })))
        .await;
    let mut late = flow(
        "late",
        json!({
            "rest": { "type": "delay", "config": { "ms": 1000 }, "transitions": { "onSuccess": "hear" } },
            "hear": { "type": "wait-event", "config": { "event": "rain", "match": "event.data.mm == 3" }, "outputKey": "mm" },
        }),
    );
    late["version"] = json!("2.0.0");
    bench.publish(late).await;
    for _ in 0..10_000 {
        bench.start("listen", json!({})).await;
    }
    let late = bench.start("late", json!({})).await;
    for number in 0..700 {
        let event = PublishedEvent {
            tenant: None,
            id: format!("e{number:05}"),
            name: "rain".into(),
            data: json!({ "mm": if number == 699 { 3 } else { 0 } }),
            source: None,
            attributes: None,
            at: Timestamp::from_millis(bench.clock.now_ms() + number),
        };
        assert!(bench.store.publish_event(&event).await.unwrap());
        assert!(!bench.store.publish_event(&event).await.unwrap(), "once");
    }
    while events::tick(&bench.engine).await.unwrap().events > 0 {}
    assert_eq!(bench.statuses().await["completed"], 10_000);
    bench.clock.advance(5000);
    timer::tick(&bench.engine).await.unwrap();
    let execution = bench.expect(late, Status::Completed).await;
    assert_eq!(execution.context["mm"], json!({ "mm": 3 }), "the event behind a page of others");
}

#[tokio::test]
async fn what_was_not_taken_in_time_fails_also_while_other_timers_go_on() {
    let bench = Bench::new().await;
    bench.publish(flow("late", json!({ "do": { "type": "work", "scheduleToStartMs": 1000 } }))).await;
    let (taken, missed) = (bench.start("late", json!({})).await, bench.start("late", json!({})).await);
    let tasks = bench.claim().await;
    let (held, given_back): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| task.execution_id == taken.to_string());
    use flowmonkey_plumbing::queue::TaskQueue;
    let back: Vec<_> = given_back.iter().map(|task| task.delivery()).collect();
    bench.queue.release("work", "w", &back).await.unwrap();
    bench.clock.advance(1500);
    assert_eq!(timer::tick(&bench.engine).await.unwrap(), timer::Woken { due: 2, moved: 2 });
    let execution = bench.expect(missed, Status::Failed).await;
    assert_eq!(execution.error().unwrap().code, "SCHEDULE_TO_START_TIMEOUT");
    bench.finish(held.iter().map(echo).collect()).await;
    bench.work(echo).await;
    bench.expect(taken, Status::Completed).await;
}

#[tokio::test]
async fn only_what_has_ended_is_run_again() {
    let bench = Bench::new().await;
    bench.publish(work()).await;
    let id = bench.start("work", json!({ "a": 1 })).await;
    let error = bench.engine.rerun(id, "do", None).await.unwrap_err();
    assert!(matches!(error, EngineError::NotEnded(of) if of == id), "{error}");
    bench.work(echo).await;
    let again = bench.engine.rerun(id, "do", None).await.unwrap();
    assert_eq!(bench.get(again.id).await.context["a"], 1);
}

#[tokio::test]
async fn group_commit_keeps_what_was_accepted_and_ends() {
    let bench = Bench::new().await;
    let tracker = tokio_util::task::TaskTracker::new();
    let deps = flowmonkey_engine::EngineDeps {
        store: bench.store.clone(),
        queue: bench.queue.clone(),
        clock: bench.clock.clone(),
        entropy: Arc::new(flowmonkey_plumbing::ids::SystemEntropy::new()),
        handlers: Arc::new(crate::AllHandlers),
        announced: None,
    };
    let engine =
        flowmonkey_engine::Engine::open(deps, EngineConfig::default(), Some(&tracker)).await.unwrap();
    let inline = StartFlow::Inline { flow: parsed(&work()), bundle: Vec::new() };
    let starts: Vec<_> = (0..3000)
        .map(|_| {
            let (engine, start) = (engine.clone(), Start::new(inline.clone(), json!({})));
            tokio::spawn(async move { engine.start(start).await })
        })
        .collect();
    for start in starts {
        assert!(start.await.unwrap().unwrap().created);
    }
    drop(engine);
    tracker.close();
    tracker.wait().await;
    assert_eq!(bench.statuses().await, [("waiting_for_worker", 3000)].into());
    assert_eq!(bench.queue_depth().await, 3000);
    let republished =
        reconciler::reconcile(&bench.engine, reconciler::Patience::NONE).await.unwrap().republished;
    assert_eq!(republished, 0);
    assert_eq!(sweeper::tick(&bench.engine).await.unwrap(), sweeper::Swept::default());
    assert_eq!(bench.engine.counters.late_joins.load(Ordering::Relaxed), 0);
}

/// Makes the state of every execution unreadable.
async fn corrupt_all(directory: &tempfile::TempDir) {
    let options = SqliteConnectOptions::new().filename(directory.path().join("record.db"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE fm_executions SET state = '{'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// A page of what cannot be read is due first; what is due behind it moves nevertheless.
#[tokio::test]
async fn corrupt_executions_that_are_due_do_not_hold_up_those_behind_them() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::on(sqlite(&directory).await).await;
    bench.publish(sleeper("sleep")).await;
    let page = TIMER_BATCH_MAX + 1;
    for _ in 0..page {
        bench.start("sleep", json!({})).await;
    }
    corrupt_all(&directory).await;
    // In memory they are whole still; this is how the next process finds them.
    let store = bench.store.clone();
    let bench = bench.restart(store).await;
    bench.clock.advance(1);
    let behind = bench.start("sleep", json!({})).await;
    bench.clock.advance(5000);
    let mut moved = 0;
    for _ in 0..4 {
        moved += timer::tick(&bench.engine).await.unwrap().moved;
    }
    assert_eq!(moved, 1, "once the page has been tried twice");
    bench.expect(behind, Status::Completed).await;
}

#[tokio::test]
async fn one_corrupt_execution_that_is_due_alone_is_no_failure_of_the_timer() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::on(sqlite(&directory).await).await;
    bench.publish(sleeper("sleep")).await;
    let id = bench.start("sleep", json!({})).await;
    corrupt_all(&directory).await;
    // In memory it is whole still; this is how another process finds it.
    let engine = bench.another("b").await;
    bench.clock.advance(2000);
    for due in [1, 1, 0] {
        assert_eq!(timer::tick(&engine).await.unwrap(), timer::Woken { due, moved: 0 });
    }
    for _ in 0..2 {
        assert_eq!(sweeper::tick(&engine).await.unwrap(), sweeper::Swept::default(), "nor of the sweeper");
    }
    assert!(engine.execution(id).await.is_err());
}

/// The queue is lost while very many tasks are out: they are published again, a page at a time.
async fn reconcile_in_pages(tasks: usize) {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    let flow = fixture::work();
    bench.engine.publish(&flow).await.unwrap();
    let now = bench.engine.now();
    for first in (0..tasks).step_by(RECONCILE_BATCH_MAX) {
        let numbers = first..tasks.min(first + RECONCILE_BATCH_MAX);
        let batch = numbers.map(|number| fixture::root(&flow, number as u64, now)).collect();
        fixture::store_all(&*bench.store, fixture::creates(now, batch)).await;
    }
    fused.take_sizes();
    bench.clock.advance(3000);

    let nothing = reconciler::Reconciled { looked_at: tasks, republished: 0 };
    assert_eq!(
        reconciler::tick(&bench.engine).await.unwrap(),
        nothing,
        "workers have time to say what they run"
    );
    fused.take_sizes();
    bench.clock.advance(3000);
    let reconciled = reconciler::tick(&bench.engine).await.unwrap();
    assert_eq!(reconciled, reconciler::Reconciled { looked_at: tasks, republished: tasks });
    assert_eq!(bench.queue_depth().await, tasks);
    let sizes = fused.take_sizes();
    let (pages, rest) = (tasks / RECONCILE_BATCH_MAX, tasks % RECONCILE_BATCH_MAX);
    assert_eq!(sizes.tasks_out, [vec![RECONCILE_BATCH_MAX; pages], vec![rest, 0]].concat());
    assert_eq!(sizes.commits.iter().sum::<usize>(), tasks, "each is written once");
    assert!(sizes.commits.iter().all(|size| *size <= COMMIT_BATCH_MAX), "{:?}", sizes.commits.iter().max());

    bench.clock.advance(3000);
    assert_eq!(reconciler::tick(&bench.engine).await.unwrap(), nothing, "all are in the queue");
    let sizes = fused.take_sizes();
    assert_eq!((sizes.tasks_out.len(), sizes.commits.len()), (pages + 2, 0));
}

#[tokio::test]
async fn very_many_tasks_are_reconciled_in_pages() {
    reconcile_in_pages(10 * RECONCILE_BATCH_MAX + RECONCILE_BATCH_MAX / 2).await;
}

#[tokio::test]
#[ignore = "as above, with as many tasks as an emptied queue may have held; a minute without optimisation"]
async fn a_hundred_thousand_tasks_are_reconciled_in_pages() {
    reconcile_in_pages(99 * RECONCILE_BATCH_MAX + RECONCILE_BATCH_MAX / 2).await;
}
