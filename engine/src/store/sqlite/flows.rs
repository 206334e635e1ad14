//! Published versions of flows.

use flowmonkey_core::execution::FlowReference;
use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::encode::text;
use super::{SqliteStore, sql};
use crate::store::model::{FlowRow, PublishOutcome};
use crate::store::rows;
use crate::store::{Store, StoreError, flows, tenants};

impl SqliteStore {
    /// Stores a version, unless it is there.
    pub(super) async fn publish_version(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.put_definition(flow).await?;
        let statement = query(sql::FLOWS_INSERT)
            .bind(flow.id.clone())
            .bind(flow.version.clone())
            .bind(flow.hash.as_str().to_owned())
            .bind(flow.status.clone())
            .bind(now.as_millis())
            .bind(text(tenants::column(tenant)));
        if self.write(statement).await? > 0 {
            return Ok(PublishOutcome::Created);
        }
        match self.read_flow(tenant, &flow.id, Some(&flow.version)).await? {
            Some(existing) if existing.hash != flow.hash => {
                Ok(PublishOutcome::Conflict { existing: existing.hash })
            }
            Some(_) | None => Ok(PublishOutcome::Unchanged),
        }
    }

    /// A version as the file has it; without `version` the latest.
    pub(super) async fn read_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<Option<FlowReference>, StoreError> {
        let tenant = text(tenants::column(tenant));
        if let Some(version) = version {
            let statement = query(sql::FLOWS_GET).bind(id.to_owned()).bind(version.to_owned()).bind(tenant);
            let row = self.read_one(statement).await?;
            return row.map(|row| rows::flow(&row).map(|(reference, _)| reference)).transpose();
        }
        let found = self.read(query(sql::FLOWS_LIST).bind(id.to_owned()).bind(tenant)).await?;
        let versions = found.iter().map(rows::flow).collect::<Result<Vec<_>, _>>()?;
        Ok(flows::latest(versions))
    }
}
