//! Looking at the record and its server, for people: `flowmonkey doctor`. Nothing is written, and nothing is migrated.

mod causes;

use std::time::Duration;

use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::clock::Clock;
use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{PostgresOptions, connect, error, schema, sql};
use crate::store::encode::integer;
use crate::store::{StoreError, TaskOut, rows};
pub use causes::Causes;

/// Readings of the clock; the one with the shortest round trip counts.
const READINGS: usize = 3;
/// How long the server may take to answer all questions.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the server is, and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// As the server says it: `15.4`.
    pub version: String,
    /// As servers number themselves: 150004.
    pub version_number: i64,
    /// Whether it is a standby, or set so that nothing can be written.
    pub only_read: bool,
    /// Whether commits reach the disk at all.
    pub fsync: bool,
    /// Whether half-written pages are mended after a crash.
    pub full_page_writes: bool,
    /// Whether a commit that was answered survives a crash: anything but `off`.
    pub synchronous_commit: String,
    /// Whether dead rows are cleared away by themselves.
    pub autovacuum: bool,
    /// Connections for all but superusers.
    pub connections_max: i64,
    /// Connections that are open, ours included.
    pub connections: i64,
    /// Transactions of this database that have rested for more than a minute: they keep dead rows alive.
    pub resting_transactions: i64,
    /// Bytes of the database.
    pub bytes: i64,
    /// Milliseconds that its clock is ahead of ours.
    pub clock_ahead_ms: i64,
    /// The schema version; 0: there is no record yet.
    pub schema: i64,
}

/// Rows of one table, as the server estimates them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// Its name.
    pub name: String,
    /// Rows that count.
    pub live: i64,
    /// Rows that were replaced or deleted, and still take space.
    pub dead: i64,
    /// With indexes.
    pub bytes: i64,
}

/// A pool's generation in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// The pool.
    pub pool: String,
    /// The queue servers that it was counted on.
    pub server_id: String,
    /// The generation.
    pub generation: u64,
}

/// A connection that only looks.
pub struct Inspection {
    connection: PgConnection,
    place: String,
    /// What the server is.
    pub server: ServerFacts,
}

impl Inspection {
    /// Connects, and asks the server about itself. All that is read afterwards is of one moment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be reached within [`PostgresOptions::patience`], or the user, the password
    /// or the database is wrong. [`StoreError::Schema`] when a newer release migrated it in a way that this one may
    /// not run on.
    pub async fn begin(options: &PostgresOptions, clock: &dyn Clock) -> Result<Self, StoreError> {
        let driver = options.driver()?.disable_statement_logging();
        let place = connect::place(&driver);
        let mut connection = connect::reach(&driver, &place, options.patience).await?;
        let clock_ahead_ms = clock_ahead(&mut connection, &place, clock).await?;
        let fail = |error| error::classify(&place, error);
        // One transaction, so that a pooler gives us one server connection for all of it.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {}",
            STATEMENT_TIMEOUT.as_millis()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut connection).await.map_err(fail)?;
        let schema = schema::version(&mut connection, &place).await?;
        let row = sqlx::query(include_str!("server.sql"))
            .persistent(false)
            .fetch_one(&mut connection)
            .await
            .map_err(fail)?;
        let server = server_facts(&row, schema, clock_ahead_ms)?;
        Ok(Self { connection, place, server })
    }

    /// Estimates of all tables, by name.
    ///
    /// # Errors
    /// As for every statement.
    pub async fn tables(&mut self) -> Result<Vec<TableFacts>, StoreError> {
        let found = self.read(sqlx::query(include_str!("tables.sql"))).await?;
        let what = "pg_stat_user_tables";
        let facts = found.iter().map(|row| {
            Ok(TableFacts {
                name: rows::column(row, 0, &what)?,
                live: rows::column(row, 1, &what)?,
                dead: rows::column(row, 2, &what)?,
                bytes: rows::column(row, 3, &what)?,
            })
        });
        facts.collect()
    }

    /// Executions by status.
    ///
    /// # Errors
    /// As for every statement.
    pub async fn counts(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        let found = self.read(sqlx::query(sql::EXECUTIONS_COUNT)).await?;
        let what = "fm_executions";
        found.iter().map(|row| Ok((rows::column(row, 0, &what)?, rows::count(row, 1, &what)?))).collect()
    }

    /// The generations of all pools that the record knows.
    ///
    /// # Errors
    /// As for every statement.
    pub async fn pools(&mut self) -> Result<Vec<PoolFacts>, StoreError> {
        let statement = "SELECT pool, server_id, generation FROM fm_pools ORDER BY pool";
        let found = self.read(sqlx::query(statement)).await?;
        let what = "fm_pools";
        let facts = found.iter().map(|row| {
            Ok(PoolFacts {
                pool: rows::column(row, 0, &what)?,
                server_id: rows::column(row, 1, &what)?,
                generation: rows::count(row, 2, &what)?,
            })
        });
        facts.collect()
    }

    /// Tasks that are out, as [`crate::store::Store::tasks_out`].
    ///
    /// # Errors
    /// As for every statement; [`StoreError::Corrupt`] for a row that cannot be understood.
    pub async fn tasks_out(
        &mut self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        let statement = sqlx::query(sql::EXECUTIONS_TASKS_OUT)
            .bind(after.map(|id| id.as_uuid()))
            .bind(until.as_millis())
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        let tasks = found.iter().map(|row| {
            let execution = rows::id(row, 0, &"fm_executions")?;
            let what = format!("fm_executions {execution}");
            Ok(TaskOut {
                task: TaskId { execution, number: rows::count(row, 1, &what)? },
                attempt: rows::count(row, 2, &what)?,
                scheduled_at: rows::instant(row, 3, &what)?,
                pool: rows::column(row, 4, &what)?,
                flow_id: rows::column(row, 5, &what)?,
                tenant: rows::column(row, 6, &what)?,
            })
        });
        tasks.collect()
    }

    /// Ends the transaction and the connection.
    pub async fn end(self) {
        // Nothing was written: how it ends changes nothing.
        if let Err(error) = self.connection.close().await {
            tracing::debug!(place = %self.place, %error, "the connection was not closed in good order");
        }
    }

    async fn read(&mut self, statement: super::Statement) -> Result<Vec<PgRow>, StoreError> {
        let found = statement.persistent(false).fetch_all(&mut self.connection).await;
        found.map_err(|error| error::classify(&self.place, error))
    }
}

async fn clock_ahead(
    connection: &mut PgConnection,
    place: &str,
    clock: &dyn Clock,
) -> Result<i64, StoreError> {
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..READINGS {
        let sent = clock.now_ms();
        let row = sqlx::raw_sql(sql::CLOCK_READ).fetch_one(&mut *connection).await;
        let row = row.map_err(|error| error::classify(place, error))?;
        let trip = clock.now_ms().saturating_sub(sent);
        let there: i64 = rows::column(&row, 0, &"the database's clock")?;
        let ahead = there.saturating_sub(sent.saturating_add(trip / 2));
        if best.is_none_or(|(shortest, _)| trip < shortest) {
            best = Some((trip, ahead));
        }
    }
    Ok(best.map_or(0, |(_, ahead)| ahead))
}

fn server_facts(row: &PgRow, schema: i64, clock_ahead_ms: i64) -> Result<ServerFacts, StoreError> {
    let what = "the server's settings";
    Ok(ServerFacts {
        version: rows::column(row, 0, &what)?,
        version_number: rows::column(row, 1, &what)?,
        only_read: rows::column(row, 2, &what)?,
        fsync: rows::column(row, 3, &what)?,
        full_page_writes: rows::column(row, 4, &what)?,
        synchronous_commit: rows::column(row, 5, &what)?,
        autovacuum: rows::column(row, 6, &what)?,
        connections_max: rows::column(row, 7, &what)?,
        connections: rows::column(row, 8, &what)?,
        resting_transactions: rows::column(row, 9, &what)?,
        bytes: rows::column(row, 10, &what)?,
        clock_ahead_ms,
        schema,
    })
}
