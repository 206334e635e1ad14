//! The Checkpoint API: what a handler saves, so that a later attempt goes on from there.

use async_trait::async_trait;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{PlumbingError, TaskAccess};

/// Bytes of a checkpoint up to which it is in the record itself; a larger one is in the engine's object store.
pub const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one checkpoint, unless the engine or the worker is set to another limit: 1 GiB.
pub const LARGE_CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The type of a checkpoint's content that is JSON.
pub const CHECKPOINT_JSON: &str = "application/json";
/// The type of one that is not.
pub const CHECKPOINT_BINARY: &str = "application/octet-stream";

/// The digest of a body (RFC 9530).
pub const DIGEST_HEADER: &str = "repr-digest";
/// When a checkpoint was saved.
pub const SAVED_AT_HEADER: &str = "x-flowmonkey-saved-at";
/// Which save of its task a checkpoint is.
pub const VERSION_HEADER: &str = "x-flowmonkey-version";

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckpointData {
    /// A value.
    Json(Value),
    /// Whatever the handler makes of it.
    Bytes(Bytes),
}

impl CheckpointData {
    /// The value; none: these are bytes.
    #[must_use]
    pub const fn as_json(&self) -> Option<&Value> {
        match self {
            Self::Json(value) => Some(value),
            Self::Bytes(_) => None,
        }
    }

    /// Reads the value, or bytes that are JSON.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        match self {
            Self::Json(value) => serde_json::from_value(value),
            Self::Bytes(bytes) => serde_json::from_slice(&bytes),
        }
    }

    /// As it is stored, and its type.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn encode(self) -> Result<(Bytes, &'static str), PlumbingError> {
        match self {
            Self::Bytes(bytes) => Ok((bytes, CHECKPOINT_BINARY)),
            Self::Json(value) => match serde_json::to_vec(&value) {
                Ok(bytes) => Ok((bytes.into(), CHECKPOINT_JSON)),
                Err(error) => Err(PlumbingError::Refused {
                    code: "INVALID_REQUEST".into(),
                    detail: format!("the checkpoint cannot be written as JSON: {error}"),
                }),
            },
        }
    }

    /// Of what is stored with that type.
    ///
    /// # Errors
    /// [`PlumbingError::Refused`] with the code `CHECKPOINT_UNREADABLE` when it is said to be JSON and is not.
    pub fn decode(bytes: Bytes, content_type: &str) -> Result<Self, PlumbingError> {
        if content_type != CHECKPOINT_JSON {
            return Ok(Self::Bytes(bytes));
        }
        serde_json::from_slice(&bytes).map(Self::Json).map_err(|error| PlumbingError::Refused {
            code: "CHECKPOINT_UNREADABLE".into(),
            detail: format!("the checkpoint was saved as JSON and is not: {error}"),
        })
    }
}

impl From<Value> for CheckpointData {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

impl From<Bytes> for CheckpointData {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for CheckpointData {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// What the engine says of a checkpoint that it has saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SavedCheckpoint {
    /// Names the checkpoint.
    pub id: String,
    /// RFC 3339.
    pub saved_at: String,
    /// Counts the task's saves from 1, and begins anew after a clear. 0: the engine is older than this.
    #[serde(default)]
    pub version: u64,
    /// Bytes of the data, as they were sent. 0: the engine is older than this.
    #[serde(default)]
    pub bytes: u64,
}

/// A checkpoint with its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Names the checkpoint.
    pub id: String,
    /// RFC 3339.
    pub saved_at: String,
    /// Counts the task's saves from 1, and begins anew after a clear. 0: the engine is older than this.
    pub version: u64,
    /// What the handler saved.
    pub data: CheckpointData,
}

/// Save, load, clear.
#[async_trait]
pub trait CheckpointApi: Send + Sync {
    /// Saves a checkpoint; it replaces the one before. Up to [`CHECKPOINT_BYTES_MAX`] it is stored in the record, beyond that
    /// in the engine's object store. When this fails, the one before stays.
    async fn save_checkpoint(
        &self,
        access: &TaskAccess,
        data: CheckpointData,
    ) -> Result<SavedCheckpoint, PlumbingError>;

    /// The last checkpoint of the task, whichever attempt saved it.
    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError>;

    /// Forgets the task's checkpoint.
    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError>;
}
