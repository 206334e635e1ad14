//! A record that dies: after a number of commits every call fails, as for a process that was killed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

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
    Join, JoinState, ListPage, LogFilter, LogRow, NewDelivery, ObjectTable, Operation, OperationItem, Pause,
    PauseKind, ProgressRow, ProgressStore, PublishOutcome, PublishedEvent, PublishedFlow, Retention,
    SearchStore, SettledDelivery, Settlement, Staged, Store, StoreError, StoredCheckpoint, TableDefinition,
    TableRowRecord, TaskOut, Webhook, WebhookNote,
};
use tokio::sync::watch;

/// How much was asked of a record at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) tasks_out: Vec<usize>,
    pub(crate) commits: Vec<usize>,
    /// Flows that were looked up.
    pub(crate) lookups: usize,
}

/// A record with a fuse.
pub(crate) struct Fused {
    inner: Arc<dyn Store>,
    /// Commits until it dies; negative: dead.
    left: AtomicI64,
    /// Flows that cannot be read.
    missing: Mutex<BTreeSet<String>>,
    /// Tasks that were read at a time, and executions that were written at a time.
    sizes: Mutex<Sizes>,
    /// Batches with such an execution are refused.
    cursed: Mutex<BTreeSet<ExecutionId>>,
    /// Whether the next commit takes effect and is not answered.
    mute: AtomicBool,
    /// Commits wait until this is true.
    open: watch::Sender<bool>,
    /// Commits that have begun.
    begun: watch::Sender<usize>,
}

impl Fused {
    pub(crate) fn new(inner: Arc<dyn Store>, commits: i64) -> Self {
        Self {
            inner,
            left: AtomicI64::new(commits),
            missing: Mutex::default(),
            sizes: Mutex::default(),
            cursed: Mutex::default(),
            mute: AtomicBool::new(false),
            open: watch::Sender::new(true),
            begun: watch::Sender::new(0),
        }
    }

    /// Holds up every commit from now on, before anything of it is stored, until they are let through.
    pub(crate) fn hold_commits(&self) {
        self.begun.send_replace(0);
        self.open.send_replace(false);
    }

    /// Waits until a commit is held up.
    pub(crate) async fn holds_one(&self) {
        self.begun.subscribe().wait_for(|begun| *begun > 0).await.unwrap();
    }

    pub(crate) fn let_commits_through(&self) {
        self.open.send_replace(true);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Sets the fuse anew.
    pub(crate) fn die_after(&self, commits: i64) {
        self.left.store(commits, Ordering::SeqCst);
    }

    /// Lets it live again, for good.
    pub(crate) fn revive(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    /// The answer of the next commit gets lost.
    pub(crate) fn lose_an_answer(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// What was asked for since the last look.
    pub(crate) fn take_sizes(&self) -> Sizes {
        std::mem::take(&mut *self.sizes.lock().unwrap())
    }

    /// Makes a flow unreadable.
    pub(crate) fn lose_flow(&self, hash: &FlowHash) {
        self.missing.lock().unwrap().insert(hash.as_str().into());
    }

    /// Makes the record refuse every change of an execution.
    pub(crate) fn curse(&self, id: ExecutionId) {
        self.cursed.lock().unwrap().insert(id);
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.is_dead() {
            return Err(StoreError::Unavailable { reason: "killed".into(), source: None });
        }
        Ok(())
    }
}

#[async_trait]
impl ProgressStore for Fused {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.put_progress(rows).await
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        self.alive()?;
        self.inner.latest_progress(task).await
    }

    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError> {
        self.alive()?;
        self.inner.progress_page(execution, after, max).await
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        self.alive()?;
        self.inner.live_children_done(parent, join).await
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.put_log_lines(rows).await
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        self.alive()?;
        self.inner.log_lines(filter).await
    }
}

#[async_trait]
impl ContextStore for Fused {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        self.alive()?;
        self.inner.task_version(task, attempt).await
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        self.alive()?;
        self.inner.stage_patch(patch, bytes_max).await
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        self.alive()?;
        self.inner.staged_patches(attempts).await
    }

    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.forget_patches(attempts).await
    }
}

#[async_trait]
impl ObjectTable for Fused {
    async fn register_object(&self, key: &str, now: Timestamp) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.register_object(key, now).await
    }

    async fn garbage_objects(&self, before: Timestamp, max: usize) -> Result<Vec<String>, StoreError> {
        self.alive()?;
        self.inner.garbage_objects(before, max).await
    }

    async fn forget_objects(&self, keys: &[String]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.forget_objects(keys).await
    }
}

#[async_trait]
impl EventStore for Fused {
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        self.alive()?;
        self.inner.publish_events(events).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError> {
        self.alive()?;
        self.inner.list_events(filter).await
    }

    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.alive()?;
        self.inner.events_by_id(tenant, ids).await
    }

    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.save_webhook(webhook).await
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        self.alive()?;
        self.inner.webhooks().await
    }

    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.delete_webhook(id).await
    }

    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.note_webhook(id, note).await
    }

    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.enqueue_deliveries(deliveries, now).await
    }

    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.alive()?;
        self.inner.due_webhooks(now).await
    }

    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.alive()?;
        self.inner.claim_deliveries(webhook, now, until, max).await
    }

    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.settle_delivery(settled).await
    }

    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.alive()?;
        self.inner.deliveries(webhook, status, before, max).await
    }

    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.redeliver(webhook, event, now).await
    }
}

#[async_trait]
impl Store for Fused {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.put_definition(flow).await
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.alive()?;
        self.inner.publish(tenant, flow, now).await
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        self.alive()?;
        if self.missing.lock().unwrap().contains(hash.as_str()) {
            return Ok(None);
        }
        self.inner.definition(hash).await
    }

    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError> {
        self.alive()?;
        self.sizes.lock().unwrap().lookups += 1;
        self.inner.find_flow(tenant, id, version).await
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        self.alive()?;
        self.inner.list_flows(seen, id).await
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        self.alive()?;
        self.inner.load(ids).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.begun.send_modify(|begun| *begun += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.alive()?;
        let ids = batch.updates.iter().map(|update| update.execution.id());
        let touched: Vec<_> = ids.chain(batch.creates.iter().map(|create| create.execution.id())).collect();
        self.sizes.lock().unwrap().commits.push(touched.len());
        if touched.iter().any(|id| self.cursed.lock().unwrap().contains(id)) {
            return Err(StoreError::Internal { reason: "cursed".into() });
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.alive()?;
        }
        let committed = self.inner.commit(batch).await;
        if self.mute.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Unavailable { reason: "the connection was lost".into(), source: None });
        }
        committed
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        self.alive()?;
        self.inner.list(filter).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.alive()?;
        self.inner.history(id, after, max).await
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.alive()?;
        self.inner.due(now, max).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.alive()?;
        self.inner.next_due().await
    }

    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        self.alive()?;
        let page = self.inner.tasks_out(after, until, max).await?;
        self.sizes.lock().unwrap().tasks_out.push(page.len());
        Ok(page)
    }

    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        self.alive()?;
        self.inner.join(parent, join).await
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        self.alive()?;
        self.inner.join_state(parent, join).await
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.alive()?;
        self.inner.snapshot(parent, join).await
    }

    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        self.alive()?;
        self.inner.joins_to_tend(after, max).await
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        self.alive()?;
        self.inner.children(parent, join, from, max).await
    }

    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        self.alive()?;
        self.inner.live_children(parent, join, from, max).await
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.publish_event(event).await
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        self.alive()?;
        self.inner.undelivered_events(max).await
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.mark_delivered(tenant, ids).await
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.alive()?;
        self.inner.events_since(tenant, name, since, max).await
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.alive()?;
        self.inner.subscribers(tenant, name, after, max).await
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        self.alive()?;
        self.inner.save_checkpoint(task, attempt, checkpoint).await
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.alive()?;
        self.inner.load_checkpoint(task).await
    }

    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError> {
        self.alive()?;
        self.inner.checkpoint_notes(tasks).await
    }

    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.clear_checkpoint(task, attempt).await
    }

    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.define_table(table, now).await
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        self.alive()?;
        self.inner.tables(seen).await
    }

    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        self.alive()?;
        self.inner.table_rows(tenant, table, after, max).await
    }

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.take_turn(name, holder, now, until).await
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        self.alive()?;
        self.inner.pool_generation(pool, server_id).await
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.alive()?;
        self.inner.signing_key(name, fresh).await
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        self.alive()?;
        self.inner.prune(retention, max).await
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        self.alive()?;
        self.inner.counts().await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.check().await
    }
}

#[async_trait]
impl SearchStore for Fused {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        self.inner.count(filter).await
    }
}

#[async_trait]
impl JobStore for Fused {
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError> {
        self.inner.note_jobs(changes).await
    }

    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError> {
        self.inner.note_beat(beat).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        self.inner.jobs(filter).await
    }

    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError> {
        self.inner.open_jobs(after, max).await
    }

    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.inner.beating_jobs(attempts, since).await
    }

    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        self.inner.forget_jobs(executions).await
    }
}

#[async_trait]
impl AccessStore for Fused {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.inner.put_key(key).await
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        self.inner.api_key(id).await
    }

    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        self.inner.api_keys(filter).await
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.inner.revoke_key(id, now).await
    }

    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        self.inner.touch_key(id, at).await
    }

    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.inner.append_audit(entries).await
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.audit(filter).await
    }

    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.audit_chain(after, max).await
    }

    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        self.inner.audit_head().await
    }

    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.unsealed_audit(max).await
    }

    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError> {
        self.inner.seal_audit(head, seals).await
    }
}

#[async_trait]
impl ControlStore for Fused {
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError> {
        self.alive()?;
        self.inner.failed_tasks(filter).await
    }

    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError> {
        self.alive()?;
        self.inner.failed_task(task).await
    }

    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.settle_failed_task(sequence, settlement).await
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.alive()?;
        self.inner.pauses().await
    }

    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.set_pause(pause).await
    }

    async fn lift_pause(
        &self,
        kind: PauseKind,
        tenant: Option<&str>,
        name: &str,
    ) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.lift_pause(kind, tenant, name).await
    }

    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError> {
        self.alive()?;
        self.inner.flow_versions(tenant, id).await
    }

    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError> {
        self.alive()?;
        self.inner.archive_flow(tenant, id, version, archived).await
    }

    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError> {
        self.alive()?;
        self.inner.archived_flows().await
    }

    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.alive()?;
        self.inner.live_in_tree(root, max).await
    }

    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError> {
        self.alive()?;
        self.inner.delete_tree(root, max).await
    }

    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.save_operation(operation).await
    }

    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError> {
        self.alive()?;
        self.inner.operation(id).await
    }

    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError> {
        self.alive()?;
        self.inner.open_operations(max).await
    }

    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        self.alive()?;
        self.inner.operations(tenant, before, max).await
    }

    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.stop_operation(id, at).await
    }

    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.note_operation(id, items).await
    }

    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError> {
        self.alive()?;
        self.inner.operation_items(id, before, max).await
    }

    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError> {
        self.alive()?;
        self.inner.flow_retentions().await
    }

    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.set_flow_retention(retention).await
    }

    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError> {
        self.alive()?;
        self.inner.lift_flow_retention(tenant, flow).await
    }

    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError> {
        self.alive()?;
        self.inner.prune_flow(retention, now, max).await
    }

    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        self.alive()?;
        self.inner.forget_operations(before, max).await
    }
}
