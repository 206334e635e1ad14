//! Fan-outs: children made, counted and read.

use std::sync::Arc;

use flowmonkey_core::execution::command::{Command, JoinOutputs, JoinReport};
use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{Execution, JoinSpec, Record, StartRequest, Status};
use flowmonkey_core::flow::definition::Flow;
use serde_json::{Value, json};

use super::fixture::{
    at, child, commit, creates, each, failure, fan, id, load, opened, spawning, start, started, store_all,
    success, update, update_within, updates, work,
};
use crate::store::Store;
use crate::store::model::{Batch, CreateOutcome, JoinState, Spawn, Spent, Update};

/// A parent of `total` children, and its fan-out.
async fn parent(store: &dyn Store, flow: &Flow, number: u64, total: usize) -> (Arc<Execution>, JoinSpec) {
    let items: Vec<Value> = (0..total).map(|item| json!({ "number": item, "parts": [1, 2] })).collect();
    let request = StartRequest::new(id(number), json!({ "items": items, "shared": "snapshot" }));
    let create = started(flow, request, at(0));
    let spec = opened(&create.records);
    let execution = create.execution.clone();
    let committed = store_all(store, creates(at(0), vec![create])).await;
    assert_eq!(committed.joins.len(), 1, "an opened fan-out is told");
    (execution, spec)
}

/// The update with which the child ends.
fn ending(flow: &Flow, spec: &JoinSpec, execution: &Execution, succeeds: bool, now: i64) -> Update {
    let command = if succeeds { success(execution, json!({ "n": 1 })) } else { failure(execution) };
    update_within(flow, execution, Some(&spec.snapshot), command, at(now))
}

async fn spawn(store: &dyn Store, flow: &Flow, spec: &JoinSpec, from: u32, to: u32) -> Vec<Arc<Execution>> {
    let batch = spawning(flow, spec, from, to, at(1));
    let made = batch.creates.iter().map(|create| create.execution.clone()).collect();
    store_all(store, batch).await;
    made
}

async fn state(store: &dyn Store, spec: &JoinSpec) -> JoinState {
    store.join_state(spec.parent, spec.join).await.unwrap().unwrap()
}

pub(super) async fn a_fan_out_is_stored_with_its_snapshot_and_items(store: &dyn Store) {
    let (execution, spec) = parent(store, &each(), 1, 3).await;
    let join = store.join(id(1), 1).await.unwrap().unwrap();
    assert_eq!(*join.spec, spec);
    assert_eq!(join.spec.items.len(), 3);
    assert_eq!(join.spec.snapshot.context["shared"], json!("snapshot"));
    assert_eq!((join.state.total, join.state.spawned, join.state.closing), (3, 0, false));
    assert_eq!(store.join_state(id(1), 1).await.unwrap(), Some(join.state));
    assert_eq!(store.snapshot(id(1), 1).await.unwrap().unwrap().context, execution.context);
    for (parent, join) in [(id(1), 2), (id(2), 1)] {
        assert!(store.join(parent, join).await.unwrap().is_none());
        assert!(store.join_state(parent, join).await.unwrap().is_none());
        assert!(store.snapshot(parent, join).await.unwrap().is_none());
    }
}

pub(super) async fn nested_snapshots_are_chained(store: &dyn Store) {
    let flow = fan();
    let (_, outer) = parent(store, &flow, 1, 2).await;
    let children = spawning(&flow, &outer, 0, 2, at(1));
    let inner = opened(&children.creates[1].records);
    assert!(inner.snapshot.outer.is_some());
    store_all(store, children).await;
    let join = store.join(inner.parent, inner.join).await.unwrap().unwrap();
    assert_eq!(*join.spec, inner);
    let snapshot = store.snapshot(inner.parent, inner.join).await.unwrap().unwrap();
    assert_eq!(snapshot.context["item"]["number"], json!(1));
    assert_eq!(snapshot.outer.as_ref().unwrap().context["shared"], json!("snapshot"));
    assert_eq!(snapshot, inner.snapshot);
}

pub(super) async fn children_are_made_all_or_none(store: &dyn Store) {
    let flow = each();
    let (_, spec) = parent(store, &flow, 1, 5).await;
    let first = spawning(&flow, &spec, 0, 3, at(1));
    let committed = store_all(store, first.clone()).await;
    assert_eq!(committed.joins.iter().map(|state| state.spawned).collect::<Vec<_>>(), [3]);
    for late in [first, spawning(&flow, &spec, 0, 3, at(2)), spawning(&flow, &spec, 2, 4, at(2))] {
        let count = late.creates.len();
        let again = commit(store, late).await;
        assert_eq!(again.creates, vec![CreateOutcome::NotSpawned; count]);
        assert!(again.joins.is_empty());
    }
    let beyond = spawning(&flow, &spec, 3, 5, at(2));
    let beyond = Batch { spawns: vec![Spawn { to: 6, ..beyond.spawns[0] }], ..beyond };
    assert_eq!(commit(store, beyond).await.creates, vec![CreateOutcome::NotSpawned; 2]);
    let unknown = Batch {
        spawns: vec![Spawn { parent: id(9), join: 1, from: 3, to: 5 }],
        ..spawning(&flow, &spec, 3, 5, at(2))
    };
    assert_eq!(commit(store, unknown).await.creates, vec![CreateOutcome::NotSpawned; 2]);
    // Two batches of children in one batch, beside an execution that is nobody's child.
    let mut both = spawning(&flow, &spec, 3, 4, at(3));
    both.spawns.push(Spawn { parent: id(1), join: 1, from: 4, to: 5 });
    let mut last = child(&flow, &spec, 4, at(3));
    last.spawn = Some(1);
    both.creates.push(last);
    both.creates.extend(spawning(&flow, &spec, 0, 1, at(9)).creates);
    both.creates[2].spawn = Some(7);
    let committed = commit(store, both).await;
    assert_eq!(
        committed.creates,
        [CreateOutcome::Created, CreateOutcome::Created, CreateOutcome::NotSpawned]
    );
    assert_eq!(state(store, &spec).await.spawned, 5);
    assert_eq!(store.children(id(1), 1, 0, 100).await.unwrap().len(), 5);
}

pub(super) async fn a_closing_fan_out_gets_no_children(store: &dyn Store) {
    let flow = each();
    let (execution, spec) = parent(store, &flow, 1, 5).await;
    spawn(store, &flow, &spec, 0, 2).await;
    let decided = update(&flow, &execution, Command::JoinDecided { join: 1 }, at(2));
    let batch = Batch { updates: vec![decided], ..spawning(&flow, &spec, 2, 4, at(2)) };
    let committed = commit(store, batch).await;
    assert_eq!(committed.updates, [true]);
    assert_eq!(committed.creates, vec![CreateOutcome::NotSpawned; 2], "closed in the same batch");
    let after = commit(store, spawning(&flow, &spec, 2, 4, at(3))).await;
    assert_eq!(after.creates, vec![CreateOutcome::NotSpawned; 2]);
    let now = state(store, &spec).await;
    assert!(now.closing);
    assert_eq!((now.spawned, committed.joins), (2, vec![now.clone()]));
}

pub(super) async fn children_count_exactly_once(store: &dyn Store) {
    let flow = each();
    let (_, spec) = parent(store, &flow, 1, 4).await;
    let children = spawn(store, &flow, &spec, 0, 4).await;
    let cost = Cost { usd: 0.25, tokens: 10, attempts: 1 };
    let mut batch = updates(
        at(2),
        children
            .iter()
            .zip([true, false, true])
            .map(|(child, succeeds)| ending(&flow, &spec, child, succeeds, 2))
            .collect(),
    );
    for change in &mut batch.updates {
        for record in &mut change.records {
            if let Record::ChildEnded { cost: counted, .. } = record {
                *counted = cost;
            }
        }
    }
    let committed = store_all(store, batch.clone()).await;
    let counted = state(store, &spec).await;
    assert_eq!((counted.succeeded, counted.failed, counted.ended()), (2, 1, 3));
    assert_eq!(counted.cost, Cost { usd: 0.75, tokens: 30, attempts: 3 });
    assert_eq!(committed.joins, std::slice::from_ref(&counted));
    let again = commit(store, batch).await;
    assert_eq!(again.updates, [false, false, false]);
    assert!(again.joins.is_empty());
    assert_eq!(state(store, &spec).await, counted);
}

pub(super) async fn children_of_many_fan_outs_count_in_one_batch(store: &dyn Store) {
    let flow = each();
    let mut changes = Vec::new();
    for number in 1..=3 {
        let (_, spec) = parent(store, &flow, number, 2).await;
        let children = spawn(store, &flow, &spec, 0, 2).await;
        changes.extend(children.iter().map(|child| ending(&flow, &spec, child, true, 2)));
    }
    let committed = store_all(store, updates(at(2), changes)).await;
    assert_eq!(
        committed.joins.iter().map(|join| (join.parent, join.succeeded)).collect::<Vec<_>>(),
        [(id(1), 2), (id(2), 2), (id(3), 2)]
    );
    assert!(committed.joins.iter().all(JoinState::is_complete));
    // A child that is made and ends in one batch counts in it.
    let (_, spec) = parent(store, &flow, 4, 1).await;
    let mut batch = spawning(&flow, &spec, 0, 1, at(3));
    let ended = ending(&flow, &spec, &batch.creates[0].execution, true, 3);
    let create = &mut batch.creates[0];
    create.execution = ended.execution;
    create.events = create.events.iter().chain(&*ended.events).cloned().collect();
    create.records.extend(ended.records);
    let committed = store_all(store, batch).await;
    assert_eq!(
        committed.joins.iter().map(|join| (join.spawned, join.succeeded)).collect::<Vec<_>>(),
        [(1, 1)]
    );
}

pub(super) async fn a_conflicting_update_counts_no_child(store: &dyn Store) {
    let flow = each();
    let (_, spec) = parent(store, &flow, 1, 2).await;
    let children = spawn(store, &flow, &spec, 0, 2).await;
    let mut stale = ending(&flow, &spec, &children[0], true, 2);
    stale.expected_version += 5;
    Arc::make_mut(&mut stale.execution).version += 5;
    let good = ending(&flow, &spec, &children[1], false, 2);
    let committed = commit(store, updates(at(2), vec![stale, good])).await;
    assert_eq!(committed.updates, [false, true]);
    let counted = state(store, &spec).await;
    assert_eq!((counted.succeeded, counted.failed), (0, 1));
}

/// The parent's update that takes the result.
fn taken(flow: &Flow, execution: &Execution, state: &JoinState, now: i64) -> Update {
    let report = JoinReport {
        join: state.join,
        succeeded: state.succeeded,
        failed: state.failed,
        outputs: JoinOutputs::Inline(Vec::new()),
        errors: Vec::new(),
        undoable: 0,
        cost: state.cost,
        has_errors: false,
    };
    update(flow, execution, Command::JoinEnded(Box::new(report)), at(now))
}

pub(super) async fn the_end_takes_the_counters_and_leaves_the_snapshot(store: &dyn Store) {
    let flow = each();
    let (execution, spec) = parent(store, &flow, 1, 1).await;
    let children = spawn(store, &flow, &spec, 0, 1).await;
    store_all(store, updates(at(2), vec![ending(&flow, &spec, &children[0], true, 2)])).await;
    let complete = state(store, &spec).await;
    let committed = store_all(store, updates(at(3), vec![taken(&flow, &execution, &complete, 3)])).await;
    assert!(committed.joins.is_empty(), "it is over");
    assert!(store.join_state(id(1), 1).await.unwrap().is_none());
    assert!(store.join(id(1), 1).await.unwrap().is_none());
    assert!(store.snapshot(id(1), 1).await.unwrap().is_some());
    assert_eq!(load(store, id(1)).await.status(), Status::Completed);
    assert!(store.joins_to_tend(None, 10).await.unwrap().is_empty());
}

pub(super) async fn only_fan_outs_with_something_to_do_are_tended(store: &dyn Store) {
    let flow = each();
    let (_, idle) = parent(store, &flow, 1, 2).await;
    spawn(store, &flow, &idle, 0, 2).await;
    let (_, fresh) = parent(store, &flow, 2, 2).await;
    let (_, complete) = parent(store, &flow, 3, 1).await;
    let children = spawn(store, &flow, &complete, 0, 1).await;
    store_all(store, updates(at(2), vec![ending(&flow, &complete, &children[0], true, 2)])).await;
    let (ended, dead) = parent(store, &flow, 4, 1).await;
    let orphans = spawn(store, &flow, &dead, 0, 1).await;
    let terminated = update(&flow, &ended, Command::Terminate { reason: None }, at(3));
    store_all(store, updates(at(3), vec![terminated])).await;
    let parents = |found: Vec<JoinState>| found.iter().map(|state| state.parent).collect::<Vec<_>>();
    assert_eq!(parents(store.joins_to_tend(None, 10).await.unwrap()), [id(2), id(3), id(4)]);
    assert_eq!(parents(store.joins_to_tend(None, 1).await.unwrap()), [id(2)]);
    let after = Some((fresh.parent, fresh.join));
    assert_eq!(parents(store.joins_to_tend(after, 1).await.unwrap()), [id(3)]);
    // Its last child ends: nobody waits for it any more.
    store_all(store, updates(at(4), vec![ending(&flow, &dead, &orphans[0], true, 4)])).await;
    assert_eq!(parents(store.joins_to_tend(after, 9).await.unwrap()), [id(3)]);
}

pub(super) async fn children_come_in_order_and_by_page(store: &dyn Store) {
    let flow = each();
    let (_, spec) = parent(store, &flow, 1, 5).await;
    let children = spawn(store, &flow, &spec, 0, 5).await;
    let ends = [(3, true), (1, false)];
    let changes = ends.map(|(index, succeeds)| ending(&flow, &spec, &children[index], succeeds, 2));
    store_all(store, updates(at(2), changes.to_vec())).await;
    let cancel = Command::Terminate { reason: Some("enough".into()) };
    store_all(
        store,
        updates(at(3), vec![update_within(&flow, &children[4], Some(&spec.snapshot), cancel, at(3))]),
    )
    .await;
    let rows = store.children(id(1), 1, 0, 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(
        rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        children.iter().map(|child| child.id()).collect::<Vec<_>>()
    );
    assert_eq!(rows[3].output, Some(json!({ "n": 1 })));
    assert_eq!((rows[3].status, rows[3].error.is_none()), (Status::Completed, true));
    assert_eq!((rows[1].status, rows[1].error.as_ref().unwrap().code.as_str()), (Status::Failed, "BROKEN"));
    assert_eq!(
        (rows[4].status, rows[4].error.as_ref().unwrap().code.as_str()),
        (Status::Cancelled, "CANCELLED")
    );
    assert_eq!(rows[0].status, Status::WaitingForWorker);
    assert!(rows.iter().all(|row| row.context.is_none()), "a body's context stays with it");
    let page = store.children(id(1), 1, 2, 2).await.unwrap();
    assert_eq!(page, rows[2..4]);
    let live = |from, max| async move { store.live_children(id(1), 1, from, max).await.unwrap() };
    assert_eq!(live(0, 9).await, [(0, children[0].id()), (2, children[2].id())]);
    assert_eq!(live(1, 9).await, [(2, children[2].id())]);
    assert_eq!(live(0, 1).await, [(0, children[0].id())]);
    // Fire-and-forget children: those that are abandoned live on.
    for (number, abandon) in [(10, false), (11, true)] {
        let mut detached = super::fixture::root(&work(), number, at(4));
        let identity = Arc::make_mut(&mut Arc::make_mut(&mut detached.execution).identity);
        identity.root = id(1);
        identity.parent = Some(flowmonkey_core::execution::state::ParentLink {
            execution: id(1),
            join: 0,
            index: u32::try_from(number).unwrap(),
            abandon,
        });
        detached.records.clear();
        store_all(store, creates(at(4), vec![detached])).await;
    }
    assert_eq!(store.live_children(id(1), 0, 0, 9).await.unwrap(), [(10, id(10))]);
    assert!(store.children(id(1), 0, 0, 9).await.unwrap()[0].context.is_none(), "it has not ended");
}

pub(super) async fn spending_is_summed_for_the_root(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let mut change = update(&flow, &one, success(&one, json!(1)), at(1));
    let huge = Cost { usd: 0.5, tokens: u64::MAX, attempts: 3 };
    change
        .records
        .extend([Record::Spend { root: id(1), cost: huge }, Record::Spend { root: id(1), cost: huge }]);
    let committed = store_all(store, updates(at(1), vec![change])).await;
    // One attempt at the start, one of the second step, and 3 twice.
    let expected = Cost { usd: 1.0, tokens: i64::MAX as u64, attempts: 8 };
    assert_eq!(committed.spent, [Spent { root: id(1), cost: expected }]);
}
