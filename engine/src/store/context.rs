//! Changes of a context that an attempt stages while it runs.

use async_trait::async_trait;
use flowmonkey_core::execution::command::ContextChange;
use flowmonkey_core::ids::TaskId;

use super::StoreError;

/// Staged changes of a context: one call of the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextPatch {
    /// The task.
    pub task: TaskId,
    /// The attempt that staged it.
    pub attempt: u32,
    /// Its place among the attempt's patches, from 1.
    pub sequence: u32,
    /// The changes, in order.
    pub changes: Vec<ContextChange>,
}

/// What became of a patch that was to be staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It is stored, now or by an earlier call that said the same.
    Stored,
    /// The attempt has staged something else under that sequence.
    Taken,
    /// The attempt's patches would have more bytes together than they may.
    Full,
    /// The attempt is not the one that is out.
    Stale,
}

/// The part of the record that holds staged changes of contexts. An execution has one attempt out, and only that one
/// stages; what others have staged is of no use, and goes with the next patch or the next pruning.
#[async_trait]
pub trait ContextStore: Send + Sync {
    /// The version of the execution, if `attempt` of `task` is out: as long as it is the same, so is the context.
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError>;

    /// Stages a patch, if its attempt is the record's and its patches have at most `bytes_max` bytes together. Repeatable.
    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError>;

    /// All patches of these attempts, by task, attempt and sequence.
    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError>;

    /// Forgets the patches of attempts whose results were stored.
    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError>;
}
