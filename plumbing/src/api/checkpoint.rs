//! The Checkpoint API: what a handler saves, so that a later attempt goes on from there.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PlumbingError, TaskAccess};

/// Bytes of one checkpoint, as JSON.
pub const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;

/// A saved checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Names the checkpoint.
    pub id: String,
    /// RFC 3339.
    pub saved_at: String,
    /// What the handler saved.
    pub data: Value,
}

/// Save, load, clear.
#[async_trait]
pub trait CheckpointApi: Send + Sync {
    /// Saves a checkpoint; it replaces the one before.
    async fn save_checkpoint(&self, access: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError>;

    /// The last checkpoint of the task, whichever attempt saved it.
    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError>;

    /// Forgets the task's checkpoint.
    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError>;
}
