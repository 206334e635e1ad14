//! The plumbing APIs in process, for workers that live beside the engine.

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::context::json_size;
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{
    CHECKPOINT_BYTES_MAX, Checkpoint, Plumbing, PlumbingError, Progress, TaskAccess,
};
use flowmonkey_plumbing::ids::new_uuid;
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::LogLine;
use serde_json::Value;

use crate::engine::Engine;
use crate::store::{StoreError, StoredCheckpoint};
use crate::watch::Update;

/// The plumbing APIs in process.
#[derive(Clone)]
pub struct EnginePlumbing(Arc<Engine>);

impl EnginePlumbing {
    /// Of this engine.
    #[must_use]
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }
}

fn unavailable(error: StoreError) -> PlumbingError {
    PlumbingError::Unavailable(Box::new(error))
}

fn stale(delivery: &Delivery) -> PlumbingError {
    PlumbingError::Stale { task: delivery.task_id.clone(), attempt: delivery.attempt }
}

fn task(delivery: &Delivery) -> Result<TaskId, PlumbingError> {
    delivery.task_id.parse().map_err(|_| stale(delivery))
}

fn shown(checkpoint: StoredCheckpoint) -> Checkpoint {
    Checkpoint { id: checkpoint.id, saved_at: checkpoint.saved_at.to_rfc3339(), data: checkpoint.data }
}

#[async_trait]
impl Plumbing for EnginePlumbing {
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

    fn started(&self, access: &TaskAccess, worker: &str) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Started {
                execution: task.execution,
                task: task.number,
                attempt: access.delivery.attempt,
                worker: worker.into(),
            });
        }
    }

    fn progress(&self, access: &TaskAccess, progress: Progress) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Progress { execution: task.execution, task: task.number, progress });
        }
    }

    fn log(&self, access: &TaskAccess, line: &LogLine) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Log {
                execution: task.execution,
                task: task.number,
                line: line.clone(),
            });
        }
    }
}

impl EnginePlumbing {
    fn followed(&self, access: &TaskAccess) -> Option<TaskId> {
        if self.0.watchers.is_followed() { access.delivery.task_id.parse().ok() } else { None }
    }
}
