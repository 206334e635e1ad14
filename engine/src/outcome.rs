//! What comes of commands.

use std::sync::Arc;

use flowmonkey_core::execution::{Execution, Rejection};
use flowmonkey_core::ids::ExecutionId;

use crate::engine::EngineError;
use crate::store::StoreError;

/// What came of a command.
#[derive(Clone, Debug)]
pub enum CommandOutcome {
    /// It is decided and stored; the state afterwards.
    Applied(Arc<Execution>),
    /// The core refused it; nothing has changed.
    Rejected(Rejection),
    /// The execution does not exist.
    NotFound,
    /// It could not be decided or stored, though other commands could.
    Failed(Fault),
}

/// What is wrong with one execution, while the record as a whole is well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its row, its flow, or what belongs to it cannot be read.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// Which row.
        what: String,
        /// Why.
        reason: String,
    },
    /// The record refuses what was decided: a bug.
    #[error("the record refused a statement: {reason}")]
    Internal {
        /// In words.
        reason: String,
    },
    /// Too many others change it at the same time; try again.
    #[error("the execution is being changed by too many at once")]
    Contended,
}

impl Fault {
    pub(crate) fn of(self, id: ExecutionId) -> EngineError {
        match self {
            Self::Corrupt { what, reason } => StoreError::Corrupt { what, reason }.into(),
            Self::Internal { reason } => StoreError::Internal { reason }.into(),
            Self::Contended => EngineError::Contended(id),
        }
    }

    /// What is wrong with the one execution that met `error`; else the error, which all would meet.
    pub(crate) fn from_store(error: StoreError) -> Result<Self, StoreError> {
        match error {
            StoreError::Corrupt { what, reason } => Ok(Self::Corrupt { what, reason }),
            StoreError::Internal { reason } => Ok(Self::Internal { reason }),
            StoreError::Unavailable { .. } | StoreError::Full { .. } | StoreError::Schema { .. } => {
                Err(error)
            }
        }
    }
}

/// Why a single command did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The core refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It could not be decided or stored.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The stable code of a refusal.
pub(crate) const fn rejection_code(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Finished(_) => "EXECUTION_FINISHED",
        Rejection::StaleAttempt => "STALE_ATTEMPT",
        Rejection::StaleJoin => "STALE_JOIN",
        Rejection::AlreadyCancelling => "ALREADY_CANCELLING",
        Rejection::Compensating => "COMPENSATING",
        Rejection::NotWaiting(_) => "NOT_WAITING",
        Rejection::InvalidAnswer(_) => "INVALID_ANSWER",
        Rejection::SignalBufferFull { .. } => "SIGNAL_BUFFER_FULL",
        Rejection::DuplicateSignal => "DUPLICATE_SIGNAL",
        Rejection::AlreadyPaused => "ALREADY_PAUSED",
        Rejection::NotPaused => "NOT_PAUSED",
        Rejection::Paused => "EXECUTION_PAUSED",
        Rejection::NotRetryable(_) => "NOT_RETRYABLE",
        Rejection::Compensated => "ALREADY_COMPENSATED",
        Rejection::CountedChild => "COUNTED_CHILD",
        Rejection::NothingDue => "NOTHING_DUE",
    }
}
