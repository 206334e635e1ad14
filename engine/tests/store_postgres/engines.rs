//! Several engines on one record, and what goes wrong between them and it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use flowmonkey_core::execution::command::TableRow;
use flowmonkey_core::execution::{StartRequest, Status, replay};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::store::conformance::fixture::{
    at, creates, each, id, opened, root, spawning, start, started, store_all, success, success_with_rows,
    update, update_within, updates, work,
};
use flowmonkey_engine::store::{Batch, Committed, CreateOutcome, PostgresStore, Store, StoreError, Update};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::{fresh, open};

const CHILDREN: u32 = 60;

/// Commits in batches of `size`; says which executions were changed.
async fn commit_in_batches(store: &PostgresStore, changes: Vec<Update>, size: usize) -> Vec<ExecutionId> {
    let mut held = Vec::new();
    for batch in changes.chunks(size) {
        let committed = store.commit(updates(at(2), batch.to_vec())).await.unwrap();
        let changed = batch.iter().zip(committed.updates).filter(|(_, held)| *held);
        held.extend(changed.map(|(change, _)| change.execution.id()));
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_count_each_child_once_and_never_block_each_other() {
    let database = fresh().await;
    let engines = [open(&database).await, open(&database).await, open(&database).await];
    let flow = each();
    let items: Vec<u32> = (0..CHILDREN).collect();
    let parent = started(&flow, StartRequest::new(id(1), json!({ "items": items })), at(0));
    let spec = opened(&parent.records);
    store_all(&engines[0], creates(at(0), vec![parent])).await;
    let spawned = spawning(&flow, &spec, 0, CHILDREN, at(1));
    let children: Vec<_> = spawned.creates.iter().map(|create| create.execution.clone()).collect();
    store_all(&engines[0], spawned).await;
    // All engines report all children, in other orders, with rows that stand in each other's way.
    let row = |number: usize| TableRow {
        table: "shared".into(),
        id: format!("row {}", number % 7),
        row: serde_json::Map::new(),
        pipe: None,
    };
    let change = |(place, child): (usize, &std::sync::Arc<flowmonkey_core::execution::Execution>)| {
        let rows = vec![row(place * 3), row(place * 5 + 1)];
        update_within(&flow, child, Some(&spec.snapshot), success_with_rows(child, rows), at(2))
    };
    let forward: Vec<Update> = children.iter().enumerate().map(change).collect();
    let backward: Vec<Update> = forward.iter().rev().cloned().collect();
    let (even, odd): (Vec<_>, Vec<_>) =
        forward.iter().cloned().enumerate().partition(|(place, _)| place % 2 == 0);
    let mixed: Vec<Update> = odd.into_iter().chain(even).map(|(_, change)| change).collect();
    let (first, second, third) = tokio::join!(
        commit_in_batches(&engines[0], forward, 7),
        commit_in_batches(&engines[1], backward, 5),
        commit_in_batches(&engines[2], mixed, 11),
    );
    let mut times: BTreeMap<ExecutionId, u32> = BTreeMap::new();
    for id in [first, second, third].concat() {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), children.len());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let state = engines[0].join_state(id(1), spec.join).await.unwrap().unwrap();
    assert_eq!((state.spawned, state.succeeded, state.failed), (CHILDREN, CHILDREN, 0));
    assert_eq!(engines[1].table_rows(None, "shared", None, 100).await.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_starts_under_a_key_wins_on_all_engines() {
    let database = fresh().await;
    let engines = [open(&database).await, open(&database).await];
    for round in 0..10 {
        let race = (0..12_u64).map(|racer| {
            let mut request = StartRequest::new(id(round * 100 + racer), json!({}));
            request.idempotency_key = Some(format!("key {round}"));
            // Two keys in one batch, in the order of the racer.
            let mut other = StartRequest::new(id(round * 100 + 50 + racer), json!({}));
            other.idempotency_key = Some(format!("other key {round}"));
            let mut batch = vec![started(&work(), request, at(0)), started(&work(), other, at(0))];
            if racer % 2 == 0 {
                batch.reverse();
            }
            let engine = &engines[usize::from(racer % 3 == 0)];
            async move { engine.commit(creates(at(0), batch)).await.unwrap().creates }
        });
        let outcomes = join_all(race).await.concat();
        let created = outcomes.iter().filter(|outcome| **outcome == CreateOutcome::Created).count();
        assert_eq!(created, 2, "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_starts_of_an_id_wins() {
    let database = fresh().await;
    let engines = [open(&database).await, open(&database).await];
    for round in 1..=10 {
        let race =
            (0..8).map(|racer| {
                let engine = &engines[usize::from(racer % 2 == 0)];
                async move {
                    engine.commit(creates(at(0), vec![root(&work(), round, at(0))])).await.unwrap().creates
                }
            });
        let outcomes = join_all(race).await.concat();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == CreateOutcome::Created).count(), 1);
        let history = engines[0].history(id(round), 0, 100).await.unwrap();
        replay(&history).unwrap();
    }
}

/// Commits until there is an answer.
async fn insist(store: &PostgresStore, batch: Batch) -> Committed {
    loop {
        match store.commit(batch.clone()).await {
            Ok(committed) => return committed,
            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_whose_connections_are_killed_are_stored_once_when_repeated() {
    let database = fresh().await;
    let store = open(&database).await;
    let flow = work();
    let done = AtomicBool::new(false);
    let kill = async {
        let mut kills = 0;
        while !done.load(Ordering::Relaxed) || kills == 0 {
            database.terminate_backends().await;
            kills += 1;
        }
        kills
    };
    let step = async {
        for number in 1..=15 {
            let created = root(&flow, number, at(0));
            let mut execution = created.execution.clone();
            // Stored, or stored before by the batch whose answer was lost.
            insist(&store, creates(at(0), vec![created])).await;
            for step in 1..=2 {
                let change = update(&flow, &execution, success(&execution, json!(step)), at(step));
                execution = change.execution.clone();
                insist(&store, updates(at(step), vec![change])).await;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let (kills, ()) = tokio::join!(kill, step);
    assert!(kills > 0);
    let calm = open(&database).await;
    let ids: Vec<_> = (1..=15).map(id).collect();
    let executions = calm.load(&ids).await.unwrap();
    assert_eq!(executions.len(), ids.len());
    for execution in executions {
        assert_eq!(execution.status(), Status::Completed);
        let history = calm.history(execution.id(), 0, 1000).await.unwrap();
        let sequences: Vec<u64> = history.iter().map(|recorded| recorded.sequence).collect();
        assert_eq!(sequences, (1..=execution.events).collect::<Vec<_>>());
        assert_eq!(replay(&history).unwrap().context, execution.context);
    }
}

#[tokio::test]
async fn a_dropped_commit_is_stored_whole_or_not_at_all_and_leaves_no_transaction() {
    let database = fresh().await;
    let store = open(&database).await;
    let flow = work();
    for polls in 0..40_u64 {
        let number = 100 + 2 * polls;
        let pair = || {
            let mut pair = [root(&flow, number, at(0)), root(&flow, number + 1, at(0))];
            if polls % 2 == 0 {
                // Such a batch needs a transaction.
                pair[0].idempotency = Some((format!("key {polls}"), at(1000)));
            }
            pair.to_vec()
        };
        {
            let mut commit = pin!(store.commit(creates(at(0), pair())));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if commit.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // The next caller finds a connection that is in no transaction: what it stores is there for others.
        start(&store, &flow, 1000 + polls, at(0)).await;
    }
    store.close().await;
    let other = open(&database).await;
    for polls in 0..40 {
        let number = 100 + 2 * polls;
        let found = other.load(&[id(number), id(number + 1)]).await.unwrap().len();
        assert!(found == 0 || found == 2, "half a batch after {polls} polls");
        assert_eq!(other.load(&[id(1000 + polls)]).await.unwrap().len(), 1, "after {polls} polls");
    }
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(open, 0);
}

#[tokio::test]
async fn an_ordinary_step_writes_no_index() {
    let database = fresh().await;
    let store = open(&database).await;
    let flow = work();
    for number in 1..=40 {
        let one = start(&store, &flow, number, at(0)).await;
        store_all(&store, updates(at(1), vec![update(&flow, &one, success(&one, json!(1)), at(1))])).await;
    }
    store.close().await;
    // What a connection counted is seen at the latest when it has ended.
    let seen = async || {
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let found: (i64, i64) = sqlx::query_as(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'fm_executions'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        found
    };
    let mut found = seen().await;
    while found.0 < 40 {
        found = seen().await;
    }
    assert_eq!(found, (40, 40));
}
