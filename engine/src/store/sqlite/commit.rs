//! One batch, one transaction.
//!
//! A batch is stored in one statement where it can be ([`super::whole`]): its guards hold and its ids and keys are new. If they do
//! not, nothing of it is stored, and it is taken again with care, here: with a constant number of statements for each kind
//! of row, which tell what holds and what does not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, SqliteConnection};

use super::connections::Lent;
use super::encode::{self, hex};
use super::prepare::{
    Change, PreparedBatch, PreparedCreate, PreparedUpdate, Wakes, accepted, first_of_each, gather,
    update_rows,
};
use super::{SqliteStore, sql};
use crate::store::StoreError;
use crate::store::creates::{self, Candidate, Key, KeyName, Known};
use crate::store::model::{Batch, Committed, CreateOutcome, JoinState, Spent};
use crate::store::rows;
use crate::store::tally::{JoinKey, Settled, Tally};

impl SqliteStore {
    /// Stores a batch.
    pub(super) async fn commit_batch(&self, batch: Batch) -> Result<Committed, StoreError> {
        if batch.creates.is_empty() && batch.updates.is_empty() && batch.spawns.is_empty() {
            return Ok(Committed::default());
        }
        let batch = PreparedBatch::new(batch)?;
        let mut writer = self.writer.lend().await.map_err(|error| self.classify(error))?;
        let committed = match self.store_whole(&mut writer, &batch).await? {
            Some(committed) => committed,
            None => self.store_with_care(&mut writer, &batch).await?,
        };
        // After an error it is dropped, and whatever it was in the middle of with it.
        writer.give_back();
        Ok(committed)
    }

    async fn store_with_care(
        &self,
        writer: &mut Lent<'_>,
        batch: &PreparedBatch,
    ) -> Result<Committed, StoreError> {
        let fail = |error| self.classify(error);
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        let committed = Writer { store: self, connection: &mut transaction }.apply(batch).await?;
        transaction.commit().await.map_err(fail)?;
        Ok(committed)
    }
}

/// Runs the statements of one batch.
pub(super) struct Writer<'s> {
    pub(super) store: &'s SqliteStore,
    pub(super) connection: &'s mut SqliteConnection,
}

impl Writer<'_> {
    async fn apply(&mut self, batch: &PreparedBatch) -> Result<Committed, StoreError> {
        let PreparedBatch { now, updates, creates, spawns, joins, budgets } = batch;
        let updated = self.update(updates).await?;
        let mut tally = Tally::new(self.load_joins(joins).await?, self.load_budgets(budgets).await?);
        let mut spent = BTreeSet::new();
        let mut changes: Vec<&Change> = Vec::new();
        for (update, _) in updates.iter().zip(&updated).filter(|(_, held)| **held) {
            tally.take(update.change.id, &update.change.records, &mut spent);
            changes.push(&update.change);
        }
        let spawned: Vec<bool> = spawns.iter().map(|spawn| tally.spawn(spawn)).collect();
        let outcomes = self.choose(*now, creates, &spawned, &updated).await?;
        let accepted = accepted(creates, &outcomes);
        for create in &accepted {
            tally.take(create.change.id, &create.change.records, &mut spent);
            changes.push(&create.change);
        }
        let created = encode::some_rows(accepted.iter().map(|create| create.change.row.as_str()));
        self.rows(sql::EXECUTIONS_INSERT, created).await?;
        self.take_keys(*now, &accepted).await?;
        self.write(&changes).await?;
        let settled = tally.settle(spent);
        self.write_settled(&settled).await?;
        Ok(Committed { creates: outcomes, updates: updated, joins: settled.joins, spent: settled.spent })
    }

    /// Runs a statement over rows, if there are any.
    async fn rows(&mut self, statement: &'static str, rows: Option<String>) -> Result<(), StoreError> {
        match rows {
            Some(rows) => self.execute(statement, rows).await,
            None => Ok(()),
        }
    }

    async fn execute(&mut self, statement: &'static str, parameter: String) -> Result<(), StoreError> {
        let done = sqlx::query(statement).bind(parameter).execute(&mut *self.connection).await;
        done.map(drop).map_err(|error| self.store.classify(error))
    }

    /// Guards and stores the updates. A second update of one execution in a batch counts as a conflict.
    async fn update(&mut self, updates: &[PreparedUpdate]) -> Result<Vec<bool>, StoreError> {
        let first = first_of_each(updates);
        let mut held = HashSet::new();
        for (statement, turns) in [(sql::EXECUTIONS_STEP, false), (sql::EXECUTIONS_TURN, true)] {
            let Some(rows) = update_rows(updates, &first, turns) else { continue };
            for row in self.fetch(statement, rows).await? {
                held.insert(rows::id(&row, 0, &"fm_executions")?);
            }
        }
        Ok(updates
            .iter()
            .zip(first)
            .map(|(update, first)| first && held.contains(&update.change.id))
            .collect())
    }

    /// What becomes of each create.
    async fn choose(
        &mut self,
        now: Timestamp,
        creates: &[PreparedCreate],
        spawned: &[bool],
        updated: &[bool],
    ) -> Result<Vec<CreateOutcome>, StoreError> {
        if creates.is_empty() {
            return Ok(Vec::new());
        }
        let known = Known { ids: self.known(creates).await?, keys: self.keys(now, creates).await? };
        let candidates = creates.iter().map(|PreparedCreate { change, key, spawn, cause }| Candidate {
            id: change.id,
            key: key.as_ref(),
            spawn: *spawn,
            cause: *cause,
            is_outdated: false,
        });
        Ok(creates::choose(candidates, spawned, updated, known))
    }

    /// Which of the ids are taken.
    async fn known(&mut self, creates: &[PreparedCreate]) -> Result<HashSet<ExecutionId>, StoreError> {
        let ids = encode::ids(creates.iter().map(|create| &create.change.id))?;
        let found = self.fetch(sql::EXECUTIONS_KNOWN, ids).await?;
        found.iter().map(|row| rows::id(row, 0, &"fm_executions")).collect()
    }

    /// The live keys among those that the creates name.
    async fn keys(
        &mut self,
        now: Timestamp,
        creates: &[PreparedCreate],
    ) -> Result<HashMap<KeyName, (ExecutionId, String)>, StoreError> {
        let named = creates.iter().filter_map(|create| create.key.as_ref());
        let wanted: Vec<_> = named
            .map(
                |Key { name: (tenant, flow, key), .. }| json!({ "tenant": tenant, "flow": flow, "key": key }),
            )
            .collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let query = sqlx::query(sql::IDEMPOTENCY_FIND).bind(encode::json(&wanted)?).bind(now.as_millis());
        let found =
            query.fetch_all(&mut *self.connection).await.map_err(|error| self.store.classify(error))?;
        let what = "fm_idempotency";
        let entry = |row: &SqliteRow| {
            let name =
                (rows::column(row, 0, &what)?, rows::column(row, 1, &what)?, rows::column(row, 2, &what)?);
            Ok((name, (rows::id(row, 3, &what)?, rows::column(row, 4, &what)?)))
        };
        found.iter().map(entry).collect()
    }

    async fn take_keys(&mut self, now: Timestamp, accepted: &[&PreparedCreate]) -> Result<(), StoreError> {
        let taken = key_rows(accepted.iter().copied());
        let Some(taken) = encode::some(&taken) else { return Ok(()) };
        let query = sqlx::query(sql::IDEMPOTENCY_TAKE).bind(taken).bind(now.as_millis());
        query.execute(&mut *self.connection).await.map(drop).map_err(|error| self.store.classify(error))
    }

    /// Everything that goes with the executions that were stored.
    async fn write(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        self.rows(sql::HISTORY_INSERT, gather(changes, |change| &change.history)).await?;
        let timed = Wakes::of(changes);
        self.rows(sql::TIMERS_SET, encode::some(&timed.wakes)).await?;
        self.rows(sql::TIMERS_CLEAR, encode::some(&timed.rests)).await?;
        self.rows(sql::SUBSCRIPTIONS_SET, encode::some(&timed.awaits)).await?;
        self.rows(sql::SUBSCRIPTIONS_CLEAR, encode::some(&timed.stops)).await?;
        self.rows(sql::SNAPSHOTS_INSERT, gather(changes, |change| &change.rows.snapshots)).await?;
        self.rows(sql::TABLE_ROWS_INSERT, gather(changes, |change| &change.rows.table_rows)).await?;
        self.rows(sql::EVENTS_INSERT, gather(changes, |change| &change.rows.events)).await?;
        self.rows(sql::FAILED_TASKS_INSERT, gather(changes, |change| &change.rows.failed_tasks)).await
    }

    async fn write_settled(&mut self, settled: &Settled) -> Result<(), StoreError> {
        if !settled.joins.is_empty() {
            self.execute(sql::JOINS_SET, encode::joins(&settled.joins)?).await?;
        }
        if !settled.ended.is_empty() {
            self.execute(sql::JOINS_END, encode::join_keys(&settled.ended)?).await?;
        }
        let budgets = budget_rows(settled);
        self.rows(sql::BUDGETS_SET, encode::some(&budgets)).await
    }

    pub(super) async fn load_joins(
        &mut self,
        keys: &BTreeSet<JoinKey>,
    ) -> Result<BTreeMap<JoinKey, JoinState>, StoreError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.fetch(sql::JOINS_LOAD, encode::join_keys(keys)?).await?;
        found.iter().map(|row| rows::join(row).map(|state| ((state.parent, state.join), state))).collect()
    }

    pub(super) async fn load_budgets(
        &mut self,
        roots: &BTreeSet<ExecutionId>,
    ) -> Result<BTreeMap<ExecutionId, Cost>, StoreError> {
        if roots.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.fetch(sql::BUDGETS_LOAD, encode::ids(roots)?).await?;
        let what = "fm_budgets";
        found.iter().map(|row| Ok((rows::id(row, 0, &what)?, rows::cost(row, 1, &what)?))).collect()
    }

    async fn fetch(
        &mut self,
        statement: &'static str,
        parameter: String,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let found = sqlx::query(statement).bind(parameter).fetch_all(&mut *self.connection).await;
        found.map_err(|error| self.store.classify(error))
    }
}

/// The keys that creates take.
pub(super) fn key_rows<'a>(creates: impl IntoIterator<Item = &'a PreparedCreate>) -> Vec<String> {
    let taken =
        creates.into_iter().filter_map(|create| create.key.as_ref().map(|key| (create.change.id, key)));
    taken
        .map(|(id, Key { name: (tenant, flow, key), input_hash, until })| {
            let row = json!({
                "tenant": tenant, "flow": flow, "key": key, "id": hex(id), "hash": input_hash, "until": until,
            });
            row.to_string()
        })
        .collect()
}

/// The budgets that were spent from.
pub(super) fn budget_rows(settled: &Settled) -> Vec<String> {
    let row = |spent: &Spent| {
        let Cost { usd, tokens, attempts } = spent.cost;
        json!({ "root": hex(spent.root), "usd": usd, "tokens": tokens, "attempts": attempts }).to_string()
    };
    settled.spent.iter().map(row).collect()
}
