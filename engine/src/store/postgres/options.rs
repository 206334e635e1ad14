//! How the database is reached.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;

/// Connections of one engine.
const CONNECTIONS: u32 = 16;
/// Longest that one statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest that a transaction may rest between two statements: an engine that hangs holds its locks no longer.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a database that cannot be reached is tried again at the start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// What the server shows as the name of our connections.
const APPLICATION_NAME: &str = "flowmonkey";
/// Prepared statements kept per connection: all of ours.
const STATEMENTS: usize = 128;
/// Keys of the URL's query that are understood.
const KEYS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];
/// Keys that name a client's certificate.
const CERTIFICATE_KEYS: &[&str] = &["sslcert", "ssl-cert"];
/// Keys that name the key of a client's certificate.
const PRIVATE_KEY_KEYS: &[&str] = &["sslkey", "ssl-key"];

/// What stands between us and the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostgresSession {
    /// Nothing, or a pooler that gives each of our connections one of its own. The default.
    #[default]
    Own,
    /// A pooler per transaction that knows prepared statements: PgBouncer 1.21 or later with
    /// `max_prepared_statements` of at least 128. Timeouts of single statements are those of the role
    /// (`ALTER ROLE … SET statement_timeout`), because the pooler takes no settings when a connection begins.
    Pooled,
    /// As [`PostgresSession::Pooled`], for poolers that do not know prepared statements. Each statement is parsed anew, in a
    /// transaction of its own, which costs two more round trips.
    PooledUnnamed,
}

impl PostgresSession {
    /// Whether statements are prepared once per connection.
    pub(super) const fn has_named_statements(self) -> bool {
        match self {
            Self::Own | Self::Pooled => true,
            Self::PooledUnnamed => false,
        }
    }
}

/// How the database is reached and used. Neither its `Debug` nor any error shows the URL's password.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`. In the query: `sslmode` (`disable`, `prefer`, `require`, `verify-ca`,
    /// `verify-full`; default `prefer`), `sslrootcert`, `sslcert` with `sslkey` (paths of PEM files), `host` (also the
    /// directory of a socket), `hostaddr`, `port`, `dbname`, `user`, `password`, `application_name`.
    pub url: String,
    /// Connections of this engine at most. Default 16, at least 1.
    pub connections: u32,
    /// The name that the server shows, unless the URL has one. Default `flowmonkey`.
    pub application_name: String,
    /// Longest that one statement may take. Default 30 s.
    pub statement_timeout: Duration,
    /// Longest that a transaction may rest between two statements. Default 10 s.
    pub idle_in_transaction_timeout: Duration,
    /// How long a caller waits for a free connection. Default 30 s.
    pub acquire_timeout: Duration,
    /// How long a database that cannot be reached is tried again at the start. Default 30 s.
    pub patience: Duration,
    /// What stands between. Default [`PostgresSession::Own`].
    pub session: PostgresSession,
    /// Whether the schema is brought up to date at the start. Default yes; without it an older schema is an error.
    pub migrate: bool,
}

impl PostgresOptions {
    /// The defaults, for the database at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections: CONNECTIONS,
            application_name: APPLICATION_NAME.into(),
            statement_timeout: STATEMENT_TIMEOUT,
            idle_in_transaction_timeout: IDLE_IN_TRANSACTION_TIMEOUT,
            acquire_timeout: ACQUIRE_TIMEOUT,
            patience: PATIENCE,
            session: PostgresSession::default(),
            migrate: true,
        }
    }

    /// Looks whether the URL can be used, without connecting.
    ///
    /// # Errors
    /// What is wrong with it, without its values.
    pub fn check(&self) -> Result<(), PostgresUrlError> {
        self.parsed().map(|_| ())
    }

    /// What the driver needs, checked.
    pub(super) fn driver(&self) -> Result<PgConnectOptions, StoreError> {
        self.parsed().map_err(|error| StoreError::Internal { reason: error.to_string() })
    }

    fn parsed(&self) -> Result<PgConnectOptions, PostgresUrlError> {
        let keys = self.query_keys()?;
        let options: PgConnectOptions =
            self.url.parse().map_err(|error: sqlx::Error| refused(&reason_of(&error)))?;
        let options = options.extra_float_digits(None).statement_cache_capacity(STATEMENTS);
        let options = if keys.contains(&"application_name") {
            options
        } else {
            options.application_name(&self.application_name)
        };
        Ok(match self.session {
            PostgresSession::Own => options.options([
                ("statement_timeout", self.statement_timeout.as_millis().to_string()),
                (
                    "idle_in_transaction_session_timeout",
                    self.idle_in_transaction_timeout.as_millis().to_string(),
                ),
            ]),
            PostgresSession::Pooled | PostgresSession::PooledUnnamed => options,
        })
    }

    /// The keys of the URL's query. What is not understood is refused, not passed over: a misspelt `sslmode` must not turn
    /// encryption off.
    fn query_keys(&self) -> Result<Vec<&str>, PostgresUrlError> {
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err(refused("it has to begin with postgres://"));
        }
        let query = self.url.split_once('?').map_or("", |(_, query)| query);
        let query = query.split_once('#').map_or(query, |(query, _)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let keys: Vec<&str> = pairs.map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key)).collect();
        if let Some(unknown) = keys.iter().find(|key| !KEYS.contains(*key)) {
            return Err(refused(&format!("`{unknown}` is not known; known are {}", KEYS.join(", "))));
        }
        let has = |any: &[&str]| keys.iter().any(|key| any.contains(key));
        match (has(CERTIFICATE_KEYS), has(PRIVATE_KEY_KEYS)) {
            (true, false) => Err(refused("`sslcert` needs `sslkey` beside it")),
            (false, true) => Err(refused("`sslkey` needs `sslcert` beside it")),
            (true, true) | (false, false) => Ok(keys),
        }
    }
}

/// Why the URL of a database cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL of the database cannot be used: {reason}")]
pub struct PostgresUrlError {
    reason: String,
}

fn refused(reason: &str) -> PostgresUrlError {
    PostgresUrlError { reason: reason.to_owned() }
}

/// Why the driver refuses the URL, without its words about values: a value may be a password.
#[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors may become more")]
fn reason_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(_) => {
            "its form is postgres://user:password@host:port/database?key=value, with \
            special characters as %XX"
                .into()
        }
        other => other.to_string(),
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("connections", &self.connections)
            .field("application_name", &self.application_name)
            .field("statement_timeout", &self.statement_timeout)
            .field("idle_in_transaction_timeout", &self.idle_in_transaction_timeout)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("patience", &self.patience)
            .field("session", &self.session)
            .field("migrate", &self.migrate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        PostgresOptions::new(url).driver().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_the_password() {
        for (url, expected) in [
            ("mysql://user:secret@host/db", "postgres://"),
            ("postgres://user:secret@host/db?sslmod=require", "`sslmod`"),
            ("postgres://user:secret@host/db?sslcert=/a.pem", "`sslkey`"),
            ("postgres://user:secret@host/db?sslkey=/a.pem", "`sslcert`"),
            ("postgres://user:secret@host/db?sslmode=secret", "its form"),
            ("postgres://user:secret@host:port/db", "its form"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains(expected), "{refusal}");
            assert!(!refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let options = PostgresOptions::new("postgres://user:secret@host/db");
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn the_name_in_the_url_counts() {
        let name = |url: &str| {
            let options = PostgresOptions::new(url).driver().unwrap();
            options.get_application_name().map(str::to_owned)
        };
        assert_eq!(name("postgres://user@host/db").as_deref(), Some("flowmonkey"));
        assert_eq!(name("postgres://user@host/db?application_name=mine").as_deref(), Some("mine"));
    }
}
