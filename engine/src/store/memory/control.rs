//! Controls in memory.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, Status};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;

use super::{MemoryRows, MemoryStore};
use crate::store::control::{
    ArchivedFlow, ControlStore, FailedTaskEntry, FailedTaskFilter, FlowRetention, Operation, OperationItem,
    Pause, PauseKind, Settlement,
};
use crate::store::{StoreError, flows};

const PUBLISHED: &str = "published";
const ARCHIVED: &str = "archived";

impl MemoryRows {
    fn failed_task(&self, sequence: i64) -> Option<FailedTaskEntry> {
        let (row, settled) = self.failed_tasks.get(&sequence)?;
        let mut later = self.failed_tasks.range(sequence + 1..).map(|(_, (later, _))| later);
        Some(FailedTaskEntry {
            sequence,
            row: row.clone(),
            settled: settled.clone(),
            status: self.executions.get(&row.execution)?.status(),
            is_last: !later.any(|later| later.execution == row.execution),
        })
    }

    fn wants(&self, filter: &FailedTaskFilter, entry: &FailedTaskEntry) -> bool {
        let task = &entry.row.task;
        let same =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let Some(execution) = self.executions.get(&entry.row.execution) else { return false };
        let identity = &execution.identity;
        same(&filter.handler_type, &task.handler_type)
            && same(&filter.error_code, &task.error.code)
            && same(&filter.flow_id, &identity.flow.id)
            && filter.tenant.as_ref().is_none_or(|tenant| identity.tenant_id.as_ref() == Some(tenant))
            && filter.execution.is_none_or(|wanted| wanted == entry.row.execution)
            && filter.since.is_none_or(|since| entry.row.at >= since)
            && filter.until.is_none_or(|until| entry.row.at < until)
            && (!filter.open || entry.is_open())
    }

    fn tree(&self, root: ExecutionId) -> impl Iterator<Item = &Execution> {
        self.executions.values().filter(move |one| one.identity.root == root && one.identity.parent.is_some())
    }
}

#[async_trait]
impl ControlStore for MemoryStore {
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError> {
        let rows = self.rows();
        let before = filter.before.map_or(Bound::Unbounded, Bound::Excluded);
        let found = rows.failed_tasks.range((Bound::Unbounded, before)).rev();
        let found = found.filter_map(|(sequence, _)| rows.failed_task(*sequence));
        Ok(found.filter(|entry| rows.wants(filter, entry)).take(filter.max).collect())
    }

    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError> {
        let rows = self.rows();
        let mut newest = rows.failed_tasks.iter().rev();
        let found = newest
            .find(|(_, (row, _))| row.execution == task.execution && row.task.run.task == task.number)
            .map(|(sequence, _)| *sequence);
        Ok(found.and_then(|sequence| rows.failed_task(sequence)))
    }

    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let open = rows.failed_tasks.get_mut(&sequence).filter(|(_, settled)| settled.is_none());
        Ok(open.map(|(_, settled)| *settled = Some(settlement.clone())).is_some())
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        Ok(self.rows().pauses.values().cloned().collect())
    }

    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let name = (pause.kind, pause.tenant.clone(), pause.name.clone());
        let is_new = !rows.pauses.contains_key(&name);
        rows.pauses.entry(name).or_insert_with(|| pause.clone());
        Ok(is_new)
    }

    async fn lift_pause(
        &self,
        kind: PauseKind,
        tenant: Option<&str>,
        name: &str,
    ) -> Result<bool, StoreError> {
        let key = (kind, tenant.map(ToOwned::to_owned), name.to_owned());
        Ok(self.rows().pauses.remove(&key).is_some())
    }

    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError> {
        let rows = self.rows();
        let own = rows.flows.iter().filter(|((owner, _, _), _)| owner.as_deref() == tenant);
        let versions = own.map(|(_, version)| version).filter(|(flow, _)| flow.id == id);
        Ok(flows::versions(versions.cloned().collect()))
    }

    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError> {
        let mut rows = self.rows();
        let MemoryRows { flows, definitions, .. } = &mut *rows;
        let mut changed = 0;
        for ((owner, _, _), (flow, status)) in flows {
            let is_own = owner.as_deref() == tenant && flow.id == id;
            let is_meant = is_own && version.is_none_or(|version| version == flow.version);
            if !is_meant || (status == ARCHIVED) == archived {
                continue;
            }
            let own = definitions.get(flow.hash.as_str()).map(|row| row.status.clone());
            let own = own.filter(|own| own != ARCHIVED).unwrap_or_else(|| PUBLISHED.into());
            *status = if archived { ARCHIVED.into() } else { own };
            changed += 1;
        }
        rows.flows_generation += u64::from(changed > 0);
        Ok(changed)
    }

    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError> {
        let rows = self.rows();
        let archived = rows.flows.iter().filter(|(_, (_, status))| status == ARCHIVED);
        let named = archived.map(|((tenant, _, _), (flow, _))| ArchivedFlow {
            tenant: tenant.clone(),
            id: flow.id.clone(),
            version: flow.version.clone(),
        });
        Ok(named.collect())
    }

    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let rows = self.rows();
        let live = rows.tree(root).filter(|one| !one.is_terminal());
        Ok(live.take(max).map(Execution::id).collect())
    }

    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError> {
        let mut rows = self.rows();
        let id = root.id();
        let has_ended = rows
            .executions
            .get(&id)
            .is_some_and(|found| found.is_terminal() && found.identity.parent.is_none());
        if max == 0 || !has_ended || rows.tree(id).any(|one| !one.is_terminal()) {
            return Ok(0);
        }
        let mut gone: BTreeSet<ExecutionId> = rows.tree(id).take(max).map(Execution::id).collect();
        if gone.len() < max && rows.tree(id).count() == gone.len() {
            gone.insert(id);
        }
        rows.forget(&gone);
        rows.events.retain(|(event, delivered)| {
            !delivered || event.source.is_none_or(|source| !gone.contains(&source))
        });
        rows.idempotency.retain(|_, key| !gone.contains(&key.execution));
        Ok(gone.len())
    }

    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let stopped_at = match rows.operations.get(&operation.id) {
            Some(stored) if !operation.follows(stored) => return Ok(()),
            stored => stored.and_then(|stored| stored.stopped_at),
        };
        rows.operations.insert(operation.id.clone(), Operation { stopped_at, ..operation.clone() });
        Ok(())
    }

    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError> {
        Ok(self.rows().operations.get(id).cloned())
    }

    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError> {
        let rows = self.rows();
        let mut open: Vec<_> =
            rows.operations.values().filter(|one| one.ended_at.is_none()).cloned().collect();
        open.sort_by_key(|one| one.created_at);
        open.truncate(max);
        Ok(open)
    }

    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        let rows = self.rows();
        let found = rows.operations.values().rev().filter(|one| {
            tenant.is_none_or(|tenant| one.tenant.as_deref() == Some(tenant))
                && before.is_none_or(|before| &*one.id < before)
        });
        Ok(found.take(max).cloned().collect())
    }

    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let open =
            rows.operations.get_mut(id).filter(|one| one.ended_at.is_none() && one.stopped_at.is_none());
        Ok(open.map(|one| one.stopped_at = Some(at)).is_some())
    }

    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for item in items {
            rows.operation_items.entry((id.to_owned(), item.execution)).or_insert_with(|| item.clone());
        }
        Ok(())
    }

    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError> {
        let rows = self.rows();
        let own = rows.operation_items.iter().rev().filter(|((operation, execution), _)| {
            operation == id && before.is_none_or(|before| *execution < before)
        });
        Ok(own.take(max).map(|(_, item)| item.clone()).collect())
    }

    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError> {
        Ok(self.rows().retentions.values().cloned().collect())
    }

    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError> {
        let key = (retention.tenant.clone().unwrap_or_default(), retention.flow_id.clone());
        self.rows().retentions.insert(key, retention.clone());
        Ok(())
    }

    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError> {
        let key = (tenant.unwrap_or_default().to_owned(), flow.to_owned());
        Ok(self.rows().retentions.remove(&key).is_some())
    }

    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError> {
        let (completed, failed) = (retention.completed_before(now), retention.failed_before(now));
        Ok(self.rows().prune_trees(max, |root| {
            let identity = &root.identity;
            let before = if root.status() == Status::Completed { completed } else { failed };
            identity.tenant_id == retention.tenant
                && identity.flow.id == retention.flow_id
                && before.is_some_and(|before| root.updated_at < before)
        }))
    }

    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        let mut rows = self.rows();
        let old = rows.operations.values().filter(|one| one.ended_at.is_some_and(|ended| ended < before));
        let gone: BTreeSet<String> = old.take(max).map(|one| one.id.clone()).collect();
        rows.operations.retain(|id, _| !gone.contains(id));
        rows.operation_items.retain(|(id, _), _| !gone.contains(id));
        Ok(gone.len())
    }
}
