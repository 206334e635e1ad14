//! The Context API in process.

use async_trait::async_trait;
use flowmonkey_core::context::{ContextError, depth, json_size};
use flowmonkey_core::execution::EncodeError;
use flowmonkey_core::execution::command::ContextChange;
use flowmonkey_core::flow::selector::Path;
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::limits::ContextLimits;
use flowmonkey_plumbing::api::{
    CONTEXT_OPERATIONS_MAX, CONTEXT_PATCH_BYTES_MAX, CONTEXT_PATCHES_MAX, CONTEXT_PATH_BYTES_MAX, ContextApi,
    PlumbingError, TaskAccess,
};
use flowmonkey_plumbing::wire::ContextOperation;
use serde_json::Value;

use super::plumbing::{EnginePlumbing, stale, task, unavailable};
use crate::contexts::ReadError;
use crate::engine::Engine;
use crate::store::{ContextPatch, Staged, StoreError};
use crate::wire::context_change;

/// Why a context was not read, or a patch of it not staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextRefusal {
    /// The record has moved on.
    #[error("the record has another attempt")]
    Stale,
    /// What was sent makes no sense: at which place of the patch, and why.
    #[error("{message}")]
    Invalid {
        /// The operation, from 0; none: the call as a whole.
        operation: Option<usize>,
        /// For people.
        message: String,
    },
    /// A value passes a limit of contexts.
    #[error(transparent)]
    Limit(ContextError),
    /// The patch alone is too large.
    #[error("the patch has {actual} bytes, over the limit of {CONTEXT_PATCH_BYTES_MAX}")]
    PatchTooLarge {
        /// Its size.
        actual: usize,
    },
    /// All patches of the attempt together are too large.
    #[error(
        "the patches of the attempt would have more than {limit} bytes together, which is the context's limit"
    )]
    Full {
        /// The context's limit.
        limit: usize,
    },
    /// Another patch has the sequence.
    #[error("the attempt has staged another patch as number {sequence}")]
    Taken {
        /// The sequence.
        sequence: u32,
    },
    /// What the step declared cannot be put together.
    #[error(transparent)]
    Declared(EncodeError),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReadError> for ContextRefusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stale => Self::Stale,
            ReadError::Declared(error) => Self::Declared(error),
            ReadError::Store(error) => Self::Store(error),
        }
    }
}

impl ContextRefusal {
    /// The stable code.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Stale => "STALE_ATTEMPT",
            Self::Invalid { .. } => "INVALID_REQUEST",
            Self::Limit(error) => error.code(),
            Self::PatchTooLarge { .. } | Self::Full { .. } => "CONTEXT_PATCH_TOO_LARGE",
            Self::Taken { .. } => "CONTEXT_SEQUENCE_TAKEN",
            Self::Declared(_) => "CONTEXT_UNREADABLE",
            Self::Store(_) => "STORE_UNAVAILABLE",
        }
    }

    fn invalid(operation: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self::Invalid { operation: operation.into(), message: message.into() }
    }
}

/// Reads a dotted path that somebody sent.
pub(crate) fn context_path(text: &str) -> Result<Path, String> {
    if text.len() > CONTEXT_PATH_BYTES_MAX {
        return Err(format!("the path has more than {CONTEXT_PATH_BYTES_MAX} bytes"));
    }
    Path::parse(text).map_err(|error| error.to_string())
}

impl Engine {
    /// Stages changes of the context under an attempt. Repeatable by its `sequence`.
    pub(crate) async fn stage_context(
        &self,
        task: TaskId,
        attempt: u32,
        sequence: u32,
        operations: Vec<ContextOperation>,
    ) -> Result<(), ContextRefusal> {
        if !(1..=CONTEXT_PATCHES_MAX).contains(&sequence) {
            let message = format!("`sequence` must be a number from 1 to {CONTEXT_PATCHES_MAX}");
            return Err(ContextRefusal::invalid(None, message));
        }
        if operations.is_empty() || operations.len() > CONTEXT_OPERATIONS_MAX {
            let message =
                format!("a patch has 1 to {CONTEXT_OPERATIONS_MAX} changes, not {}", operations.len());
            return Err(ContextRefusal::invalid(None, message));
        }
        let limits = &self.config.limits.context;
        let mut actual = 0_usize;
        let mut changes = Vec::with_capacity(operations.len());
        for (index, operation) in operations.into_iter().enumerate() {
            let change = context_change(operation);
            actual = actual.saturating_add(check(index, &change, limits)?);
            changes.push(change);
        }
        if actual > CONTEXT_PATCH_BYTES_MAX {
            return Err(ContextRefusal::PatchTooLarge { actual });
        }
        let execution = self.with_task_out(task, attempt).await?;
        let flow = self.flows.get(&*self.store, &execution.identity.flow.hash).await?;
        let limit = flow.flow.limits.context_bytes.unwrap_or(limits.max_total_size);
        let patch = ContextPatch { task, attempt, sequence, changes };
        match self.store.stage_patch(&patch, limit as u64).await? {
            Staged::Stored => Ok(()),
            Staged::Taken => Err(ContextRefusal::Taken { sequence }),
            Staged::Full => Err(ContextRefusal::Full { limit }),
            Staged::Stale => Err(ContextRefusal::Stale),
        }
    }
}

/// Checks a change by itself, as the commit of the result will; says how many bytes it has.
fn check(index: usize, change: &ContextChange, limits: &ContextLimits) -> Result<usize, ContextRefusal> {
    let path = |text: &str| {
        context_path(text).map_err(|message| ContextRefusal::invalid(index, format!("`path`: {message}")))
    };
    match change {
        ContextChange::Set { path: text, value } => {
            let path = path(text)?;
            Ok(text.len() + check_value(text, value, path.segments().len() - 1, limits)?)
        }
        ContextChange::Merge { value } => value.iter().try_fold(0, |bytes: usize, (key, value)| {
            if key.len() > CONTEXT_PATH_BYTES_MAX {
                let message = format!("a key has more than {CONTEXT_PATH_BYTES_MAX} bytes");
                return Err(ContextRefusal::invalid(index, message));
            }
            Ok(bytes.saturating_add(key.len()).saturating_add(check_value(key, value, 0, limits)?))
        }),
        ContextChange::Delete { path: text } => path(text).map(|_| text.len()),
    }
}

fn check_value(
    path: &str,
    value: &Value,
    above: usize,
    limits: &ContextLimits,
) -> Result<usize, ContextRefusal> {
    let actual = json_size(value);
    if actual > limits.max_value_size {
        let limit = limits.max_value_size;
        return Err(ContextRefusal::Limit(ContextError::ValueTooLarge { path: path.into(), limit, actual }));
    }
    let nesting = above + depth(value);
    if nesting > limits.max_depth {
        let limit = limits.max_depth;
        return Err(ContextRefusal::Limit(ContextError::Nesting {
            path: path.into(),
            limit,
            actual: nesting,
        }));
    }
    Ok(actual)
}

#[async_trait]
impl ContextApi for EnginePlumbing {
    async fn read_context(
        &self,
        access: &TaskAccess,
        path: Option<&str>,
    ) -> Result<Option<Value>, PlumbingError> {
        let refused = |refusal| refused(access, refusal);
        let path = path.map(context_path).transpose();
        let path = path.map_err(|message| refused(ContextRefusal::invalid(None, message)))?;
        let delivery = &access.delivery;
        let read = self.0.read_context(task(delivery)?, delivery.attempt, path.as_ref()).await;
        read.map_err(|error| refused(error.into()))
    }

    async fn stage_context(
        &self,
        access: &TaskAccess,
        sequence: u32,
        patch: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        let delivery = &access.delivery;
        let staged = self.0.stage_context(task(delivery)?, delivery.attempt, sequence, patch.to_vec()).await;
        staged.map_err(|refusal| refused(access, refusal))
    }
}

fn refused(access: &TaskAccess, refusal: ContextRefusal) -> PlumbingError {
    let code = refusal.code();
    match refusal {
        ContextRefusal::Stale => stale(&access.delivery),
        ContextRefusal::Store(error) => unavailable(error),
        refusal @ (ContextRefusal::Invalid { .. }
        | ContextRefusal::Limit(_)
        | ContextRefusal::PatchTooLarge { .. }
        | ContextRefusal::Full { .. }
        | ContextRefusal::Taken { .. }
        | ContextRefusal::Declared(_)) => {
            PlumbingError::Refused { code: code.into(), detail: refusal.to_string() }
        }
    }
}
