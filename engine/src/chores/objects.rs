//! The collector of garbage in the object store: deletes objects to which nothing refers, the object first, its row second.

use flowmonkey_core::time::Timestamp;

use super::HasMore;
use crate::engine::{Engine, EngineError};
use crate::objects::PENDING_TIME;

/// Objects deleted in one tick.
const OBJECTS_BATCH_MAX: usize = 200;

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Collected {
    /// Objects that went.
    pub objects: usize,
    /// Objects that could not be deleted; they are tried again.
    pub failed: usize,
}

impl HasMore for Collected {
    fn has_more(&self) -> bool {
        self.objects >= OBJECTS_BATCH_MAX
    }
}

/// Deletes objects to which nothing refers: those that were replaced, cleared or pruned, and those that never came to be used
/// within a day. Without an object store there is nothing to do.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Collected, EngineError> {
    let mut collected = Collected { objects: 0, failed: 0 };
    let Some(objects) = &engine.config.objects else { return Ok(collected) };
    let age = i64::try_from(PENDING_TIME.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp::from_millis(engine.now().as_millis().saturating_sub(age));
    let garbage = engine.store.garbage_objects(before, OBJECTS_BATCH_MAX).await?;
    let mut gone = Vec::with_capacity(garbage.len());
    for key in garbage {
        match objects.delete(&key).await {
            Ok(()) => gone.push(key),
            Err(error) => {
                tracing::warn!(%error, key, "garbage in the object store cannot be deleted now");
                collected.failed += 1;
                // The others would fail as well, slowly.
                break;
            }
        }
    }
    if !gone.is_empty() {
        engine.store.forget_objects(&gone).await?;
        collected.objects = gone.len();
    }
    Ok(collected)
}
