//! The trait: each method is a statement or two.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::execution::{Event, Execution, RecordedEvent, Status};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use serde_json::{Map, Value};
use sqlx::{Connection, query};

use super::encode::{self, blob, integer};
use super::{SqliteStore, sql};
use crate::access::Visibility;
use crate::store::events::EventStore;
use crate::store::model::{
    Batch, CheckpointNote, ChildRow, Committed, ExecutionFilter, FlowRow, FoundFlow, Join, JoinState,
    ListPage, PublishOutcome, PublishedEvent, PublishedFlow, Retention, StoredCheckpoint, TableDefinition,
    TableRowRecord, TaskOut,
};
use crate::store::objects::ContentColumns;
use crate::store::rows;
use crate::store::{Store, StoreError, child, flows, tenants};

#[async_trait]
impl Store for SqliteStore {
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError> {
        let statement = query(sql::DEFINITIONS_PUT)
            .bind(flow.hash.as_str().to_owned())
            .bind(flow.id.clone())
            .bind(flow.version.clone())
            .bind(flow.status.clone())
            .bind(encode::json(&*flow.definition)?);
        self.write(statement).await.map(drop)
    }

    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError> {
        let Some(published) = &self.published else { return self.publish_version(tenant, flow, now).await };
        published.begin();
        let outcome = self.publish_version(tenant, flow, now).await;
        published.end();
        outcome
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
        let without_generation = |flow| FoundFlow { flow, generation: None };
        let Some(published) = &self.published else {
            return self.read_flow(tenant, id, version).await.map(without_generation);
        };
        let seen = match published.get(tenant, id, version) {
            Ok(reference) => return Ok(without_generation(Some(reference))),
            Err(seen) => seen,
        };
        let found = self.read_flow(tenant, id, version).await?;
        if let Some(found) = &found {
            published.keep(tenant, id, version, found, &seen);
        }
        Ok(without_generation(found))
    }

    async fn list_flows(
        &self,
        seen: &Visibility,
        id: Option<&str>,
    ) -> Result<Vec<PublishedFlow>, StoreError> {
        let statement =
            query(sql::FLOWS_LIST).bind(id.map(str::to_owned)).bind(seen.tenant().map(encode::text));
        let found = self.read(statement).await?;
        let versions = found.iter().map(rows::published_flow).collect::<Result<Vec<_>, _>>()?;
        Ok(flows::latest_first(versions))
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        let found = self.read(query(sql::EXECUTIONS_LOAD).bind(encode::ids(ids)?)).await?;
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
            self.read(query(sql::HISTORY_READ).bind(blob(id)).bind(integer(after)).bind(limit)).await?;
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
            .bind(after.map(blob))
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
        self.read_join(parent, join).await
    }

    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError> {
        self.read_join_state(parent, join).await
    }

    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.read_snapshot(parent, join).await
    }

    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        self.read_joins_to_tend(after, max).await
    }

    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError> {
        let statement =
            query(sql::CHILDREN_PAGE).bind(blob(parent)).bind(join).bind(from).bind(integer(max as u64));
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
        let statement =
            query(sql::CHILDREN_LIVE).bind(blob(parent)).bind(join).bind(from).bind(integer(max as u64));
        let found = self.read(statement).await?;
        let what = "fm_executions";
        found.iter().map(|row| Ok((rows::count(row, 0, &what)?, rows::id(row, 1, &what)?))).collect()
    }

    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError> {
        Ok(self.publish_events(std::slice::from_ref(event)).await?.first().is_some_and(|is_new| *is_new))
    }

    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        self.events_to_deliver(max).await
    }

    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(|id| encode::text(id)).collect();
        let tenant = encode::text(tenants::column(tenant));
        self.write(query(sql::EVENTS_DELIVER).bind(encode::json(&ids)?).bind(tenant)).await.map(drop)
    }

    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        self.events_named(tenant, name, since, max).await
    }

    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let statement = query(sql::SUBSCRIPTIONS_PAGE)
            .bind(encode::text(name))
            .bind(after.map(blob))
            .bind(integer(max as u64))
            .bind(encode::text(tenants::column(tenant)));
        let found = self.read(statement).await?;
        found.iter().map(|row| rows::id(row, 0, &"fm_subscriptions")).collect()
    }

    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError> {
        let fail = |error| self.classify(error);
        let content = ContentColumns::of(&checkpoint.content)?;
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        let fence = query(sql::CHECKPOINTS_FENCE).bind(blob(task.execution)).bind(task.number).bind(attempt);
        let mut counts = fence.fetch_optional(&mut *transaction).await.map_err(fail)?.is_some();
        if let Some(key) = content.object_key.as_ref().filter(|_| counts) {
            let used = query(sql::OBJECTS_USE).bind(key.clone()).execute(&mut *transaction).await;
            counts = used.map_err(fail)?.rows_affected() > 0;
        }
        let version = if counts {
            let save = query(sql::CHECKPOINTS_SAVE)
                .bind(blob(task.execution))
                .bind(task.number)
                .bind(checkpoint.id.clone())
                .bind(checkpoint.saved_at.as_millis())
                .bind(integer(checkpoint.bytes))
                .bind(content.kind)
                .bind(content.content_type)
                .bind(content.object_key)
                .bind(content.data);
            let saved = save.fetch_one(&mut *transaction).await.map_err(fail)?;
            Some(rows::count(&saved, 0, &"fm_checkpoints")?)
        } else {
            None
        };
        transaction.commit().await.map_err(fail)?;
        writer.give_back();
        Ok(version)
    }

    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError> {
        let statement = query(sql::CHECKPOINTS_GET).bind(blob(task.execution)).bind(task.number);
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
        let found = self.read(query(sql::CHECKPOINTS_NOTE).bind(encode::ids(&ids)?)).await?;
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
        let fail = |error| self.classify(error);
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        let fence = query(sql::CHECKPOINTS_FENCE).bind(blob(task.execution)).bind(task.number).bind(attempt);
        let is_out = fence.fetch_optional(&mut *transaction).await.map_err(fail)?.is_some();
        if is_out {
            let clear = query(sql::CHECKPOINTS_CLEAR).bind(blob(task.execution)).bind(task.number);
            clear.execute(&mut *transaction).await.map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)?;
        writer.give_back();
        Ok(is_out)
    }

    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError> {
        let columns = encode::json(&table.columns)?;
        let statement = query(sql::TABLES_SET)
            .bind(encode::text(&table.id))
            .bind(columns)
            .bind(now.as_millis())
            .bind(encode::text(tenants::column(table.tenant.as_deref())));
        self.write(statement).await.map(drop)
    }

    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError> {
        let found = self.read(query(sql::TABLES_LIST).bind(seen.tenant().map(encode::text))).await?;
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
            .bind(encode::text(table))
            .bind(after)
            .bind(integer(max as u64))
            .bind(encode::text(tenants::column(tenant)));
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

    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let statement = query(sql::TURNS_TAKE)
            .bind(name.to_owned())
            .bind(holder.to_owned())
            .bind(now.as_millis())
            .bind(until.as_millis());
        self.write(statement).await.map(|taken| taken > 0)
    }

    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        let statement = query(sql::POOLS_GENERATION).bind(pool.to_owned()).bind(server_id.to_owned());
        let fail = |error| self.classify(error);
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let row = statement.fetch_one(&mut *writer).await;
        let row = writer.done(row).map_err(fail)?;
        rows::count(&row, 0, &format!("fm_pools {pool}"))
    }

    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.write(query(sql::KEYS_MAKE).bind(name.to_owned()).bind(fresh.to_vec())).await?;
        let what = format!("fm_keys {name}");
        let row = self.read_one(query(sql::KEYS_GET).bind(name.to_owned())).await?;
        rows::column(&row.ok_or_else(|| rows::corrupt(&what, "it is missing"))?, 0, &what)
    }

    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        let mut gone = 0;
        for (statement, before) in [
            (sql::EXECUTIONS_PRUNE, retention.executions_before),
            (sql::EVENTS_PRUNE, retention.events_before),
            (sql::DELIVERIES_PRUNE, retention.events_before),
            (sql::CHECKPOINTS_PRUNE, retention.checkpoints_before),
            (sql::IDEMPOTENCY_PRUNE, retention.keys_before),
            (sql::PROGRESS_PRUNE, retention.progress_before),
            (sql::TASK_LOGS_PRUNE, retention.logs_before),
        ] {
            let left = max.saturating_sub(gone);
            if left > 0 {
                let pruned =
                    self.write(query(statement).bind(before.as_millis()).bind(integer(left as u64))).await?;
                gone += usize::try_from(pruned).unwrap_or(usize::MAX);
            }
        }
        if gone < max {
            gone += self.prune_patches(max - gone).await?;
        }
        Ok(gone)
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
