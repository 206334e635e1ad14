//! The object store: where what is too large for the record goes, compressed, with a checksum.
//!
//! Nothing here holds a whole object in memory: what is written and what is read passes through buffers of fixed size, and
//! only so many objects are written at the same time. No call waits for ever: each request to the object store has a limit.

mod open;
mod partial;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Semaphore;

pub(crate) use reader::read;
pub(crate) use writer::{WriteError, Written};

/// Bytes of a part of an upload; an object that is smaller is written at once.
pub const PART_BYTES: usize = 8 * 1024 * 1024;
/// Objects that one engine writes at the same time; each takes about a part and a half of memory.
pub const UPLOADS_MAX: usize = 8;
/// How long one request to the object store may take: a part, the begin of an answer, the next piece of it. Default 30 s.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How often the object store is asked again after a failure that may pass.
pub const RETRIES_MAX: usize = 3;
/// How long it is asked again, all tries of a request together.
pub const RETRY_TIME: Duration = Duration::from_secs(10);
/// How long one object may be under way.
pub const UPLOAD_TIME: Duration = Duration::from_secs(6 * 60 * 60);
/// How long an object that nothing refers to yet is left alone: longer than any upload takes.
pub const PENDING_TIME: Duration = Duration::from_secs(24 * 60 * 60);

const _: () =
    assert!(UPLOAD_TIME.as_secs() * 2 <= PENDING_TIME.as_secs(), "an upload is never taken for garbage");

/// Why the object store did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// It is away, or refuses.
    #[error("the object store failed: {0}")]
    Store(#[source] object_store::Error),
    /// It is too slow.
    #[error("the object store did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// Too many objects are being written.
    #[error("{UPLOADS_MAX} objects are being written already")]
    Busy,
    /// What it has is not what was stored.
    #[error("the object `{key}` is not what was stored: {reason}")]
    Corrupt {
        /// Its name.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be opened.
    #[error("the object store `{url}` cannot be opened: {reason}")]
    Open {
        /// As it was given, without what may be secret in it.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

/// An object store, and the limits of its use. Clones share both.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The same, when it is a folder.
    folder: Option<Arc<LocalFileSystem>>,
    uploads: Arc<Semaphore>,
    request_time: Duration,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.store)
    }
}

impl Objects {
    /// Over this store; all names are under its root.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            folder: None,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            request_time: REQUEST_TIME,
        }
    }

    /// With another limit for each request than [`REQUEST_TIME`].
    #[must_use]
    pub fn request_time(mut self, limit: Duration) -> Self {
        self.request_time = limit;
        self
    }

    /// Deletes an object, and what broken uploads of it have left. One that is not there is deleted already.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        self.delete_partial(key).await?;
        match self.timed(self.store.delete(&Path::from(key))).await {
            Ok(()) | Err(ObjectsError::Store(object_store::Error::NotFound { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The bytes of an object as they are stored.
    async fn raw(
        &self,
        key: &str,
    ) -> Result<BoxStream<'static, object_store::Result<bytes::Bytes>>, ObjectsError> {
        match self.timed(self.store.get(&Path::from(key))).await {
            Ok(found) => Ok(found.into_stream()),
            Err(ObjectsError::Store(error @ object_store::Error::NotFound { .. })) => {
                Err(ObjectsError::Corrupt { key: key.into(), reason: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }

    async fn timed<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectsError> {
        match tokio::time::timeout(self.request_time, request).await {
            Ok(done) => done.map_err(ObjectsError::Store),
            Err(_elapsed) => Err(ObjectsError::Slow(self.request_time)),
        }
    }
}
