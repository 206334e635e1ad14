//! Connections to the file, each lent to one caller at a time.
//!
//! No connection is tested when it comes back: a file in this machine does not go away, and the test would be one more
//! message to the driver's thread for each statement. A connection whose caller went away in the middle, or that failed in
//! another way than the database's own, is dropped instead, and its place is taken by a new one.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Error, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::timeout;

/// How long a caller waits for a connection of ours.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Some connections of one kind, opened when they are needed.
pub(super) struct Connections {
    options: SqliteConnectOptions,
    max: u32,
    /// Statements that each new connection runs first.
    setup: String,
    places: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
}

/// A connection of [`Connections`]. Dropping it drops the connection, and what it was in the middle of is taken back.
pub(super) struct Lent<'c> {
    home: &'c Connections,
    connection: SqliteConnection,
    _place: SemaphorePermit<'c>,
}

impl Connections {
    /// At most `max` connections, each of which runs the statements of `setup` first.
    pub(super) fn new(options: SqliteConnectOptions, max: u32, setup: String) -> Self {
        Self { options, max, setup, places: Semaphore::new(max as usize), idle: Mutex::default() }
    }

    /// A connection, once one is free.
    ///
    /// # Errors
    /// [`Error::PoolTimedOut`] when none becomes free, [`Error::PoolClosed`] after [`Self::close`], and what opening the
    /// file gives.
    pub(super) async fn lend(&self) -> Result<Lent<'_>, Error> {
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err(Error::PoolClosed),
            Err(TryAcquireError::NoPermits) => timeout(ACQUIRE_TIMEOUT, self.places.acquire())
                .await
                .map_err(|_| Error::PoolTimedOut)?
                .map_err(|_| Error::PoolClosed)?,
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open().await?,
        };
        Ok(Lent { home: self, connection, _place: place })
    }

    async fn open(&self) -> Result<SqliteConnection, Error> {
        let mut connection = SqliteConnection::connect_with(&self.options).await?;
        if !self.setup.is_empty() {
            sqlx::raw_sql(AssertSqlSafe(self.setup.clone())).execute(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Closes all connections, once they are free. Nothing is lent any more.
    pub(super) async fn close(&self) {
        let all = self.places.acquire_many(self.max).await;
        self.places.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            // What was committed is in the file without this.
            drop(connection.close().await);
        }
    }
}

impl Lent<'_> {
    /// Gives the connection back, after a statement with this result: one that the database refused leaves the connection
    /// as it was, any other error makes it doubtful.
    pub(super) fn done<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Ok(_) | Err(Error::Database(_))) {
            self.give_back();
        }
        result
    }

    /// Gives the connection back. It must not be in a transaction.
    pub(super) fn give_back(self) {
        let Self { home, connection, _place: place } = self;
        home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        drop(place);
    }
}

impl Deref for Lent<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}
