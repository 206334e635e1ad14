//! The record in Postgres: what distributed engines share.
//!
//! Any number of engines use one database at once. A batch of steps is one statement and one round trip; what needs more is
//! one transaction whose locks are taken in one order (see `migrations/postgres/0001_create_record.sql`), so that engines
//! never wait for each other in a circle. Nothing is kept in a session, so that a pooler may stand between.

mod access;
mod apart;
mod chores;
mod clock;
mod columns;
mod commit;
mod connect;
mod connections;
mod context;
mod control;
mod error;
mod inspect;
mod jobs;
mod list;
mod objects;
mod options;
mod progress;
mod schema;
mod sql;
mod store;
#[cfg(test)]
mod tests;
mod webhooks;
mod write;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Decode, PgConnection, Postgres, Row, Transaction, Type};
use tokio_util::task::TaskTracker;

use self::connections::{Connections, Held};
use super::{StoreError, rows};
pub(super) use apart::{apart, failed};
pub use inspect::{Causes, Inspection, PoolFacts, ServerFacts, TableFacts};
pub use options::{PostgresOptions, PostgresSession, PostgresUrlError};
pub use schema::POSTGRES_SCHEMA_VERSION;

/// The record in Postgres 15 or later.
///
/// A row that cannot be understood is left as it is. Asked for that row alone, the store answers
/// [`StoreError::Corrupt`]; among others it is left out, logged, and counted by [`PostgresStore::corrupt_rows`], so that
/// one bad row does not stop what is well. Rows whose absence would change a result (history, children, fan-outs) are never
/// left out: those answers are [`StoreError::Corrupt`].
///
/// A call that is dropped before it is done is carried out whole or not at all, and leaves no transaction open.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

/// What the store and the transactions that are under way have in common.
struct Shared {
    connections: Connections,
    /// Names the database in errors; never a password.
    place: String,
    session: PostgresSession,
    statement_timeout_ms: u128,
    idle_in_transaction_timeout_ms: u128,
    corrupt_rows: AtomicU64,
    /// Whether the last round of pruning left work for another call.
    pruning: AtomicBool,
    tasks: TaskTracker,
}

/// A statement of ours with its parameters.
type Statement = Query<'static, Postgres, PgArguments>;

impl PostgresStore {
    /// Ends what is under way, then closes all connections.
    pub async fn close(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.connections.close().await;
    }

    /// Times that a row was left out of an answer because it cannot be understood.
    #[must_use]
    pub fn corrupt_rows(&self) -> u64 {
        self.shared.corrupt_rows.load(Ordering::Relaxed)
    }

    /// Runs `work` to its end even if the caller is dropped: a transaction that is dropped while it begins would stay
    /// open on its connection, and what the next caller stores there would never be committed.
    async fn shielded<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let done = self.shared.tasks.spawn(work).await;
        done.map_err(|error| StoreError::Internal {
            reason: format!("a transaction was not ended: {error}"),
        })?
    }

    /// Runs one statement; says how many rows it changed.
    async fn write(&self, statement: Statement) -> Result<u64, StoreError> {
        if self.shared.session.has_named_statements() {
            let mut connection = self.shared.connection().await?;
            let done = statement.execute(&mut *connection).await;
            let done = done.map_err(|error| self.shared.classify(error))?;
            connection.done();
            return Ok(done.rows_affected());
        }
        let shared = self.shared.clone();
        self.shielded(async move {
            let mut connection = shared.connection().await?;
            let mut transaction = shared.begin(&mut connection).await?;
            let done = statement.persistent(false).execute(&mut *transaction).await;
            let done = done.map_err(|error| shared.classify(error))?;
            transaction.commit().await.map_err(|error| shared.classify(error))?;
            connection.done();
            Ok(done.rows_affected())
        })
        .await
    }

    /// Runs one statement; gives its rows.
    async fn read(&self, statement: Statement) -> Result<Vec<PgRow>, StoreError> {
        if self.shared.session.has_named_statements() {
            let mut connection = self.shared.connection().await?;
            let found = statement.fetch_all(&mut *connection).await;
            let found = found.map_err(|error| self.shared.classify(error))?;
            connection.done();
            return Ok(found);
        }
        let shared = self.shared.clone();
        self.shielded(async move {
            let mut connection = shared.connection().await?;
            let mut transaction = shared.begin(&mut connection).await?;
            let found = statement.persistent(false).fetch_all(&mut *transaction).await;
            let found = found.map_err(|error| shared.classify(error))?;
            transaction.commit().await.map_err(|error| shared.classify(error))?;
            connection.done();
            Ok(found)
        })
        .await
    }

    async fn read_one(&self, statement: Statement) -> Result<Option<PgRow>, StoreError> {
        self.read(statement).await.map(|mut rows| (!rows.is_empty()).then(|| rows.swap_remove(0)))
    }

    /// Decodes rows; those that cannot be understood are logged, counted and left out.
    fn sound<T>(&self, rows: &[PgRow], decode: impl Fn(&PgRow) -> Result<T, StoreError>) -> Vec<T> {
        let decoded = rows.iter().filter_map(|row| match decode(row) {
            Ok(value) => Some(value),
            Err(error) => {
                self.shared.corrupt_rows.fetch_add(1, Ordering::Relaxed);
                tracing::error!(place = %self.shared.place, %error, "a row of the record is left out");
                None
            }
        });
        decoded.collect()
    }
}

impl Shared {
    fn classify(&self, error: sqlx::Error) -> StoreError {
        error::classify(&self.place, error)
    }

    async fn connection(&self) -> Result<Held<'_>, StoreError> {
        self.connections.get().await.map_err(|error| self.classify(error))
    }

    /// Begins a transaction. Only within [`PostgresStore::shielded`].
    async fn begin<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, StoreError> {
        let begun = match self.session {
            PostgresSession::Own => connection.begin().await,
            // The connection to the server may be another each time, so that its settings go with the transaction.
            PostgresSession::Pooled | PostgresSession::PooledUnnamed => {
                let statement = format!(
                    "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
                    self.statement_timeout_ms, self.idle_in_transaction_timeout_ms,
                );
                connection.begin_with(sqlx::AssertSqlSafe(statement)).await
            }
        };
        begun.map_err(|error| self.classify(error))
    }
}

/// A column that holds an array: only Postgres has them.
fn array<'r, T>(row: &'r PgRow, index: usize, what: &dyn Display) -> Result<Vec<T>, StoreError>
where
    Vec<T>: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(index).map_err(|error| rows::corrupt(what, error))
}
