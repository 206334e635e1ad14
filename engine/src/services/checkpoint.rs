//! The Checkpoint API in process. Small checkpoints are in the record; large ones are in the object store, and the record
//! refers to them.
//!
//! Architecture invariant: the object first, the reference second. The reference is committed under the attempt's fence, and
//! until then the checkpoint before is the one that counts.

use std::error::Error;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flowmonkey_core::context::json_size;
use flowmonkey_plumbing::api::{
    CHECKPOINT_BYTES_MAX, Checkpoint, CheckpointApi, CheckpointData, PlumbingError, SavedCheckpoint,
    TaskAccess,
};
use flowmonkey_plumbing::ids::new_uuid;
use futures_util::{Stream, StreamExt, stream};

use super::plumbing::{EnginePlumbing, stale, task, unavailable};
use crate::engine::Counters;
use crate::objects::{self, ObjectsError, WriteError, Written};
use crate::store::{CheckpointContent, ObjectReference, StoredCheckpoint};

/// Bytes that are handed on at a time of what is in memory as a whole.
const SLICE_BYTES: usize = 1024 * 1024;

impl EnginePlumbing {
    /// Saves what fits into the record.
    pub(crate) async fn save_small(
        &self,
        access: &TaskAccess,
        content: CheckpointContent,
        bytes: u64,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        let id = self.checkpoint_id();
        self.commit_checkpoint(access, id, content, bytes).await
    }

    /// Saves what does not, or is not known to: it goes into the object store as it comes.
    pub(crate) async fn save_large<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        access: &TaskAccess,
        content_type: String,
        data: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        let (engine, delivery) = (&self.0, &access.delivery);
        let task = task(delivery)?;
        let Some(objects) = &engine.config.objects else {
            return Err(PlumbingError::TooLarge {
                what: "the checkpoint (engines keep larger ones when they are started with --object-store)",
                actual: CHECKPOINT_BYTES_MAX + 1,
                limit: CHECKPOINT_BYTES_MAX,
            });
        };
        // The commit has the fence; this spares the upload.
        if !engine.has_out(task, delivery.attempt, false).await.map_err(unavailable)? {
            return Err(stale(delivery));
        }
        let id = self.checkpoint_id();
        let key = format!("checkpoints/{task}/{id}.zst");
        engine.store.register_object(&key, engine.now()).await.map_err(unavailable)?;
        let max = engine.config.checkpoint_bytes_max;
        let Written { bytes, sha256 } =
            objects.write(&key, data, max).await.map_err(|error| not_written(error, max))?;
        let reference = ObjectReference { key: key.clone(), content_type, sha256 };
        let saved = self.commit_checkpoint(access, id, CheckpointContent::Object(reference), bytes).await;
        if matches!(saved, Err(PlumbingError::Stale { .. })) {
            // Only a wish: what stays is found as garbage.
            if objects.delete(&key).await.is_ok() {
                engine.store.forget_objects(&[key]).await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "an object that is gone is forgotten later");
                });
            }
        }
        saved
    }

    async fn commit_checkpoint(
        &self,
        access: &TaskAccess,
        id: String,
        content: CheckpointContent,
        bytes: u64,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        let (engine, delivery) = (&self.0, &access.delivery);
        let checkpoint = StoredCheckpoint { id, saved_at: engine.now(), version: 0, bytes, content };
        let saved = engine.store.save_checkpoint(task(delivery)?, delivery.attempt, &checkpoint).await;
        let version = saved.map_err(unavailable)?.ok_or_else(|| stale(delivery))?;
        let StoredCheckpoint { id, saved_at, .. } = checkpoint;
        Ok(SavedCheckpoint { id, saved_at: saved_at.to_rfc3339(), version, bytes })
    }

    fn checkpoint_id(&self) -> String {
        format!("cp_{}", new_uuid(&*self.0.clock, &*self.0.entropy).simple())
    }

    /// The last checkpoint as it is stored.
    pub(crate) async fn stored_checkpoint(
        &self,
        access: &TaskAccess,
    ) -> Result<Option<StoredCheckpoint>, PlumbingError> {
        self.0.store.load_checkpoint(task(&access.delivery)?).await.map_err(unavailable)
    }

    /// What is in an object of `bytes` bytes. When it is not what was stored, the stream ends with an error.
    pub(crate) async fn open_object(
        &self,
        object: ObjectReference,
        bytes: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, ObjectsError>> + Send + use<>, PlumbingError> {
        let engine = self.0.clone();
        let Some(objects) = engine.config.objects.clone() else {
            let reason = "this engine has no object store".into();
            return Err(self.not_read(ObjectsError::Open { url: object.key, reason }));
        };
        let ObjectReference { key, sha256, .. } = object;
        let content =
            objects::read(objects, key, bytes, sha256).await.map_err(|error| self.not_read(error))?;
        let plumbing = self.clone();
        Ok(content.inspect(move |piece| {
            if let Err(error) = piece {
                plumbing.note(error);
            }
        }))
    }

    fn note(&self, error: &ObjectsError) {
        tracing::warn!(%error, "a checkpoint cannot be read from the object store");
        if matches!(error, ObjectsError::Corrupt { .. }) {
            Counters::add(&self.0.counters.objects_corrupt, 1);
        }
    }

    fn not_read(&self, error: ObjectsError) -> PlumbingError {
        self.note(&error);
        not_readable(error)
    }
}

fn not_readable(error: ObjectsError) -> PlumbingError {
    match error {
        ObjectsError::Corrupt { .. } => {
            PlumbingError::Refused { code: "CHECKPOINT_UNREADABLE".into(), detail: error.to_string() }
        }
        ObjectsError::Store(_) | ObjectsError::Slow(_) | ObjectsError::Busy | ObjectsError::Open { .. } => {
            PlumbingError::Unavailable(error.into())
        }
    }
}

fn not_written(error: WriteError, max: u64) -> PlumbingError {
    let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    match error {
        WriteError::Objects(error) => PlumbingError::Unavailable(error.into()),
        WriteError::TooLarge(actual) => {
            PlumbingError::TooLarge { what: "the checkpoint", actual: count(actual), limit: count(max) }
        }
        WriteError::Source(error) => {
            PlumbingError::Refused { code: "BODY_INCOMPLETE".into(), detail: error.to_string() }
        }
        error @ WriteError::Compress(_) => PlumbingError::Unavailable(error.into()),
    }
}

/// What is in memory, in pieces.
fn slices(data: Bytes) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Unpin {
    let starts = (0..data.len()).step_by(SLICE_BYTES);
    stream::iter(starts.map(move |start| Ok(data.slice(start..data.len().min(start + SLICE_BYTES)))))
}

#[async_trait]
impl CheckpointApi for EnginePlumbing {
    async fn save_checkpoint(
        &self,
        access: &TaskAccess,
        data: CheckpointData,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        if let CheckpointData::Json(value) = &data {
            let bytes = json_size(value);
            if bytes <= CHECKPOINT_BYTES_MAX {
                return self.save_small(access, CheckpointContent::Json(value.clone()), bytes as u64).await;
            }
        }
        let (bytes, content_type) = data.encode()?;
        if bytes.len() <= CHECKPOINT_BYTES_MAX {
            let length = bytes.len() as u64;
            return self
                .save_small(access, CheckpointContent::Bytes(content_type.into(), bytes), length)
                .await;
        }
        self.save_large(access, content_type.into(), slices(bytes)).await
    }

    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        let Some(stored) = self.stored_checkpoint(access).await? else { return Ok(None) };
        let StoredCheckpoint { id, saved_at, version, bytes, content } = stored;
        let data = match content {
            CheckpointContent::Json(value) => CheckpointData::Json(value),
            CheckpointContent::Bytes(content_type, bytes) => CheckpointData::decode(bytes, &content_type)?,
            CheckpointContent::Object(object) => {
                let content_type = object.content_type.clone();
                let mut content = Box::pin(self.open_object(object, bytes).await?);
                let mut whole = BytesMut::new();
                while let Some(piece) = content.next().await {
                    whole.extend_from_slice(&piece.map_err(not_readable)?);
                }
                CheckpointData::decode(whole.freeze(), &content_type)?
            }
        };
        Ok(Some(Checkpoint { id, saved_at: saved_at.to_rfc3339(), version, data }))
    }

    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError> {
        let attempt = access.delivery.attempt;
        let cleared =
            self.0.store.clear_checkpoint(task(&access.delivery)?, attempt).await.map_err(unavailable)?;
        if cleared { Ok(()) } else { Err(stale(&access.delivery)) }
    }
}
