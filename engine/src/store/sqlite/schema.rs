//! The schema: migrations in the program, the version in the file.

use sqlx::{Connection, SqliteConnection};

use crate::store::StoreError;
use crate::store::compatibility::may_run;

/// Marks the file as ours ("FMNK"), so that no other program's database is taken for a record.
const APPLICATION_ID: i64 = 0x464d_4e4b;

/// All migrations in order; the first is version 1.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../../migrations/sqlite/0001_create_record.sql"),
    include_str!("../../../../migrations/sqlite/0002_add_turns_and_pools.sql"),
    include_str!("../../../../migrations/sqlite/0003_add_objects.sql"),
    include_str!("../../../../migrations/sqlite/0004_add_progress_and_logs.sql"),
    include_str!("../../../../migrations/sqlite/0005_add_webhooks.sql"),
    include_str!("../../../../migrations/sqlite/0006_add_jobs.sql"),
    include_str!("../../../../migrations/sqlite/0007_stage_context_patches.sql"),
    include_str!("../../../../migrations/sqlite/0008_say_who_may_run.sql"),
    include_str!("../../../../migrations/sqlite/0009_find_executions.sql"),
    include_str!("../../../../migrations/sqlite/0010_separate_tenants.sql"),
    include_str!("../../../../migrations/sqlite/0011_add_keys_and_audit.sql"),
    include_str!("../../../../migrations/sqlite/0012_add_controls.sql"),
    include_str!("../../../../migrations/sqlite/0013_carry_out_operations.sql"),
];

/// The schema version that this program needs.
#[allow(clippy::cast_possible_wrap, reason = "a handful of migrations")]
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The oldest schema version whose programs open a file of [`SCHEMA_VERSION`]: those of the release before. A migration that
/// takes away or changes what they use raises it to its own number.
pub(super) const READABLE_FROM: i64 = 10;

/// Why a database cannot be brought to [`SCHEMA_VERSION`].
pub(super) enum SchemaError {
    /// The database refused.
    Database(sqlx::Error),
    /// What it holds is not for this program.
    Unfit(StoreError),
}

impl From<sqlx::Error> for SchemaError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Brings the database to [`SCHEMA_VERSION`] unless it is there or further, in one transaction, so that two processes that open a new file at once do
/// not meet half-made tables.
pub(super) async fn migrate(connection: &mut SqliteConnection, place: &str) -> Result<(), SchemaError> {
    if version(connection, place).await? >= SCHEMA_VERSION {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let found = version(&mut transaction, place).await?;
    if found >= SCHEMA_VERSION {
        // Another process was quicker.
        return Ok(transaction.rollback().await?);
    }
    let done = usize::try_from(found).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    // Pragmas take no parameters; the numbers are constants of ours.
    let stamp = format!(
        "INSERT OR REPLACE INTO fm_schema (only_row, readable_from) VALUES (1, {READABLE_FROM});
        PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// The schema version of the database: 0 for an empty file. It may be newer than this program's, when that may open it.
pub(super) async fn version(connection: &mut SqliteConnection, place: &str) -> Result<i64, SchemaError> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let objects: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    if objects == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(SchemaError::Unfit(StoreError::Corrupt {
            what: place.into(),
            reason: "it is a database of another program".into(),
        }));
    }
    if found <= SCHEMA_VERSION {
        return Ok(found);
    }
    let says: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE name = 'fm_schema'")
        .fetch_optional(&mut *connection)
        .await?;
    let readable_from: Option<i64> = match says {
        Some(_) => {
            sqlx::query_scalar("SELECT readable_from FROM fm_schema").fetch_optional(&mut *connection).await?
        }
        None => None,
    };
    may_run(found, SCHEMA_VERSION, readable_from).map_err(SchemaError::Unfit)
}

/// The schema as SQLite keeps it, for comparison with the committed dump.
#[cfg(test)]
pub(super) async fn dump(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    let statements: Vec<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, type DESC, name",
    )
    .fetch_all(connection)
    .await?;
    Ok(statements.into_iter().map(|statement| statement + ";\n\n").collect())
}
