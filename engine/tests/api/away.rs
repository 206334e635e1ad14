//! A record in memory that can be away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::access::Visibility;
use flowmonkey_engine::store::{
    AccessStore, ApiKey, ApiKeyFilter, ArchivedFlow, AuditEntry, AuditFilter, AuditRow, AuditSeal, Batch,
    BeatOutcome, CheckpointNote, ChildRow, Committed, ContextPatch, ContextStore, ControlStore, Count,
    Delivery, DeliveryStatus, EventFilter, EventPlace, EventStore, ExecutionFilter, FailedTaskEntry,
    FailedTaskFilter, FlowRetention, FlowRow, FoundFlow, JobBeat, JobChange, JobFilter, JobRow, JobStore,
    Join, JoinState, ListPage, LogFilter, LogRow, MemoryStore, NewDelivery, ObjectTable, Operation,
    OperationItem, Pause, PauseKind, ProgressRow, ProgressStore, PublishOutcome, PublishedEvent,
    PublishedFlow, Retention, SearchStore, SettledDelivery, Settlement, Staged, Store, StoreError,
    StoredCheckpoint, TableDefinition, TableRowRecord, TaskOut, Webhook, WebhookNote,
};
use tokio::sync::Notify;

/// A record in memory: while it is away, every call fails.
#[derive(Default)]
pub(crate) struct Away {
    inner: MemoryStore,
    away: AtomicBool,
    held: AtomicBool,
    audit_fails: AtomicBool,
    /// Rung when a commit is held.
    pub(crate) holds: Notify,
    /// Rung when held commits may be answered.
    released: Notify,
}

impl Away {
    /// Makes the record unavailable, or available again.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Lets the audit fail, and nothing else, or not.
    pub(crate) fn fail_audit(&self, fails: bool) {
        self.audit_fails.store(fails, Ordering::SeqCst);
    }

    /// Keeps back the answer of the next commit.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Gives the answer that was kept back.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    fn there(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            let reason = "password=secret: connection refused".into();
            return Err(StoreError::Unavailable { reason, source: None });
        }
        Ok(())
    }
}

#[async_trait]
impl ProgressStore for Away {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.put_progress(rows).await
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        self.there()?;
        self.inner.latest_progress(task).await
    }

    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError> {
        self.there()?;
        self.inner.progress_page(execution, after, max).await
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        self.there()?;
        self.inner.live_children_done(parent, join).await
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.put_log_lines(rows).await
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        self.there()?;
        self.inner.log_lines(filter).await
    }
}

#[async_trait]
impl ContextStore for Away {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        self.there()?;
        self.inner.task_version(task, attempt).await
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        self.there()?;
        self.inner.stage_patch(patch, bytes_max).await
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        self.there()?;
        self.inner.staged_patches(attempts).await
    }

    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.forget_patches(attempts).await
    }
}

#[async_trait]
impl ObjectTable for Away {
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError> {
        self.there()?;
        self.inner.register_object(key, now).await
    }

    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError> {
        self.there()?;
        self.inner.garbage_objects(before, max).await
    }

    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.forget_objects(keys).await
    }
}

#[async_trait]
impl EventStore for Away {
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        self.there()?;
        self.inner.publish_events(events).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError> {
        self.there()?;
        self.inner.list_events(filter).await
    }

    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.there()?;
        self.inner.events_by_id(tenant, ids).await
    }

    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        self.there()?;
        self.inner.save_webhook(webhook).await
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        self.there()?;
        self.inner.webhooks().await
    }

    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.delete_webhook(id).await
    }

    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError> {
        self.there()?;
        self.inner.note_webhook(id, note).await
    }

    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError> {
        self.there()?;
        self.inner.enqueue_deliveries(deliveries, now).await
    }

    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.there()?;
        self.inner.due_webhooks(now).await
    }

    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.there()?;
        self.inner.claim_deliveries(webhook, now, until, max).await
    }

    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.settle_delivery(settled).await
    }

    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.there()?;
        self.inner.deliveries(webhook, status, before, max).await
    }

    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.redeliver(webhook, event, now).await
    }
}

#[async_trait]
impl Store for Away {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        self.there()?;
        self.inner.put_definition(flow).await
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.there()?;
        self.inner.publish(tenant, flow, now).await
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        self.there()?;
        self.inner.definition(hash).await
    }

    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError> {
        self.there()?;
        self.inner.find_flow(tenant, id, version).await
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        self.there()?;
        self.inner.list_flows(seen, id).await
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        self.there()?;
        self.inner.load(ids).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.there()?;
        let committed = self.inner.commit(batch).await;
        if self.held.swap(false, Ordering::SeqCst) {
            self.holds.notify_one();
            self.released.notified().await;
        }
        committed
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        self.there()?;
        self.inner.list(filter).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.there()?;
        self.inner.history(id, after, max).await
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.there()?;
        self.inner.due(now, max).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.there()?;
        self.inner.next_due().await
    }

    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        self.there()?;
        self.inner.tasks_out(after, until, max).await
    }

    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        self.there()?;
        self.inner.join(parent, join).await
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        self.there()?;
        self.inner.join_state(parent, join).await
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.there()?;
        self.inner.snapshot(parent, join).await
    }

    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        self.there()?;
        self.inner.joins_to_tend(after, max).await
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        self.there()?;
        self.inner.children(parent, join, from, max).await
    }

    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        self.there()?;
        self.inner.live_children(parent, join, from, max).await
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.publish_event(event).await
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        self.there()?;
        self.inner.undelivered_events(max).await
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.mark_delivered(tenant, ids).await
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.there()?;
        self.inner.events_since(tenant, name, since, max).await
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.there()?;
        self.inner.subscribers(tenant, name, after, max).await
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        self.there()?;
        self.inner.save_checkpoint(task, attempt, checkpoint).await
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.there()?;
        self.inner.load_checkpoint(task).await
    }

    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError> {
        self.there()?;
        self.inner.checkpoint_notes(tasks).await
    }

    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.clear_checkpoint(task, attempt).await
    }

    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError> {
        self.there()?;
        self.inner.define_table(table, now).await
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        self.there()?;
        self.inner.tables(seen).await
    }

    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        self.there()?;
        self.inner.table_rows(tenant, table, after, max).await
    }

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.take_turn(name, holder, now, until).await
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        self.there()?;
        self.inner.pool_generation(pool, server_id).await
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.there()?;
        self.inner.signing_key(name, fresh).await
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        self.there()?;
        self.inner.prune(retention, max).await
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        self.there()?;
        self.inner.counts().await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.there()?;
        self.inner.check().await
    }
}

#[async_trait]
impl SearchStore for Away {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        self.there()?;
        self.inner.count(filter).await
    }
}

#[async_trait]
impl JobStore for Away {
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.note_jobs(changes).await
    }

    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError> {
        self.there()?;
        self.inner.note_beat(beat).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        self.there()?;
        self.inner.jobs(filter).await
    }

    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError> {
        self.there()?;
        self.inner.open_jobs(after, max).await
    }

    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.there()?;
        self.inner.beating_jobs(attempts, since).await
    }

    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.forget_jobs(executions).await
    }
}

#[async_trait]
impl AccessStore for Away {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.there()?;
        self.inner.put_key(key).await
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        self.there()?;
        self.inner.api_key(id).await
    }

    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        self.there()?;
        self.inner.api_keys(filter).await
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.revoke_key(id, now).await
    }

    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        self.there()?;
        self.inner.touch_key(id, at).await
    }

    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.there()?;
        if self.audit_fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { reason: "no audit".into(), source: None });
        }
        self.inner.append_audit(entries).await
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.there()?;
        self.inner.audit(filter).await
    }

    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.there()?;
        self.inner.audit_chain(after, max).await
    }

    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        self.there()?;
        self.inner.audit_head().await
    }

    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.there()?;
        self.inner.unsealed_audit(max).await
    }

    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.seal_audit(head, seals).await
    }
}

#[async_trait]
impl ControlStore for Away {
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError> {
        self.there()?;
        self.inner.failed_tasks(filter).await
    }

    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError> {
        self.there()?;
        self.inner.failed_task(task).await
    }

    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.settle_failed_task(sequence, settlement).await
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.there()?;
        self.inner.pauses().await
    }

    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.set_pause(pause).await
    }

    async fn lift_pause(
        &self,
        kind: PauseKind,
        tenant: Option<&str>,
        name: &str,
    ) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.lift_pause(kind, tenant, name).await
    }

    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError> {
        self.there()?;
        self.inner.flow_versions(tenant, id).await
    }

    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError> {
        self.there()?;
        self.inner.archive_flow(tenant, id, version, archived).await
    }

    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError> {
        self.there()?;
        self.inner.archived_flows().await
    }

    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.there()?;
        self.inner.live_in_tree(root, max).await
    }

    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError> {
        self.there()?;
        self.inner.delete_tree(root, max).await
    }

    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        self.there()?;
        self.inner.save_operation(operation).await
    }

    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError> {
        self.there()?;
        self.inner.operation(id).await
    }

    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError> {
        self.there()?;
        self.inner.open_operations(max).await
    }

    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        self.there()?;
        self.inner.operations(tenant, before, max).await
    }

    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.stop_operation(id, at).await
    }

    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.note_operation(id, items).await
    }

    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError> {
        self.there()?;
        self.inner.operation_items(id, before, max).await
    }

    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError> {
        self.there()?;
        self.inner.flow_retentions().await
    }

    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError> {
        self.there()?;
        self.inner.set_flow_retention(retention).await
    }

    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.lift_flow_retention(tenant, flow).await
    }

    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError> {
        self.there()?;
        self.inner.prune_flow(retention, now, max).await
    }

    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        self.there()?;
        self.inner.forget_operations(before, max).await
    }
}
