//! The process dies after any of its commits, and a new one finishes everything.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::chores::{collector, reconciler, sweeper};
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::{MemoryStore, PublishedEvent, Store};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::{Depth, DispatchQueue};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fused::Fused;
use crate::{Bench, echo, flow, sqlite};

/// A bit of everything: a detached child, a map over branches, an event that came early, a sub-flow, a wait.
fn everything() -> [Value; 2] {
    let leaf = flow("leaf", json!({ "do": { "type": "work" } }));
    let whole = flow(
        "whole",
        json!({
            "side": {
                "type": "sub-flow",
                "config": { "flowId": "leaf", "waitForCompletion": false, "onParentClose": "abandon" },
                "transitions": { "onSuccess": "fan" },
            },
            "fan": {
                "type": "map",
                "config": {
                    "items": { "type": "path", "path": "items" },
                    "maxConcurrency": 2,
                    "body": {
                        "initialStepId": "both",
                        "steps": { "both": { "type": "parallel", "config": { "branches": {
                            "a": { "id": "a", "type": "work" },
                            "b": { "id": "b", "type": "delay", "config": { "ms": 1000 } },
                        } } } },
                    },
                },
                "transitions": { "onSuccess": "hear" },
            },
            "hear": {
                "type": "wait-event", "config": { "event": "rain" }, "outputKey": "weather",
                "transitions": { "onSuccess": "sub" },
            },
            "sub": { "type": "sub-flow", "config": { "flowId": "leaf" }, "transitions": { "onSuccess": "last" } },
            "last": { "type": "work" },
        }),
    );
    [leaf, whole]
}

/// While a commit is under way nothing that follows from it is there: no answer to who started, no task, no acknowledgement of the
/// result. When it is stored, all of it is.
#[tokio::test]
async fn nothing_of_a_commit_is_seen_before_it_is_stored() {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    let two = json!({
        "first": { "type": "work", "transitions": { "onSuccess": "second" } },
        "second": { "type": "work" },
    });
    bench.publish(flow("two", two)).await;
    let depth = async || bench.queue.depths().await.unwrap().pop().unwrap_or_default().1;
    let steps =
        async || -> Vec<String> { bench.all().await.into_iter().map(|one| one.current_step_id).collect() };

    fused.hold_commits();
    let mut start = Box::pin(bench.start("two", json!({})));
    tokio::select! {
        _ = &mut start => panic!("the start is answered before it is stored"),
        () = fused.holds_one() => {}
    }
    assert_eq!((depth().await, steps().await), (Depth::default(), vec![]));
    fused.let_commits_through();
    start.await;
    assert_eq!((depth().await.normal, steps().await), (1, vec!["first".to_owned()]));

    let results: Vec<_> = bench.claim().await.iter().map(echo).collect();
    bench.finish(results).await;
    fused.hold_commits();
    let mut collected = Box::pin(collector::tick(&bench.engine));
    tokio::select! {
        _ = &mut collected => panic!("the result is collected before it is stored"),
        () = fused.holds_one() => {}
    }
    let Depth { normal, results, .. } = depth().await;
    assert_eq!((normal, results, steps().await), (0, 1, vec!["first".to_owned()]));
    fused.let_commits_through();
    collected.await.unwrap();
    let Depth { normal, results, .. } = depth().await;
    assert_eq!((normal, results, steps().await), (1, 0, vec!["second".to_owned()]));
}

async fn run(bench: &Bench) {
    for _ in 0..40 {
        bench.work(echo).await;
        bench.clock.advance(1000);
        if bench.engine.store().check().await.is_err() {
            return;
        }
    }
}

/// Runs everything on `inner`, dying after `commits`; whether it died.
async fn dies_after(inner: Arc<dyn Store>, commits: i64) -> bool {
    let fused = Arc::new(Fused::new(inner.clone(), commits));
    let bench = Bench::on(fused.clone()).await;
    for flow in everything() {
        bench.publish(flow).await;
    }
    let id = ExecutionId::from_uuid(Uuid::from_u128(7));
    let published = StartFlow::Published { id: "whole".into(), version: None };
    let start = Start { id: Some(id), ..Start::new(published, json!({ "items": [1, 2, 3, 4, 5] })) };
    bench.engine.start(start.clone()).await.map(drop).unwrap_or_default();
    let rain = PublishedEvent {
        tenant: None,
        id: "e1".into(),
        name: "rain".into(),
        data: json!({ "mm": 3 }),
        source: None,
        attributes: None,
        at: Timestamp::from_millis(bench.clock.now_ms()),
    };
    inner.publish_event(&rain).await.unwrap();
    run(&bench).await;
    let died = fused.is_dead();
    let bench = bench.restart(inner).await;
    if bench.engine.execution(id).await.is_err() {
        bench.engine.start(start).await.unwrap();
    }
    for _ in 0..6 {
        run(&bench).await;
        bench.clock.advance(10_000);
        reconciler::tick(&bench.engine).await.unwrap();
        sweeper::tick(&bench.engine).await.unwrap();
    }
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["weather"], json!({ "mm": 3 }));
    let unfinished: Vec<_> = bench.all().await.into_iter().filter(|one| !one.status.is_terminal()).collect();
    assert!(unfinished.is_empty(), "after {commits} commits: {unfinished:?}");
    let rows = bench.rows().await;
    assert_eq!(rows.len(), 5 + 1 + 1 + 1, "after {commits} commits: {rows:?}");
    assert!(rows.values().all(|count| *count == 1), "after {commits} commits: {rows:?}");
    let leaves = bench.all().await.into_iter().filter(|one| one.flow_id == "leaf").count();
    assert_eq!(leaves, 2, "one that is waited for, and one that is not");
    died
}

#[tokio::test]
async fn whichever_commit_was_the_last_everything_is_finished() {
    let mut commits = 1;
    while dies_after(Arc::new(MemoryStore::default()), commits).await {
        commits += 1;
    }
    assert!(commits > 20, "{commits}");
}

#[tokio::test]
async fn the_same_holds_for_a_file() {
    for commits in [1, 4, 9, 14, 19] {
        let directory = tempfile::tempdir().unwrap();
        assert!(dies_after(sqlite(&directory).await, commits).await);
    }
}
