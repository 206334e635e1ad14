//! A record in memory for flows without fan-outs: just what the API's routes need, with the guards that matter to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, Record, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::{
    Batch, ChildRow, Committed, CreateOutcome, ExecutionFilter, ExecutionSummary, FailedTaskRow, FlowRow,
    Join, JoinState, ListPage, PublishOutcome, PublishedEvent, Retention, Store, StoreError,
    StoredCheckpoint, TableDefinition, TableRowRecord, TaskOut, awaited_event,
};

#[derive(Default)]
struct Tables {
    definitions: HashMap<FlowHash, FlowRow>,
    published: BTreeMap<(String, String), FlowRow>,
    executions: BTreeMap<ExecutionId, Execution>,
    histories: HashMap<ExecutionId, Vec<RecordedEvent>>,
    keys: HashMap<(String, String), (ExecutionId, String)>,
    failed: Vec<FailedTaskRow>,
    events: Vec<(PublishedEvent, bool)>,
    tables: BTreeMap<String, TableDefinition>,
    rows: Vec<(String, TableRowRecord)>,
}

#[derive(Default)]
pub(crate) struct TestRecord {
    tables: Mutex<Tables>,
    away: AtomicBool,
}

impl TestRecord {
    /// Makes the record unavailable, or available again.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn open(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            let reason = "password=secret: connection refused".into();
            return Err(StoreError::Unavailable { reason, source: None });
        }
        Ok(self.tables.lock().unwrap())
    }
}

impl Tables {
    fn keep(
        &mut self,
        execution: &Execution,
        events: Vec<RecordedEvent>,
        records: Vec<Record>,
        at: Timestamp,
    ) {
        let id = execution.id();
        for record in records {
            match record {
                Record::FailedTask(task) => {
                    self.failed.insert(0, FailedTaskRow { execution: id, at, task: *task });
                }
                Record::InsertRow(row) => {
                    let sequence = i64::try_from(self.rows.len()).unwrap() + 1;
                    let stored = TableRowRecord { sequence, id: row.id, row: row.row, execution: id, at };
                    self.rows.push((row.table, stored));
                }
                Record::OpenJoin(_)
                | Record::CloseJoin { .. }
                | Record::EndJoin { .. }
                | Record::ChildEnded { .. }
                | Record::StartChild(_)
                | Record::Publish(_)
                | Record::Spend { .. } => {}
            }
        }
        self.histories.entry(id).or_default().extend(events);
        self.executions.insert(id, execution.clone());
    }
}

fn reference(row: &FlowRow) -> FlowReference {
    FlowReference { id: row.id.clone(), version: row.version.clone(), hash: row.hash.clone() }
}

fn summary(execution: &Execution) -> ExecutionSummary {
    let identity = &execution.identity;
    ExecutionSummary {
        id: identity.id,
        flow_id: identity.flow.id.clone(),
        flow_version: identity.flow.version.clone(),
        status: execution.status(),
        current_step_id: execution.cursor.to_string(),
        waiting_reason: execution.waiting_reason(),
        error_code: execution.error().map(|error| error.code.clone()),
        parent_execution_id: identity.parent.map(|parent| parent.execution),
        labels: identity.labels.clone(),
        created_at: identity.created_at,
        updated_at: execution.updated_at,
    }
}

fn matches(execution: &Execution, filter: &ExecutionFilter) -> bool {
    let identity = &execution.identity;
    (filter.statuses.is_empty() || filter.statuses.contains(&execution.status()))
        && filter.flow_id.as_ref().is_none_or(|flow| *flow == identity.flow.id)
        && filter.labels.iter().all(|(name, value)| identity.labels.get(name) == Some(value))
        && filter.before.is_none_or(|before| identity.id < before)
        && match filter.parent {
            Some(parent) => identity.parent.is_some_and(|link| link.execution == parent),
            None => filter.include_children || identity.parent.is_none(),
        }
}

#[async_trait]
impl Store for TestRecord {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        self.open()?.definitions.insert(flow.hash.clone(), flow.clone());
        Ok(())
    }

    async fn publish(&self, flow: &FlowRow, _: Timestamp) -> Result<PublishOutcome, StoreError> {
        let mut tables = self.open()?;
        let key = (flow.id.clone(), flow.version.clone());
        match tables.published.get(&key) {
            Some(there) if there.hash == flow.hash => return Ok(PublishOutcome::Unchanged),
            Some(there) => return Ok(PublishOutcome::Conflict { existing: there.hash.clone() }),
            None => {}
        }
        tables.definitions.insert(flow.hash.clone(), flow.clone());
        tables.published.insert(key, flow.clone());
        Ok(PublishOutcome::Created)
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        Ok(self.open()?.definitions.get(hash).cloned())
    }

    async fn find_flow(&self, id: &str, version: Option<&str>) -> Result<Option<FlowReference>, StoreError> {
        let tables = self.open()?;
        let mut found = tables.published.values().filter(|row| {
            row.id == id && version.map_or(row.status == "published", |version| row.version == version)
        });
        Ok(found.next_back().map(reference))
    }

    async fn list_flows(&self, id: Option<&str>) -> Result<Vec<FlowReference>, StoreError> {
        let tables = self.open()?;
        let rows = tables.published.values().rev().filter(|row| id.is_none_or(|id| row.id == id));
        Ok(rows.map(reference).collect())
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        let tables = self.open()?;
        Ok(ids.iter().filter_map(|id| tables.executions.get(id).cloned()).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let mut tables = self.open()?;
        let mut committed = Committed::default();
        for create in batch.creates {
            let id = create.execution.id();
            let key = create.idempotency.map(|(key, _)| (create.execution.identity.flow.id.clone(), key));
            if let Some((existing, input)) = key.as_ref().and_then(|key| tables.keys.get(key)) {
                let input_differs = *input != create.input_hash;
                committed.creates.push(CreateOutcome::Existing { id: *existing, input_differs });
                continue;
            }
            if tables.executions.contains_key(&id) {
                committed.creates.push(CreateOutcome::IdTaken);
                continue;
            }
            if let Some(key) = key {
                tables.keys.insert(key, (id, create.input_hash));
            }
            tables.keep(&create.execution, create.events, create.records, batch.now);
            committed.creates.push(CreateOutcome::Created);
        }
        for update in batch.updates {
            let version = tables.executions.get(&update.execution.id()).map(|execution| execution.version);
            let applies = version == Some(update.expected_version);
            if applies {
                tables.keep(&update.execution, update.events, update.records, batch.now);
            }
            committed.updates.push(applies);
        }
        Ok(committed)
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        let tables = self.open()?;
        let mut found = tables.executions.values().rev().filter(|execution| matches(execution, filter));
        let items: Vec<_> = found.by_ref().take(filter.max).map(summary).collect();
        let next = found.next().and_then(|_| items.last().map(|last| last.id));
        Ok(ListPage { items, next })
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let tables = self.open()?;
        let events = tables.histories.get(&id).into_iter().flatten();
        Ok(events.filter(|event| event.sequence > after).take(max).cloned().collect())
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let tables = self.open()?;
        let due = tables.executions.values().filter(|one| one.next_wake().is_some_and(|wake| wake <= now));
        Ok(due.map(Execution::id).take(max).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.open()?.executions.values().filter_map(Execution::next_wake).min())
    }

    async fn tasks_out(
        &self,
        _: Option<ExecutionId>,
        _: Timestamp,
        _: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        Ok(Vec::new())
    }

    async fn failed_tasks(&self, max: usize) -> Result<Vec<FailedTaskRow>, StoreError> {
        Ok(self.open()?.failed.iter().take(max).cloned().collect())
    }

    async fn join(&self, _: ExecutionId, _: u32) -> Result<Option<Join>, StoreError> {
        Ok(None)
    }

    async fn join_state(&self, _: ExecutionId, _: u32) -> Result<Option<JoinState>, StoreError> {
        Ok(None)
    }

    async fn snapshot(&self, _: ExecutionId, _: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        Ok(None)
    }

    async fn joins_to_tend(
        &self,
        _: Option<(ExecutionId, u32)>,
        _: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        Ok(Vec::new())
    }

    async fn children(&self, _: ExecutionId, _: u32, _: u32, _: usize) -> Result<Vec<ChildRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn live_children(
        &self,
        _: ExecutionId,
        _: u32,
        _: u32,
        _: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        Ok(Vec::new())
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        let mut tables = self.open()?;
        if tables.events.iter().any(|(there, _)| there.id == event.id) {
            return Ok(false);
        }
        tables.events.push((event.clone(), false));
        Ok(true)
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        let tables = self.open()?;
        let events = tables.events.iter().filter(|(_, delivered)| !delivered);
        Ok(events.take(max).map(|(event, _)| event.clone()).collect())
    }

    async fn mark_delivered(&self, ids: &[String]) -> Result<(), StoreError> {
        for (event, delivered) in &mut self.open()?.events {
            *delivered |= ids.contains(&event.id);
        }
        Ok(())
    }

    async fn events_since(
        &self,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let tables = self.open()?;
        let events = tables.events.iter().map(|(event, _)| event);
        Ok(events.filter(|event| event.name == name && event.at >= since).take(max).cloned().collect())
    }

    async fn subscribers(
        &self,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let tables = self.open()?;
        let waiting = tables.executions.values().filter(|one| awaited_event(one) == Some(name));
        let ids = waiting.map(Execution::id).filter(|id| after.is_none_or(|after| *id > after));
        Ok(ids.take(max).collect())
    }

    async fn save_checkpoint(&self, _: TaskId, _: u32, _: &StoredCheckpoint) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn load_checkpoint(&self, _: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        Ok(None)
    }

    async fn clear_checkpoint(&self, _: TaskId, _: u32) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn define_table(&self, table: &TableDefinition, _: Timestamp) -> Result<(), StoreError> {
        self.open()?.tables.insert(table.id.clone(), table.clone());
        Ok(())
    }

    async fn tables(&self) -> Result<Vec<TableDefinition>, StoreError> {
        Ok(self.open()?.tables.values().cloned().collect())
    }

    async fn table_rows(
        &self,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        let tables = self.open()?;
        let rows = tables
            .rows
            .iter()
            .filter(|(name, row)| name == table && after.is_none_or(|after| row.sequence > after));
        Ok(rows.take(max).map(|(_, row)| row.clone()).collect())
    }

    async fn take_turn(&self, _: &str, _: &str, _: Timestamp, _: Timestamp) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn pool_generation(&self, _: &str, _: &str) -> Result<u64, StoreError> {
        Ok(1)
    }

    async fn signing_key(&self, _: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(fresh.to_vec())
    }

    async fn prune(&self, _: &Retention, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        Ok(Vec::new())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.open().map(drop)
    }
}
