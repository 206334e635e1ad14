//! Controls in SQLite.

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};
use sqlx::query;

use super::encode::{blob, hex};
use super::{SqliteStore, sql};
use crate::store::control::{
    self, ArchivedFlow, ControlStore, FailedTaskEntry, FailedTaskFilter, FlowRetention, Operation,
    OperationItem, Pause, PauseKind, Settlement,
};
use crate::store::encode::{integer, json as json_text, text};
use crate::store::{StoreError, flows, rows, tenants};

/// Comes after every number that a row has.
const END: i64 = i64::MAX;

#[async_trait]
impl ControlStore for SqliteStore {
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError> {
        let statement = query(sql::FAILED_TASKS_PAGE)
            .bind(filter.before.unwrap_or(END))
            .bind(filter.handler_type.as_deref().map(text))
            .bind(filter.error_code.as_deref().map(text))
            .bind(filter.execution.map(blob))
            .bind(filter.since.map_or(i64::MIN, Timestamp::as_millis))
            .bind(filter.until.map_or(END, Timestamp::as_millis))
            .bind(filter.flow_id.as_deref().map(text))
            .bind(filter.tenant.as_deref().map(text))
            .bind(filter.open)
            .bind(integer(filter.max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, control::failed_task))
    }

    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError> {
        let statement = query(sql::FAILED_TASKS_GET).bind(blob(task.execution)).bind(i64::from(task.number));
        self.read_one(statement).await?.map(|row| control::failed_task(&row)).transpose()
    }

    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError> {
        let statement = query(sql::FAILED_TASKS_SETTLE)
            .bind(sequence)
            .bind(settlement.outcome.as_str())
            .bind(settlement.at.as_millis())
            .bind(text(&settlement.by))
            .bind(settlement.reason.as_deref().map(text));
        self.write(statement).await.map(|changed| changed > 0)
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.read(query(sql::PAUSES_LIST)).await?.iter().map(control::pause).collect()
    }

    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError> {
        let statement = query(sql::PAUSES_SET)
            .bind(pause.kind.as_str())
            .bind(text(tenants::column(pause.tenant.as_deref())))
            .bind(text(&pause.name))
            .bind(pause.at.as_millis())
            .bind(text(&pause.by))
            .bind(pause.reason.as_deref().map(text));
        self.write(statement).await.map(|changed| changed > 0)
    }

    async fn lift_pause(
        &self,
        kind: PauseKind,
        tenant: Option<&str>,
        name: &str,
    ) -> Result<bool, StoreError> {
        let statement =
            query(sql::PAUSES_LIFT).bind(kind.as_str()).bind(text(tenants::column(tenant))).bind(text(name));
        self.write(statement).await.map(|changed| changed > 0)
    }

    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError> {
        let statement = query(sql::FLOWS_LIST).bind(text(id)).bind(text(tenants::column(tenant)));
        let found = self.read(statement).await?;
        let versions = found.iter().map(rows::flow).collect::<Result<Vec<_>, _>>()?;
        Ok(flows::versions(versions))
    }

    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError> {
        let statement = query(sql::FLOWS_ARCHIVE)
            .bind(text(id))
            .bind(version.map(text))
            .bind(archived)
            .bind(text(tenants::column(tenant)));
        // What starts by its name may change.
        let published = self.published.as_ref();
        if let Some(published) = published {
            published.begin();
        }
        let changed = self.write(statement).await;
        if let Some(published) = published {
            published.end();
        }
        let changed = changed?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError> {
        self.read(query(sql::FLOWS_ARCHIVED)).await?.iter().map(control::archived_flow).collect()
    }

    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let statement = query(sql::EXECUTIONS_LIVE_IN_TREE).bind(blob(root)).bind(integer(max as u64));
        self.read(statement).await?.iter().map(|row| rows::id(row, 0, &"fm_executions")).collect()
    }

    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError> {
        if max == 0 {
            return Ok(0);
        }
        let id = root.id();
        let gone = self.delete_some(id, max).await?;
        let identity = &root.identity;
        if gone > 0
            && let Some(key) = &identity.idempotency_key
        {
            // A start under the key makes a new execution from here on.
            let forget = query(sql::IDEMPOTENCY_FORGET)
                .bind(identity.tenant_id.as_deref().map(text).unwrap_or_default())
                .bind(text(&identity.flow.id))
                .bind(text(key))
                .bind(blob(id));
            self.write(forget).await?;
        }
        Ok(gone)
    }

    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        let statement = query(sql::OPERATIONS_SAVE)
            .bind(text(&operation.id))
            .bind(operation.created_at.as_millis())
            .bind(operation.ended_at.map(Timestamp::as_millis))
            .bind(json_text(operation)?)
            .bind(text(tenants::column(operation.tenant.as_deref())))
            .bind(integer(operation.handled()));
        self.write(statement).await.map(drop)
    }

    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError> {
        let found = self.read_one(query(sql::OPERATIONS_GET).bind(text(id))).await?;
        found.map(|row| control::operation(&row)).transpose()
    }

    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError> {
        let found = self.read(query(sql::OPERATIONS_OPEN).bind(integer(max as u64))).await?;
        Ok(self.sound(&found, control::operation))
    }

    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        let before = before.map(text);
        let statement = match tenant {
            None => query(sql::OPERATIONS_LIST).bind(before),
            Some(tenant) => query(sql::OPERATIONS_LIST_TENANT).bind(text(tenant)).bind(before),
        };
        let found = self.read(statement.bind(integer(max as u64))).await?;
        Ok(self.sound(&found, control::operation))
    }

    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let statement = query(sql::OPERATIONS_STOP).bind(text(id)).bind(at.as_millis());
        Ok(self.write(statement).await? > 0)
    }

    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        let items: Vec<Value> = items
            .iter()
            .map(|item| {
                json!({ "execution": hex(item.execution).to_string(), "code": item.code.as_deref().map(text) })
            })
            .collect();
        let statement = query(sql::OPERATION_ITEMS_NOTE).bind(text(id)).bind(json_text(&items)?);
        self.write(statement).await.map(drop)
    }

    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError> {
        let statement =
            query(sql::OPERATION_ITEMS_PAGE).bind(text(id)).bind(before.map(blob)).bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, control::operation_item))
    }

    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        let statement = query(sql::OPERATIONS_FORGET).bind(before.as_millis()).bind(integer(max as u64));
        let gone = self.write(statement).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError> {
        let found = self.read(query(sql::RETENTION_LIST)).await?;
        Ok(self.sound(&found, control::flow_retention))
    }

    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError> {
        let statement = query(sql::RETENTION_SET)
            .bind(text(tenants::column(retention.tenant.as_deref())))
            .bind(text(&retention.flow_id))
            .bind(retention.completed_ms.map(integer))
            .bind(retention.failed_ms.map(integer))
            .bind(retention.at.as_millis())
            .bind(text(&retention.by));
        self.write(statement).await.map(drop)
    }

    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError> {
        let statement = query(sql::RETENTION_LIFT).bind(text(tenants::column(tenant))).bind(text(flow));
        Ok(self.write(statement).await? > 0)
    }

    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError> {
        let statement = query(sql::EXECUTIONS_PRUNE_FLOW)
            .bind(text(tenants::column(retention.tenant.as_deref())))
            .bind(text(&retention.flow_id))
            .bind(retention.completed_before(now).map(Timestamp::as_millis))
            .bind(retention.failed_before(now).map(Timestamp::as_millis))
            .bind(integer(max as u64));
        let gone = self.write(statement).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}

impl SqliteStore {
    async fn delete_some(&self, root: ExecutionId, max: usize) -> Result<usize, StoreError> {
        // The events first: which they are shows while the executions are there.
        self.write(query(sql::EVENTS_FORGET_TREE).bind(blob(root))).await?;
        let statement = query(sql::EXECUTIONS_DELETE_TREE).bind(blob(root)).bind(integer(max as u64));
        let gone = self.write(statement).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
