//! Connections at hand. The driver's pool gives out the one that has rested longest, and asks each that comes back whether it
//! lives: a round trip more per statement, to a server process whose memory is cold. Here the last one that came back is the
//! next that is used, and one that has just answered is not asked.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::time::{Instant, timeout_at};

/// A connection that has rested for longer is tried before it is used: the server may have gone in the meantime.
pub(super) const REST: Duration = Duration::from_secs(2);
/// Connections are replaced after this time, so that the memory of long sessions is given back.
pub(super) const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// One that has not been used for so long goes back to the pool, one with each that is put at hand.
const UNUSED: Duration = Duration::from_secs(5 * 60);

/// Connections of a pool, of which those that were used last are kept at hand.
pub(super) struct Connections {
    pool: PgPool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those at hand; the last one was used last.
    at_hand: Vec<Resting>,
    /// Those who wait for the pool, which has to get back what is let go.
    waiting: usize,
    is_closed: bool,
}

struct Resting {
    connection: PoolConnection<Postgres>,
    since: Instant,
    kept_since: Instant,
}

impl Connections {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, and every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that nobody else uses.
    ///
    /// # Errors
    /// When there is none within the pool's time, or a new one cannot be made.
    pub(super) async fn get(&self) -> Result<Held<'_>, sqlx::Error> {
        let until = Instant::now() + self.pool.options().get_acquire_timeout();
        while let Some(Resting { mut connection, since, kept_since }) = self.last_used() {
            if since.elapsed() <= REST {
                return Ok(Held { home: self, connection, kept_since });
            }
            match timeout_at(until, connection.ping()).await {
                Ok(Ok(())) => return Ok(Held { home: self, connection, kept_since }),
                // What is wrong with this one is wrong with those that rest longer, too: each is tried.
                Ok(Err(_)) => drop(connection.detach()),
                Err(_) => {
                    drop(connection.detach());
                    return Err(sqlx::Error::PoolTimedOut);
                }
            }
        }
        let _waiting = Waits(self);
        let connection = self.pool.acquire().await?;
        Ok(Held { home: self, connection, kept_since: Instant::now() })
    }

    /// The connection that was used last; none: the caller waits for the pool.
    fn last_used(&self) -> Option<Resting> {
        // In one look, so that none comes back unseen between this and the wait.
        let mut state = self.state();
        let resting = state.at_hand.pop();
        state.waiting += usize::from(resting.is_none());
        resting
    }

    /// Closes all connections, once they are not used any more.
    pub(super) async fn close(&self) {
        let at_hand = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.at_hand)
        };
        drop(at_hand);
        self.pool.close().await;
    }
}

/// One who waits for the pool.
struct Waits<'a>(&'a Connections);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

/// A connection in use. One that is dropped goes back to the pool, which finds out in what state it is.
pub(super) struct Held<'a> {
    home: &'a Connections,
    connection: PoolConnection<Postgres>,
    kept_since: Instant,
}

impl Held<'_> {
    /// Puts it at hand: what it was asked has been answered, and no transaction is open.
    pub(super) fn done(self) {
        let Self { home, connection, kept_since } = self;
        if kept_since.elapsed() >= LIFETIME {
            return;
        }
        let mut state = home.state();
        if state.waiting > 0 || state.is_closed {
            drop(state);
            return drop(connection);
        }
        let unused = state.at_hand.first().is_some_and(|first| first.since.elapsed() >= UNUSED);
        let unused = unused.then(|| state.at_hand.remove(0));
        state.at_hand.push(Resting { connection, since: Instant::now(), kept_since });
        drop(state);
        drop(unused);
    }
}

impl Deref for Held<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
