//! The trait over maps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;

use super::{MemoryRows, MemoryStore, MemoryTable, search};
use crate::access::Visibility;
use crate::store::model::{
    Batch, CheckpointContent, CheckpointNote, ChildRow, Committed, ExecutionFilter, ExecutionSummary,
    FlowRow, FoundFlow, Join, JoinState, ListPage, PublishOutcome, PublishedEvent, PublishedFlow, Retention,
    StoredCheckpoint, TableDefinition, TableRowRecord, TaskOut,
};
use crate::store::{Store, StoreError, child, flows};

/// The bound that leaves out `after` and all before it.
fn beyond<T>(after: Option<T>) -> (Bound<T>, Bound<T>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

#[async_trait]
impl Store for MemoryStore {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        self.rows().definitions.entry(flow.hash.as_str().into()).or_insert_with(|| flow.clone());
        Ok(())
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        _now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.put_definition(flow).await?;
        let mut rows = self.rows();
        let name = (tenant.map(ToOwned::to_owned), flow.id.clone(), flow.version.clone());
        if let Some((existing, _)) = rows.flows.get(&name) {
            return Ok(if existing.hash == flow.hash {
                PublishOutcome::Unchanged
            } else {
                PublishOutcome::Conflict { existing: existing.hash.clone() }
            });
        }
        let reference =
            FlowReference { id: flow.id.clone(), version: flow.version.clone(), hash: flow.hash.clone() };
        rows.flows.insert(name, (reference, flow.status.clone()));
        rows.flows_generation += 1;
        Ok(PublishOutcome::Created)
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        Ok(self.rows().definitions.get(hash.as_str()).cloned())
    }

    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError> {
        let rows = self.rows();
        let own =
            rows.flows.iter().filter(|((owner, known, _), _)| owner.as_deref() == tenant && known == id);
        let Some(version) = version else {
            let flow = flows::latest(own.map(|(_, found)| found.clone()).collect());
            return Ok(FoundFlow { flow, generation: Some(rows.flows_generation) });
        };
        let mut exact = own.filter(|((_, _, known), _)| known == version);
        let flow = exact.next().map(|(_, (reference, _))| reference.clone());
        Ok(FoundFlow { flow, generation: None })
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        let rows = self.rows();
        let seen = rows.flows.iter().filter(|((tenant, _, _), _)| seen.sees(tenant.as_deref()));
        let wanted = seen.filter(|(_, (reference, _))| id.is_none_or(|id| reference.id == id));
        let listed = wanted.map(|((tenant, _, _), (reference, _))| PublishedFlow {
            tenant_id: tenant.clone(),
            flow: reference.clone(),
        });
        Ok(flows::latest_first(listed.collect()))
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        let rows = self.rows();
        let unique: BTreeSet<&ExecutionId> = ids.iter().collect();
        Ok(unique.into_iter().filter_map(|id| rows.executions.get(id).cloned()).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        Ok(self.rows().commit(batch))
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        if filter.max == 0 {
            return Ok(ListPage::default());
        }
        let rows = self.rows();
        let older = (Bound::Unbounded, filter.before.map_or(Bound::Unbounded, Bound::Excluded));
        let mut found = rows.executions.range(older).rev().map(|(_, execution)| execution);
        let mut found = found.by_ref().filter(|execution| search::matches(filter, execution));
        let items: Vec<_> = found.by_ref().take(filter.max).map(summary).collect();
        let next = items.last().map(|last| last.id).filter(|_| found.next().is_some());
        Ok(ListPage { items, next })
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let rows = self.rows();
        let mut history = Vec::new();
        for decision in rows.history.get(&id).into_iter().flatten() {
            if history.len() >= max {
                break;
            }
            history.extend(decision.iter().filter(|recorded| recorded.sequence > after).cloned());
        }
        Ok(history)
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let rows = self.rows();
        let due: BTreeSet<_> =
            rows.timers.iter().filter(|(_, due)| **due <= now).map(|(id, due)| (*due, *id)).collect();
        Ok(due.into_iter().take(max).map(|(_, id)| id).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.rows().timers.values().min().copied())
    }

    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        let rows = self.rows();
        let out = rows.executions.range(beyond(after)).filter(|(_, execution)| execution.pause.is_none());
        let out = out.filter_map(|(id, execution)| {
            let task = execution.task().filter(|task| task.scheduled_at <= until)?;
            let name = TaskId { execution: *id, number: task.run.task };
            Some(TaskOut {
                task: name,
                attempt: task.run.attempt,
                scheduled_at: task.scheduled_at,
                pool: task.pool.clone(),
                flow_id: execution.identity.flow.id.clone(),
                tenant: execution.identity.tenant_id.clone(),
            })
        });
        Ok(out.take(max).collect())
    }

    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        let rows = self.rows();
        let key = (parent, join);
        let found = rows.joins.get(&key).zip(rows.specs.get(&key));
        Ok(found.map(|(state, spec)| Join { state: state.clone(), spec: spec.clone() }))
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        Ok(self.rows().joins.get(&(parent, join)).cloned())
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        Ok(self.rows().specs.get(&(parent, join)).map(|spec| spec.snapshot.clone()))
    }

    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        let rows = self.rows();
        let joins = rows.joins.range(beyond(after)).map(|(_, state)| state);
        // Once parent and children have all ended, nobody takes the result: it goes with the parent.
        let is_over = |state: &JoinState| {
            let parent = rows.executions.get(&state.parent);
            state.ended() >= state.spawned && parent.is_none_or(Execution::is_terminal)
        };
        let tend = joins.filter(|state| state.needs_attention() && !is_over(state));
        Ok(tend.take(max).cloned().collect())
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        let rows = self.rows();
        let children = rows.children_of(parent, join, from);
        children.into_values().take(max).map(|child| child::child_row(child.clone())).collect()
    }

    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        let rows = self.rows();
        let children = rows.children_of(parent, join, from).into_iter();
        let abandoned = |child: &Execution| child.identity.parent.is_some_and(|link| link.abandon);
        let live = children.filter(|(_, child)| !child.is_terminal() && !abandoned(child));
        Ok(live.take(max).map(|(index, child)| (index, child.id())).collect())
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        Ok(self.rows().publish(event.clone()))
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        Ok(self.rows().events_where(max, |_, delivered| !delivered))
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let known = rows
            .events
            .iter_mut()
            .filter(|(event, _)| event.tenant.as_deref() == tenant && ids.contains(&event.id));
        known.for_each(|(_, delivered)| *delivered = true);
        Ok(())
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        Ok(self.rows().events_where(max, |event, _| {
            event.tenant.as_deref() == tenant && event.name == name && event.at >= since
        }))
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let rows = self.rows();
        let waiting = rows
            .subscriptions
            .range(beyond(after))
            .filter(|(id, awaited)| *awaited == name && rows.tenant_of(**id) == tenant);
        Ok(waiting.take(max).map(|(id, _)| *id).collect())
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        let mut rows = self.rows();
        if !rows.is_out(task, attempt) {
            return Ok(None);
        }
        if let CheckpointContent::Object(object) = &checkpoint.content {
            let Some(registered) = rows.objects.get_mut(&object.key) else { return Ok(None) };
            registered.used = true;
        }
        let version = rows.checkpoints.get(&task).map_or(1, |before| before.version + 1);
        rows.checkpoints.insert(task, StoredCheckpoint { version, ..checkpoint.clone() });
        Ok(Some(version))
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        Ok(self.rows().checkpoints.get(&task).cloned())
    }

    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError> {
        let rows = self.rows();
        let wanted: BTreeSet<TaskId> = tasks.iter().copied().collect();
        let found = wanted.into_iter().filter_map(|task| Some((task, rows.checkpoints.get(&task)?)));
        let note = |(task, checkpoint): (TaskId, &StoredCheckpoint)| CheckpointNote {
            task,
            id: checkpoint.id.clone(),
            saved_at: checkpoint.saved_at,
            bytes: checkpoint.bytes,
        };
        Ok(found.map(note).collect())
    }

    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let is_out = rows.is_out(task, attempt);
        if is_out {
            rows.checkpoints.remove(&task);
        }
        Ok(is_out)
    }

    async fn define_table(&self, table: &TableDefinition, _now: Timestamp) -> Result<(), StoreError> {
        self.rows().tables.insert((table.id.clone(), table.tenant.clone()), table.clone());
        Ok(())
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        let rows = self.rows();
        let seen = rows.tables.values().filter(|table| seen.sees(table.tenant.as_deref()));
        Ok(seen.cloned().collect())
    }

    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        let rows = self.rows();
        let is_own = |place: &MemoryTable| place.id == table && place.tenant.as_deref() == tenant;
        let own = rows.table_rows.iter().filter(|(place, _)| is_own(place)).map(|(_, row)| row);
        Ok(own.filter(|row| after.is_none_or(|after| row.sequence > after)).take(max).cloned().collect())
    }

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let turn = rows.turns.entry(name.into()).or_insert_with(|| (holder.into(), now));
        let is_free = turn.0 == holder || turn.1 <= now;
        if is_free {
            *turn = (holder.into(), until);
        }
        Ok(is_free)
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        let mut rows = self.rows();
        let noted = rows.pools.entry(pool.into()).or_insert_with(|| (1, server_id.into()));
        if noted.1 != server_id {
            *noted = (noted.0 + 1, server_id.into());
        }
        Ok(noted.0)
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self.rows().keys.entry(name.into()).or_insert_with(|| fresh.to_vec()).clone())
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        Ok(self.rows().prune(retention, max))
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        let mut counts: BTreeMap<&str, (Status, u64)> = BTreeMap::new();
        for execution in self.rows().executions.values() {
            let status = execution.status();
            counts.entry(status.as_str()).or_insert((status, 0)).1 += 1;
        }
        Ok(counts.into_values().collect())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl MemoryRows {
    fn children_of(&self, parent: ExecutionId, join: u32, from: u32) -> BTreeMap<u32, &Execution> {
        let links = self.executions.values().filter_map(|child| Some((child.identity.parent?, child)));
        let own =
            links.filter(|(link, _)| link.execution == parent && link.join == join && link.index >= from);
        own.map(|(link, child)| (link.index, child)).collect()
    }

    /// The tenant of an execution; none: it has none, or is not known.
    pub(super) fn tenant_of(&self, execution: ExecutionId) -> Option<&str> {
        self.executions.get(&execution)?.identity.tenant_id.as_deref()
    }

    fn events_where(
        &self,
        max: usize,
        wanted: impl Fn(&PublishedEvent, bool) -> bool,
    ) -> Vec<PublishedEvent> {
        let mut found: Vec<_> = self
            .events
            .iter()
            .filter(|(event, delivered)| wanted(event, *delivered))
            .map(|(event, _)| event)
            .collect();
        found.sort_by_key(|event| event.at);
        found.into_iter().take(max).cloned().collect()
    }

    pub(super) fn is_out(&self, task: TaskId, attempt: u32) -> bool {
        let out = self.executions.get(&task.execution).and_then(Execution::task);
        out.is_some_and(|out| out.run.task == task.number && out.run.attempt == attempt)
    }

    /// Deletes at most `max` executions of trees of which nothing is alive and whose roots are old: children first.
    pub(super) fn prune_trees(&mut self, max: usize, is_old: impl Fn(&Execution) -> bool) -> usize {
        let alive: BTreeSet<_> =
            self.executions.values().filter(|one| !one.is_terminal()).map(|one| one.identity.root).collect();
        let roots: BTreeSet<_> = self
            .executions
            .values()
            .filter(|one| one.identity.parent.is_none() && one.is_terminal() && is_old(one))
            .map(Execution::id)
            .filter(|root| !alive.contains(root))
            .collect();
        let mut gone: Vec<_> =
            self.executions.values().filter(|one| roots.contains(&one.identity.root)).collect();
        gone.sort_by_key(|one| one.identity.parent.is_none());
        let gone: BTreeSet<ExecutionId> = gone.into_iter().take(max).map(Execution::id).collect();
        self.forget(&gone);
        gone.len()
    }

    fn prune(&mut self, retention: &Retention, max: usize) -> usize {
        let ended_before =
            |execution: &Execution, before| execution.is_terminal() && execution.updated_at < before;
        let before = retention.executions_before;
        let own = self.retentions.clone();
        let pruned = self.prune_trees(max, |root| {
            let key = (root.identity.tenant_id.clone().unwrap_or_default(), root.identity.flow.id.clone());
            let says = own.get(&key).and_then(|own| {
                if root.status() == Status::Completed { own.completed_ms } else { own.failed_ms }
            });
            says.is_none() && root.updated_at < before
        });
        let mut left = max - pruned;
        let mut spare = |is_old: bool| {
            let goes = is_old && left > 0;
            left -= usize::from(goes);
            !goes
        };
        self.events.retain(|(event, delivered)| spare(*delivered && event.at < retention.events_before));
        self.deliveries.retain(|_, delivery| spare(delivery.created_at < retention.events_before));
        let executions = &self.executions;
        self.checkpoints.retain(|task, _| {
            let owner = executions.get(&task.execution);
            spare(owner.is_some_and(|owner| ended_before(owner, retention.checkpoints_before)))
        });
        self.idempotency.retain(|_, key| spare(key.until < retention.keys_before));
        self.progress.retain(|(_, at), _| spare(*at < retention.progress_before));
        self.log_lines.retain(|_, line| spare(line.at < retention.logs_before));
        max - left + self.prune_patches(left)
    }

    pub(super) fn forget(&mut self, gone: &BTreeSet<ExecutionId>) {
        let stays = |id: &ExecutionId| !gone.contains(id);
        self.executions.retain(|id, _| stays(id));
        self.history.retain(|id, _| stays(id));
        self.timers.retain(|id, _| stays(id));
        self.subscriptions.retain(|id, _| stays(id));
        self.joins.retain(|(parent, _), _| stays(parent));
        self.specs.retain(|(parent, _), _| stays(parent));
        self.budgets.retain(|id, _| stays(id));
        self.checkpoints.retain(|task, _| stays(&task.execution));
        self.jobs.retain(|task, _| stays(&task.execution));
        self.patches.retain(|(task, ..), _| stays(&task.execution));
        self.progress.retain(|(task, _), _| stays(&task.execution));
        self.log_lines.retain(|(id, _), _| stays(id));
        self.failed_tasks.retain(|_, (row, _)| stays(&row.execution));
    }
}

fn summary(execution: &Execution) -> ExecutionSummary {
    let identity = &execution.identity;
    ExecutionSummary {
        id: execution.id(),
        flow_id: identity.flow.id.clone(),
        flow_version: identity.flow.version.clone(),
        status: execution.status(),
        current_step_id: execution.cursor.to_string(),
        waiting_reason: execution.waiting_reason(),
        error_code: execution.error().map(|error| error.code.clone()),
        parent_execution_id: identity.parent.map(|link| link.execution),
        labels: identity.labels.clone(),
        created_at: identity.created_at,
        updated_at: execution.updated_at,
    }
}
