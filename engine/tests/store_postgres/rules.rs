//! The suite, and the same random work on every kind of store.

use std::sync::Arc;

use flowmonkey_engine::store::conformance::{RULES, compare};
use flowmonkey_engine::store::{
    Durability, MemoryStore, PostgresOptions, PostgresSession, PostgresStore, SqliteOptions, SqliteStore,
};
use flowmonkey_test_support::{PgBouncer, Postgres};
use sqlx::{Connection, PgConnection};

use super::{fresh, open, options};

/// Relaxed, so that the tests do not wait for the disk: no machine crashes in them.
const SQLITE: SqliteOptions = SqliteOptions { durability: Durability::Relaxed, max_pages: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postgres_store_keeps_all_rules() {
    for rule in RULES {
        eprintln!("postgres: {}", rule.name);
        let database = fresh().await;
        let store = open(&database).await;
        (rule.run)(Arc::new(store.clone())).await;
        assert_eq!(store.corrupt_rows(), 0);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_through_a_pooler_without_prepared_statements() {
    let postgres = Postgres::shared().await;
    let pooler = PgBouncer::start(postgres).await;
    for rule in RULES {
        eprintln!("pooler: {}", rule.name);
        let database = fresh().await;
        let options = PostgresOptions {
            session: PostgresSession::PooledUnnamed,
            ..options(&pooler.url(database.name()))
        };
        let store = PostgresStore::connect(options).await.unwrap();
        (rule.run)(Arc::new(store.clone())).await;
        store.close().await;
    }
}

#[tokio::test]
async fn it_can_be_migrated_through_a_pooler_again_and_again() {
    let postgres = Postgres::shared().await;
    let pooler = PgBouncer::start(postgres).await;
    let database = postgres.database().await;
    let options =
        PostgresOptions { session: PostgresSession::PooledUnnamed, ..options(&pooler.url(database.name())) };
    for _ in 0..2 {
        PostgresStore::migrate(&options).await.unwrap();
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let forget = "DROP VIEW fm_history_weeks; DROP TABLE fm_flows, fm_flows_generation, fm_definitions, fm_executions, fm_history,
            fm_timers, fm_subscriptions, fm_joins, fm_snapshots, fm_events, fm_idempotency, fm_budgets, fm_checkpoints,
            fm_context_patches, fm_failed_tasks, fm_jobs, fm_objects, fm_tables, fm_table_rows, fm_keys, fm_turns, fm_pools, fm_progress, fm_task_logs,
            fm_health, fm_retention, fm_operation_items, fm_operations, fm_pauses, fm_api_keys, fm_audit, fm_webhook_deliveries, fm_webhooks,
            fm_migrations, fm_schema;
            DROP FUNCTION fm_step, fm_start, fm_follow, fm_first_id, fm_prepare_history, fm_retire_history, fm_forget,
            fm_forget_whole, fm_delete_tree, fm_prune, fm_prune_flow, fm_times_in_order, fm_next_flows_generation";
        sqlx::raw_sql(forget).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_sqlite_give_the_same_answers() {
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = SqliteStore::open(&directory.path().join("record"), SQLITE).await.unwrap();
        let database = fresh().await;
        let postgres = open(&database).await;
        let effective = compare(&sqlite, &postgres, seed, 60).await;
        assert!(effective > 20, "seed {seed} did too little: {effective}");
        assert_eq!(postgres.corrupt_rows(), 0);
        postgres.close().await;
        sqlite.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_memory_give_the_same_answers() {
    for seed in 100..104 {
        let database = fresh().await;
        let postgres = open(&database).await;
        let effective = compare(&MemoryStore::default(), &postgres, seed, 60).await;
        assert!(effective > 20, "seed {seed} did too little: {effective}");
        postgres.close().await;
    }
}
