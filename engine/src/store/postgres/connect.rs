//! The first connection: what can be wrong is said in words, and what may pass is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connections::{Connections, LIFETIME, REST};
use super::{PostgresOptions, PostgresSession, PostgresStore, Shared, error, schema};
use crate::store::StoreError;

/// The oldest server that is supported, as servers number themselves.
const OLDEST_SERVER: i32 = 150_000;
/// The first wait between two attempts to connect; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a host that nobody knows is asked for: the names of servers that start at the same time appear within
/// moments, one that is misspelt never does.
const UNKNOWN_HOST_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
enum Refusal {
    /// It may pass.
    Passing(StoreError),
    /// Nobody knows the host.
    UnknownHost(StoreError),
    /// It stays until somebody changes something.
    Lasting(StoreError),
}

impl PostgresStore {
    /// Connects, and brings the schema up to date unless [`PostgresOptions::migrate`] says no.
    ///
    /// A database that cannot be reached, starts up, or has no connection free is tried again for
    /// [`PostgresOptions::patience`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be reached in this time; at once when the user, the password or the
    /// database is wrong, the server is older than 15, or it can only be read. [`StoreError::Schema`] when a newer release
    /// migrated it in a way that this one may not run on, or an older one and migrating is off. [`StoreError::Internal`] when the URL cannot be used.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let driver = options.driver()?.disable_statement_logging();
        let place = place(&driver);
        let mut first = reach(&driver, &place, options.patience).await?;
        let prepared = prepare(&mut first, &place, options.migrate.then_some(options.session)).await;
        // Whether it can be closed in good order changes nothing about what was found.
        if let Err(error) = first.close().await {
            tracing::debug!(%place, %error, "the first connection was not closed in good order");
        }
        let found = prepared?;
        if found > schema::POSTGRES_SCHEMA_VERSION {
            let own = schema::POSTGRES_SCHEMA_VERSION;
            tracing::info!(%place, found, own, "a newer release has migrated the schema; this one may run on it");
        }
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(1))
            .acquire_timeout(options.acquire_timeout)
            .max_lifetime(LIFETIME)
            .test_before_acquire(false)
            .before_acquire(|connection, rested| {
                Box::pin(async move {
                    if rested.idle_for > REST {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(driver);
        let store = Self {
            shared: Arc::new(Shared {
                connections: Connections::new(pool),
                place,
                session: options.session,
                statement_timeout_ms: options.statement_timeout.as_millis(),
                idle_in_transaction_timeout_ms: options.idle_in_transaction_timeout.as_millis(),
                corrupt_rows: AtomicU64::new(0),
                pruning: AtomicBool::new(false),
                tasks: TaskTracker::new(),
            }),
        };
        store.prepare_history().await?;
        Ok(store)
    }

    /// Brings the schema of the database up to date, and does nothing else; gives its version, which is left alone when it is
    /// newer than [`POSTGRES_SCHEMA_VERSION`](schema::POSTGRES_SCHEMA_VERSION). Safe for any number of engines at once.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn migrate(options: &PostgresOptions) -> Result<i64, StoreError> {
        let driver = options.driver()?.disable_statement_logging();
        let place = place(&driver);
        let mut connection = reach(&driver, &place, options.patience).await?;
        let migrated = prepare(&mut connection, &place, Some(options.session)).await;
        connection.close().await.map_err(|error| error::classify(&place, error))?;
        migrated
    }
}

/// Names the database without its password.
pub(super) fn place(driver: &PgConnectOptions) -> String {
    let database = driver.get_database().unwrap_or_else(|| driver.get_username());
    match driver.get_socket() {
        Some(socket) => format!("the database {database} at {}", socket.display()),
        None => format!("the database {database} at {}:{}", driver.get_host(), driver.get_port()),
    }
}

/// A connection, tried until `patience` is at its end; an unknown host for [`UNKNOWN_HOST_PATIENCE`] at most. Each reason
/// is logged once.
pub(super) async fn reach(
    driver: &PgConnectOptions,
    place: &str,
    patience: Duration,
) -> Result<PgConnection, StoreError> {
    let start = Instant::now();
    let end = start + patience;
    let unknown_end = start + patience.min(UNKNOWN_HOST_PATIENCE);
    let mut told = String::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let refusal = match tokio::time::timeout_at(end, PgConnection::connect_with(driver)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => refusal(place, error),
            Err(_) => Refusal::Lasting(StoreError::Unavailable {
                reason: format!("{place} did not answer in {} ms", patience.as_millis()),
                source: None,
            }),
        };
        let (error, until) = match refusal {
            Refusal::Passing(error) => (error, end),
            Refusal::UnknownHost(error) => (error, unknown_end),
            Refusal::Lasting(error) => return Err(error),
        };
        if Instant::now() + pause >= until {
            return Err(error);
        }
        let reason = in_words(&error);
        if reason != told {
            let seconds = (until - start).as_secs();
            tracing::warn!("the record cannot be reached yet; trying again for {seconds} s: {reason}");
            told = reason;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why there is no connection, with the cause.
fn in_words(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable { reason, source: Some(cause) } => format!("{reason}: {cause}"),
        StoreError::Unavailable { reason, source: None } => reason.clone(),
        StoreError::Full { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Schema { .. }
        | StoreError::Internal { .. } => error.to_string(),
    }
}

fn refusal(place: &str, error: sqlx::Error) -> Refusal {
    let code = error.as_database_error().and_then(|error| error.code());
    let lasts =
        matches!(code.as_deref(), Some(error::WRONG_PASSWORD | error::NOT_LET_IN | error::NO_DATABASE))
            || matches!(error, sqlx::Error::Tls(_));
    let unknown_host = error::is_unknown_host(&error);
    let error = error::classify(place, error);
    match &error {
        StoreError::Unavailable { .. } if unknown_host => Refusal::UnknownHost(error),
        StoreError::Unavailable { .. } if !lasts => Refusal::Passing(error),
        StoreError::Unavailable { .. }
        | StoreError::Full { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Schema { .. }
        | StoreError::Internal { .. } => Refusal::Lasting(error),
    }
}

/// Looks at the server, then at the schema, which is migrated if the session for it is given. Gives the schema's version.
async fn prepare(
    connection: &mut PgConnection,
    place: &str,
    migrate: Option<PostgresSession>,
) -> Result<i64, StoreError> {
    let fail = |error| error::classify(place, error);
    let question = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
        pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
    let server = sqlx::raw_sql(question).fetch_one(&mut *connection).await.map_err(fail)?;
    let number: i32 = server.try_get(0).map_err(fail)?;
    let version: String = server.try_get(1).map_err(fail)?;
    let only_read: bool = server.try_get(2).map_err(fail)?;
    let unfit = |reason: String| Err(StoreError::Unavailable { reason, source: None });
    if number < OLDEST_SERVER {
        let oldest = OLDEST_SERVER / 10_000;
        return unfit(format!("{place} is Postgres {version}; flowmonkey needs {oldest} or later"));
    }
    if only_read {
        return unfit(format!("{place} can only be read: it is a standby or set so; name the primary"));
    }
    if let Some(session) = migrate {
        schema::migrate(connection, place, session).await?;
    }
    let found = schema::version(connection, place).await?;
    if found < schema::POSTGRES_SCHEMA_VERSION {
        return Err(StoreError::Schema {
            found,
            needed: schema::POSTGRES_SCHEMA_VERSION,
            cure: format!("migrate {place}"),
        });
    }
    Ok(found)
}
