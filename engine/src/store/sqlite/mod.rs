//! The record in one SQLite file: what the embedded engine keeps.
//!
//! One connection writes, a few read. The write-ahead log lets readers go on while a batch is written, and a commit is on
//! the disk when it returns ([`Durability::Full`]).

mod access;
mod apart;
mod backup;
mod commit;
mod connections;
mod context;
mod control;
mod encode;
mod error;
mod events;
mod flows;
mod jobs;
mod joins;
mod list;
mod objects;
mod prepare;
mod progress;
mod published;
mod schema;
mod sql;
mod store;
#[cfg(test)]
mod tests;
mod webhooks;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection};

use super::StoreError;
pub(super) use apart::{failed, schema_version};
pub use backup::verify;
use connections::Connections;
use published::Published;
pub use schema::SCHEMA_VERSION;
use schema::SchemaError;

/// Connections that read.
const READERS: u32 = 4;
/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
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
    writer: Connections,
    readers: Connections,
    /// None: another process may publish.
    published: Option<Published>,
    corrupt_rows: AtomicU64,
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

impl SqliteStore {
    /// Opens the file, makes it if it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when a newer release wrote it in a way that this one may not read, [`StoreError::Corrupt`] when it is no record or damaged,
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
        let mut first = SqliteConnection::connect_with(&write).await.map_err(fail)?;
        let migrated = schema::migrate(&mut first, &path.display().to_string()).await;
        first.close().await.map_err(fail)?;
        migrated.map_err(|error| match error {
            SchemaError::Database(error) => fail(error),
            SchemaError::Unfit(error) => error,
        })?;
        // A connection of its own did that: those that migrate need not know what those that write know.
        let writer = Connections::new(write, 1, whole::setup());
        writer.lend().await.map_err(fail)?.give_back();
        let read = connect.create_if_missing(false).pragma("query_only", "on");
        let readers = Connections::new(read, READERS, String::new());
        Ok(Self { path: path.to_owned(), writer, readers, published: None, corrupt_rows: AtomicU64::new(0) })
    }

    /// The same store for a process that is the only one to write the file, as the owner of a locked data directory is:
    /// it remembers which versions of flows are published.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { published: Some(Published::default()), ..self }
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

    /// Runs one statement that writes; says how many rows it changed.
    async fn write(&self, statement: Statement) -> Result<u64, StoreError> {
        let fail = |error| self.classify(error);
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let done = statement.execute(&mut *writer).await;
        writer.done(done).map(|done| done.rows_affected()).map_err(fail)
    }

    /// Runs one statement that writes and gives rows.
    async fn write_rows(&self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        let fail = |error| self.classify(error);
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let found = statement.fetch_all(&mut *writer).await;
        writer.done(found).map_err(fail)
    }

    async fn read(&self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        let fail = |error| self.classify(error);
        let mut reader = self.readers.lend().await.map_err(fail)?;
        let found = statement.fetch_all(&mut *reader).await;
        reader.done(found).map_err(fail)
    }

    async fn read_one(&self, statement: Statement) -> Result<Option<SqliteRow>, StoreError> {
        let fail = |error| self.classify(error);
        let mut reader = self.readers.lend().await.map_err(fail)?;
        let found = statement.fetch_optional(&mut *reader).await;
        reader.done(found).map_err(fail)
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
