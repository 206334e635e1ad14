//! History goes by weeks.

use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::conformance::fixture::{
    at, failure, id, root, start, store_all, update, updates, work,
};
use flowmonkey_engine::store::{Retention, Store};
use sqlx::{Connection, PgConnection};

use super::{fresh, open};

fn before(executions: Timestamp) -> Retention {
    let never = Timestamp::from_millis(0);
    Retention {
        executions_before: executions,
        events_before: never,
        checkpoints_before: never,
        keys_before: never,
        progress_before: never,
        logs_before: never,
    }
}

async fn count(connection: &mut PgConnection, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(connection).await.unwrap()
}

const WEEKS: &str = "SELECT count(*) FROM fm_history_weeks";
const ROWS: &str = "SELECT count(*) FROM fm_history";

#[tokio::test]
async fn the_weeks_to_come_have_partitions() {
    let database = fresh().await;
    let store = open(&database).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    assert_eq!(count(&mut connection, WEEKS).await, 5);
    let other = open(&database).await;
    store.prune(&before(at(0)), 10).await.unwrap();
    other.prune(&before(at(0)), 10).await.unwrap();
    assert_eq!(count(&mut connection, WEEKS).await, 5);
}

#[tokio::test]
async fn a_week_is_dropped_when_the_last_of_its_executions_is_gone() {
    let database = fresh().await;
    let store = open(&database).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    // A week that holds the executions of these tests.
    let week = "CREATE TABLE fm_history_old PARTITION OF fm_history
        FOR VALUES FROM (fm_first_id(0)) TO (fm_first_id(1790000000000))";
    sqlx::raw_sql(week).execute(&mut connection).await.unwrap();
    let flow = work();
    let one = start(&store, &flow, 1, at(0)).await;
    let two = start(&store, &flow, 2, at(0)).await;
    let rows = count(&mut connection, ROWS).await;
    store_all(&store, updates(at(1), vec![update(&flow, &one, failure(&one), at(1))])).await;
    assert_eq!(store.prune(&before(at(100)), 10).await.unwrap(), 1);
    assert!(store.history(id(1), 0, 10).await.unwrap().is_empty());
    assert!(!store.history(id(2), 0, 10).await.unwrap().is_empty());
    assert_eq!(count(&mut connection, ROWS).await, rows / 2, "the other one is alive and holds its week");
    store_all(&store, updates(at(2), vec![update(&flow, &two, failure(&two), at(2))])).await;
    assert_eq!(store.prune(&before(at(100)), 10).await.unwrap(), 1);
    assert_eq!(count(&mut connection, ROWS).await, 0);
    assert_eq!(count(&mut connection, WEEKS).await, 5, "the old week is gone, the others stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_prune_at_once() {
    let database = fresh().await;
    let engines = [open(&database).await, open(&database).await];
    let flow = work();
    let mut changes = Vec::new();
    let mut batch = Vec::new();
    for number in 1..=30 {
        let create = root(&flow, number, at(0));
        let one = create.execution.clone();
        batch.push(create);
        changes.push(update(&flow, &one, failure(&one), at(1)));
    }
    store_all(&engines[0], flowmonkey_engine::store::conformance::fixture::creates(at(0), batch)).await;
    store_all(&engines[0], updates(at(1), changes)).await;
    let all = async |engine: &flowmonkey_engine::store::PostgresStore| {
        let mut gone = 0;
        // What the other one holds is left out, so that an empty answer does not say that nothing is left.
        while !engine.load(&(1..=30).map(id).collect::<Vec<_>>()).await.unwrap().is_empty() {
            gone += engine.prune(&before(at(100)), 3).await.unwrap();
        }
        gone
    };
    let (first, second) = tokio::join!(all(&engines[0]), all(&engines[1]));
    assert_eq!(first + second, 30);
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    assert_eq!(count(&mut connection, ROWS).await, 0);
}
