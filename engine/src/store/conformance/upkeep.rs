//! Checkpoints, tables, keys, retention.

use flowmonkey_core::execution::StartRequest;
use flowmonkey_core::execution::command::{Command, TableRow};
use flowmonkey_core::ids::TaskId;
use serde_json::{Map, Value, json};

use super::fixture::{
    at, commit, creates, each, failure, id, opened, spawning, start, started, store_all, success,
    success_with_rows, task, update, update_within, updates, work,
};
use crate::access::Visibility;
use crate::store::Store;
use crate::store::model::{
    CheckpointContent, CheckpointNote, Column, CreateOutcome, ExecutionFilter, PublishedEvent, Retention,
    StoredCheckpoint, TableDefinition,
};

fn checkpoint(number: i64) -> StoredCheckpoint {
    let data = json!({ "page": number });
    StoredCheckpoint {
        id: format!("cp-{number}"),
        saved_at: at(number),
        version: 0,
        bytes: data.to_string().len() as u64,
        content: CheckpointContent::Json(data),
    }
}

fn version(version: u64, checkpoint: StoredCheckpoint) -> StoredCheckpoint {
    StoredCheckpoint { version, ..checkpoint }
}

pub(super) async fn checkpoints_are_fenced(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let out = task(&one);
    assert_eq!(store.load_checkpoint(out).await.unwrap(), None);
    assert_eq!(store.save_checkpoint(out, 1, &checkpoint(1)).await.unwrap(), Some(1));
    assert_eq!(store.save_checkpoint(out, 1, &checkpoint(2)).await.unwrap(), Some(2));
    for (stale, attempt) in
        [(out, 2), (TaskId { number: 2, ..out }, 1), (TaskId { execution: id(9), ..out }, 1)]
    {
        assert_eq!(store.save_checkpoint(stale, attempt, &checkpoint(3)).await.unwrap(), None);
        assert!(!store.clear_checkpoint(stale, attempt).await.unwrap());
    }
    assert_eq!(store.load_checkpoint(out).await.unwrap(), Some(version(2, checkpoint(2))));
    let two = start(store, &flow, 2, at(0)).await;
    assert_eq!(store.save_checkpoint(task(&two), 1, &checkpoint(7)).await.unwrap(), Some(1));
    let asked = [task(&two), TaskId { number: 2, ..out }, TaskId { execution: id(9), ..out }, out];
    let notes = store.checkpoint_notes(&asked).await.unwrap();
    let note = |task, stored: StoredCheckpoint| CheckpointNote {
        task,
        id: stored.id,
        saved_at: stored.saved_at,
        bytes: stored.bytes,
    };
    assert_eq!(notes, [note(out, checkpoint(2)), note(task(&two), checkpoint(7))]);
    assert_eq!(store.checkpoint_notes(&[]).await.unwrap(), []);
    assert!(store.clear_checkpoint(out, 1).await.unwrap());
    assert!(store.clear_checkpoint(out, 1).await.unwrap(), "there is nothing, and the fence holds");
    assert_eq!(store.load_checkpoint(out).await.unwrap(), None);
    assert_eq!(store.save_checkpoint(out, 1, &checkpoint(4)).await.unwrap(), Some(1), "it counts anew");
    let next = update(&flow, &one, success(&one, json!(1)), at(1));
    store_all(store, updates(at(1), vec![next])).await;
    assert_eq!(store.save_checkpoint(out, 1, &checkpoint(5)).await.unwrap(), None, "the task is done");
    assert_eq!(
        store.load_checkpoint(out).await.unwrap(),
        Some(version(1, checkpoint(4))),
        "it survives its task"
    );
}

fn table_row(table: &str, name: &str, value: Value) -> TableRow {
    let row: Map<String, Value> = [("value".to_owned(), value)].into_iter().collect();
    TableRow { table: table.into(), id: name.into(), row, pipe: None }
}

pub(super) async fn equal_rows_are_inserted_once(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let rows = vec![
        table_row("t", "b", json!(1)),
        table_row("t", "a", json!(2)),
        table_row("u", "a", json!(3)),
        table_row("t", "b", json!(4)),
    ];
    let next = update(&flow, &one, success_with_rows(&one, rows), at(1));
    store_all(store, updates(at(1), vec![next.clone()])).await;
    let last = update(
        &flow,
        &next.execution,
        success_with_rows(
            &next.execution,
            vec![table_row("t", "a", json!(5)), table_row("t", "c", json!(6))],
        ),
        at(2),
    );
    store_all(store, updates(at(2), vec![last])).await;
    let rows = store.table_rows(None, "t", None, 9).await.unwrap();
    let short: Vec<_> =
        rows.iter().map(|row| (row.id.as_str(), row.row["value"].as_i64().unwrap())).collect();
    assert_eq!(short, [("b", 1), ("a", 2), ("c", 6)]);
    assert!(rows.iter().all(|row| row.execution == id(1)));
    assert_eq!((rows[0].at, rows[2].at), (at(1), at(2)));
    assert_eq!(store.table_rows(None, "t", Some(rows[0].sequence), 1).await.unwrap(), rows[1..2]);
    assert_eq!(store.table_rows(None, "u", None, 9).await.unwrap().len(), 1);
    assert_eq!(store.table_rows(None, "v", None, 9).await.unwrap(), []);
}

pub(super) async fn tables_are_defined_and_replaced(store: &dyn Store) {
    let column = |id: &str| Column {
        id: id.into(),
        name: "Name".into(),
        column_type: "string".into(),
        required: true,
    };
    let table = |id: &str, columns: &[&str]| TableDefinition {
        tenant: None,
        id: id.into(),
        columns: columns.iter().map(|id| column(id)).collect(),
    };
    assert_eq!(store.tables(&Visibility::All).await.unwrap(), []);
    store.define_table(&table("b", &["x"]), at(0)).await.unwrap();
    store.define_table(&table("a", &[]), at(0)).await.unwrap();
    store.define_table(&table("b", &["y", "z"]), at(1)).await.unwrap();
    assert_eq!(store.tables(&Visibility::All).await.unwrap(), [table("a", &[]), table("b", &["y", "z"])]);
}

pub(super) async fn a_turn_is_one_holders_until_it_ends(store: &dyn Store) {
    let take =
        async |name, holder, now, until| store.take_turn(name, holder, at(now), at(until)).await.unwrap();
    assert!(take("reconcile", "e1", 0, 10).await);
    assert!(!take("reconcile", "e2", 9, 20).await);
    assert!(take("prune", "e2", 9, 20).await);
    assert!(take("reconcile", "e1", 9, 30).await);
    assert!(!take("reconcile", "e2", 29, 40).await);
    assert!(take("reconcile", "e2", 30, 40).await);
    assert!(!take("reconcile", "e1", 31, 50).await);
    let all = ["a", "b", "c", "d"].map(|holder| store.take_turn("once", holder, at(0), at(10)));
    let taken = futures_util::future::join_all(all).await;
    assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
}

pub(super) async fn generations_follow_the_servers(store: &dyn Store) {
    let generation = async |pool, server| store.pool_generation(pool, server).await.unwrap();
    assert_eq!(generation("http", "s1").await, 1);
    assert_eq!(generation("http", "s1").await, 1);
    assert_eq!(generation("http", "s2").await, 2);
    assert_eq!(generation("eu/http", "s2").await, 1);
    let all = futures_util::future::join_all((0..4).map(|_| store.pool_generation("http", "s3"))).await;
    assert!(all.into_iter().all(|found| found.unwrap() == 3));
    assert_eq!(generation("http", "s1").await, 4);
}

pub(super) async fn a_signing_key_is_made_once(store: &dyn Store) {
    assert_eq!(store.signing_key("task", &[1, 0, 255]).await.unwrap(), [1, 0, 255]);
    assert_eq!(store.signing_key("task", &[2]).await.unwrap(), [1, 0, 255]);
    assert_eq!(store.signing_key("resume", &[3]).await.unwrap(), [3]);
}

fn everything_before(when: i64) -> Retention {
    Retention {
        executions_before: at(when),
        events_before: at(when),
        checkpoints_before: at(when),
        keys_before: at(when),
        progress_before: at(when),
        logs_before: at(when),
    }
}

fn nothing() -> Retention {
    everything_before(-1)
}

pub(super) async fn trees_are_pruned_as_a_whole(store: &dyn Store) {
    let flow = each();
    let parent = started(&flow, StartRequest::new(id(1), json!({ "items": [1, 2] })), at(0));
    let (execution, spec) = (parent.execution.clone(), opened(&parent.records));
    store_all(store, creates(at(0), vec![parent])).await;
    let spawned = spawning(&flow, &spec, 0, 2, at(1));
    let children: Vec<_> = spawned.creates.iter().map(|create| create.execution.clone()).collect();
    store_all(store, spawned).await;
    store.save_checkpoint(task(&children[0]), 1, &checkpoint(1)).await.unwrap();
    let within = |child, command, now| update_within(&flow, child, Some(&spec.snapshot), command, at(now));
    store_all(store, updates(at(2), vec![within(&children[0], success(&children[0], json!(1)), 2)])).await;
    let terminated = update(&flow, &execution, Command::Terminate { reason: None }, at(3));
    store_all(store, updates(at(3), vec![terminated])).await;
    let young = start(store, &work(), 2, at(0)).await;
    store_all(store, updates(at(50), vec![update(&work(), &young, failure(&young), at(50))])).await;

    assert_eq!(store.prune(&nothing(), 100).await.unwrap(), 0);
    let old = Retention { executions_before: at(50), ..nothing() };
    assert_eq!(store.prune(&old, 100).await.unwrap(), 0, "a child is alive");
    store_all(store, updates(at(4), vec![within(&children[1], failure(&children[1]), 4)])).await;
    assert_eq!(store.prune(&Retention { executions_before: at(3), ..nothing() }, 100).await.unwrap(), 0);
    assert_eq!(store.prune(&old, 100).await.unwrap(), 3);
    let filter = ExecutionFilter { include_children: true, max: 9, ..ExecutionFilter::default() };
    let left: Vec<_> = store.list(&filter).await.unwrap().items.into_iter().map(|item| item.id).collect();
    assert_eq!(left, [id(2)]);
    for gone in [id(1), children[0].id()] {
        assert!(store.history(gone, 0, 9).await.unwrap().is_empty());
    }
    assert!(store.snapshot(id(1), spec.join).await.unwrap().is_none());
    assert!(store.join_state(id(1), spec.join).await.unwrap().is_none());
    assert_eq!(store.load_checkpoint(task(&children[0])).await.unwrap(), None);
    assert!(!store.history(id(2), 0, 9).await.unwrap().is_empty());
}

pub(super) async fn pruning_goes_in_steps(store: &dyn Store) {
    let flow = work();
    for number in 1..=5 {
        let mut request = StartRequest::new(id(number), json!({}));
        request.idempotency_key = Some(format!("key {number}"));
        request.idempotency_window_ms = Some(number * 10);
        let create = started(&flow, request, at(0));
        let one = create.execution.clone();
        store_all(store, creates(at(0), vec![create])).await;
        store.save_checkpoint(task(&one), 1, &checkpoint(1)).await.unwrap();
        let when = i64::try_from(number).unwrap();
        store_all(store, updates(at(when), vec![update(&flow, &one, failure(&one), at(when))])).await;
        let event = PublishedEvent {
            tenant: None,
            id: format!("e{number}"),
            name: "e".into(),
            data: json!(1),
            source: None,
            attributes: None,
            at: at(when),
        };
        store.publish_event(&event).await.unwrap();
    }
    store.mark_delivered(None, &["e1".into(), "e2".into(), "e5".into()]).await.unwrap();
    let checkpoints = Retention { checkpoints_before: at(3), ..nothing() };
    assert_eq!(store.prune(&checkpoints, 9).await.unwrap(), 2);
    assert_eq!(store.prune(&checkpoints, 9).await.unwrap(), 0);
    assert_eq!(store.prune(&Retention { keys_before: at(30), ..nothing() }, 9).await.unwrap(), 2);
    let mut request = StartRequest::new(id(9), json!({}));
    request.idempotency_key = Some("key 4".into());
    let again = commit(store, creates(at(7), vec![started(&flow, request, at(7))])).await.creates;
    assert_eq!(again, [CreateOutcome::Existing { id: id(4), input_differs: false }]);
    assert_eq!(store.prune(&Retention { events_before: at(5), ..nothing() }, 9).await.unwrap(), 2);
    assert_eq!(store.undelivered_events(9).await.unwrap().len(), 2, "what is not delivered stays");
    let executions = Retention { executions_before: at(100), ..nothing() };
    assert_eq!(store.prune(&executions, 0).await.unwrap(), 0);
    let mut steps = Vec::new();
    loop {
        let gone = store.prune(&executions, 2).await.unwrap();
        steps.push(gone);
        if gone < 2 {
            break;
        }
    }
    assert_eq!(steps, [2, 2, 1]);
    assert!(store.load(&(1..=5).map(id).collect::<Vec<_>>()).await.unwrap().is_empty());
}

pub(super) async fn a_healthy_record_passes_its_check(store: &dyn Store) {
    store.check().await.unwrap();
    store.check().await.unwrap();
}
