//! The schema: migrations in the program, the version in the database.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection, PgConnection, Row, SqlSafeStr};

use super::PostgresSession;
use super::error::classify;
use crate::store::StoreError;
use crate::store::compatibility::may_run;

/// All migrations in order; the first is version 1. What each does, and its text.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("create record", include_str!("../../../../migrations/postgres/0001_create_record.sql")),
    ("write in one call", include_str!("../../../../migrations/postgres/0002_write_in_one_call.sql")),
    ("prune by week", include_str!("../../../../migrations/postgres/0003_prune_by_week.sql")),
    ("add objects", include_str!("../../../../migrations/postgres/0004_add_objects.sql")),
    ("add progress and logs", include_str!("../../../../migrations/postgres/0005_add_progress_and_logs.sql")),
    ("add webhooks", include_str!("../../../../migrations/postgres/0006_add_webhooks.sql")),
    ("add jobs", include_str!("../../../../migrations/postgres/0007_add_jobs.sql")),
    ("stage context patches", include_str!("../../../../migrations/postgres/0008_stage_context_patches.sql")),
    ("say who may run", include_str!("../../../../migrations/postgres/0009_say_who_may_run.sql")),
    ("find executions", include_str!("../../../../migrations/postgres/0010_find_executions.sql")),
    ("separate tenants", include_str!("../../../../migrations/postgres/0011_separate_tenants.sql")),
    ("add keys and audit", include_str!("../../../../migrations/postgres/0012_add_keys_and_audit.sql")),
    ("add controls", include_str!("../../../../migrations/postgres/0013_add_controls.sql")),
    ("carry out operations", include_str!("../../../../migrations/postgres/0014_carry_out_operations.sql")),
    (
        "count generations of flows",
        include_str!("../../../../migrations/postgres/0015_count_generations_of_flows.sql"),
    ),
];

/// The schema version that this program needs.
#[allow(clippy::cast_possible_wrap, reason = "a handful of migrations")]
pub const POSTGRES_SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The oldest schema version whose programs run on a database of [`POSTGRES_SCHEMA_VERSION`]: those of the release before,
/// as engines are replaced one by one. A migration that takes away or changes what they use raises it to its own number.
pub(super) const READABLE_FROM: i64 = 13;

/// Which migrations have run.
const TABLE: &str = "fm_migrations";
/// The lock that lets one engine migrate at a time ("FMNK").
const LOCK: i64 = 0x464d_4e4b;

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|((name, text), version)| {
        Migration::new(version, (*name).into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // The lock is ours: the migrator's belongs to a session, which a pooler may give to others.
    migrator.set_locking(false).dangerous_set_table_name(TABLE);
    migrator
}

/// Brings the database to [`POSTGRES_SCHEMA_VERSION`] in one transaction, unless it is there or further. Any number of engines may do it at once: the first
/// migrates, the others wait for it.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    place: &str,
    session: PostgresSession,
) -> Result<(), StoreError> {
    if version(connection, place).await? >= POSTGRES_SCHEMA_VERSION {
        return Ok(());
    }
    let fail = |error| classify(place, error);
    let mut transaction = connection.begin().await.map_err(fail)?;
    // However long the one before takes.
    let patient = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
    sqlx::raw_sql(patient).execute(&mut *transaction).await.map_err(fail)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .persistent(false)
        .execute(&mut *transaction)
        .await
        .map_err(fail)?;
    if version(&mut transaction, place).await? < POSTGRES_SCHEMA_VERSION {
        let forget = !session.has_named_statements();
        // The migrator names its statements. A pooler that does not know them would leave them with the server's connection,
        // where the next one to migrate meets their names.
        if forget {
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await.map_err(fail)?;
        }
        migrator().run(&mut *transaction).await.map_err(|error| failed(place, error))?;
        // One row, and a number of ours.
        let say = format!(
            "INSERT INTO fm_schema (readable_from) VALUES ({READABLE_FROM})
            ON CONFLICT (only_row) DO UPDATE SET readable_from = EXCLUDED.readable_from"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(say)).execute(&mut *transaction).await.map_err(fail)?;
        if forget {
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await.map_err(fail)?;
        }
    }
    transaction.commit().await.map_err(fail)
}

/// The schema version of the database: 0 for an empty one. It may be newer than this program's, when that may run on it.
///
/// # Errors
/// [`StoreError::Schema`] when it is newer, and this program may not.
pub(super) async fn version(connection: &mut PgConnection, place: &str) -> Result<i64, StoreError> {
    let fail = |error| classify(place, error);
    // Simple statements: they need no preparation, which poolers may not know.
    let tables = "SELECT to_regclass('fm_migrations') IS NOT NULL, to_regclass('fm_schema') IS NOT NULL";
    let tables = sqlx::raw_sql(tables).fetch_one(&mut *connection).await.map_err(fail)?;
    let (migrated, says): (bool, bool) = (tables.try_get(0).map_err(fail)?, tables.try_get(1).map_err(fail)?);
    if !migrated {
        return Ok(0);
    }
    let newest = "SELECT version FROM fm_migrations WHERE success ORDER BY version DESC LIMIT 1";
    let found = number(connection, newest).await.map_err(fail)?.unwrap_or(0);
    if found <= POSTGRES_SCHEMA_VERSION {
        return Ok(found);
    }
    let readable_from = if says {
        number(connection, "SELECT readable_from FROM fm_schema").await.map_err(fail)?
    } else {
        None
    };
    may_run(found, POSTGRES_SCHEMA_VERSION, readable_from)
}

/// The first number of the first row. A simple statement.
async fn number(connection: &mut PgConnection, question: &'static str) -> Result<Option<i64>, sqlx::Error> {
    let row = sqlx::raw_sql(question).fetch_optional(connection).await?;
    row.map(|row| row.try_get(0)).transpose()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors may become more")]
fn failed(place: &str, error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration, VersionMismatch};
    match error {
        Execute(error) | ExecuteMigration(error, _) => classify(place, error),
        VersionMismatch(version) => StoreError::Schema {
            found: version,
            needed: POSTGRES_SCHEMA_VERSION,
            cure: format!(
                "{place} was migrated by a program whose migration {version} is another one: use that program"
            ),
        },
        other => StoreError::Internal { reason: other.to_string() },
    }
}
