//! Guards, atomicity, repetition.

use std::sync::Arc;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::{BufferedSignal, CancelSource};
use flowmonkey_core::execution::{StartRequest, Status, replay};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::fixture::{
    at, commit, creates, failure, flow, id, load, root, start, started, store_all, success, update, updates,
    work,
};
use crate::store::Store;
use crate::store::model::{Batch, Committed, CreateOutcome};

pub(super) async fn an_execution_reads_back_as_it_was_written(store: &dyn Store) {
    let flow = work();
    let context = json!({
        "text": "naïve \u{1f648} \"quoted\" \\ \n", "float": 0.1 + 0.2, "small": 5e-324, "big": u64::MAX,
        "negative": i64::MIN, "nested": { "list": [1, null, true, { "a": [] }] }, "empty": {},
    });
    let mut request = StartRequest::new(id(1), context);
    request.tenant_id = Some("tenant".into());
    request.metadata = Some(json!({ "from": "suite" }));
    request.labels = [("customer".to_owned(), "7".to_owned())].into();
    request.execution_timeout_ms = Some(3_600_000);
    let create = started(&flow, request, at(0));
    let mut execution = create.execution.clone();
    store_all(store, creates(at(0), vec![create])).await;
    assert_eq!(load(store, id(1)).await, execution);
    for step in 1..=2 {
        let change = update(
            &flow,
            &execution,
            success(&execution, json!({ "step": step, "float": 2.675_000_000_000_000_3 })),
            at(step),
        );
        execution = change.execution.clone();
        store_all(store, updates(at(step), vec![change])).await;
        assert_eq!(load(store, id(1)).await, execution);
    }
    assert_eq!(execution.status(), Status::Completed);
    let replayed = replay(&store.history(id(1), 0, usize::MAX).await.unwrap()).unwrap();
    assert_eq!(replayed.context, execution.context);
    assert!(store.load(&[]).await.unwrap().is_empty());
    assert!(store.load(&[id(9)]).await.unwrap().is_empty());
    assert_eq!(store.load(&[id(9), id(1), id(1)]).await.unwrap(), [(*execution).clone()]);
}

pub(super) async fn a_stale_update_changes_nothing_and_others_in_the_batch_go_on(store: &dyn Store) {
    let flow = flow(
        "rows",
        "1.0.0",
        &json!({ "first": { "type": "do", "transitions": { "onSuccess": "second" } },
        "second": { "type": "wait-event", "config": { "event": "parcel", "timeoutMs": 1000 } } }),
    );
    let one = start(store, &flow, 1, at(0)).await;
    let two = start(store, &flow, 2, at(0)).await;
    let change = |execution: &flowmonkey_core::execution::Execution| {
        update(&flow, execution, success(execution, json!(1)), at(1))
    };
    let mut stale = change(&one);
    stale.expected_version += 1;
    Arc::make_mut(&mut stale.execution).version += 1;
    let good = change(&two);
    let committed = commit(store, updates(at(1), vec![stale, good.clone()])).await;
    assert_eq!(committed.updates, [false, true]);
    assert_eq!(load(store, id(1)).await, one);
    assert_eq!(load(store, id(2)).await, good.execution);
    assert_eq!(store.history(id(1), 0, 100).await.unwrap().last().unwrap().sequence, one.events);
    assert_eq!(store.due(at(10_000), 10).await.unwrap(), [id(2)]);
    assert_eq!(store.subscribers(None, "parcel", None, 10).await.unwrap(), [id(2)]);
    let unknown = change(&root(&flow, 3, at(0)).execution);
    assert_eq!(commit(store, updates(at(1), vec![unknown])).await.updates, [false]);
    assert!(store.load(&[id(3)]).await.unwrap().is_empty());
}

pub(super) async fn a_batch_stored_twice_changes_nothing_the_second_time(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let batch = Batch {
        now: at(1),
        creates: vec![root(&flow, 2, at(1))],
        updates: vec![update(&flow, &one, success(&one, json!(1)), at(1))],
        spawns: Vec::new(),
    };
    let first = store_all(store, batch.clone()).await;
    assert_eq!(first.spent.len(), 2);
    let executions = store.load(&[id(1), id(2)]).await.unwrap();
    let history = store.history(id(1), 0, 100).await.unwrap();
    let second = commit(store, batch).await;
    let expected = Committed {
        creates: vec![CreateOutcome::IdTaken],
        updates: vec![false],
        joins: Vec::new(),
        spent: Vec::new(),
    };
    assert_eq!(second, expected);
    assert_eq!(store.load(&[id(1), id(2)]).await.unwrap(), executions);
    assert_eq!(store.history(id(1), 0, 100).await.unwrap(), history);
}

pub(super) async fn concurrent_updates_of_one_version_hold_once(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let race = (0..8).map(|racer| {
        let change = update(&flow, &one, success(&one, json!(racer)), at(1));
        async move { (racer, commit(store, updates(at(1), vec![change])).await.updates[0]) }
    });
    let winners: Vec<i32> =
        join_all(race).await.into_iter().filter(|(_, held)| *held).map(|(racer, _)| racer).collect();
    assert_eq!(winners.len(), 1, "one of the racers wins");
    assert_eq!(load(store, id(1)).await.context["one"], json!(winners[0]));
}

pub(super) async fn an_execution_occurs_once_in_a_batch(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let change = |output: i32| update(&flow, &one, success(&one, json!(output)), at(1));
    let committed = commit(store, updates(at(1), vec![change(1), change(2)])).await;
    assert_eq!(committed.updates, [true, false]);
    assert_eq!(load(store, id(1)).await.context["one"], json!(1));
}

pub(super) async fn a_failed_execution_is_reopened(store: &dyn Store) {
    let flow = flow("fragile", "1.0.0", &json!({ "first": { "type": "do" } }));
    let one = start(store, &flow, 1, at(0)).await;
    let failed = update(&flow, &one, failure(&one), at(1));
    store_all(store, updates(at(1), vec![failed.clone()])).await;
    assert_eq!(load(store, id(1)).await.status(), Status::Failed);
    assert!(store.tasks_out(None, at(9), 9).await.unwrap().is_empty());
    let reopened = update(&flow, &failed.execution, Command::Retry { by: None }, at(2));
    store_all(store, updates(at(2), vec![reopened.clone()])).await;
    let back = load(store, id(1)).await;
    assert_eq!(back, reopened.execution);
    assert_eq!((back.status(), back.run), (Status::WaitingForWorker, 2));
    assert_eq!(store.tasks_out(None, at(9), 9).await.unwrap().len(), 1);
}

pub(super) async fn a_taken_id_is_refused_and_the_batch_goes_on(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let mut other = root(&flow, 1, at(5));
    Arc::make_mut(&mut Arc::make_mut(&mut other.execution).identity).metadata = Some(json!("other"));
    let twice = root(&flow, 2, at(5));
    let batch = creates(at(5), vec![other, twice.clone(), twice]);
    let outcomes = commit(store, batch).await.creates;
    assert_eq!(outcomes, [CreateOutcome::IdTaken, CreateOutcome::Created, CreateOutcome::IdTaken]);
    assert_eq!(load(store, id(1)).await, one);
}

pub(super) async fn an_empty_batch_is_nothing(store: &dyn Store) {
    assert_eq!(commit(store, Batch::default()).await, Committed::default());
}

pub(super) async fn a_null_output_is_not_a_missing_one(store: &dyn Store) {
    let flow = work();
    for (number, output) in [(1, None), (2, Some(Value::Null)), (3, Some(json!([])))] {
        let one = start(store, &flow, number, at(0)).await;
        let mut ended = update(&flow, &one, Command::Terminate { reason: None }, at(1));
        let state = Arc::make_mut(&mut ended.execution);
        (state.phase, state.output) = (flowmonkey_core::execution::Phase::Completed, output);
        let expected = ended.execution.clone();
        store_all(store, updates(at(1), vec![ended])).await;
        assert_eq!(load(store, id(number)).await, expected);
    }
}

pub(super) async fn hostile_text_is_only_text(store: &dyn Store) {
    let flow = work();
    let hostile = "'; DROP TABLE fm_executions; -- \"]}) \\ \u{7f} \u{2028} %_*";
    let mut request = StartRequest::new(id(1), json!({ hostile: hostile }));
    request.tenant_id = Some(hostile.into());
    request.labels = [(hostile.to_owned(), hostile.to_owned())].into();
    request.idempotency_key = Some(hostile.into());
    let mut create = started(&flow, request, at(0));
    Arc::make_mut(&mut create.execution).signals.push(BufferedSignal {
        name: "zero \0".into(),
        data: Some(json!("\0")),
        id: None,
    });
    let expected = create.execution.clone();
    store_all(store, creates(at(0), vec![create.clone()])).await;
    assert_eq!(load(store, id(1)).await, expected);
    create.execution = root(&flow, 2, at(0)).execution;
    Arc::make_mut(&mut Arc::make_mut(&mut create.execution).identity).tenant_id = Some(hostile.into());
    let outcomes = commit(store, creates(at(0), vec![create])).await.creates;
    assert_eq!(outcomes, [CreateOutcome::Existing { id: id(1), input_differs: false }]);
    let cancel = Command::Cancel { source: CancelSource::User, reason: Some(hostile.into()) };
    let cancelled = update(&flow, &expected, cancel, at(1));
    store_all(store, updates(at(1), vec![cancelled.clone()])).await;
    assert_eq!(load(store, id(1)).await, cancelled.execution);
}

pub(super) async fn what_a_decision_starts_is_stored_only_with_it(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let two = start(store, &flow, 2, at(0)).await;
    let mut stale = update(&flow, &one, success(&one, json!(1)), at(1));
    stale.expected_version += 1;
    let good = update(&flow, &two, success(&two, json!(1)), at(1));
    let caused =
        |number, cause| crate::store::model::Create { cause: Some(cause), ..root(&flow, number, at(1)) };
    let batch = Batch {
        now: at(1),
        creates: vec![caused(3, 0), caused(4, 1), caused(5, 2), root(&flow, 6, at(1))],
        updates: vec![stale, good],
        spawns: Vec::new(),
    };
    let outcomes = commit(store, batch).await.creates;
    let (created, refused) = (CreateOutcome::Created, CreateOutcome::NotSpawned);
    assert_eq!(outcomes, [refused.clone(), created.clone(), refused, created]);
    let ids: Vec<_> =
        store.load(&[id(3), id(4), id(5), id(6)]).await.unwrap().iter().map(|one| one.id()).collect();
    assert_eq!(ids, [id(4), id(6)]);
}
