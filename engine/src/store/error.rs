//! What can go wrong with the record, by what the caller can do.

/// What can go wrong with the record.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Back off and try again: the database is away, locked, or out of connections.
    #[error("the record is unavailable: {reason}")]
    Unavailable {
        /// In words.
        reason: String,
        /// What the driver said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// No space, or a size limit of the database: nothing was stored. Free space, then try again.
    #[error("the record is full: {reason}")]
    Full {
        /// In words.
        reason: String,
    },
    /// A row cannot be understood. It is named, counted and left as it is.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// Which row or file.
        what: String,
        /// Why.
        reason: String,
    },
    /// The database is of another version than this program.
    #[error("the record has schema version {found}; this program needs {needed}: {cure}")]
    Schema {
        /// What the database has.
        found: i64,
        /// What the program needs.
        needed: i64,
        /// What to do.
        cure: String,
    },
    /// A statement or a constraint of ours failed: a bug.
    #[error("the record refused a statement: {reason}")]
    Internal {
        /// In words; names the constraint.
        reason: String,
    },
}

impl StoreError {
    /// Whether trying the same again later can help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Full { .. } => true,
            Self::Corrupt { .. } | Self::Schema { .. } | Self::Internal { .. } => false,
        }
    }
}
