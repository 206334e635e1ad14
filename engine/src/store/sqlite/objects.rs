//! The objects that were registered.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::{SqliteStore, sql};
use crate::store::encode::{self, integer};
use crate::store::rows;
use crate::store::{ObjectTable, StoreError};

#[async_trait]
impl ObjectTable for SqliteStore {
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError> {
        let statement = query(sql::OBJECTS_REGISTER).bind(key.to_owned()).bind(now.as_millis());
        self.write(statement).await.map(drop)
    }

    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError> {
        let statement = query(sql::OBJECTS_GARBAGE).bind(before.as_millis()).bind(integer(max as u64));
        let found = self.read(statement).await?;
        found.iter().map(|row| rows::column(row, 0, &"fm_objects")).collect()
    }

    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError> {
        self.write(query(sql::OBJECTS_FORGET).bind(encode::json(keys)?)).await.map(drop)
    }
}
