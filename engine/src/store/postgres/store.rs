//! The trait: each method is a statement or two.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::execution::{Event, Execution, JoinSpec, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use serde_json::{Map, Value};
use sqlx::query;

use super::columns::key;
use super::{PostgresStore, sql};
use crate::access::Visibility;
use crate::store::encode::{integer, json, text};
use crate::store::events::EventStore;
use crate::store::model::{
    Batch, CheckpointNote, ChildRow, Committed, ExecutionFilter, FlowRow, FoundFlow, Join, JoinState,
    ListPage, PublishOutcome, PublishedEvent, PublishedFlow, Retention, StoredCheckpoint, TableDefinition,
    TableRowRecord, TaskOut,
};
use crate::store::objects::ContentColumns;
use crate::store::rows;
use crate::store::{Store, StoreError, child, flows, tenants};

/// Fan-outs looked at with one statement.
const JOINS_PAGE: i64 = 500;
/// Snapshots behind one another: more than the depth limit allows.
const SNAPSHOT_LEVELS: i64 = 1000;

#[async_trait]
impl Store for PostgresStore {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        let statement = query(sql::DEFINITIONS_PUT)
            .bind(flow.hash.as_str().to_owned())
            .bind(text(&flow.id))
            .bind(text(&flow.version))
            .bind(text(&flow.status))
            .bind(json(&*flow.definition)?);
        self.write(statement).await.map(drop)
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        self.put_definition(flow).await?;
        let statement = query(sql::FLOWS_INSERT)
            .bind(text(&flow.id))
            .bind(text(&flow.version))
            .bind(flow.hash.as_str().to_owned())
            .bind(text(&flow.status))
            .bind(now.as_millis())
            .bind(text(tenants::column(tenant)));
        if self.write(statement).await? > 0 {
            return Ok(PublishOutcome::Created);
        }
        match self.find_flow(tenant, &flow.id, Some(&flow.version)).await?.flow {
            Some(existing) if existing.hash != flow.hash => {
                Ok(PublishOutcome::Conflict { existing: existing.hash })
            }
            Some(_) | None => Ok(PublishOutcome::Unchanged),
        }
    }

    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError> {
        let row = self.read_one(query(sql::DEFINITIONS_GET).bind(hash.as_str().to_owned())).await?;
        row.as_ref().map(rows::definition).transpose()
    }

    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError> {
        let tenant = text(tenants::column(tenant));
        if let Some(version) = version {
            let row =
                self.read_one(query(sql::FLOWS_GET).bind(text(id)).bind(text(version)).bind(tenant)).await?;
            let flow = row.map(|row| rows::flow(&row).map(|(reference, _)| reference)).transpose()?;
            return Ok(FoundFlow { flow, generation: None });
        }
        let found = self.read(query(sql::FLOWS_VERSIONS).bind(text(id)).bind(tenant)).await?;
        let versions = found.iter().map(rows::flow).collect::<Result<Vec<_>, _>>()?;
        let generation = found.first().map(|row| rows::optional_count(row, 4, &"fm_flows_generation"));
        Ok(FoundFlow { flow: flows::latest(versions), generation: generation.transpose()?.flatten() })
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        let statement = query(sql::FLOWS_LIST).bind(id.map(text)).bind(seen.tenant().map(text));
        let found = self.read(statement).await?;
        let versions = found.iter().map(rows::published_flow).collect::<Result<Vec<_>, _>>()?;
        Ok(flows::latest_first(versions))
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        let found =
            self.read(query(sql::EXECUTIONS_LOAD).bind(ids.iter().map(key).collect::<Vec<_>>())).await?;
        if ids.len() == 1 {
            return found.iter().map(rows::execution).collect();
        }
        Ok(self.sound(&found, rows::execution))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.commit_batch(batch).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        self.list_page(filter).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        // Every row has an event; the first row may hold only events that are known already.
        let limit = integer(max as u64).saturating_add(1);
        let found =
            self.read(query(sql::HISTORY_READ).bind(key(&id)).bind(integer(after)).bind(limit)).await?;
        let mut history = Vec::new();
        for row in &found {
            if history.len() >= max {
                break;
            }
            let what = format!("fm_history {id}");
            let first: u64 = rows::count(row, 0, &what)?;
            let at = rows::instant(row, 1, &what)?;
            let events: Vec<Event> = rows::parsed(row, 2, &what)?;
            let numbered = events.into_iter().zip(first..).filter(|(_, sequence)| *sequence > after);
            history.extend(numbered.map(|(event, sequence)| RecordedEvent { sequence, at, event }));
        }
        Ok(history)
    }

    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let found = self.read(query(sql::TIMERS_DUE).bind(now.as_millis()).bind(integer(max as u64))).await?;
        found.iter().map(|row| rows::id(row, 0, &"fm_timers")).collect()
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let Some(row) = self.read_one(query(sql::TIMERS_NEXT)).await? else { return Ok(None) };
        let due: Option<i64> = rows::column(&row, 0, &"fm_timers")?;
        Ok(due.map(Timestamp::from_millis))
    }

    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError> {
        let statement = query(sql::EXECUTIONS_TASKS_OUT)
            .bind(after.as_ref().map(key))
            .bind(until.as_millis())
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| {
            let execution = rows::id(row, 0, &"fm_executions")?;
            let what = format!("fm_executions {execution}");
            Ok(TaskOut {
                task: TaskId { execution, number: rows::count(row, 1, &what)? },
                attempt: rows::count(row, 2, &what)?,
                scheduled_at: rows::instant(row, 3, &what)?,
                pool: rows::column(row, 4, &what)?,
                flow_id: rows::column(row, 5, &what)?,
                tenant: rows::column(row, 6, &what)?,
            })
        }))
    }

    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        let Some(state) = self.join_state(parent, join).await? else { return Ok(None) };
        let what = format!("fm_snapshots {parent} {join}");
        let missing = || rows::corrupt(&what, "it is missing");
        let row = self
            .read_one(query(sql::SNAPSHOTS_SPEC).bind(key(&parent)).bind(i64::from(join)))
            .await?
            .ok_or_else(missing)?;
        let mut spec: JoinSpec = rows::parsed(&row, 0, &what)?;
        spec.items = Arc::new(rows::parsed(&row, 1, &what)?);
        spec.snapshot = self.snapshot(parent, join).await?.ok_or_else(missing)?;
        Ok(Some(Join { state, spec: Arc::new(spec) }))
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        let row = self.read_one(query(sql::JOINS_GET).bind(key(&parent)).bind(i64::from(join))).await?;
        row.as_ref().map(rows::join).transpose()
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let statement =
            query(sql::SNAPSHOTS_CHAIN).bind(key(&parent)).bind(i64::from(join)).bind(SNAPSHOT_LEVELS);
        let found = self.read(statement).await?;
        let mut outer = None;
        for (index, row) in found.iter().enumerate().rev() {
            let what = format!("fm_snapshots {} behind {parent} {join}", rows::id(row, 0, &"fm_snapshots")?);
            let refers: bool = rows::column(row, 2, &what)?;
            if refers && index + 1 == found.len() {
                return Err(rows::corrupt(what, "the snapshot behind it is missing"));
            }
            outer = Some(Arc::new(Snapshot { context: rows::parsed(row, 3, &what)?, outer }));
        }
        Ok(outer)
    }

    async fn joins_to_tend(
        &self,
        mut after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        let mut tend = Vec::new();
        while tend.len() < max {
            let statement = query(sql::JOINS_PAGE)
                .bind(after.map(|(parent, _)| key(&parent)))
                .bind(after.map(|(_, join)| i64::from(join)))
                .bind(JOINS_PAGE);
            let page = self.read(statement).await?;
            let Some(last) = page.last() else { break };
            after = Some((rows::id(last, 0, &"fm_joins")?, rows::count(last, 1, &"fm_joins")?));
            tend.extend(self.sound(&page, rows::join).into_iter().filter(JoinState::needs_attention));
        }
        tend.truncate(max);
        Ok(tend)
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        let statement = query(sql::CHILDREN_PAGE)
            .bind(key(&parent))
            .bind(i64::from(join))
            .bind(i64::from(from))
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        found.iter().map(|row| child::child_row(rows::execution(row)?)).collect()
    }

    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError> {
        let statement = query(sql::CHILDREN_LIVE)
            .bind(key(&parent))
            .bind(i64::from(join))
            .bind(i64::from(from))
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        let what = "fm_executions";
        found.iter().map(|row| Ok((rows::count(row, 0, &what)?, rows::id(row, 1, &what)?))).collect()
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        Ok(self.publish_events(std::slice::from_ref(event)).await?.first().is_some_and(|is_new| *is_new))
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        let found = self.read(query(sql::EVENTS_UNDELIVERED).bind(integer(max as u64))).await?;
        Ok(self.sound(&found, rows::event))
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(|id| text(id)).collect();
        self.write(query(sql::EVENTS_DELIVER).bind(ids).bind(text(tenants::column(tenant)))).await.map(drop)
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let statement = query(sql::EVENTS_SINCE)
            .bind(text(name))
            .bind(since.as_millis())
            .bind(integer(max as u64))
            .bind(text(tenants::column(tenant)));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::event))
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let statement = query(sql::SUBSCRIPTIONS_PAGE)
            .bind(text(name))
            .bind(after.as_ref().map(key))
            .bind(integer(max as u64))
            .bind(text(tenants::column(tenant)));
        let found = self.read(statement).await?;
        found.iter().map(|row| rows::id(row, 0, &"fm_subscriptions")).collect()
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        let content = ContentColumns::of(&checkpoint.content)?;
        let statement = query(sql::CHECKPOINTS_SAVE)
            .bind(key(&task.execution))
            .bind(i64::from(task.number))
            .bind(i64::from(attempt))
            .bind(text(&checkpoint.id))
            .bind(checkpoint.saved_at.as_millis())
            .bind(integer(checkpoint.bytes))
            .bind(content.kind)
            .bind(content.content_type)
            .bind(content.object_key)
            .bind(content.data);
        let saved = self.read_one(statement).await?;
        saved.map(|row| rows::count(&row, 0, &"fm_checkpoints")).transpose()
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        let statement = query(sql::CHECKPOINTS_GET).bind(key(&task.execution)).bind(i64::from(task.number));
        let Some(row) = self.read_one(statement).await? else { return Ok(None) };
        let what = format!("fm_checkpoints {task}");
        Ok(Some(StoredCheckpoint {
            id: rows::column(&row, 0, &what)?,
            saved_at: rows::instant(&row, 1, &what)?,
            version: rows::count(&row, 2, &what)?,
            bytes: rows::count(&row, 3, &what)?,
            content: ContentColumns::read(
                &rows::column::<String>(&row, 4, &what)?,
                rows::column(&row, 5, &what)?,
                rows::column(&row, 6, &what)?,
                rows::column(&row, 7, &what)?,
            )
            .map_err(|reason| rows::corrupt(&what, reason))?,
        }))
    }

    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError> {
        let wanted: BTreeSet<TaskId> = tasks.iter().copied().collect();
        let mut ids: Vec<ExecutionId> = wanted.iter().map(|task| task.execution).collect();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found =
            self.read(query(sql::CHECKPOINTS_NOTE).bind(ids.iter().map(key).collect::<Vec<_>>())).await?;
        let note = |row: &_| {
            let what = "fm_checkpoints";
            let task = TaskId { execution: rows::id(row, 0, &what)?, number: rows::count(row, 1, &what)? };
            Ok(CheckpointNote {
                task,
                id: rows::column(row, 2, &what)?,
                saved_at: rows::instant(row, 3, &what)?,
                bytes: rows::count(row, 4, &what)?,
            })
        };
        let notes: Result<Vec<CheckpointNote>, StoreError> = found.iter().map(note).collect();
        Ok(notes?.into_iter().filter(|note| wanted.contains(&note.task)).collect())
    }

    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError> {
        let statement = query(sql::CHECKPOINTS_CLEAR)
            .bind(key(&task.execution))
            .bind(i64::from(task.number))
            .bind(i64::from(attempt));
        self.read_one(statement).await.map(|fence| fence.is_some())
    }

    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError> {
        let columns = json(&table.columns)?;
        let statement = query(sql::TABLES_SET)
            .bind(text(&table.id))
            .bind(columns)
            .bind(now.as_millis())
            .bind(text(tenants::column(table.tenant.as_deref())));
        self.write(statement).await.map(drop)
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        let found = self.read(query(sql::TABLES_LIST).bind(seen.tenant().map(text))).await?;
        Ok(self.sound(&found, rows::table))
    }

    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError> {
        let statement = query(sql::TABLE_ROWS_PAGE)
            .bind(text(table))
            .bind(after)
            .bind(integer(max as u64))
            .bind(text(tenants::column(tenant)));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| {
            let sequence: i64 = rows::column(row, 0, &"fm_table_rows")?;
            let what = format!("fm_table_rows {sequence}");
            Ok(TableRowRecord {
                sequence,
                id: rows::column(row, 1, &what)?,
                row: rows::parsed::<Map<String, Value>>(row, 2, &what)?,
                execution: rows::id(row, 3, &what)?,
                at: rows::instant(row, 4, &what)?,
            })
        }))
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.write(query(sql::KEYS_MAKE).bind(text(name)).bind(fresh.to_vec())).await?;
        let what = format!("fm_keys {name}");
        let row = self.read_one(query(sql::KEYS_GET).bind(text(name))).await?;
        rows::column(&row.ok_or_else(|| rows::corrupt(&what, "it is missing"))?, 0, &what)
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        self.prune_rows(retention, max).await
    }

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.turn(name, holder, now, until).await
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        self.generation(pool, server_id).await
    }

    async fn counts(&self) -> Result<Vec<(Status, u64)>, StoreError> {
        let found = self.read(query(sql::EXECUTIONS_COUNT)).await?;
        let what = "fm_executions";
        found.iter().map(|row| Ok((rows::status(row, 0, &what)?, rows::count(row, 1, &what)?))).collect()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.write(query(sql::HEALTH_WRITE)).await?;
        self.read_one(query(sql::TIMERS_NEXT)).await.map(drop)
    }
}
