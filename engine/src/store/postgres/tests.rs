//! Tests that look inside: statements, plans, the schema, error codes.

use std::collections::BTreeSet;
use std::path::Path;

use flowmonkey_test_support::{Postgres, TestDatabase};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{PostgresOptions, PostgresStore, error, schema, sql};
use crate::store::compatibility::takes_away;
use crate::store::{COUNT_MAX, Count, ExecutionFilter, SearchStore, StoreError};

/// Statements that may read a whole table: it is small, or all of it is asked for.
const MAY_SCAN: &[(&str, &str)] = &[
    ("flows_list", "fm_flows"),
    ("joins_page", "fm_joins"),
    ("tables_list", "fm_tables"),
    // There are few beside the executions that have ended.
    ("checkpoints_prune", "fm_checkpoints"),
    // Those of attempts that are over are most of them: results take their own away.
    ("context_patches_prune", "fm_context_patches"),
];
/// Tables without rows in this test, or with one: any plan will do for them.
const EMPTY: &[&str] = &[
    "fm_api_keys",
    "fm_audit",
    "fm_definitions",
    "fm_flows",
    "fm_flows_generation",
    "fm_health",
    "fm_joins",
    "fm_keys",
    "fm_objects",
    "fm_operation_items",
    "fm_operations",
    "fm_pauses",
    "fm_pools",
    "fm_retention",
    "fm_tables",
    "fm_turns",
    "fm_webhooks",
];
/// Partitions of weeks, which are empty, too.
const WEEKS: &str = "fm_history_2";
/// Rows that make reading all of a table dear.
const FILL: &str = "
    INSERT INTO fm_executions (id, version, status, updated_at, ended_at, task_out, abandon, root_id, created_at, flow_id,
        flow_version, current_step, labels, state, context)
    SELECT id, 1, CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'completed' END, 0, CASE WHEN n % 2 = 0 THEN NULL ELSE n END, false,
        false, id, 0, 'flow ' || n % 50, '1', 's', '{}', repeat('x', 200), '{}'
    FROM generate_series(1, 20000) AS n, LATERAL (SELECT lpad(n::text, 32, '0')::uuid AS id) AS made;
    INSERT INTO fm_history SELECT id, 1, 0, '[]' FROM fm_executions;
    INSERT INTO fm_timers SELECT id, 0 FROM fm_executions;
    INSERT INTO fm_subscriptions SELECT id, 'n' || left(id::text, 3) FROM fm_executions;
    INSERT INTO fm_checkpoints SELECT id, 1, '', 0, '' FROM fm_executions;
    INSERT INTO fm_jobs (execution_id, task_number, attempt, status, step_id, handler_type, created_at, completed_at, retry_count)
        SELECT id, 1, 1, 'completed', 's', 'h', 0, 0, 0 FROM fm_executions;
    INSERT INTO fm_context_patches SELECT id, 1, 1, 1, 2, '[]' FROM fm_executions;
    INSERT INTO fm_progress (execution_id, task_number, at, attempt, percent, step_id, progress)
        SELECT id, 1, right(id::text, 5)::int8, 1, 0, 's', '{}' FROM fm_executions;
    INSERT INTO fm_task_logs SELECT id, 1, 1, 1, right(id::text, 5)::int8, 's', 'info', '' FROM fm_executions;
    INSERT INTO fm_budgets SELECT id, 0, 0, 0 FROM fm_executions;
    INSERT INTO fm_snapshots SELECT id, 1, NULL, NULL, '', '', '' FROM fm_executions;
    INSERT INTO fm_events (id, name, at, delivered, data) SELECT id::text, right(id::text, 3), 0, true, '' FROM fm_executions;
    UPDATE fm_events SET source = id::uuid;
    INSERT INTO fm_webhooks (id, url, secret, patterns, description, active, created_at) VALUES ('w', '', '', '[]', '', true, 0);
    INSERT INTO fm_webhook_deliveries (webhook_id, event_id, event_name, status, attempts, next_at, created_at) SELECT 'w', id::text, 'n', 'delivered', 0, 0, 0 FROM fm_executions;
    INSERT INTO fm_idempotency SELECT '', 'f', id::text, id, '', 0 FROM fm_executions;
    INSERT INTO fm_failed_tasks (execution_id, at, task) SELECT id, 0, '' FROM fm_executions;
    INSERT INTO fm_table_rows SELECT row_number() OVER (), right(id::text, 2), id::text, id, NULL, 0, '' FROM fm_executions;
    ANALYZE";

async fn migrated() -> (TestDatabase, PgConnection) {
    let template = Postgres::shared().await.template("inside", |url| async move {
        PostgresStore::migrate(&PostgresOptions::new(url)).await.unwrap();
    });
    let database = template.await.database().await;
    let connection = PgConnection::connect(&database.url()).await.unwrap();
    (database, connection)
}

#[tokio::test]
async fn every_statement_prepares_and_none_reads_a_whole_table() {
    let (_database, mut connection) = migrated().await;
    sqlx::raw_sql(FILL).execute(&mut connection).await.unwrap();
    // What a plan looks like when its parameters are not known.
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut connection).await.unwrap();
    let files =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/postgres/queries")).unwrap();
    assert_eq!(files.count(), sql::ALL.len(), "every file is a statement of ours");
    let mut wrong = Vec::new();
    for (name, statement) in sql::ALL {
        let prepare = format!("PREPARE {name} AS {statement}");
        let prepared = sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await;
        prepared.unwrap_or_else(|error| panic!("{name}: {error}"));
        let parameters = (1..=99).rev().find(|number| statement.contains(&format!("${number}"))).unwrap_or(0);
        let nulls = vec!["NULL"; parameters].join(", ");
        let nulls = if parameters == 0 { String::new() } else { format!("({nulls})") };
        let plan = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN EXECUTE {name}{nulls}")))
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for step in plan {
            let step: String = step.get(0);
            let Some((_, table)) = step.split_once("Seq Scan on fm_") else { continue };
            let table = format!("fm_{}", table.split(' ').next().unwrap_or_default());
            let may = MAY_SCAN.contains(&(*name, table.as_str()))
                || EMPTY.contains(&table.as_str())
                || table.starts_with(WEEKS);
            if !may {
                wrong.push(format!("{name} reads all of {table}: {step}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn counts_of_many_stop_at_their_bound() {
    let (database, mut connection) = migrated().await;
    sqlx::raw_sql(FILL).execute(&mut connection).await.unwrap();
    let store = PostgresStore::connect(PostgresOptions::new(database.url())).await.unwrap();
    let count = async |flow: Option<&str>| {
        let flow_id = flow.map(str::to_owned);
        store.count(&ExecutionFilter { flow_id, ..ExecutionFilter::default() }).await.unwrap()
    };
    assert_eq!(count(None).await, Count { count: COUNT_MAX, exact: false });
    assert_eq!(count(Some("flow 7")).await, Count { count: 400, exact: true });
    store.close().await;
}

#[tokio::test]
async fn the_committed_schema_is_current() {
    let (_database, mut connection) = migrated().await;
    let dump: String = sqlx::query_scalar(include_str!("dump.sql")).fetch_one(&mut connection).await.unwrap();
    let dump = dump.trim_start().to_owned();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres/schema.sql");
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        std::fs::write(file, &dump).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap();
    assert_eq!(dump, committed, "run the test with FLOWMONKEY_BLESS=1 and look at the difference");
}

#[tokio::test]
async fn no_index_holds_what_an_ordinary_step_changes() {
    let (_database, mut connection) = migrated().await;
    let indexes: Vec<String> =
        sqlx::query_scalar("SELECT indexdef FROM pg_indexes WHERE tablename = 'fm_executions'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    for index in indexes.iter().filter(|index| !index.contains("WHERE (ended_at IS NOT NULL)")) {
        for column in ["version", "updated_at", "current_step", "status", "task_number", "task_attempt"] {
            assert!(!index.contains(column), "{index}");
        }
    }
}

#[test]
fn migrations_are_all_embedded_and_say_why() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "schema.sql")
        .collect();
    names.sort();
    assert_eq!(i64::try_from(names.len()).unwrap(), schema::POSTGRES_SCHEMA_VERSION);
    for (index, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", index + 1)), "{name} is out of order");
        let text = std::fs::read_to_string(Path::new(directory).join(name)).unwrap();
        // All run in one transaction.
        assert!(text.starts_with("-- Why: ") && !text.contains("CONCURRENTLY"), "{name}");
    }
}

#[test]
fn migrations_add_or_say_that_they_do_not() {
    for ((name, text), version) in schema::MIGRATIONS.iter().zip(1..) {
        let taken = takes_away(text).filter(|_| version > schema::READABLE_FROM);
        assert_eq!(
            taken, None,
            "`{name}`: raise READABLE_FROM, and tell in the changelog to stop the old release"
        );
    }
}

#[tokio::test]
async fn states_that_cannot_be_are_refused_by_name() {
    let (_database, mut connection) = migrated().await;
    let good = "INSERT INTO fm_executions (id, version, status, updated_at, task_out, abandon, root_id, created_at,
        flow_id, flow_version, current_step, labels, state, context)
        SELECT id, 1, 'waiting', 0, false, false, id, 0, 'f', '1', 's', '{}', '{}', '{}' FROM gen_random_uuid() AS id";
    sqlx::query(good).execute(&mut connection).await.unwrap();
    let out = "task_out = true, task_number = 1, task_attempt = 1, task_scheduled_at = 0, task_pool = 'p'";
    for (change, constraint) in [
        ("status = 'completed'", "ended_iff_terminal"),
        ("ended_at = 1", "ended_iff_terminal"),
        ("status = 'sleeping'", "status_known"),
        ("status = 'waiting_for_worker'", "task_out_fits_status"),
        ("task_out = true", "task_named_iff_out"),
        ("task_number = 1", "task_named_iff_out"),
        ("task_pool = 'p'", "task_named_iff_out"),
        (out, "task_out_fits_status"),
        ("parent_id = gen_random_uuid()", "child_named_iff_parent"),
        ("root_id = gen_random_uuid()", "root_is_itself_iff_no_parent"),
        ("output = '1'", "output_only_when_completed"),
    ] {
        let update = format!("UPDATE fm_executions SET {change}");
        let refused = sqlx::query(AssertSqlSafe(update)).execute(&mut connection).await.unwrap_err();
        let StoreError::Internal { reason } = error::classify("the record", refused) else {
            panic!("{change} is not our mistake");
        };
        assert!(reason.contains(constraint), "{change}: {reason}");
    }
}

/// What becomes of each error code: the name of the kind.
const KINDS: &[(&str, &str)] = &[
    ("08006", "unavailable"),
    ("57P01", "unavailable"),
    ("57P03", "unavailable"),
    ("57014", "unavailable"),
    ("53300", "unavailable"),
    ("25006", "unavailable"),
    ("25P03", "unavailable"),
    ("40001", "unavailable"),
    ("40P01", "unavailable"),
    ("55P03", "unavailable"),
    ("58030", "unavailable"),
    ("42501", "unavailable"),
    ("28000", "unavailable"),
    ("3D000", "unavailable"),
    ("53100", "full"),
    ("53200", "full"),
    ("54000", "full"),
    ("XX001", "corrupt"),
    ("XX002", "corrupt"),
    ("42P01", "schema"),
    ("42703", "schema"),
    ("42883", "schema"),
    ("23505", "internal"),
    ("22P02", "internal"),
    ("XX000", "internal"),
];

#[tokio::test]
async fn error_codes_are_translated() {
    let database = Postgres::shared().await.database().await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let mut kinds = BTreeSet::new();
    for (code, expected) in KINDS {
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '{code}'; END $$");
        let raised = sqlx::raw_sql(AssertSqlSafe(raise)).execute(&mut connection).await.unwrap_err();
        let kind = match error::classify("the record", raised) {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::Full { .. } => "full",
            StoreError::Corrupt { .. } => "corrupt",
            StoreError::Schema { .. } => "schema",
            StoreError::Internal { .. } => "internal",
        };
        assert_eq!(kind, *expected, "{code}");
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 5);
}
