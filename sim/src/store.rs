//! The record as engines see it: each call may fail before or after it took effect, and others may move in between.

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::access::Visibility;
use flowmonkey_engine::store::{
    AccessStore, ApiKey, ApiKeyFilter, ArchivedFlow, AuditEntry, AuditFilter, AuditRow, AuditSeal, Batch,
    BeatOutcome, CheckpointNote, ChildRow, Committed, ContextPatch, ContextStore, ControlStore, Count,
    CreateOutcome, Delivery, DeliveryStatus, EventFilter, EventPlace, EventStore, ExecutionFilter,
    FailedTaskEntry, FailedTaskFilter, FlowRetention, FlowRow, FoundFlow, JobBeat, JobChange, JobFilter,
    JobRow, JobStore, Join, JoinState, ListPage, LogFilter, LogRow, NewDelivery, ObjectTable, Operation,
    OperationItem, Pause, PauseKind, ProgressRow, ProgressStore, PublishOutcome, PublishedEvent,
    PublishedFlow, Retention, SearchStore, SettledDelivery, Settlement, Staged, Store, StoreError,
    StoredCheckpoint, TableDefinition, TableRowRecord, TaskOut, Webhook, WebhookNote,
};

use crate::boundary::Boundary;
use crate::plants::{self, Plant};

/// The record as engines see it.
pub struct SimStore(pub Arc<Boundary>);

fn unavailable(when: &str) -> StoreError {
    StoreError::Unavailable { reason: format!("the call failed {when} it took effect"), source: None }
}

impl SimStore {
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if self.0.before().await {
            return Err(unavailable("before"));
        }
        let answer = call.await?;
        if self.0.after().await {
            return Err(unavailable("after"));
        }
        Ok(answer)
    }
}

#[async_trait]
impl ProgressStore for SimStore {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        self.call(self.0.store.put_progress(rows)).await
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        self.call(self.0.store.latest_progress(task)).await
    }

    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError> {
        self.call(self.0.store.progress_page(execution, after, max)).await
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        self.call(self.0.store.live_children_done(parent, join)).await
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        self.call(self.0.store.put_log_lines(rows)).await
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        self.call(self.0.store.log_lines(filter)).await
    }
}

#[async_trait]
impl ContextStore for SimStore {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        self.call(self.0.store.task_version(task, attempt)).await
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        self.call(self.0.store.stage_patch(patch, bytes_max)).await
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        self.call(self.0.store.staged_patches(attempts)).await
    }

    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError> {
        self.call(self.0.store.forget_patches(attempts)).await
    }
}

#[async_trait]
impl ObjectTable for SimStore {
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError> {
        self.call(self.0.store.register_object(key, now)).await
    }

    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError> {
        self.call(self.0.store.garbage_objects(before, max)).await
    }

    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError> {
        self.call(self.0.store.forget_objects(keys)).await
    }
}

#[async_trait]
impl EventStore for SimStore {
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        self.call(self.0.store.publish_events(events)).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError> {
        self.call(self.0.store.list_events(filter)).await
    }

    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.call(self.0.store.events_by_id(tenant, ids)).await
    }

    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        self.call(self.0.store.save_webhook(webhook)).await
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        self.call(self.0.store.webhooks()).await
    }

    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        self.call(self.0.store.delete_webhook(id)).await
    }

    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError> {
        self.call(self.0.store.note_webhook(id, note)).await
    }

    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError> {
        self.call(self.0.store.enqueue_deliveries(deliveries, now)).await
    }

    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.call(self.0.store.due_webhooks(now)).await
    }

    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.call(self.0.store.claim_deliveries(webhook, now, until, max)).await
    }

    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError> {
        self.call(self.0.store.settle_delivery(settled)).await
    }

    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.call(self.0.store.deliveries(webhook, status, before, max)).await
    }

    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.call(self.0.store.redeliver(webhook, event, now)).await
    }
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.0.note_progress(|progress| progress.committing = true);
        if self.0.before().await {
            self.0.sometimes.hit("commit failed before it took effect");
            return Err(unavailable("before"));
        }
        let planted = plants::commit(self.0.plant, &self.0.store, batch).await?;
        for (batch, committed) in &planted.happened {
            self.0.books().committed(batch, committed);
        }
        if planted.answer.updates.contains(&false) {
            self.0.sometimes.hit("version conflict");
        }
        if planted.answer.creates.contains(&CreateOutcome::FlowsChanged) {
            self.0.sometimes.hit("start of an earlier generation of flows");
        }
        self.0.note_progress(|progress| {
            progress.committed = true;
            progress.published = false;
            progress.committing = false;
        });
        if self.0.after().await {
            self.0.sometimes.hit("commit failed after it took effect");
            return Err(unavailable("after"));
        }
        Ok(planted.answer)
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let mut due = self.call(self.0.store.due(now, max)).await?;
        if self.0.plant == Some(Plant::TimerLost) {
            due.retain(|id| !plants::is_chosen(*id));
        }
        Ok(due)
    }

    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        self.call(self.0.store.put_definition(flow)).await
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.call(self.0.store.publish(tenant, flow, now)).await
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        self.call(self.0.store.definition(hash)).await
    }

    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError> {
        self.call(self.0.store.find_flow(tenant, id, version)).await
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        self.call(self.0.store.list_flows(seen, id)).await
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        self.call(self.0.store.load(ids)).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        self.call(self.0.store.list(filter)).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.call(self.0.store.history(id, after, max)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.call(self.0.store.next_due()).await
    }

    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        self.call(self.0.store.tasks_out(after, until, max)).await
    }

    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        self.call(self.0.store.join(parent, join)).await
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        self.call(self.0.store.join_state(parent, join)).await
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.call(self.0.store.snapshot(parent, join)).await
    }

    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        self.call(self.0.store.joins_to_tend(after, max)).await
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        self.call(self.0.store.children(parent, join, from, max)).await
    }

    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        self.call(self.0.store.live_children(parent, join, from, max)).await
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        self.call(self.0.store.publish_event(event)).await
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        self.call(self.0.store.undelivered_events(max)).await
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        self.call(self.0.store.mark_delivered(tenant, ids)).await
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.call(self.0.store.events_since(tenant, name, since, max)).await
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.call(self.0.store.subscribers(tenant, name, after, max)).await
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        self.call(self.0.store.save_checkpoint(task, attempt, checkpoint)).await
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.call(self.0.store.load_checkpoint(task)).await
    }

    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError> {
        self.call(self.0.store.checkpoint_notes(tasks)).await
    }

    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError> {
        self.call(self.0.store.clear_checkpoint(task, attempt)).await
    }

    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError> {
        self.call(self.0.store.define_table(table, now)).await
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        self.call(self.0.store.tables(seen)).await
    }

    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        self.call(self.0.store.table_rows(tenant, table, after, max)).await
    }

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let is_kept = self.0.plant == Some(Plant::TurnNeverEnds);
        let until = if is_kept { Timestamp::from_millis(i64::MAX) } else { until };
        self.call(self.0.store.take_turn(name, holder, now, until)).await
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        self.call(self.0.store.pool_generation(pool, server_id)).await
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.call(self.0.store.signing_key(name, fresh)).await
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        self.call(self.0.store.prune(retention, max)).await
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        self.call(self.0.store.counts()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.call(self.0.store.check()).await
    }
}

#[async_trait]
impl SearchStore for SimStore {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        self.call(self.0.store.count(filter)).await
    }
}

#[async_trait]
impl JobStore for SimStore {
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError> {
        self.call(self.0.store.note_jobs(changes)).await
    }

    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError> {
        self.call(self.0.store.note_beat(beat)).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        self.call(self.0.store.jobs(filter)).await
    }

    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError> {
        self.call(self.0.store.open_jobs(after, max)).await
    }

    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.call(self.0.store.beating_jobs(attempts, since)).await
    }

    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        self.call(self.0.store.forget_jobs(executions)).await
    }
}

#[async_trait]
impl AccessStore for SimStore {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.call(self.0.store.put_key(key)).await
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        self.call(self.0.store.api_key(id)).await
    }

    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        self.call(self.0.store.api_keys(filter)).await
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.call(self.0.store.revoke_key(id, now)).await
    }

    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        self.call(self.0.store.touch_key(id, at)).await
    }

    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.call(self.0.store.append_audit(entries)).await
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.call(self.0.store.audit(filter)).await
    }

    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.call(self.0.store.audit_chain(after, max)).await
    }

    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        self.call(self.0.store.audit_head()).await
    }

    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.call(self.0.store.unsealed_audit(max)).await
    }

    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError> {
        self.call(self.0.store.seal_audit(head, seals)).await
    }
}

#[async_trait]
impl ControlStore for SimStore {
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError> {
        self.call(self.0.store.failed_tasks(filter)).await
    }

    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError> {
        self.call(self.0.store.failed_task(task)).await
    }

    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError> {
        self.call(self.0.store.settle_failed_task(sequence, settlement)).await
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.call(self.0.store.pauses()).await
    }

    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError> {
        self.call(self.0.store.set_pause(pause)).await
    }

    async fn lift_pause(
        &self,
        kind: PauseKind,
        tenant: Option<&str>,
        name: &str,
    ) -> Result<bool, StoreError> {
        self.call(self.0.store.lift_pause(kind, tenant, name)).await
    }

    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError> {
        self.call(self.0.store.flow_versions(tenant, id)).await
    }

    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError> {
        self.call(self.0.store.archive_flow(tenant, id, version, archived)).await
    }

    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError> {
        self.call(self.0.store.archived_flows()).await
    }

    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.call(self.0.store.live_in_tree(root, max)).await
    }

    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError> {
        self.call(self.0.store.delete_tree(root, max)).await
    }

    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        self.call(self.0.store.save_operation(operation)).await
    }

    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError> {
        self.call(self.0.store.operation(id)).await
    }

    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError> {
        self.call(self.0.store.open_operations(max)).await
    }

    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        self.call(self.0.store.operations(tenant, before, max)).await
    }

    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        self.call(self.0.store.stop_operation(id, at)).await
    }

    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError> {
        self.call(self.0.store.note_operation(id, items)).await
    }

    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError> {
        self.call(self.0.store.operation_items(id, before, max)).await
    }

    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError> {
        self.call(self.0.store.flow_retentions()).await
    }

    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError> {
        self.call(self.0.store.set_flow_retention(retention)).await
    }

    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError> {
        self.call(self.0.store.lift_flow_retention(tenant, flow)).await
    }

    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError> {
        self.call(self.0.store.prune_flow(retention, now, max)).await
    }

    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        self.call(self.0.store.forget_operations(before, max)).await
    }
}
