//! One object on its way in: compressed and summed piece by piece, written in parts.

use std::error::Error;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use ring::digest::{Context, SHA256};
use zstd::stream::raw::{Encoder, Operation, OutBuffer};

use super::{Objects, ObjectsError, PART_BYTES, UPLOAD_TIME};

/// Compression: fast, and most of what there is to gain.
const LEVEL: i32 = 3;
/// Bytes that are compressed at a time; others get a turn in between.
const PIECE_BYTES: usize = 128 * 1024;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes before they were compressed.
    pub(crate) bytes: u64,
    /// SHA-256 of them, in hexadecimal.
    pub(crate) sha256: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// What was to be written did not come as a whole.
    #[error("the data did not arrive as a whole")]
    Source(#[source] Box<dyn Error + Send + Sync>),
    /// There is more of it than allowed: at least so many bytes.
    #[error("{0} bytes and more are too many")]
    TooLarge(u64),
    /// The compressor failed.
    #[error("the data cannot be compressed")]
    Compress(#[source] std::io::Error),
}

impl Objects {
    /// Writes an object, at most `max` bytes of it. An object that fails is not there, or not as a whole.
    pub(crate) async fn write<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        key: &str,
        data: impl Stream<Item = Result<Bytes, E>> + Unpin,
        max: u64,
    ) -> Result<Written, WriteError> {
        let waiting = tokio::time::timeout(self.request_time, self.uploads.acquire()).await;
        let Ok(Ok(_permit)) = waiting else { return Err(ObjectsError::Busy.into()) };
        let mut upload = Upload::new(self, key)?;
        let whole = tokio::time::timeout(UPLOAD_TIME, upload.all(data, max)).await;
        match whole.unwrap_or(Err(ObjectsError::Slow(UPLOAD_TIME).into())) {
            Ok(written) => Ok(written),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }
}

struct Upload<'a> {
    objects: &'a Objects,
    path: Path,
    parts: Option<Box<dyn MultipartUpload>>,
    encoder: Encoder<'static>,
    sum: Context,
    bytes: u64,
    /// Compressed, and not yet written.
    ready: BytesMut,
}

impl<'a> Upload<'a> {
    fn new(objects: &'a Objects, key: &str) -> Result<Self, WriteError> {
        Ok(Self {
            objects,
            path: Path::from(key),
            parts: None,
            encoder: Encoder::new(LEVEL).map_err(WriteError::Compress)?,
            sum: Context::new(&SHA256),
            bytes: 0,
            ready: BytesMut::new(),
        })
    }

    async fn all<E: Into<Box<dyn Error + Send + Sync>>>(
        &mut self,
        mut data: impl Stream<Item = Result<Bytes, E>> + Unpin,
        max: u64,
    ) -> Result<Written, WriteError> {
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(|error| WriteError::Source(error.into()))?;
            self.bytes += chunk.len() as u64;
            if self.bytes > max {
                return Err(WriteError::TooLarge(self.bytes));
            }
            for piece in chunk.chunks(PIECE_BYTES) {
                self.compress(piece)?;
                while self.ready.len() >= PART_BYTES {
                    let part = self.ready.split_to(PART_BYTES).freeze();
                    self.part(part).await?;
                }
                tokio::task::consume_budget().await;
            }
        }
        self.finish().await
    }

    fn compress(&mut self, mut piece: &[u8]) -> Result<(), WriteError> {
        self.sum.update(piece);
        let mut room = [0; 16 * 1024];
        while !piece.is_empty() {
            let step = self.encoder.run_on_buffers(piece, &mut room).map_err(WriteError::Compress)?;
            piece = &piece[step.bytes_read..];
            self.ready.extend_from_slice(&room[..step.bytes_written]);
        }
        Ok(())
    }

    async fn part(&mut self, part: Bytes) -> Result<(), WriteError> {
        let objects = self.objects;
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let begun = objects.timed(objects.store.put_multipart(&self.path)).await?;
                self.parts.insert(begun)
            }
        };
        Ok(objects.timed(parts.put_part(PutPayload::from(part))).await?)
    }

    async fn finish(&mut self) -> Result<Written, WriteError> {
        loop {
            let mut room = [0; 16 * 1024];
            let mut out = OutBuffer::around(&mut room[..]);
            let left = self.encoder.finish(&mut out, true).map_err(WriteError::Compress)?;
            self.ready.extend_from_slice(out.as_slice());
            if left == 0 {
                break;
            }
        }
        let rest = self.ready.split().freeze();
        if self.parts.is_none() {
            self.objects.timed(self.objects.store.put(&self.path, PutPayload::from(rest))).await?;
        } else {
            if !rest.is_empty() {
                self.part(rest).await?;
            }
            if let Some(parts) = &mut self.parts {
                self.objects.timed(parts.complete()).await?;
            }
        }
        let sum = std::mem::replace(&mut self.sum, Context::new(&SHA256)).finish();
        Ok(Written { bytes: self.bytes, sha256: hex(sum.as_ref()) })
    }

    /// Takes back the parts that were written, if the object store can be reached; else it keeps them until its own rules
    /// delete them.
    async fn abort(&mut self) {
        if let Some(mut parts) = self.parts.take()
            && let Err(error) = self.objects.timed(parts.abort()).await
        {
            tracing::debug!(%error, path = %self.path, "the parts of an upload that failed stay in the object store");
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}
