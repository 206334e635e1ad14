//! Carrying a record from SQLite to Postgres: a team that has outgrown one machine goes on where it is.
//!
//! Every table is read in one moment of the source, and written in one transaction of the target: an interrupted transfer
//! leaves the target as it was. Everything that counts comes along, so that timers, children, idempotency keys and tokens
//! go on to count. Tasks that were out are in no queue of the target's; the reconciler publishes them again.

mod rows;
mod tables;
#[cfg(test)]
mod tests;

use std::path::Path;

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, SqliteConnection, Transaction};

use super::postgres::{self, PostgresOptions, PostgresStore};
use super::sqlite;
use super::{StoreError, sqlite::SCHEMA_VERSION};
use tables::{TABLES, Table};

/// Bytes that are sent at a time; a row is never cut.
const CHUNK_BYTES: usize = 1 << 20;

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferProgress {
    /// The table that is being carried over.
    pub table: &'static str,
    /// Rows of all tables that have been sent.
    pub rows: u64,
    /// Rows of all tables together.
    pub total: u64,
}

/// A table that was carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferredTable {
    /// Its name.
    pub table: &'static str,
    /// Its rows, counted on both sides.
    pub rows: u64,
}

/// Why nothing was carried over.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A record failed. The target is as it was.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target has rows already: what is there and what comes could not be told apart.
    #[error("the target is not empty: {table} has {rows} rows")]
    NotEmpty {
        /// The first table with rows.
        table: &'static str,
        /// How many.
        rows: u64,
    },
    /// Rows got lost on the way. The target is as it was.
    #[error("{table} has {expected} rows in the source and {found} in the target")]
    Differs {
        /// The table.
        table: &'static str,
        /// Rows of the source.
        expected: u64,
        /// Rows of the target.
        found: u64,
    },
    /// The answer to the last statement was lost: the target has all or nothing.
    #[error("whether the target has taken the record is not known: {0}")]
    Uncertain(#[source] StoreError),
}

/// Carries the record in the file `from` over to the database `to`, whose schema is made if it is missing. The source must
/// not be written meanwhile; it is left as it is. `progress` is told about every batch of rows.
///
/// # Errors
/// See [`TransferError`]. [`StoreError::Schema`] when the source is of an older or newer schema than this program.
pub async fn transfer(
    from: &Path,
    to: PostgresOptions,
    progress: &(dyn Fn(TransferProgress) + Send + Sync),
) -> Result<Vec<TransferredTable>, TransferError> {
    let source_failed = |error| sqlite::failed(from, error);
    let mut source = open(from).await?;
    // One moment of the source.
    let mut source_moment = source.begin().await.map_err(source_failed)?;
    let mut counts = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        let count = format!("SELECT count(*) FROM {}", table.name);
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(&mut *source_moment)
            .await
            .map_err(source_failed)?;
        counts.push(u64::try_from(rows).unwrap_or_default());
    }
    // Makes the schema, and the partitions of history.
    let store = PostgresStore::connect(PostgresOptions { migrate: true, ..to.clone() }).await?;
    store.close().await;
    let (mut target, place) = postgres::apart(&to).await?;
    let target_failed = |error| postgres::failed(&place, error);
    let mut transaction = begin(&mut target).await.map_err(target_failed)?;
    refuse_rows(&mut transaction).await.map_err(|refusal| refusal.into_error(&place))?;
    let total = counts.iter().sum();
    let mut sent = 0;
    for table in &TABLES {
        let told = |rows: u64| progress(TransferProgress { table: table.name, rows: sent + rows, total });
        sent += carry(table, &mut source_moment, &mut transaction, (from, &place), &told).await?;
    }
    let mut transferred = Vec::with_capacity(TABLES.len());
    for (table, expected) in TABLES.iter().zip(counts) {
        let found = count(&mut transaction, table).await.map_err(target_failed)?;
        if found != expected {
            return Err(TransferError::Differs { table: table.name, expected, found });
        }
        if let Some(sequence) = table.numbered {
            number(&mut transaction, table, sequence).await.map_err(target_failed)?;
        }
        transferred.push(TransferredTable { table: table.name, rows: found });
    }
    // Engines find good plans at once.
    sqlx::raw_sql("ANALYZE").execute(&mut *transaction).await.map_err(target_failed)?;
    transaction.commit().await.map_err(|error| TransferError::Uncertain(target_failed(error)))?;
    for closed in [source_moment.rollback().await, source.close().await] {
        if let Err(error) = closed {
            tracing::debug!(%error, "the source was not closed in good order");
        }
    }
    if let Err(error) = target.close().await {
        tracing::debug!(%place, %error, "the connection was not closed in good order");
    }
    Ok(transferred)
}

/// Opens the source, which must be of this program's schema.
async fn open(from: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().filename(from).read_only(true);
    let failed = |error| sqlite::failed(from, error);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
    let found = sqlite::schema_version(&mut connection, from).await?;
    if found == SCHEMA_VERSION {
        return Ok(connection);
    }
    Err(StoreError::Schema {
        found,
        needed: SCHEMA_VERSION,
        cure: format!("restore {} into a directory and move that", from.display()),
    })
}

async fn begin(target: &mut PgConnection) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    let mut transaction = target.begin().await?;
    // However long it takes. Nobody else writes meanwhile: what they wrote would be lost among what comes.
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let statements = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
        LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
        names.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// Why the target is not taken.
enum Refusal {
    Database(sqlx::Error),
    NotEmpty { table: &'static str, rows: u64 },
}

impl Refusal {
    fn into_error(self, place: &str) -> TransferError {
        match self {
            Self::Database(error) => postgres::failed(place, error).into(),
            Self::NotEmpty { table, rows } => TransferError::NotEmpty { table, rows },
        }
    }
}

async fn refuse_rows(transaction: &mut Transaction<'_, Postgres>) -> Result<(), Refusal> {
    // Executions first: whoever is refused is told what matters most.
    let first = TABLES.iter().filter(|table| table.name == "fm_executions");
    for table in first.chain(&TABLES) {
        let rows = count(transaction, table).await.map_err(Refusal::Database)?;
        if rows > 0 {
            return Err(Refusal::NotEmpty { table: table.name, rows });
        }
    }
    Ok(())
}

async fn count(transaction: &mut Transaction<'_, Postgres>, table: &Table) -> Result<u64, sqlx::Error> {
    let count = format!("SELECT count(*) FROM {}", table.name);
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(count)).persistent(false).fetch_one(&mut **transaction).await?;
    Ok(u64::try_from(rows).unwrap_or_default())
}

/// Sends the rows of a table; gives how many.
async fn carry(
    table: &Table,
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    (from, place): (&Path, &str),
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<u64, StoreError> {
    let source_failed = |error| sqlite::failed(from, error);
    let target_failed = |error| postgres::failed(place, error);
    let mut copy = target.copy_in_raw(&table.copy()).await.map_err(target_failed)?;
    let mut sent = 0;
    let done = async {
        let mut found = sqlx::query(AssertSqlSafe(table.select())).fetch(source);
        let mut lines = String::with_capacity(CHUNK_BYTES);
        while let Some(row) = found.try_next().await.map_err(source_failed)? {
            rows::append(&mut lines, table, &row)?;
            sent += 1;
            if lines.len() >= CHUNK_BYTES {
                copy.send(lines.as_bytes()).await.map_err(target_failed)?;
                lines.clear();
                told(sent);
            }
        }
        copy.send(lines.as_bytes()).await.map_err(target_failed)?;
        told(sent);
        Ok(())
    };
    match done.await {
        Ok(()) => {
            copy.finish().await.map_err(target_failed)?;
            Ok(sent)
        }
        Err(error) => {
            // The transaction ends with this; that the reason cannot be told to the server changes nothing.
            drop(copy.abort("the source cannot be read").await);
            Err(error)
        }
    }
}

/// Lets new rows follow those that came.
async fn number(
    transaction: &mut Transaction<'_, Postgres>,
    table: &Table,
    sequence: &str,
) -> Result<(), sqlx::Error> {
    let statement =
        format!("SELECT setval('{sequence}', max(sequence)) FROM {} HAVING count(*) > 0", table.name);
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **transaction).await?;
    Ok(())
}
