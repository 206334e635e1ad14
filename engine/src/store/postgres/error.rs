//! What Postgres says, in the words of the record. One function.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use super::schema::POSTGRES_SCHEMA_VERSION;
use crate::store::StoreError;

/// `SQLSTATE` of a user whose password is wrong.
pub(super) const WRONG_PASSWORD: &str = "28P01";
/// `SQLSTATE` of a user or host that is not let in.
pub(super) const NOT_LET_IN: &str = "28000";
/// `SQLSTATE` of a database that does not exist.
pub(super) const NO_DATABASE: &str = "3D000";

/// Classifies `error`, which the database at `place` gave.
#[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors may become more")]
pub(super) fn classify(place: &str, error: sqlx::Error) -> StoreError {
    let reason = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            match by_code(place, &code, &**database) {
                Ok(reason) => reason,
                Err(other) => return other,
            }
        }
        sqlx::Error::Io(_) => format!("{place} cannot be reached"),
        sqlx::Error::Tls(reason) => format!("{place}: no encrypted connection: {reason}"),
        sqlx::Error::PoolTimedOut => format!("no connection to {place} is free"),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            format!("the connection to {place} is closed")
        }
        sqlx::Error::BeginFailed => format!("{place} began no transaction"),
        other => return StoreError::Internal { reason: other.to_string() },
    };
    // The cause itself, not what the driver wraps around it; none where the reason has it already.
    let source = match error {
        sqlx::Error::Io(error) => Some(error.into()),
        sqlx::Error::Database(_) | sqlx::Error::Tls(_) => None,
        other => Some(other.into()),
    };
    StoreError::Unavailable { reason, source }
}

/// Whether the name of the server is known to nobody, as far as the system can tell.
pub(super) fn is_unknown_host(error: &sqlx::Error) -> bool {
    // The system's resolver gives no code, only words.
    let sqlx::Error::Io(error) = error else { return false };
    let said = error.to_string();
    said.contains("failed to lookup address information") && !said.contains("Temporary failure")
}

/// Why the database is unavailable, or another error.
fn by_code(place: &str, code: &str, error: &dyn DatabaseError) -> Result<String, StoreError> {
    let message = error.message();
    let class = code.get(..2).unwrap_or_default();
    Ok(match (class, code) {
        (_, WRONG_PASSWORD) => format!("{place}: the user or the password is wrong"),
        ("28", _) => format!("{place} does not let us in: {message}"),
        (_, NO_DATABASE) => format!("{place}: the database does not exist; create it with `createdb`"),
        (_, "42501") => format!("{place}: the user lacks a right: {message}"),
        // Connections; shutdown, start-up, cancelled statements.
        ("08" | "57", _) => format!("{place}: {message}"),
        (_, "53300") => format!("{place} has no connection free: {message}"),
        // Space, memory, limits of configuration and of sizes.
        ("53" | "54", _) => return Err(StoreError::Full { reason: format!("{place}: {message}") }),
        (_, "25006") => format!("{place} can only be read: it is a standby or set so"),
        // Left alone in a transaction for too long.
        (_, "25P03") => format!("{place}: {message}"),
        // Serialization failures and deadlocks; locks that could not be had in time.
        ("40", _) | (_, "55P03") => format!("{place}: {message}"),
        // Input and output of the server's system.
        ("58", _) => format!("{place}: {message}"),
        (_, "XX001" | "XX002") => {
            return Err(StoreError::Corrupt { what: place.to_owned(), reason: message.to_owned() });
        }
        // Tables, columns and functions that are not there.
        (_, "42P01" | "42703" | "42883" | "3F000") => {
            return Err(StoreError::Schema {
                found: 0,
                needed: POSTGRES_SCHEMA_VERSION,
                cure: format!("migrate {place}: {message}"),
            });
        }
        _ => return Err(StoreError::Internal { reason: refusal(code, error) }),
    })
}

/// What a refused statement did wrong: a bug of ours, so that everything about it is said.
fn refusal(code: &str, error: &dyn DatabaseError) -> String {
    let mut reason = format!("{code} {}", error.message());
    if let Some(constraint) = error.constraint() {
        reason = format!("{reason} (constraint {constraint})");
    }
    if let Some(place) = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::r#where) {
        reason = format!("{reason}, in {place}");
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_nobody_knows_is_told_from_a_resolver_that_is_away() {
        let failed = |said: &str| sqlx::Error::Io(std::io::Error::other(said.to_owned()));
        let lookup = "failed to lookup address information: ";
        assert!(is_unknown_host(&failed(&format!("{lookup}Name or service not known"))));
        assert!(!is_unknown_host(&failed(&format!("{lookup}Temporary failure in name resolution"))));
        assert!(!is_unknown_host(&sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into())));
    }

    #[test]
    fn what_the_system_said_is_the_cause() {
        let error = classify("the database x", sqlx::Error::Io(std::io::Error::other("refused")));
        let StoreError::Unavailable { reason, source: Some(cause) } = error else { panic!("{error}") };
        assert_eq!(
            (reason.as_str(), cause.to_string()),
            ("the database x cannot be reached", "refused".into())
        );
        let error = classify("the database x", sqlx::Error::Tls("no".into()));
        assert!(matches!(error, StoreError::Unavailable { source: None, .. }), "{error}");
    }
}
