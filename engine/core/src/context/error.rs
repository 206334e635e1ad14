//! Why a write to a context is refused.

/// A write was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// `CONTEXT_VALUE_TOO_LARGE`
    #[error("the value of `{path}` has {actual} bytes, the limit is {limit}")]
    ValueTooLarge {
        /// Where it was to be written.
        path: String,
        /// [`ContextLimits::max_value_size`](crate::limits::ContextLimits::max_value_size).
        limit: usize,
        /// Its size.
        actual: usize,
    },
    /// `CONTEXT_NESTING_LIMIT`
    #[error("the value of `{path}` would be nested {actual} deep, the limit is {limit}")]
    Nesting {
        /// Where it was to be written.
        path: String,
        /// [`ContextLimits::max_depth`](crate::limits::ContextLimits::max_depth).
        limit: usize,
        /// Its nesting, counted from its top-level key.
        actual: usize,
    },
    /// `CONTEXT_KEY_LIMIT`
    #[error("the context would have {actual} keys, the limit is {limit}")]
    Keys {
        /// [`ContextLimits::max_keys`](crate::limits::ContextLimits::max_keys).
        limit: usize,
        /// What it would have.
        actual: usize,
    },
    /// `CONTEXT_SIZE_LIMIT`
    #[error("the context would have {actual} bytes, the limit is {limit}")]
    Size {
        /// [`ContextLimits::max_total_size`](crate::limits::ContextLimits::max_total_size).
        limit: usize,
        /// What it would have.
        actual: usize,
    },
    /// `CONTEXT_PATH_BLOCKED`
    #[error("`{path}` cannot be written: there is no object at `{place}`")]
    PathBlocked {
        /// Where it was to be written.
        path: String,
        /// The scalar, null or array in the way.
        place: String,
    },
}

impl ContextError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ValueTooLarge { .. } => "CONTEXT_VALUE_TOO_LARGE",
            Self::Nesting { .. } => "CONTEXT_NESTING_LIMIT",
            Self::Keys { .. } => "CONTEXT_KEY_LIMIT",
            Self::Size { .. } => "CONTEXT_SIZE_LIMIT",
            Self::PathBlocked { .. } => "CONTEXT_PATH_BLOCKED",
        }
    }

    /// The limit that was passed. `None` for a blocked path.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match self {
            Self::ValueTooLarge { limit, .. }
            | Self::Nesting { limit, .. }
            | Self::Keys { limit, .. }
            | Self::Size { limit, .. } => Some(*limit),
            Self::PathBlocked { .. } => None,
        }
    }

    /// What passed the limit. `None` for a blocked path.
    #[must_use]
    pub const fn actual(&self) -> Option<usize> {
        match self {
            Self::ValueTooLarge { actual, .. }
            | Self::Nesting { actual, .. }
            | Self::Keys { actual, .. }
            | Self::Size { actual, .. } => Some(*actual),
            Self::PathBlocked { .. } => None,
        }
    }
}
