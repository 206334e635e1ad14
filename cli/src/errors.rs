//! What can go wrong, and the exit code that says so: the one place where both meet.

use std::process::ExitCode;

use flowmonkey_engine::objects::ObjectsError;
use flowmonkey_engine::store::StoreError;
use flowmonkey_engine::{CommandError, EngineError};
use flowmonkey_plumbing::queue::QueueError;

/// Exit code when what was asked is not right.
const USAGE: u8 = 2;

/// How a command ended that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Done,
    /// The execution failed or was cancelled, or a check found something to mend.
    Failed,
    /// What was checked is not valid.
    Invalid,
    /// Only a signal or a person can move the execution.
    Waits,
    /// Left at once, because the user insisted.
    Interrupted,
}

impl Exit {
    /// As the shell sees it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Invalid => USAGE,
            Self::Waits => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line, a flow or an input is not right; in words.
    #[error("{0}")]
    Usage(String),
    /// A flow has issues, already spelled out line by line.
    #[error("{lines}\n{summary}")]
    Issues {
        /// `file:line:column: …`, one each.
        lines: String,
        /// How many.
        summary: String,
    },
    /// Another process owns the data directory.
    #[error("{0}")]
    Owned(String),
    /// The server refused the request.
    #[error("{detail} [{code}]{more}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// In words.
        detail: String,
        /// Where it is wrong, what to do, which request it was; lines below the first.
        more: String,
    },
    /// The engine of this process could not do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The core refused a command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store cannot be opened.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The queues failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A file, a socket or a process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The server cannot be talked to.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    /// A failed operation on `what`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether what was asked is not right, so that nothing was done.
    pub(crate) fn is_usage(&self) -> bool {
        self.exit_code() == USAGE
    }

    /// As the shell sees it.
    pub(crate) fn exit_code(&self) -> u8 {
        const FAILED: u8 = 1;
        const NOT_CARRIED_OUT: u8 = 4;
        match self {
            Self::Usage(_) | Self::Issues { .. } | Self::Owned(_) => USAGE,
            Self::Refused { status: 400 | 404 | 413 | 415 | 422, .. } => USAGE,
            Self::Refused { status: 409, .. } => FAILED,
            Self::Refused { .. }
            | Self::Store(_)
            | Self::Objects(_)
            | Self::Queue(_)
            | Self::Io { .. }
            | Self::Unreachable(_) => NOT_CARRIED_OUT,
            Self::Engine(error) | Self::Command(CommandError::Engine(error)) => match error {
                EngineError::FlowNotFound(_)
                | EngineError::ExecutionNotFound(_)
                | EngineError::Start(_)
                | EngineError::NotEnded(_)
                | EngineError::IdTaken(_) => USAGE,
                EngineError::Store(_) | EngineError::Queue(_) | EngineError::Contended(_) => NOT_CARRIED_OUT,
            },
            Self::Command(CommandError::Rejected(_)) => FAILED,
        }
    }
}

/// An error with all its causes, in one line. What an error says of its cause itself is not said twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let cause = std::io::Error::other("refused");
        let said = CliError::Io { what: "cannot connect".into(), source: cause };
        assert_eq!(chain(&said), "cannot connect: refused");
        let error = StoreError::Unavailable { reason: "no answer".into(), source: Some("gone".into()) };
        assert_eq!(chain(&CliError::Store(error)), "the record is unavailable: no answer: gone");
    }
}
