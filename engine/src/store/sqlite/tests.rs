//! Tests that look inside: statements, plans, the schema, error codes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::execution::StartRequest;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Row, SqliteConnection};

use super::prepare::PreparedBatch;
use super::{SqliteOptions, SqliteStore, error, schema, sql};
use crate::access::Visibility;
use crate::store::compatibility::takes_away;
use crate::store::conformance::RULES;
use crate::store::conformance::fixture::{at, creates, id, root, started, success, update, updates, work};
use crate::store::{Batch, Committed, CreateOutcome, Store, StoreError};

/// Statements that may read a whole table: it is small, or all of it is asked for.
const MAY_SCAN: &[(&str, &str)] = &[
    ("flows_list", "fm_flows"),
    ("tables_list", "fm_tables"),
    // There are a hundred at most.
    ("webhooks_list", "fm_webhooks"),
    ("webhooks_due", "fm_webhooks"),
    ("joins_page", "fm_joins"),
    // Flows, pauses and their like are few.
    ("flows_archived", "fm_flows"),
    ("failed_tasks_page", "fm_failed_tasks"),
    ("pauses_list", "fm_pauses"),
    ("retention_list", "fm_retention"),
    // Those of attempts that are over are most of them: results take their own away.
    ("context_patches_prune", "fm_context_patches"),
    // A row for each large checkpoint.
    ("objects_garbage", "fm_objects"),
    // All executions by id, up to the limit.
    ("executions_list_all", "fm_executions"),
];

async fn connect(path: &Path) -> SqliteConnection {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(Duration::ZERO);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn migrated(path: &Path) -> SqliteConnection {
    SqliteStore::open(path, SqliteOptions::default()).await.unwrap().close().await;
    connect(path).await
}

#[tokio::test]
async fn every_statement_prepares_and_none_reads_a_whole_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = migrated(&directory.path().join("record")).await;
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/sqlite/queries")).unwrap();
    assert_eq!(files.count(), sql::ALL.len(), "every file is a statement of ours");
    for (name, statement) in sql::ALL {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let plan = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(&mut connection).await;
        let plan = plan.unwrap_or_else(|error| panic!("{name}: {error}"));
        for step in plan {
            let step: String = step.get("detail");
            let Some(table) = step.strip_prefix("SCAN fm_").and_then(|rest| rest.split(' ').next()) else {
                continue;
            };
            let by_index = step.contains("USING INDEX") || step.contains("USING COVERING INDEX");
            let may = MAY_SCAN.contains(&(*name, &format!("fm_{table}")));
            assert!(by_index || may, "{name} reads all of fm_{table}: {step}");
        }
    }
}

#[tokio::test]
async fn the_committed_schema_is_current() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = migrated(&directory.path().join("record")).await;
    let dump = schema::dump(&mut connection).await.unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/schema.sql");
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        std::fs::write(file, &dump).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap();
    assert_eq!(dump, committed, "run the test with FLOWMONKEY_BLESS=1 and look at the difference");
}

#[tokio::test]
async fn migrations_are_all_embedded_and_say_why() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "schema.sql")
        .collect();
    names.sort();
    assert_eq!(i64::try_from(names.len()).unwrap(), schema::SCHEMA_VERSION);
    for (index, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", index + 1)), "{name} is out of order");
        let text = std::fs::read_to_string(Path::new(directory).join(name)).unwrap();
        assert!(text.starts_with("-- Why: "), "{name} does not say why");
    }
}

#[tokio::test]
async fn states_that_cannot_be_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = migrated(&directory.path().join("record")).await;
    let good =
        "INSERT INTO fm_executions (id, version, status, updated_at, task_out, abandon, root_id, created_at,
        flow_id, flow_version, current_step, labels, state, context)
        VALUES (zeroblob(16), 1, 'waiting', 0, 0, 0, zeroblob(16), 0, 'f', '1', 's', '{}', '{}', '{}')";
    sqlx::query(good).execute(&mut connection).await.unwrap();
    for (change, constraint) in [
        ("status = 'completed'", "ended_iff_terminal"),
        ("ended_at = 1", "ended_iff_terminal"),
        ("status = 'sleeping'", "status_known"),
        ("status = 'waiting_for_worker'", "task_out_fits_status"),
        ("task_out = 1", "task_named_iff_out"),
        ("task_number = 1", "task_named_iff_out"),
        ("task_out = 1, task_number = 1, task_attempt = 1, task_scheduled_at = 0", "task_out_fits_status"),
        ("task_out = 2", "task_out_is_bool"),
        ("parent_id = zeroblob(16)", "child_named_iff_parent"),
        ("root_id = randomblob(16)", "root_is_itself_iff_no_parent"),
        ("output = '1'", "output_only_when_completed"),
        ("id = zeroblob(15)", "id_is_uuid"),
    ] {
        let update = format!("UPDATE fm_executions SET {change}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut connection).await.unwrap_err();
        let StoreError::Internal { reason } = error::classify(Path::new("record"), refused) else {
            panic!("{change} is not our mistake");
        };
        assert!(reason.contains(constraint), "{change}: {reason}");
    }
}

#[tokio::test]
async fn a_locked_database_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let mut one = migrated(&path).await;
    let mut other = connect(&path).await;
    let writing = one.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let refused = other.begin_with("BEGIN IMMEDIATE").await.err().unwrap();
    let error = error::classify(&path, refused);
    assert!(matches!(&error, StoreError::Unavailable { reason, .. } if reason.contains("locked")), "{error}");
    assert!(error.is_retryable());
    writing.rollback().await.unwrap();
    other.begin_with("BEGIN IMMEDIATE").await.unwrap().rollback().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_a_cure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let mut connection = migrated(&path).await;
    sqlx::query("PRAGMA user_version = 999").execute(&mut connection).await.unwrap();
    for says in ["UPDATE fm_schema SET readable_from = 999", "DELETE FROM fm_schema", "DROP TABLE fm_schema"]
    {
        sqlx::query(says).execute(&mut connection).await.unwrap();
        for error in [
            SqliteStore::open(&path, SqliteOptions::default()).await.err().unwrap(),
            super::verify(&path).await.unwrap_err(),
        ] {
            let StoreError::Schema { found: 999, needed, cure } = error else { panic!("{error}") };
            assert_eq!(needed, schema::SCHEMA_VERSION);
            assert!(cure.contains("release"));
        }
    }
}

/// As after a step back to the release before.
#[tokio::test]
async fn a_newer_file_that_says_so_is_opened_and_stays_newer() {
    let newer = schema::SCHEMA_VERSION + 1;
    let next = format!(
        "PRAGMA user_version = {newer}; CREATE TABLE fm_later (id INTEGER PRIMARY KEY) STRICT;
        ALTER TABLE fm_executions ADD COLUMN later TEXT NOT NULL DEFAULT ''"
    );
    for rule in ["an_execution_reads_back_as_it_was_written", "the_same_key_gives_the_same_execution"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        let mut connection = migrated(&path).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(next.clone())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let rule = RULES.iter().find(|known| known.name == rule).unwrap();
        let store = SqliteStore::open(&path, SqliteOptions::default()).await.unwrap();
        (rule.run)(Arc::new(store)).await;
        assert_eq!(super::verify(&path).await.unwrap(), newer);
    }
}

#[test]
fn migrations_add_or_say_that_they_do_not() {
    for (text, version) in schema::MIGRATIONS.iter().zip(1..) {
        let taken = takes_away(text).filter(|_| version > schema::READABLE_FROM);
        assert_eq!(
            taken, None,
            "migration {version}: raise READABLE_FROM, and tell in the changelog to stop the old release"
        );
    }
}

#[tokio::test]
async fn the_database_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other");
    let mut connection = connect(&path).await;
    sqlx::query("CREATE TABLE things (id INTEGER)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let refused = SqliteStore::open(&path, SqliteOptions::default()).await.err().unwrap();
    assert!(
        matches!(&refused, StoreError::Corrupt { reason, .. } if reason.contains("another program")),
        "{refused}"
    );
    let mut connection = connect(&path).await;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await.unwrap();
    assert_eq!(tables, 1);
}

/// Stores `batch` if it can be stored in one statement.
async fn in_one(store: &SqliteStore, batch: Batch) -> Option<Committed> {
    let mut writer = store.writer.lend().await.unwrap();
    let stored = store.store_whole(&mut writer, &PreparedBatch::new(batch).unwrap()).await.unwrap();
    writer.give_back();
    stored
}

#[tokio::test]
async fn an_ordinary_batch_is_one_statement_and_any_other_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("record"), SqliteOptions::default()).await.unwrap();
    let flow = work();
    let keyed = |number, key: &str| {
        let mut request = StartRequest::new(id(number), serde_json::json!({}));
        request.idempotency_key = Some(key.into());
        started(&flow, request, at(0))
    };
    let one = root(&flow, 1, at(0));
    let committed = in_one(&store, creates(at(0), vec![one.clone(), keyed(2, "a")])).await.unwrap();
    assert_eq!(committed.creates, [CreateOutcome::Created, CreateOutcome::Created]);
    let step = update(&flow, &one.execution, success(&one.execution, serde_json::json!(1)), at(1));
    assert_eq!(in_one(&store, updates(at(1), vec![step.clone()])).await.unwrap().updates, [true]);

    // Beside a create that is well each time: an id that is taken, a key that is taken, two of a key, a version that has
    // gone by, two decisions on one execution, a fan-out that is not in the batch.
    let well = || root(&flow, 9, at(2));
    let next = update(&flow, &step.execution, success(&step.execution, serde_json::json!(2)), at(2));
    let mut child = root(&flow, 5, at(2));
    child.spawn = Some(0);
    for batch in [
        creates(at(2), vec![well(), one]),
        creates(at(2), vec![well(), keyed(3, "a")]),
        creates(at(2), vec![well(), keyed(3, "b"), keyed(4, "b")]),
        Batch { creates: vec![well()], ..updates(at(2), vec![step.clone()]) },
        Batch { creates: vec![well()], ..updates(at(2), vec![next.clone(), next.clone()]) },
        creates(at(2), vec![well(), child]),
    ] {
        assert_eq!(in_one(&store, batch).await, None);
        assert!(store.load(&[id(9)]).await.unwrap().is_empty());
    }
    assert_eq!(store.load(&[id(1)]).await.unwrap(), [(*step.execution).clone()]);
    assert_eq!(in_one(&store, updates(at(2), vec![next])).await.unwrap().updates, [true]);
}

#[tokio::test]
async fn a_connection_that_is_abandoned_is_replaced_and_what_it_did_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("record"), SqliteOptions::default()).await.unwrap();
    let mut writer = store.writer.lend().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.unwrap();
    sqlx::query("INSERT INTO fm_tables (id, columns, defined_at) VALUES ('t', '[]', 0)")
        .execute(&mut *writer)
        .await
        .unwrap();
    drop(writer);
    let create = root(&work(), 1, at(0));
    assert!(in_one(&store, creates(at(0), vec![create])).await.is_some());
    assert!(store.tables(&Visibility::All).await.unwrap().is_empty());
    store.close().await;
    assert!(matches!(store.tables(&Visibility::All).await, Err(StoreError::Unavailable { .. })));
}
