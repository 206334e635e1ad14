//! What can go wrong with Redis, and which error of the queue it is.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::queue::QueueError;

/// Why a call of Redis gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// Redis, or the way to it.
    #[error("{doing} failed")]
    Command {
        /// What was asked.
        doing: String,
        /// What came of it.
        #[source]
        source: RedisError,
    },
    /// No answer in time.
    #[error("{doing} had no answer within {deadline:?}")]
    Deadline {
        /// What was asked.
        doing: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The last attempt to connect failed a moment ago.
    #[error("not connected, the next attempt comes in a moment; the last one said: {last}")]
    BackingOff {
        /// The error of the last attempt.
        last: String,
    },
    /// Nobody has loaded the functions, and this user may not.
    #[error(
        "the functions of FlowMonkey are not in Redis and this user may not load them; start an engine first"
    )]
    FunctionsMissing {
        /// What the attempt to load them said.
        #[source]
        source: RedisError,
    },
    /// Redis answers something that our functions never do.
    #[error("the answer to {doing} has an unexpected form")]
    Answer {
        /// What was asked.
        doing: String,
    },
    /// A task of this process that owned the exchange ended without an answer.
    #[error("the exchange was given up at shutdown")]
    Shutdown,
}

impl RedisFailure {
    /// Whether a new connection is needed.
    pub(super) fn needs_reconnect(&self) -> bool {
        match self {
            Self::Command { source, .. } => needs_reconnect(source),
            Self::Deadline { .. } => true,
            Self::BackingOff { .. }
            | Self::FunctionsMissing { .. }
            | Self::Answer { .. }
            | Self::Shutdown => false,
        }
    }

    /// Whether it stays until somebody changes something, so that trying again is no use: user or password are wrong, or
    /// the user may not do this.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match self {
            Self::Command { source, .. } => {
                matches!(source.kind(), ErrorKind::AuthenticationFailed)
                    || ["WRONGPASS", "NOAUTH", "NOPERM"].iter().any(|code| has_code(source, code))
            }
            Self::Deadline { .. }
            | Self::BackingOff { .. }
            | Self::FunctionsMissing { .. }
            | Self::Answer { .. }
            | Self::Shutdown => false,
        }
    }

    /// Whether Redis may have carried out what was asked although there is no answer.
    pub(super) fn may_have_happened(&self) -> bool {
        match self {
            Self::Command { source, .. } => !is_answer(source),
            Self::Deadline { .. } | Self::Answer { .. } => true,
            Self::BackingOff { .. } | Self::FunctionsMissing { .. } | Self::Shutdown => false,
        }
    }

    /// Whether the functions have to be loaded.
    pub(super) fn is_function_missing(&self) -> bool {
        matches!(self, Self::Command { source, .. }
            if is_answer(source) && says(source, "function not found"))
    }

    /// Whether a key has the wrong type.
    pub(super) fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Command { source, .. } if has_code(source, "WRONGTYPE"))
    }

    /// Whether Redis takes no more.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Command { source, .. } if has_code(source, "OOM"))
    }

    /// The error of the queue; `entry` is what was worked on.
    pub(super) fn into_queue_error(self, entry: &str) -> QueueError {
        match &self {
            Self::Command { source, .. } if has_code(source, "OOM") => {
                QueueError::Full { limit: "maxmemory of Redis".to_owned() }
            }
            Self::Command { source, .. } if has_code(source, "WRONGTYPE") => {
                QueueError::Corrupt { entry: entry.to_owned(), reason: "a key has the wrong type".to_owned() }
            }
            Self::Command { .. }
            | Self::Deadline { .. }
            | Self::BackingOff { .. }
            | Self::FunctionsMissing { .. }
            | Self::Answer { .. }
            | Self::Shutdown => QueueError::Unavailable(Box::new(self)),
        }
    }
}

/// Whether Redis itself said it, so that the connection is in order and nothing was done.
pub(super) fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Whether the error has this code; inside a function it may stand within the text.
fn has_code(error: &RedisError, code: &str) -> bool {
    is_answer(error) && (error.code() == Some(code) || error.detail().is_some_and(|text| text.contains(code)))
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|text| text.to_ascii_lowercase().contains(words))
        || error.to_string().to_ascii_lowercase().contains(words)
}

fn needs_reconnect(error: &RedisError) -> bool {
    let answered_by_the_wrong_node = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
        )
    );
    answered_by_the_wrong_node || !is_answer(error) || error.is_unrecoverable_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str, detail: &str) -> RedisFailure {
        let source = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
        RedisFailure::Command { doing: "it".into(), source }
    }

    #[test]
    fn answers_of_redis_are_told_apart_and_keep_the_connection() {
        let full = answered("OOM", "command not allowed when used memory > 'maxmemory'.");
        assert!(full.is_full() && !full.needs_reconnect() && !full.may_have_happened());
        assert!(matches!(full.into_queue_error("a"), QueueError::Full { .. }));
        let wrong = answered("WRONGTYPE", "Operation against a key holding the wrong kind of value");
        assert!(wrong.is_wrong_type() && !wrong.needs_reconnect());
        assert!(matches!(wrong.into_queue_error("a"), QueueError::Corrupt { entry, .. } if entry == "a"));
        let missing = answered("ERR", "Function not found");
        assert!(missing.is_function_missing() && !missing.needs_reconnect() && !missing.lasts());
        assert!(matches!(missing.into_queue_error("a"), QueueError::Unavailable(_)));
    }

    #[test]
    fn only_what_somebody_must_change_lasts() {
        for code in ["WRONGPASS", "NOAUTH", "NOPERM"] {
            assert!(answered(code, "no").lasts(), "{code}");
        }
        let refused = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(!RedisFailure::Command { doing: "it".into(), source: refused }.lasts());
        assert!(!answered("LOADING", "Redis is loading the dataset in memory").lasts());
    }

    #[test]
    fn broken_connections_leave_it_open_what_happened() {
        let source = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let broken = RedisFailure::Command { doing: "it".into(), source };
        let late = RedisFailure::Deadline { doing: "it".into(), deadline: Duration::from_secs(1) };
        for failure in [broken, late] {
            assert!(failure.needs_reconnect() && failure.may_have_happened());
            assert!(matches!(failure.into_queue_error("a"), QueueError::Unavailable(_)));
        }
        let waiting = RedisFailure::BackingOff { last: "refused".into() };
        assert!(!waiting.needs_reconnect() && !waiting.may_have_happened());
    }
}
