//! The Context API: reads of what the step declared, and changes that are merged in the result's commit.

use async_trait::async_trait;
use serde_json::Value;

use super::{PlumbingError, TaskAccess};
use crate::wire::ContextOperation;

/// Bytes of one staged patch as JSON. The context's own limit bounds all of them together.
pub const CONTEXT_PATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a dotted path that is read or changed.
pub const CONTEXT_PATH_BYTES_MAX: usize = 4096;
/// Changes in one staged patch.
pub const CONTEXT_OPERATIONS_MAX: usize = 10_000;
/// Patches that one attempt may stage.
pub const CONTEXT_PATCHES_MAX: u32 = 10_000;

/// Reads and staged changes of a context that does not travel with its task.
#[async_trait]
pub trait ContextApi: Send + Sync {
    /// What the step declared of the context, or the part of it at the dotted `path`. None: there is nothing at that path, or
    /// the step did not declare it. The same in all attempts of a task.
    async fn read_context(
        &self,
        access: &TaskAccess,
        path: Option<&str>,
    ) -> Result<Option<Value>, PlumbingError>;

    /// Stages changes of the context under the attempt: they are merged in the commit of its result, before the result's own
    /// `contextUpdates`, and dropped with a failed or lost attempt. `sequence` counts the attempt's patches from 1; the
    /// same one again is the same patch and changes nothing. The result must name the last one in `contextPatches`.
    async fn stage_context(
        &self,
        access: &TaskAccess,
        sequence: u32,
        patch: &[ContextOperation],
    ) -> Result<(), PlumbingError>;
}
