//! The record in one SQLite file: what the embedded engine keeps.
//!
//! One connection writes, a few read. The write-ahead log lets readers go on while a batch is written, and a commit is on
//! the disk when it returns ([`Durability::Full`]).

mod backup;
mod commit;
mod encode;
mod error;
mod list;
mod rows;
mod schema;
mod sql;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, Transaction};

use super::StoreError;
pub use backup::verify;
pub use schema::SCHEMA_VERSION;
use schema::SchemaError;

/// Connections that read.
const READERS: u32 = 4;
/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection of ours.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory for pages per connection, in the form of SQLite's pragma: 32 MiB. A batch that does not fit is written twice.
const CACHE: &str = "-32768";
/// Pages of the log before it is copied into the file: 32 MiB. Executions that are at work change the same pages again and
/// again; the longer the log, the fewer copies.
const CHECKPOINT_PAGES: &str = "8192";
/// Prepared statements kept per connection: all of ours.
const STATEMENTS: usize = 128;

/// What a crash of the machine may take. A crash of the process takes nothing either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed: each commit waits for the disk. The default.
    #[default]
    Full,
    /// The last commits; the file stays whole.
    Relaxed,
}

/// How the file is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SqliteOptions {
    /// What a crash of the machine may take.
    pub durability: Durability,
    /// Pages that the file may have; none: as many as the disk holds. A page has 4,096 bytes.
    pub max_pages: Option<u32>,
}

/// The record in one SQLite file.
///
/// A row that cannot be understood is left as it is. Asked for that row alone, the store answers
/// [`StoreError::Corrupt`]; among others it is left out, logged, and counted by [`SqliteStore::corrupt_rows`], so that one
/// bad row does not stop what is well. Rows whose absence would change a result (history, children, fan-outs) are never
/// left out: those answers are [`StoreError::Corrupt`].
pub struct SqliteStore {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    corrupt_rows: AtomicU64,
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

impl SqliteStore {
    /// Opens the file, makes it if it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when a newer release wrote it, [`StoreError::Corrupt`] when it is no record or damaged,
    /// [`StoreError::Unavailable`] when it is locked or cannot be read or written.
    pub async fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let fail = |error| error::classify(path, error);
        let synchronous = match options.durability {
            Durability::Full => SqliteSynchronous::Full,
            Durability::Relaxed => SqliteSynchronous::Normal,
        };
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .pragma("cache_size", CACHE)
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        let mut write = connect.clone().pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
        if let Some(pages) = options.max_pages {
            write = write.pragma("max_page_count", pages.to_string());
        }
        let pool = || {
            let pool = SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
            pool.idle_timeout(None).max_lifetime(None)
        };
        // Once by hand: a pool that cannot connect tries again until it times out, and hides why.
        let mut first = SqliteConnection::connect_with(&write).await.map_err(fail)?;
        let migrated = schema::migrate(&mut first, &path.display().to_string()).await;
        first.close().await.map_err(fail)?;
        migrated.map_err(|error| match error {
            SchemaError::Database(error) => fail(error),
            SchemaError::Unfit(error) => error,
        })?;
        let writer = pool().max_connections(1).min_connections(1).connect_with(write).await.map_err(fail)?;
        let read = connect.create_if_missing(false).pragma("query_only", "on");
        let readers = pool().max_connections(READERS).connect_with(read).await.map_err(fail)?;
        Ok(Self { path: path.to_owned(), writer, readers, corrupt_rows: AtomicU64::new(0) })
    }

    /// Closes the file. What was committed is there without it, too.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Times that a row was left out of an answer because it cannot be understood.
    #[must_use]
    pub fn corrupt_rows(&self) -> u64 {
        self.corrupt_rows.load(Ordering::Relaxed)
    }

    fn classify(&self, error: sqlx::Error) -> StoreError {
        error::classify(&self.path, error)
    }

    /// Begins a transaction that writes. Dropping it takes everything back.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        let begun = match self.writer.begin_with(BEGIN).await {
            // A write that found no space makes SQLite take the whole transaction back by itself. The driver cannot take it
            // back once more, and believes for ever that it is open: only another connection can begin anew.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                let stuck = self.writer.acquire().await.map_err(|error| self.classify(error))?;
                stuck.close().await.map_err(|error| self.classify(error))?;
                self.writer.begin_with(BEGIN).await
            }
            begun => begun,
        };
        begun.map_err(|error| self.classify(error))
    }

    /// Runs one statement that writes; says how many rows it changed.
    async fn write(&self, statement: Statement) -> Result<u64, StoreError> {
        let done = statement.execute(&self.writer).await.map_err(|error| self.classify(error))?;
        Ok(done.rows_affected())
    }

    async fn read(&self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        statement.fetch_all(&self.readers).await.map_err(|error| self.classify(error))
    }

    async fn read_one(&self, statement: Statement) -> Result<Option<SqliteRow>, StoreError> {
        statement.fetch_optional(&self.readers).await.map_err(|error| self.classify(error))
    }

    /// Decodes rows; those that cannot be understood are logged, counted and left out.
    fn sound<T>(&self, rows: &[SqliteRow], decode: impl Fn(&SqliteRow) -> Result<T, StoreError>) -> Vec<T> {
        let decoded = rows.iter().filter_map(|row| match decode(row) {
            Ok(value) => Some(value),
            Err(error) => {
                self.corrupt_rows.fetch_add(1, Ordering::Relaxed);
                tracing::error!(path = %self.path.display(), %error, "a row of the record is left out");
                None
            }
        });
        decoded.collect()
    }
}
