//! A batch that needs a transaction: a constant number of statements, and locks in one order.
//!
//! Executions that change; fan-outs; idempotency keys; executions that are new; budgets; rows of tables.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, query};
use uuid::Uuid;

use super::columns::column;
use super::commit::{
    self, Change, Prepared, PreparedCreate, PreparedUpdate, RecordRows, first_creates, first_updates,
    which_held,
};
use super::{Shared, sql};
use crate::store::StoreError;
use crate::store::creates::{self, Candidate, Key, KeyName, Known};
use crate::store::encode::integer;
use crate::store::model::{Committed, CreateOutcome, JoinState, Spawn};
use crate::store::rows;
use crate::store::tally::{JoinKey, Settled, Tally};

/// What came of a transaction.
pub(super) enum Outcome {
    /// It may be committed.
    Stored(Committed),
    /// Another engine took an idempotency key or an id in the meantime, or changed flows: take everything back and begin anew.
    Raced,
}

/// Runs the statements of one batch.
pub(super) struct Writer<'s, 't> {
    pub(super) shared: &'s Shared,
    /// In a transaction.
    pub(super) connection: &'t mut PgConnection,
    /// Whether it is asked first which generation of flows this is. Else nothing is asked: whether it is the one that creates are
    /// for shows when they are stored.
    pub(super) is_wary: bool,
}

impl Writer<'_, '_> {
    pub(super) async fn apply(&mut self, prepared: &Prepared) -> Result<Outcome, StoreError> {
        let Prepared { now, updates, creates, spawns, .. } = prepared;
        let updated = self.update(updates).await?;
        let joins = self.lock_joins(&prepared.joins).await?;
        let held: Vec<&Change> = updates
            .iter()
            .zip(&updated)
            .filter(|(_, held)| **held)
            .map(|(update, _)| &update.change)
            .collect();
        let spawned =
            play(&mut Tally::new(joins.clone(), BTreeMap::new()), &held, spawns, &mut BTreeSet::new());
        let outdated = self.outdated(creates).await?;
        let known = self.known(*now, creates, &outdated).await?;
        let candidates = creates.iter().zip(outdated).map(|(create, is_outdated)| Candidate {
            id: create.change.id,
            key: create.key.as_ref(),
            spawn: create.spawn,
            cause: create.cause,
            is_outdated,
        });
        let mut outcomes = creates::choose(candidates, &spawned, &updated, known);
        if !self.take_keys(*now, creates, &outcomes).await? || !self.create(creates, &mut outcomes).await? {
            return Ok(Outcome::Raced);
        }
        let accepted = accepted(creates, &outcomes).map(|create| &create.change);
        let mut changes = held.clone();
        changes.extend(accepted);
        let budgets = if prepared.spends { self.lock_budgets(&changes).await? } else { BTreeMap::new() };
        let mut tally = Tally::new(joins, budgets);
        let mut spent = BTreeSet::new();
        play(&mut tally, &held, spawns, &mut spent);
        for change in changes.iter().skip(held.len()) {
            tally.take(change.id, &change.records, &mut spent);
        }
        let settled = tally.settle(spent);
        self.write_settled(&settled).await?;
        self.write_records(&changes).await?;
        let Settled { joins, spent, .. } = settled;
        Ok(Outcome::Stored(Committed { creates: outcomes, updates: updated, joins, spent }))
    }

    fn prepared<'q>(&self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        query.persistent(self.shared.session.has_named_statements())
    }

    async fn execute(&mut self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, StoreError> {
        let query = self.prepared(query);
        let done = query.execute(&mut *self.connection).await;
        done.map(|done| done.rows_affected()).map_err(|error| self.shared.classify(error))
    }

    async fn fetch(&mut self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
        let query = self.prepared(query);
        query.fetch_all(&mut *self.connection).await.map_err(|error| self.shared.classify(error))
    }

    /// The ids that a function gives, if it ran.
    async fn ids(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Option<Vec<ExecutionId>>, StoreError> {
        let found = self.fetch(query).await?;
        found.first().map(|row| commit::ids(row, 0, &"fm_executions")).transpose()
    }

    /// Guards and stores the updates.
    async fn update(&mut self, updates: &[PreparedUpdate]) -> Result<Vec<bool>, StoreError> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let held = self.ids(commit::step(query(sql::EXECUTIONS_STEP), &first_updates(updates))).await?;
        Ok(which_held(updates, &held.unwrap_or_default()))
    }

    async fn lock_joins(
        &mut self,
        keys: &BTreeSet<JoinKey>,
    ) -> Result<BTreeMap<JoinKey, JoinState>, StoreError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (parents, numbers) = join_names(keys);
        let found = self.fetch(query(sql::JOINS_LOCK).bind(parents).bind(numbers)).await?;
        found.iter().map(|row| rows::join(row).map(|state| ((state.parent, state.join), state))).collect()
    }

    /// The budgets of what counts. Rows that are missing are made, so that two who spend first meet at them.
    async fn lock_budgets(&mut self, changes: &[&Change]) -> Result<BTreeMap<ExecutionId, Cost>, StoreError> {
        let spending = changes.iter().flat_map(|change| &change.records).filter_map(|record| match record {
            flowmonkey_core::execution::Record::Spend { root, .. } => Some(*root),
            flowmonkey_core::execution::Record::OpenJoin(_)
            | flowmonkey_core::execution::Record::CloseJoin { .. }
            | flowmonkey_core::execution::Record::EndJoin { .. }
            | flowmonkey_core::execution::Record::ChildEnded { .. }
            | flowmonkey_core::execution::Record::StartChild(_)
            | flowmonkey_core::execution::Record::InsertRow(_)
            | flowmonkey_core::execution::Record::Publish(_)
            | flowmonkey_core::execution::Record::FailedTask(_) => None,
        });
        let roots: BTreeSet<ExecutionId> = spending.collect();
        if roots.is_empty() {
            return Ok(BTreeMap::new());
        }
        let roots: Vec<Uuid> = roots.iter().map(ExecutionId::as_uuid).collect();
        let found = self.fetch(query(sql::BUDGETS_LOCK).bind(roots)).await?;
        let what = "fm_budgets";
        found.iter().map(|row| Ok((rows::id(row, 0, &what)?, rows::cost(row, 1, &what)?))).collect()
    }

    /// For each create whether it is for another generation of flows than this.
    async fn outdated(&mut self, creates: &[PreparedCreate]) -> Result<Vec<bool>, StoreError> {
        if !self.is_wary || creates.iter().all(|create| create.flows.is_none()) {
            return Ok(vec![false; creates.len()]);
        }
        let found = self.fetch(query(sql::FLOWS_GENERATION)).await?;
        let current = found.first().map(|row| rows::column(row, 0, &"fm_flows_generation")).transpose()?;
        Ok(creates.iter().map(|create| create.flows.is_some() && create.flows != current).collect())
    }

    /// Which ids and keys are taken. Without keys nothing is asked: whether an id is free shows when it is stored. Of what is
    /// outdated nothing is.
    async fn known(
        &mut self,
        now: Timestamp,
        creates: &[PreparedCreate],
        outdated: &[bool],
    ) -> Result<Known, StoreError> {
        let keys: Vec<&KeyName> =
            creates.iter().filter_map(|create| create.key.as_ref()).map(|key| &key.name).collect();
        if keys.is_empty() && !outdated.contains(&true) {
            return Ok(Known::default());
        }
        let ids: Vec<Uuid> = creates.iter().map(|create| create.change.id.as_uuid()).collect();
        let found = self.fetch(query(sql::EXECUTIONS_KNOWN).bind(ids)).await?;
        let ids = found.iter().map(|row| rows::id(row, 0, &"fm_executions")).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Ok(Known { ids, ..Known::default() });
        }
        let find = column(query(sql::IDEMPOTENCY_FIND), &keys, |(tenant, _, _)| tenant.as_str());
        let find = column(find, &keys, |(_, flow, _)| flow.as_str());
        let find = column(find, &keys, |(_, _, key)| key.as_str());
        let found = self.fetch(find.bind(now.as_millis())).await?;
        let what = "fm_idempotency";
        let entry = |row: &PgRow| {
            let name =
                (rows::column(row, 0, &what)?, rows::column(row, 1, &what)?, rows::column(row, 2, &what)?);
            Ok((name, (rows::id(row, 3, &what)?, rows::column(row, 4, &what)?)))
        };
        Ok(Known { ids, keys: found.iter().map(entry).collect::<Result<_, StoreError>>()? })
    }

    /// Takes the keys of the creates that are chosen; false when somebody else was faster.
    async fn take_keys(
        &mut self,
        now: Timestamp,
        creates: &[PreparedCreate],
        outcomes: &[CreateOutcome],
    ) -> Result<bool, StoreError> {
        let taken: Vec<(Uuid, &Key)> = accepted(creates, outcomes)
            .filter_map(|create| create.key.as_ref().map(|key| (create.change.id.as_uuid(), key)))
            .collect();
        if taken.is_empty() {
            return Ok(true);
        }
        let rows: Vec<&(Uuid, &Key)> = taken.iter().collect();
        let take = column(query(sql::IDEMPOTENCY_TAKE), &rows, |(_, key)| key.name.0.as_str());
        let take = column(take, &rows, |(_, key)| key.name.1.as_str());
        let take = column(take, &rows, |(_, key)| key.name.2.as_str());
        let take = column(take, &rows, |(id, _)| *id);
        let take = column(take, &rows, |(_, key)| key.input_hash.as_str());
        let take = column(take, &rows, |(_, key)| key.until.as_millis());
        Ok(self.execute(take.bind(now.as_millis())).await? == taken.len() as u64)
    }

    /// Stores the creates that are chosen. Those whose ids are taken are so in `outcomes` afterwards; false when one of them
    /// has a key, which stays free then, or when flows have changed.
    async fn create(
        &mut self,
        creates: &[PreparedCreate],
        outcomes: &mut [CreateOutcome],
    ) -> Result<bool, StoreError> {
        let chosen = first_creates(accepted(creates, outcomes));
        if chosen.is_empty() {
            return Ok(true);
        }
        let stored = self.ids(commit::start(query(sql::EXECUTIONS_START), &chosen)).await?;
        let Some(stored) = stored else { return Ok(false) };
        let stored: HashSet<ExecutionId> = stored.into_iter().collect();
        for (create, outcome) in creates.iter().zip(outcomes) {
            if *outcome == CreateOutcome::Created && !stored.contains(&create.change.id) {
                if create.key.is_some() {
                    return Ok(false);
                }
                *outcome = CreateOutcome::IdTaken;
            }
        }
        Ok(true)
    }

    async fn write_settled(&mut self, settled: &Settled) -> Result<(), StoreError> {
        let Settled { joins, ended, spent } = settled;
        if !joins.is_empty() {
            self.execute(joins_set(joins)).await?;
        }
        if !ended.is_empty() {
            let (parents, numbers) = join_names(ended);
            self.execute(query(sql::JOINS_END).bind(parents).bind(numbers)).await?;
        }
        if !spent.is_empty() {
            let all: Vec<_> = spent.iter().collect();
            let set = column(query(sql::BUDGETS_SET), &all, |spent| spent.root.as_uuid());
            let set = column(set, &all, |spent| spent.cost.usd);
            let set = column(set, &all, |spent| integer(spent.cost.tokens));
            let set = column(set, &all, |spent| integer(spent.cost.attempts));
            self.execute(set).await?;
        }
        Ok(())
    }

    /// What records become, beside fan-outs and budgets.
    async fn write_records(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let all = gather(changes, |rows| &rows.snapshots);
        if !all.is_empty() {
            let insert = column(query(sql::SNAPSHOTS_INSERT), &all, |row| row.parent);
            let insert = column(insert, &all, |row| row.join);
            let insert = column(insert, &all, |row| row.outer_parent);
            let insert = column(insert, &all, |row| row.outer_join);
            let insert = column(insert, &all, |row| row.spec.as_str());
            let insert = column(insert, &all, |row| row.context.as_str());
            self.execute(column(insert, &all, |row| row.items.as_str())).await?;
        }
        let all = gather(changes, |rows| &rows.table_rows);
        if !all.is_empty() {
            let insert = column(query(sql::TABLE_ROWS_INSERT), &all, |row| row.table.as_str());
            let insert = column(insert, &all, |row| row.id.as_str());
            let insert = column(insert, &all, |row| row.execution);
            let insert = column(insert, &all, |row| row.pipe.as_deref());
            let insert = column(insert, &all, |row| row.at);
            let insert = column(insert, &all, |row| row.row.as_str());
            self.execute(column(insert, &all, |row| row.tenant.as_str())).await?;
        }
        let all = gather(changes, |rows| &rows.events);
        if !all.is_empty() {
            self.execute(events_insert(&all)).await?;
        }
        let all = gather(changes, |rows| &rows.failed_tasks);
        if !all.is_empty() {
            let insert = column(query(sql::FAILED_TASKS_INSERT), &all, |row| row.execution);
            let insert = column(insert, &all, |row| row.at);
            let insert = column(insert, &all, |row| row.task.as_str());
            let insert = column(insert, &all, |row| row.number);
            let insert = column(insert, &all, |row| row.handler.as_str());
            self.execute(column(insert, &all, |row| row.code.as_str())).await?;
        }
        Ok(())
    }
}

/// What the updates do to fan-outs, then the spawns; says for each spawn whether it counts.
fn play(
    tally: &mut Tally,
    held: &[&Change],
    spawns: &[Spawn],
    spent: &mut BTreeSet<ExecutionId>,
) -> Vec<bool> {
    for change in held {
        tally.take(change.id, &change.records, spent);
    }
    spawns.iter().map(|spawn| tally.spawn(spawn)).collect()
}

/// Those that are stored.
fn accepted<'a>(
    creates: &'a [PreparedCreate],
    outcomes: &[CreateOutcome],
) -> impl Iterator<Item = &'a PreparedCreate> {
    let chosen = creates.iter().zip(outcomes).filter(|(_, outcome)| **outcome == CreateOutcome::Created);
    chosen.map(|(create, _)| create)
}

/// Rows of one kind of all changes.
fn gather<'a, R>(changes: &[&'a Change], kind: fn(&'a RecordRows) -> &'a Vec<R>) -> Vec<&'a R> {
    changes.iter().flat_map(|change| kind(&change.rows)).collect()
}

fn join_names<'a>(keys: impl IntoIterator<Item = &'a JoinKey>) -> (Vec<Uuid>, Vec<i64>) {
    keys.into_iter().map(|(parent, join)| (parent.as_uuid(), i64::from(*join))).unzip()
}

fn joins_set(states: &[JoinState]) -> Query<'_, Postgres, PgArguments> {
    let all: Vec<&JoinState> = states.iter().collect();
    let set = column(query(sql::JOINS_SET), &all, |state| state.parent.as_uuid());
    let set = column(set, &all, |state| i64::from(state.join));
    let set = column(set, &all, |state| i64::from(state.total));
    let set = column(set, &all, |state| i64::from(state.max_live));
    let set = column(set, &all, |state| i64::from(state.spawned));
    let set = column(set, &all, |state| i64::from(state.succeeded));
    let set = column(set, &all, |state| i64::from(state.failed));
    let set = column(set, &all, |state| state.closing);
    let set = column(set, &all, |state| state.stop_at_failed.map(i64::from));
    let set = column(set, &all, |state| state.stop_at_succeeded.map(i64::from));
    let set = column(set, &all, |state| state.cost.usd);
    let set = column(set, &all, |state| integer(state.cost.tokens));
    column(set, &all, |state| integer(state.cost.attempts))
}

/// Inserts events that are not there yet.
pub(super) fn events_insert<'q>(all: &[&'q commit::EventRow]) -> Query<'q, Postgres, PgArguments> {
    let insert = column(query(sql::EVENTS_INSERT), all, |row| row.id.as_str());
    let insert = column(insert, all, |row| row.name.as_str());
    let insert = column(insert, all, |row| row.source);
    let insert = column(insert, all, |row| row.at);
    let insert = column(insert, all, |row| row.data.as_str());
    column(insert, all, |row| row.tenant.as_str())
}
