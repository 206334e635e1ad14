//! Which objects there are in the object store, and how a checkpoint's content is spelled in a row.
//!
//! Architecture invariant: an object is registered before it is written, and forgotten after it is deleted, so that none is
//! ever in the object store without a row here. It is used from the commit of the first reference to it, and garbage when
//! no reference is left: rows that go (replaced, cleared, pruned) need not think of their objects.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::CHECKPOINT_JSON;

use super::StoreError;
use super::encode::{json, text};
use super::model::{CheckpointContent, ObjectReference};

/// The objects that were registered.
#[async_trait]
pub trait ObjectTable: Send + Sync {
    /// Notes at `now` that an object of this name is about to be written. Repeatable.
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError>;

    /// Objects to which nothing refers: any more, or not yet though they were registered before `before`. In the order of
    /// their names, at most `max`.
    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError>;

    /// Forgets objects that were deleted.
    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError>;
}

const KIND_JSON: &str = "json";
const KIND_BYTES: &str = "bytes";
const KIND_OBJECT: &str = "object";

/// A checkpoint's content in the columns of its row.
pub(super) struct ContentColumns {
    /// What `data` is.
    pub(super) kind: &'static str,
    pub(super) content_type: String,
    pub(super) object_key: Option<String>,
    /// JSON; or bytes as Base64; or the SHA-256 of an object.
    pub(super) data: String,
}

impl ContentColumns {
    pub(super) fn of(content: &CheckpointContent) -> Result<Self, StoreError> {
        Ok(match content {
            CheckpointContent::Json(value) => Self {
                kind: KIND_JSON,
                content_type: CHECKPOINT_JSON.into(),
                object_key: None,
                data: json(value)?,
            },
            CheckpointContent::Bytes(content_type, bytes) => Self {
                kind: KIND_BYTES,
                content_type: text(content_type),
                object_key: None,
                data: STANDARD_NO_PAD.encode(bytes),
            },
            CheckpointContent::Object(ObjectReference { key, content_type, sha256 }) => Self {
                kind: KIND_OBJECT,
                content_type: text(content_type),
                object_key: Some(key.clone()),
                data: sha256.clone(),
            },
        })
    }

    /// What was stored so.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub(super) fn read(
        kind: &str,
        content_type: String,
        object_key: Option<String>,
        data: String,
    ) -> Result<CheckpointContent, String> {
        match (kind, object_key) {
            (KIND_JSON, None) => {
                serde_json::from_str(&data).map(CheckpointContent::Json).map_err(|error| error.to_string())
            }
            (KIND_BYTES, None) => match STANDARD_NO_PAD.decode(&data) {
                Ok(bytes) => Ok(CheckpointContent::Bytes(content_type, bytes.into())),
                Err(error) => Err(error.to_string()),
            },
            (KIND_OBJECT, Some(key)) => {
                Ok(CheckpointContent::Object(ObjectReference { key, content_type, sha256: data }))
            }
            (other, _) => Err(format!("`{other}` is no kind of content, or its object key is wrong")),
        }
    }
}
