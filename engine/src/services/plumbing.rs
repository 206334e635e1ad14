//! The plumbing APIs in process, for workers that live beside the engine.

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::context::json_size;
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{Checkpoint, Plumbing, PlumbingError, Progress};
use flowmonkey_plumbing::ids::new_uuid;
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::LogLine;
use serde_json::Value;

use crate::engine::Engine;
use crate::store::{StoreError, StoredCheckpoint};
use crate::watch::Update;

/// Bytes of one checkpoint.
const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;

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
    async fn save_checkpoint(&self, delivery: &Delivery, data: Value) -> Result<Checkpoint, PlumbingError> {
        let actual = json_size(&data);
        if actual > CHECKPOINT_BYTES_MAX {
            return Err(PlumbingError::TooLarge {
                what: "the checkpoint",
                actual,
                limit: CHECKPOINT_BYTES_MAX,
            });
        }
        let engine = &self.0;
        let id = format!("cp_{}", new_uuid(&*engine.clock, &*engine.entropy).simple());
        let checkpoint = StoredCheckpoint { id, saved_at: engine.now(), data };
        let saved = engine
            .store
            .save_checkpoint(task(delivery)?, delivery.attempt, &checkpoint)
            .await
            .map_err(unavailable)?;
        if saved { Ok(shown(checkpoint)) } else { Err(stale(delivery)) }
    }

    async fn load_checkpoint(&self, delivery: &Delivery) -> Result<Option<Checkpoint>, PlumbingError> {
        let checkpoint = self.0.store.load_checkpoint(task(delivery)?).await.map_err(unavailable)?;
        Ok(checkpoint.map(shown))
    }

    async fn clear_checkpoint(&self, delivery: &Delivery) -> Result<(), PlumbingError> {
        let cleared =
            self.0.store.clear_checkpoint(task(delivery)?, delivery.attempt).await.map_err(unavailable)?;
        if cleared { Ok(()) } else { Err(stale(delivery)) }
    }

    fn started(&self, delivery: &Delivery, worker: &str) {
        if let Some(task) = self.followed(delivery) {
            self.0.watchers.tell(Update::Started {
                execution: task.execution,
                task: task.number,
                attempt: delivery.attempt,
                worker: worker.into(),
            });
        }
    }

    fn progress(&self, delivery: &Delivery, progress: Progress) {
        if let Some(task) = self.followed(delivery) {
            self.0.watchers.tell(Update::Progress { execution: task.execution, task: task.number, progress });
        }
    }

    fn log(&self, delivery: &Delivery, line: &LogLine) {
        if let Some(task) = self.followed(delivery) {
            self.0.watchers.tell(Update::Log {
                execution: task.execution,
                task: task.number,
                line: line.clone(),
            });
        }
    }
}

impl EnginePlumbing {
    fn followed(&self, delivery: &Delivery) -> Option<TaskId> {
        if self.0.watchers.is_followed() { delivery.task_id.parse().ok() } else { None }
    }
}
