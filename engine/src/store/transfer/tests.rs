//! That nothing is forgotten, and that everything arrives as it left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use flowmonkey_test_support::{Postgres, TestDatabase};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use super::tables::{Kind, STAY, TABLES, Table};
use super::{TransferError, transfer};
use crate::store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, StoreError};

/// A row or two in every table, with everything that texts can hold.
const FILL: &str = r#"
    INSERT INTO fm_definitions VALUES ('h', 'f', '1.0.0', 'published', '{"a":"tab	and \\ and \n"}');
    INSERT INTO fm_flows VALUES ('f', '1.0.0', 'h', 'published', 7, ''), ('f', '1.0.0', 'h', 'published', 7, 't');
    INSERT INTO fm_executions (id, version, status, updated_at, task_out, abandon, root_id, created_at, flow_id,
        flow_version, current_step, waiting_reason, tenant_id, labels, state, context, ended_at, output)
    VALUES (x'00112233445566778899aabbccddeeff', 3, 'waiting', 5, 0, 0, x'00112233445566778899aabbccddeeff', 4, 'f', '1.0.0',
        'a' || char(9) || 'b' || char(10) || char(13) || '\', 'ünï \N \t', NULL, '{"k": "v"}', '{}', '{"x":"😀"}', NULL, NULL),
        (x'10112233445566778899aabbccddeeff', 3, 'completed', 5, 0, 0, x'10112233445566778899aabbccddeeff', 4, 'f', '1.0.0',
        '', NULL, 't', '{}', '{}', '{}', 9, '"\\N"');
    INSERT INTO fm_history SELECT id, 1, 2, '[]' FROM fm_executions;
    INSERT INTO fm_timers SELECT id, -5 FROM fm_executions;
    INSERT INTO fm_subscriptions SELECT id, 'n', coalesce(tenant_id, '') FROM fm_executions;
    INSERT INTO fm_joins SELECT id, 1, 10, 5, 3, 1, 1, 1, 4, NULL, 0.1, 9007199254740993, 2 FROM fm_executions;
    INSERT INTO fm_snapshots SELECT id, 1, id, 2, 's', 'c', 'i' FROM fm_executions;
    INSERT INTO fm_snapshots SELECT id, 2, NULL, NULL, '', '', '' FROM fm_executions;
    INSERT INTO fm_events (sequence, id, name, source, at, delivered, data)
        SELECT 41, 'e', 'n', id, 1, 1, '{}' FROM fm_executions LIMIT 1;
    INSERT INTO fm_events (sequence, id, name, source, at, delivered, data, attributes, tenant_id)
        VALUES (42, 'f', 'n', NULL, 1, 0, '{}', '{"source":"/s"}', 't');
    INSERT INTO fm_webhooks VALUES ('w', 'https://r.example/', 'whsec_a', '["*"]', 'd', 1, NULL, 5, 6, 't'),
        ('v', 'https://r.example/', 'whsec_b', '[]', '', 0, 'gone', NULL, 7, '');
    INSERT INTO fm_webhook_deliveries VALUES ('w', 'e', 'n', 'pending', 2, 3, 4, 5, 500, 'no', 6),
        ('w', 'f', 'n', 'delivered', 0, 3, 4, NULL, NULL, NULL, NULL);
    INSERT INTO fm_idempotency SELECT '', 'f', 'k' || hex(id), id, 'i', 99 FROM fm_executions;
    INSERT INTO fm_budgets SELECT id, 1e-7, 5, 6 FROM fm_executions;
    INSERT INTO fm_progress SELECT id, 1, 3, 1, 's', 12.5, '{"percent":12.5}' FROM fm_executions;
    INSERT INTO fm_task_logs SELECT id, 1, 1, 1, 4, 's', 'warn', 'said' FROM fm_executions;
    INSERT INTO fm_jobs SELECT id, 1, 2, 'running', 's', 'h', 'w', 1, 2, NULL, NULL, 0.5, 'm', 3, 'c', 4, 5, 6, '{}'
        FROM fm_executions;
    INSERT INTO fm_context_patches SELECT id, 1, 2, 3, 2, '[]' FROM fm_executions;
    INSERT INTO fm_checkpoints (execution_id, task_number, id, saved_at, data, version, bytes, kind, content_type, object_key)
        SELECT id, 1, 'c', 2, '{}', 4, 5, 'object', 'text/plain', 'k' || hex(id) FROM fm_executions;
    INSERT INTO fm_objects VALUES ('k', 1, 3);
    INSERT INTO fm_failed_tasks SELECT 17, id, 3, '{}', 1, 'h', 'E', 'replayed', 4, 'me', 'why' FROM fm_executions LIMIT 1;
    INSERT INTO fm_pauses VALUES ('pool', '', 'eu/h', 1, 'me', NULL);
    INSERT INTO fm_operations VALUES ('op', 1, NULL, '{}', '', 0, NULL), ('oq', 1, 5, '{}', 't', 3, 4);
    INSERT INTO fm_retention VALUES ('', 'f', NULL, 5, 1, 'me'), ('t', 'f', 6, NULL, 1, 'me');
    INSERT INTO fm_operation_items SELECT 'op', id, NULL FROM fm_executions;
    INSERT INTO fm_tables VALUES ('t', '[]', 1, ''), ('t', '[]', 1, 't');
    INSERT INTO fm_table_rows SELECT 23, 't', 'r', id, NULL, 1, '{"n":1.10}', 't' FROM fm_executions LIMIT 1;
    INSERT INTO fm_api_keys VALUES ('k', 'ci', 'h', '["viewer"]', NULL, 1, 2, NULL, 3), ('l', 'l', 'i', '[]', 't', 1, NULL, 2, NULL);
    INSERT INTO fm_audit VALUES (51, 'a', 1, 'key:k', NULL, 'POST', '/v1/keys', '/v1/keys', 201, 'r', 1, 'h'),
        (52, 'b', 2, 'key:l', 't', 'POST', '/v1/keys', '/v1/keys', 201, 'r', NULL, NULL);
    INSERT INTO fm_keys VALUES ('tokens', x'00ff5c0a');
"#;

async fn source(path: &Path, fill: &'static str) -> SqliteConnection {
    SqliteStore::open(path, SqliteOptions::default()).await.unwrap().close().await;
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();
    connection
}

async fn target() -> (TestDatabase, PgConnection) {
    let database = Postgres::shared().await.database().await;
    PostgresStore::migrate(&PostgresOptions::new(database.url())).await.unwrap();
    let connection = PgConnection::connect(&database.url()).await.unwrap();
    (database, connection)
}

type Columns = BTreeMap<String, BTreeSet<(String, String)>>;

fn by_table(rows: Vec<(String, String, String)>) -> Columns {
    let mut columns = Columns::new();
    for (table, column, kind) in rows {
        columns.entry(table).or_default().insert((column, kind.to_lowercase()));
    }
    columns
}

/// What is carried over, by the types of a database; none: it has no such column.
fn carried(spelling: impl Fn(&Table, &str, Kind) -> Option<&'static str>) -> Columns {
    let columns = TABLES.iter().flat_map(|table| {
        let spelling = &spelling;
        table.columns.iter().filter_map(move |column| {
            let kind = spelling(table, column.name, column.kind)?;
            Some((table.name.to_owned(), column.name.to_owned(), kind.to_owned()))
        })
    });
    by_table(columns.collect())
}

#[tokio::test]
async fn no_table_and_no_column_of_either_schema_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut sqlite = source(&directory.path().join("record"), "").await;
    let (_database, mut postgres) = target().await;
    let stays: BTreeSet<&str> = STAY.iter().map(|(table, _)| *table).collect();

    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT schema.name, column.name, column.type FROM sqlite_schema AS schema, pragma_table_info(schema.name) AS column
        WHERE schema.type = 'table' AND schema.name NOT LIKE 'sqlite_%'",
    )
    .fetch_all(&mut sqlite)
    .await
    .unwrap();
    let mut found = by_table(found);
    found.retain(|table, _| !stays.contains(table.as_str()));
    let expected = carried(|_, _, kind| match kind {
        Kind::Id | Kind::Bytes => Some("blob"),
        Kind::Integer | Kind::Flag => Some("integer"),
        Kind::Real => Some("real"),
        Kind::Text => Some("text"),
        Kind::Pool => None,
    });
    assert_eq!(found, expected);

    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT relname::text, attname::text, format_type(atttypid, NULL)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0
            AND NOT attisdropped AND attgenerated = ''",
    )
    .fetch_all(&mut postgres)
    .await
    .unwrap();
    let mut found = by_table(found);
    found.retain(|table, _| !stays.contains(table.as_str()));
    let expected = carried(|table, column, kind| match (kind, table.name, column) {
        (_, "fm_executions", "labels") => Some("jsonb"),
        (Kind::Id, ..) => Some("uuid"),
        (Kind::Integer, ..) => Some("bigint"),
        (Kind::Real, ..) => Some("double precision"),
        (Kind::Flag, ..) => Some("boolean"),
        (Kind::Text | Kind::Pool, ..) => Some("text"),
        (Kind::Bytes, ..) => Some("bytea"),
    });
    assert_eq!(found, expected);
}

/// All values of a table, spelled alike; in the order of their text.
async fn values(
    table: &Table,
    sqlite: &mut SqliteConnection,
    postgres: &mut PgConnection,
) -> [Vec<String>; 2] {
    let expression = |spell: &dyn Fn(&str, Kind) -> String| {
        let columns = table.columns.iter().filter(|column| column.kind != Kind::Pool);
        let columns: Vec<String> = columns
            .map(|column| format!("coalesce({}, '(null)')", spell(column.name, column.kind)))
            .collect();
        columns.join(" || '|' || ")
    };
    let theirs = expression(&|name, kind| match kind {
        Kind::Id | Kind::Bytes => format!("lower(hex(nullif(\"{name}\", NULL)))"),
        Kind::Real => format!("printf('%.17g', \"{name}\")"),
        Kind::Integer | Kind::Flag | Kind::Text | Kind::Pool => format!("CAST(\"{name}\" AS TEXT)"),
    });
    let ours = expression(&|name, kind| match kind {
        Kind::Id => format!("replace(\"{name}\"::text, '-', '')"),
        Kind::Bytes => format!("encode(\"{name}\", 'hex')"),
        Kind::Flag => format!("\"{name}\"::int::text"),
        Kind::Real => format!("(\"{name}\" * 1e12)::bigint::text"),
        Kind::Integer | Kind::Text | Kind::Pool => format!("\"{name}\"::text"),
    });
    let theirs = theirs.replace("printf('%.17g', ", "printf('%d', 1e12 * ");
    // The hex of a null is an empty text in SQLite.
    let theirs = format!("SELECT {theirs} FROM {}", table.name);
    let ours = format!("SELECT {ours} FROM {}", table.name);
    let mut left: Vec<String> = sqlx::query_scalar(AssertSqlSafe(theirs)).fetch_all(sqlite).await.unwrap();
    let mut right: Vec<String> = sqlx::query_scalar(AssertSqlSafe(ours)).fetch_all(postgres).await.unwrap();
    left.sort();
    right.sort();
    [left, right]
}

#[tokio::test]
async fn every_value_arrives_as_it_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let mut sqlite = source(&path, FILL).await;
    let (database, mut postgres) = target().await;
    let seen = Mutex::new(Vec::new());
    let options = PostgresOptions::new(database.url());
    let moved =
        transfer(&path, options.clone(), &|progress| seen.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!(moved.len(), TABLES.len());
    for (table, moved) in TABLES.iter().zip(&moved) {
        assert!(moved.rows > 0 && moved.table == table.name, "{moved:?}");
        let [left, right] = values(table, &mut sqlite, &mut postgres).await;
        let is_null = |rows: Vec<String>| -> Vec<String> {
            rows.iter().map(|row| row.replace("|(null)", "|")).collect()
        };
        assert_eq!(is_null(left), is_null(right), "{}", table.name);
    }
    let last = seen.lock().unwrap().last().copied().unwrap();
    assert_eq!(last.rows, last.total);
    assert_eq!(last.total, moved.iter().map(|table| table.rows).sum::<u64>());

    // New rows follow those that came.
    let next: Vec<i64> = sqlx::query_scalar(
        "SELECT nextval(name) FROM unnest(ARRAY['fm_events_sequence_seq', 'fm_failed_tasks_sequence_seq',
        'fm_table_rows_sequence']) AS name",
    )
    .fetch_all(&mut postgres)
    .await
    .unwrap();
    assert_eq!(next, [43, 18, 24]);

    // Once is enough.
    let again = transfer(&path, options, &|_| {}).await.unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty { table: "fm_executions", rows: 2 }), "{again}");
}

#[tokio::test]
async fn what_cannot_be_understood_leaves_the_target_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let mut sqlite = source(&path, FILL).await;
    let broken = "UPDATE fm_executions SET status = 'waiting_for_worker', task_out = 1, task_number = 1, task_attempt = 1,
        task_scheduled_at = 1, state = 'no JSON' WHERE status = 'waiting'";
    sqlx::raw_sql(broken).execute(&mut sqlite).await.unwrap();
    let (database, mut postgres) = target().await;
    let failed = transfer(&path, PostgresOptions::new(database.url()), &|_| {}).await.unwrap_err();
    let TransferError::Store(StoreError::Corrupt { what, .. }) = failed else { panic!("{failed}") };
    assert_eq!(what, "fm_executions.task_pool");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM fm_definitions").fetch_one(&mut postgres).await.unwrap();
    assert_eq!(rows, 0);

    sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut sqlite).await.unwrap();
    let old = transfer(&path, PostgresOptions::new(database.url()), &|_| {}).await.unwrap_err();
    assert!(matches!(old, TransferError::Store(StoreError::Schema { found: 1, .. })), "{old}");
}
