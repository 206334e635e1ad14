//! Keys and the audit over maps.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;

use super::MemoryStore;
use crate::store::StoreError;
use crate::store::access::{AccessStore, ApiKey, ApiKeyFilter, AuditEntry, AuditFilter, AuditRow, AuditSeal};

#[async_trait]
impl AccessStore for MemoryStore {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.rows().api_keys.entry(key.id.clone()).or_insert_with(|| key.clone());
        Ok(())
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.rows().api_keys.get(id).cloned())
    }

    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let rows = self.rows();
        let place = |key: &ApiKey| (key.created_at, key.id.clone());
        let mut found: Vec<ApiKey> = rows
            .api_keys
            .values()
            .filter(|key| filter.tenant.is_none() || key.tenant == filter.tenant)
            .filter(|key| filter.before.as_ref().is_none_or(|before| place(key) < *before))
            .cloned()
            .collect();
        found.sort_by_key(|key| std::cmp::Reverse(place(key)));
        found.truncate(filter.max);
        Ok(found)
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(key) = rows.api_keys.get_mut(id) else { return Ok(false) };
        key.revoked_at.get_or_insert(now);
        Ok(true)
    }

    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        if let Some(key) = self.rows().api_keys.get_mut(id) {
            key.last_used_at = key.last_used_at.max(Some(at));
        }
        Ok(())
    }

    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for entry in entries {
            if rows.audit.iter().all(|row| row.entry.id != entry.id) {
                let sequence = rows.audit.last().map_or(0, |row| row.sequence) + 1;
                rows.audit.push(AuditRow { sequence, entry: entry.clone(), seal: None });
            }
        }
        Ok(())
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self.rows();
        let found = rows.audit.iter().rev().filter(|row| {
            row.sequence < filter.before && (filter.tenant.is_none() || row.entry.tenant == filter.tenant)
        });
        Ok(found.take(filter.max).cloned().collect())
    }

    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self.rows();
        let place = |row: &AuditRow| row.seal.as_ref().map_or(0, |(place, _)| *place);
        let mut found: Vec<AuditRow> = rows.audit.iter().filter(|row| place(row) > after).cloned().collect();
        found.sort_by_key(place);
        found.truncate(max);
        Ok(found)
    }

    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        Ok(self.rows().audit.iter().filter_map(|row| row.seal.clone()).max_by_key(|(place, _)| *place))
    }

    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self.rows();
        Ok(rows.audit.iter().filter(|row| row.seal.is_none()).take(max).cloned().collect())
    }

    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let last = rows.audit.iter().filter_map(|row| row.seal.as_ref()).map(|(place, _)| *place).max();
        if last.unwrap_or(0) != head {
            return Ok(false);
        }
        for seal in seals {
            let row = rows.audit.iter_mut().find(|row| row.sequence == seal.sequence);
            if let Some(row) = row.filter(|row| row.seal.is_none()) {
                row.seal = Some((seal.place, seal.hash.clone()));
            }
        }
        Ok(true)
    }
}
