//! A record that is away for a moment: what follows from commits is done when it is back, and nothing is left to the sweeper.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::chores::{collector, leftovers};
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::MemoryStore;
use serde_json::json;

use crate::fused::Fused;
use crate::{Bench, echo, fan, numbers, work_step};

/// A bench whose record can fail, with a map over two items published.
async fn bench() -> (Arc<Fused>, Bench) {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let bench = Bench::on(fused.clone()).await;
    let body = json!({ "initialStepId": "do", "steps": { "do": work_step() } });
    bench.publish(fan("map", 2, json!({}), body)).await;
    (fused, bench)
}

/// What was left is done, and the execution ends without the sweeper.
async fn ends(bench: &Bench, id: ExecutionId) {
    assert!(leftovers::tick(&bench.engine).await.unwrap().done > 0);
    bench.work(echo).await;
    assert_eq!(leftovers::tick(&bench.engine).await.unwrap().done, 0);
    bench.expect(id, Status::Completed).await;
}

#[tokio::test]
async fn children_are_made_when_the_record_is_back() {
    let (fused, bench) = bench().await;
    fused.die_after(1);
    let id = bench.start("map", numbers(2)).await;
    assert!(fused.is_dead(), "it was started, and the record was away for what follows");
    assert!(leftovers::tick(&bench.engine).await.is_err(), "it is still away");
    fused.revive();
    ends(&bench, id).await;
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_makes_its_children() {
    let (fused, bench) = bench().await;
    fused.lose_an_answer();
    let published = StartFlow::Published { id: "map".into(), version: None };
    let start = Start { idempotency_key: Some("once".into()), ..Start::new(published, numbers(2)) };
    bench.engine.start(start.clone()).await.unwrap_err();
    let again = bench.engine.start(start).await.unwrap();
    assert!(!again.created);
    assert_eq!(bench.queue_depth().await, 0);
    ends(&bench, again.id).await;
}

#[tokio::test]
async fn a_parent_takes_its_result_though_the_answer_to_its_last_childs_end_was_lost() {
    let (fused, bench) = bench().await;
    let id = bench.start("map", numbers(2)).await;
    bench.finish(bench.claim().await.iter().map(echo).collect()).await;
    fused.lose_an_answer();
    collector::tick(&bench.engine).await.unwrap_err();
    bench.work(echo).await;
    bench.expect(id, Status::Waiting).await;
    ends(&bench, id).await;
}
