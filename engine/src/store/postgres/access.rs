//! Keys and the audit in Postgres.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::{PostgresStore, sql};
use crate::store::StoreError;
use crate::store::access::{
    AccessStore, ApiKey, ApiKeyFilter, AuditEntry, AuditFilter, AuditRow, AuditSeal, scopes_text,
};
use crate::store::encode::{integer, text};
use crate::store::rows;

#[async_trait]
impl AccessStore for PostgresStore {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let statement = query(sql::API_KEYS_PUT)
            .bind(text(&key.id))
            .bind(text(&key.name))
            .bind(text(&key.hash))
            .bind(scopes_text(&key.scopes))
            .bind(key.tenant.as_deref().map(text))
            .bind(key.created_at.as_millis())
            .bind(key.expires_at.map(Timestamp::as_millis));
        self.write(statement).await.map(drop)
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let found = self.read_one(query(sql::API_KEYS_GET).bind(text(id))).await?;
        found.as_ref().map(rows::api_key).transpose()
    }

    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let before = filter.before.as_ref();
        let statement = query(sql::API_KEYS_LIST)
            .bind(filter.tenant.as_deref().map(text))
            .bind(before.map(|(at, _)| at.as_millis()))
            .bind(before.map(|(_, id)| text(id)))
            .bind(integer(filter.max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::api_key))
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let statement = query(sql::API_KEYS_REVOKE).bind(text(id)).bind(now.as_millis());
        self.write(statement).await.map(|changed| changed > 0)
    }

    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        self.write(query(sql::API_KEYS_TOUCH).bind(text(id)).bind(at.as_millis())).await.map(drop)
    }

    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let texts = |field: fn(&AuditEntry) -> &str| {
            entries.iter().map(|entry| text(field(entry))).collect::<Vec<String>>()
        };
        let statement = query(sql::AUDIT_APPEND)
            .bind(texts(|entry| &entry.id))
            .bind(entries.iter().map(|entry| entry.at.as_millis()).collect::<Vec<_>>())
            .bind(texts(|entry| &entry.actor))
            .bind(entries.iter().map(|entry| entry.tenant.as_deref().map(text)).collect::<Vec<_>>())
            .bind(texts(|entry| &entry.method))
            .bind(texts(|entry| &entry.route))
            .bind(texts(|entry| &entry.target))
            .bind(entries.iter().map(|entry| i64::from(entry.status)).collect::<Vec<_>>())
            .bind(texts(|entry| &entry.request_id));
        self.write(statement).await.map(drop)
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let statement = query(sql::AUDIT_LIST)
            .bind(filter.tenant.as_deref().map(text))
            .bind(filter.before)
            .bind(integer(filter.max as u64));
        self.read(statement).await?.iter().map(rows::audit).collect()
    }

    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        let statement = query(sql::AUDIT_CHAIN).bind(after).bind(integer(max as u64));
        self.read(statement).await?.iter().map(rows::audit).collect()
    }

    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        let what = "fm_audit";
        let found = self.read_one(query(sql::AUDIT_HEAD)).await?;
        found.map(|row| Ok((rows::column(&row, 0, &what)?, rows::column(&row, 1, &what)?))).transpose()
    }

    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        let statement = query(sql::AUDIT_UNSEALED).bind(integer(max as u64));
        self.read(statement).await?.iter().map(rows::audit).collect()
    }

    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError> {
        let statement = query(sql::AUDIT_SEAL)
            .bind(head)
            .bind(seals.iter().map(|seal| seal.sequence).collect::<Vec<_>>())
            .bind(seals.iter().map(|seal| seal.place).collect::<Vec<_>>())
            .bind(seals.iter().map(|seal| text(&seal.hash)).collect::<Vec<_>>());
        let shared = self.shared.clone();
        self.shielded(async move {
            let named = shared.session.has_named_statements();
            let mut connection = shared.connection().await?;
            let mut transaction = shared.begin(&mut connection).await?;
            // A statement sees what was there when it began: the lock has to be a statement before.
            let locked = query(sql::AUDIT_LOCK).persistent(named).execute(&mut *transaction).await;
            locked.map_err(|error| shared.classify(error))?;
            let sealed = statement.persistent(named).execute(&mut *transaction).await;
            let sealed = sealed.map_err(|error| shared.classify(error))?;
            transaction.commit().await.map_err(|error| shared.classify(error))?;
            connection.done();
            Ok(sealed.rows_affected() > 0)
        })
        .await
    }
}
