//! The Checkpoint API in process.

use async_trait::async_trait;
use flowmonkey_core::context::json_size;
use flowmonkey_plumbing::api::{CHECKPOINT_BYTES_MAX, Checkpoint, CheckpointApi, PlumbingError, TaskAccess};
use flowmonkey_plumbing::ids::new_uuid;
use serde_json::Value;

use super::plumbing::{EnginePlumbing, stale, task, unavailable};
use crate::store::StoredCheckpoint;

fn shown(checkpoint: StoredCheckpoint) -> Checkpoint {
    Checkpoint { id: checkpoint.id, saved_at: checkpoint.saved_at.to_rfc3339(), data: checkpoint.data }
}

#[async_trait]
impl CheckpointApi for EnginePlumbing {
    async fn save_checkpoint(&self, access: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError> {
        let actual = json_size(&data);
        if actual > CHECKPOINT_BYTES_MAX {
            return Err(PlumbingError::TooLarge {
                what: "the checkpoint",
                actual,
                limit: CHECKPOINT_BYTES_MAX,
            });
        }
        let (engine, delivery) = (&self.0, &access.delivery);
        let id = format!("cp_{}", new_uuid(&*engine.clock, &*engine.entropy).simple());
        let checkpoint = StoredCheckpoint { id, saved_at: engine.now(), data };
        let saved = engine
            .store
            .save_checkpoint(task(delivery)?, delivery.attempt, &checkpoint)
            .await
            .map_err(unavailable)?;
        if saved { Ok(shown(checkpoint)) } else { Err(stale(delivery)) }
    }

    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        let checkpoint = self.0.store.load_checkpoint(task(&access.delivery)?).await.map_err(unavailable)?;
        Ok(checkpoint.map(shown))
    }

    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError> {
        let delivery = &access.delivery;
        let cleared =
            self.0.store.clear_checkpoint(task(delivery)?, delivery.attempt).await.map_err(unavailable)?;
        if cleared { Ok(()) } else { Err(stale(delivery)) }
    }
}
