//! One object on its way out: decompressed piece by piece, and compared with what was stored. The last piece is held back
//! until the checksum has been seen, so that nobody who read to the end has read something else.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use ring::digest::{Context, SHA256};
use zstd::stream::raw::{Decoder, Operation};

use super::writer::hex;
use super::{Objects, ObjectsError};

/// Bytes that are given out at a time.
const PIECE_BYTES: usize = 128 * 1024;

/// The content of an object of `bytes` bytes with that SHA-256.
///
/// # Errors
/// When the object is not there, or the object store does not serve. The stream ends with an error when what comes is not what
/// was stored.
pub(crate) async fn read(
    objects: Objects,
    key: String,
    bytes: u64,
    sha256: String,
) -> Result<impl Stream<Item = Result<Bytes, ObjectsError>> + Send + 'static, ObjectsError> {
    let source = objects.raw(&key).await?;
    let decoder = Decoder::new().map_err(|error| corrupt(&key, error))?;
    let reading = Reading {
        objects,
        source,
        decoder,
        input: Bytes::new(),
        sum: Context::new(&SHA256),
        left: bytes,
        sha256,
        key,
    };
    Ok(try_unfold(
        reading,
        |mut reading| async move { Ok(reading.piece().await?.map(|piece| (piece, reading))) },
    ))
}

fn corrupt(key: &str, reason: impl std::fmt::Display) -> ObjectsError {
    ObjectsError::Corrupt { key: key.into(), reason: reason.to_string() }
}

struct Reading {
    objects: Objects,
    source: BoxStream<'static, object_store::Result<Bytes>>,
    decoder: Decoder<'static>,
    /// Read, and not yet decompressed.
    input: Bytes,
    sum: Context,
    /// Bytes that have not been given out.
    left: u64,
    sha256: String,
    key: String,
}

impl Reading {
    async fn piece(&mut self) -> Result<Option<Bytes>, ObjectsError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut room = vec![0; PIECE_BYTES];
        let mut filled = 0;
        // The decompressor may have more to give even when it has taken all of its input.
        loop {
            let step = self
                .decoder
                .run_on_buffers(&self.input, &mut room[filled..])
                .map_err(|error| corrupt(&self.key, error))?;
            self.input = self.input.slice(step.bytes_read..);
            filled += step.bytes_written;
            if filled == room.len() || filled as u64 >= self.left {
                break;
            }
            if self.input.is_empty() && step.bytes_written == 0 {
                let next = self.source.next();
                let next = tokio::time::timeout(self.objects.request_time, next).await;
                match next.map_err(|_elapsed| ObjectsError::Slow(self.objects.request_time))? {
                    Some(chunk) => self.input = chunk.map_err(ObjectsError::Store)?,
                    None => return Err(corrupt(&self.key, format_args!("{} bytes are missing", self.left))),
                }
            }
        }
        room.truncate(filled);
        self.left = self
            .left
            .checked_sub(filled as u64)
            .ok_or_else(|| corrupt(&self.key, "there is more of it than was stored"))?;
        self.sum.update(&room);
        if self.left == 0 {
            let sum = std::mem::replace(&mut self.sum, Context::new(&SHA256)).finish();
            if hex(sum.as_ref()) != self.sha256 {
                return Err(corrupt(&self.key, "its checksum is another"));
            }
        }
        Ok(Some(room.into()))
    }
}
