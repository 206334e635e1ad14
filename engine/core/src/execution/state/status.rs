//! The status of an execution, in a word.

use serde::{Deserialize, Serialize};

/// The status that is stored and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Created; its first step has not begun.
    Pending,
    /// A task is out.
    WaitingForWorker,
    /// A timer, signal, event, approval, children or back-off.
    Waiting,
    /// Nothing moves until resumed.
    Paused,
    /// Parked for a person.
    Incident,
    /// Tasks and children in flight are ending.
    Cancelling,
    /// Successful steps are being undone.
    Compensating,
    /// Terminal.
    Completed,
    /// Terminal but for the command `Reopen`.
    Failed,
    /// Terminal.
    Cancelled,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::WaitingForWorker,
        Self::Waiting,
        Self::Paused,
        Self::Incident,
        Self::Cancelling,
        Self::Compensating,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::WaitingForWorker => "waiting_for_worker",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Incident => "incident",
            Self::Cancelling => "cancelling",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Self::as_str`] gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the execution has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}
