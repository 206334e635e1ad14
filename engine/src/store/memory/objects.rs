//! The objects that were registered.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;

use super::{MemoryObject, MemoryRows, MemoryStore};
use crate::store::model::CheckpointContent;
use crate::store::{ObjectTable, StoreError};

impl MemoryRows {
    fn refers_to(&self, key: &str) -> bool {
        self.checkpoints.values().any(|checkpoint| match &checkpoint.content {
            CheckpointContent::Object(object) => object.key == key,
            CheckpointContent::Json(_) | CheckpointContent::Bytes(..) => false,
        })
    }
}

#[async_trait]
impl ObjectTable for MemoryStore {
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError> {
        self.rows().objects.entry(key.into()).or_insert(MemoryObject { used: false, at: now });
        Ok(())
    }

    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError> {
        let rows = self.rows();
        let garbage = rows
            .objects
            .iter()
            .filter(|(key, object)| if object.used { !rows.refers_to(key) } else { object.at < before });
        Ok(garbage.take(max).map(|(key, _)| key.clone()).collect())
    }

    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for key in keys {
            rows.objects.remove(key);
        }
        Ok(())
    }
}
