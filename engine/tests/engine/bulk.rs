//! Operations on many executions, carried out by engines that come and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::bulk::{NewOperation, Verb};
use flowmonkey_engine::chores::operations::{Carried, tick};
use flowmonkey_engine::store::{MemoryStore, Operation, OperationItem, Store};
use serde_json::{Value, json};

use crate::fused::Fused;
use crate::{Bench, flow, sqlite};

/// More than two batches.
const MANY: usize = 230;

async fn with_executions(store: Arc<dyn Store>) -> (Bench, BTreeSet<ExecutionId>) {
    let bench = Bench::on(store).await;
    bench.publish(flow("toil", json!({ "do": { "type": "work" } }))).await;
    let mut ids = BTreeSet::new();
    for _ in 0..MANY {
        ids.insert(bench.start("toil", json!({})).await);
    }
    (bench, ids)
}

fn asked(verb: Verb, filter: Value) -> NewOperation {
    NewOperation { verb, reason: Some("moved".into()), filter, by: "me".into(), tenant: None, max: 1000 }
}

async fn items(store: &dyn Store, operation: &Operation) -> Vec<OperationItem> {
    store.operation_items(&operation.id, None, 10_000).await.unwrap()
}

async fn stored(store: &dyn Store, operation: &Operation) -> Operation {
    store.operation(&operation.id).await.unwrap().unwrap()
}

/// One engine begins, another goes on, and what is made meanwhile is left alone.
async fn engines_take_over(store: Arc<dyn Store>) {
    let (bench, ids) = with_executions(store.clone()).await;
    let operation =
        bench.engine.begin_operation(asked(Verb::Cancel, json!({ "flowId": "toil" }))).await.unwrap();
    assert_eq!(tick(&bench.engine).await.unwrap(), Carried { operations: 1, executions: 100 });
    let first = items(&*store, &operation).await;
    assert_eq!(first[0].execution, *ids.last().unwrap(), "the newest come first");
    bench.clock.advance(1);
    let later = bench.start("toil", json!({})).await;
    let another = bench.another("another").await;
    assert_eq!(tick(&another).await.unwrap(), Carried { operations: 1, executions: 100 });
    assert_eq!(stored(&*store, &operation).await.done, 200);
    assert_eq!(tick(&another).await.unwrap(), Carried { operations: 1, executions: 30 });
    assert_eq!(tick(&bench.engine).await.unwrap(), Carried::default());
    let ended = stored(&*store, &operation).await;
    assert_eq!((ended.done, ended.refused, ended.ended_at.is_some()), (MANY as u64, 0, true));
    let noted: BTreeSet<ExecutionId> =
        items(&*store, &operation).await.iter().map(|item| item.execution).collect();
    assert_eq!(noted, ids);
    bench.expect(later, Status::WaitingForWorker).await;
    for id in ids {
        let execution = bench.get(id).await;
        assert!(
            matches!(execution.status(), Status::Cancelling | Status::Cancelled),
            "{:?}",
            execution.status()
        );
    }
}

#[tokio::test]
async fn an_engine_goes_on_where_another_was() {
    engines_take_over(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn an_engine_goes_on_where_another_was_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    engines_take_over(sqlite(&directory).await).await;
}

#[tokio::test]
async fn a_batch_whose_end_was_not_noted_is_done_again() {
    let fused = Arc::new(Fused::new(Arc::new(MemoryStore::default()), i64::MAX));
    let (bench, ids) = with_executions(fused.clone()).await;
    let operation =
        bench.engine.begin_operation(asked(Verb::Pause, json!({ "flowId": "toil" }))).await.unwrap();
    // All of the batch is stored, and the engine dies before it can note so.
    fused.lose_an_answer();
    tick(&bench.engine).await.unwrap_err();
    assert!(items(&*fused, &operation).await.is_empty());
    let another = bench.another("another").await;
    for expected in [100, 100, 30] {
        assert_eq!(tick(&another).await.unwrap().executions, expected);
    }
    let ended = stored(&*fused, &operation).await;
    assert_eq!((ended.done, ended.refused), (130, 100));
    let items = items(&*fused, &operation).await;
    assert!(items[..100].iter().all(|item| item.code.as_deref() == Some("ALREADY_PAUSED")));
    assert!(items[100..].iter().all(|item| item.code.is_none()));
    for id in ids {
        bench.expect(id, Status::Paused).await;
    }
}

#[tokio::test]
async fn operations_stop_when_they_are_asked_to_or_have_enough() {
    let (bench, _) = with_executions(Arc::new(MemoryStore::default())).await;
    let store = &*bench.store;
    let everything = || json!({ "status": "waiting_for_worker" });
    let stopped = bench.engine.begin_operation(asked(Verb::Pause, everything())).await.unwrap();
    tick(&bench.engine).await.unwrap();
    assert!(store.stop_operation(&stopped.id, bench.engine.now()).await.unwrap());
    assert_eq!(tick(&bench.engine).await.unwrap().executions, 0);
    let ended = stored(store, &stopped).await;
    assert_eq!((ended.done, ended.ended_at.is_some(), ended.stopped_at.is_some()), (100, true, true));
    let few = NewOperation { max: 7, ..asked(Verb::Pause, everything()) };
    let few = bench.engine.begin_operation(few).await.unwrap();
    assert_eq!(tick(&bench.engine).await.unwrap(), Carried { operations: 1, executions: 7 });
    assert!(stored(store, &few).await.ended_at.is_some());
    assert_eq!(bench.statuses().await["paused"], 107);
    // What another version of the program stored is ended, and holds up nobody.
    let unknown = Operation { id: "op_x".into(), verb: "praise".into(), ended_at: None, ..few };
    store.save_operation(&unknown).await.unwrap();
    tick(&bench.engine).await.unwrap();
    let ended = stored(store, &unknown).await;
    assert!(ended.failure.is_some() && ended.ended_at.is_some());
}
