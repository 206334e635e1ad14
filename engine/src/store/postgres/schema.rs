//! The schema: migrations in the program, the version in the database.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection, PgConnection, SqlSafeStr};

use super::PostgresSession;
use super::error::classify;
use crate::store::StoreError;

/// All migrations in order; the first is version 1. What each does, and its text.
const MIGRATIONS: &[(&str, &str)] = &[
    ("create record", include_str!("../../../../migrations/postgres/0001_create_record.sql")),
    ("write in one call", include_str!("../../../../migrations/postgres/0002_write_in_one_call.sql")),
    ("prune by week", include_str!("../../../../migrations/postgres/0003_prune_by_week.sql")),
    ("add objects", include_str!("../../../../migrations/postgres/0004_add_objects.sql")),
    ("add progress and logs", include_str!("../../../../migrations/postgres/0005_add_progress_and_logs.sql")),
    ("add webhooks", include_str!("../../../../migrations/postgres/0006_add_webhooks.sql")),
    ("add jobs", include_str!("../../../../migrations/postgres/0007_add_jobs.sql")),
    ("stage context patches", include_str!("../../../../migrations/postgres/0008_stage_context_patches.sql")),
    ("add controls", include_str!("../../../../migrations/postgres/0009_add_controls.sql")),
];

/// The schema version that this program needs.
#[allow(clippy::cast_possible_wrap, reason = "a handful of migrations")]
pub const POSTGRES_SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

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

/// Brings the database to [`POSTGRES_SCHEMA_VERSION`] in one transaction. Any number of engines may do it at once: the first
/// migrates, the others wait for it.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    place: &str,
    session: PostgresSession,
) -> Result<(), StoreError> {
    if version(connection, place).await? == POSTGRES_SCHEMA_VERSION {
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
        if forget {
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await.map_err(fail)?;
        }
    }
    transaction.commit().await.map_err(fail)
}

/// The schema version of the database: 0 for an empty one.
pub(super) async fn version(connection: &mut PgConnection, place: &str) -> Result<i64, StoreError> {
    let fail = |error| classify(place, error);
    // Simple statements: they need no preparation, which poolers may not know.
    let exists = sqlx::raw_sql("SELECT 1 WHERE to_regclass('fm_migrations') IS NOT NULL")
        .fetch_optional(&mut *connection)
        .await
        .map_err(fail)?;
    if exists.is_none() {
        return Ok(0);
    }
    let rows = sqlx::raw_sql("SELECT version FROM fm_migrations WHERE success ORDER BY version DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await
        .map_err(fail)?;
    let found: i64 = match rows {
        Some(row) => sqlx::Row::try_get(&row, 0).map_err(fail)?,
        None => 0,
    };
    if found > POSTGRES_SCHEMA_VERSION {
        return Err(StoreError::Schema {
            found,
            needed: POSTGRES_SCHEMA_VERSION,
            cure: "run the release of flowmonkey that wrote it, or a newer one".into(),
        });
    }
    Ok(found)
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
