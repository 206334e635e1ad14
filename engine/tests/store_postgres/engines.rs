//! Several engines on one record, and what goes wrong between them and it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use flowmonkey_core::execution::command::TableRow;
use flowmonkey_core::execution::{StartRequest, Status, replay};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::store::conformance::fixture::{
    at, creates, each, id, opened, root, row, spawning, start, started, store_all, success,
    success_with_rows, update, update_within, updates, work,
};
use flowmonkey_engine::store::{
    Batch, Committed, Create, CreateOutcome, FlowRow, PostgresStore, Store, StoreError, Update,
};
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

/// Engines of before, people and tools that change flows by statements of their own.
#[tokio::test]
async fn whoever_changes_flows_begins_a_generation_of_them() {
    let database = fresh().await;
    let store = open(&database).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let definition = "INSERT INTO fm_definitions VALUES ('h', 'f', '1.0.0', 'published', '{}')";
    sqlx::raw_sql(definition).execute(&mut connection).await.unwrap();
    let mut seen = Vec::new();
    let generation = "SELECT generation FROM fm_flows_generation";
    for (statement, changes) in [
        ("INSERT INTO fm_flows VALUES ('f', '1.0.0', 'h', 'published', 7, '') ON CONFLICT DO NOTHING", true),
        ("INSERT INTO fm_flows VALUES ('f', '1.0.0', 'h', 'published', 7, '') ON CONFLICT DO NOTHING", false),
        (
            "INSERT INTO fm_flows SELECT 'f', n || '.0.0', 'h', 'draft', 7, '' FROM generate_series(2, 1000) AS n",
            true,
        ),
        ("UPDATE fm_flows SET status = 'published' WHERE version = '7.0.0'", true),
        ("UPDATE fm_flows SET status = 'published' WHERE version = '0.0.7'", false),
        ("DELETE FROM fm_flows WHERE version = '0.0.7'", false),
        ("DELETE FROM fm_flows WHERE version = '1.0.0'", true),
        // What the last ones were is lost: a backup was restored, or a replica took over.
        ("UPDATE fm_flows_generation SET generation = 1; UPDATE fm_flows SET published_at = 8", true),
        ("TRUNCATE fm_flows", true),
    ] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        let now: i64 = sqlx::query_scalar(generation).fetch_one(&mut connection).await.unwrap();
        assert_eq!(!seen.contains(&now), changes, "{statement}: {now} after {seen:?}");
        seen.push(now);
    }
    // A change that is taken back was none; and without a generation, none is told.
    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO fm_flows VALUES ('f', '1.0.0', 'h', 'published', 7, '')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    let now: i64 = sqlx::query_scalar(generation).fetch_one(&mut connection).await.unwrap();
    assert_eq!(Some(&now), seen.last());
    let insert = "DELETE FROM fm_flows_generation; INSERT INTO fm_flows VALUES ('f', '1.0.0', 'h', 'published', 7, '')";
    sqlx::raw_sql(insert).execute(&mut connection).await.unwrap();
    let found = store.find_flow(None, "f", None).await.unwrap();
    assert!(found.flow.is_some() && found.generation.is_none(), "{found:?}");
    let flows = Some(u64::try_from(now).unwrap());
    let outcomes = store
        .commit(creates(at(0), vec![Create { flows, ..root(&work(), 1, at(0)) }]))
        .await
        .unwrap()
        .creates;
    assert_eq!(outcomes, [CreateOutcome::FlowsChanged]);
    store.close().await;
}

/// A start that is asked for after a publication was answered never is of an earlier generation, however many are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_among_publications_are_of_their_generation() {
    const PUBLICATIONS: u64 = 40;
    let database = fresh().await;
    let (publishes, starts) = (open(&database).await, open(&database).await);
    let flow = row(&work());
    let version = |number: u64| FlowRow { version: format!("1.{number}.0"), ..flow.clone() };
    publishes.publish(None, &version(0), at(0)).await.unwrap();
    // The last publication that was answered.
    let answered = AtomicU64::new(0);
    let publish = async {
        for number in 1..=PUBLICATIONS {
            publishes.publish(None, &version(number), at(0)).await.unwrap();
            answered.store(number, Ordering::SeqCst);
        }
    };
    let start = async |lane: u64| {
        let (mut known, mut number, mut refused) = (None, 0, 0);
        loop {
            let least = answered.load(Ordering::SeqCst);
            let (latest, flows) = match known.take() {
                Some(known) => known,
                None => {
                    let found = starts.find_flow(None, &flow.id, None).await.unwrap();
                    (found.flow.unwrap().version, found.generation)
                }
            };
            number += 1;
            let mut create = Create { flows, ..root(&work(), 100_000 * (lane + 1) + number, at(0)) };
            // Every second lane needs transactions.
            create.idempotency = lane.is_multiple_of(2).then(|| (format!("{lane} {number}"), at(1000)));
            let outcome = starts.commit(creates(at(0), vec![create])).await.unwrap().creates.remove(0);
            match outcome {
                CreateOutcome::Created => {
                    let of: u64 = latest.split('.').nth(1).unwrap().parse().unwrap();
                    assert!(of >= least, "{of} was started after {least} was published");
                    if of == PUBLICATIONS {
                        return refused;
                    }
                    known = Some((latest, flows));
                }
                CreateOutcome::FlowsChanged => refused += 1,
                CreateOutcome::Existing { .. } | CreateOutcome::IdTaken | CreateOutcome::NotSpawned => {
                    panic!("{outcome:?}")
                }
            }
        }
    };
    let ((), refused) = tokio::join!(publish, join_all((0..4).map(start)));
    assert!(refused.iter().sum::<u64>() > 0, "flows have changed under no start");
    publishes.close().await;
    starts.close().await;
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
