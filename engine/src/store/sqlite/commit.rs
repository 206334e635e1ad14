//! One batch, one transaction, and for each kind of row a constant number of statements.
//!
//! An ordinary step costs `BEGIN IMMEDIATE`, `executions_step`, `history_insert`, `COMMIT`. Everything is put into the
//! form of the database before the transaction begins.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use flowmonkey_core::execution::{Event, Execution, Record, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde_json::json;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::encode::{self, hex, text};
use super::{SqliteStore, rows, sql};
use crate::store::StoreError;
use crate::store::creates::{self, Candidate, Key, KeyName, Known};
use crate::store::model::{Batch, Committed, Create, CreateOutcome, JoinState, Spawn, Update, awaited_event};
use crate::store::tally::{self, JoinKey, Settled, Tally};

/// An execution's change in the form of the database.
struct Change {
    id: ExecutionId,
    row: String,
    history: Vec<String>,
    /// The next wake, if it is to be written.
    wake: Option<Option<Timestamp>>,
    /// The event waited for, if it is to be written.
    awaits: Option<Option<String>>,
    records: Vec<Record>,
    /// Rows that the records become.
    rows: RecordRows,
}

/// What records become, beside fan-outs and budgets.
#[derive(Default)]
struct RecordRows {
    snapshots: Vec<String>,
    table_rows: Vec<String>,
    events: Vec<String>,
    failed_tasks: Vec<String>,
}

/// An update; `turns` if it ends or reopens the execution.
struct PreparedUpdate {
    change: Change,
    turns: bool,
}

/// A create with what decides whether it is stored.
struct PreparedCreate {
    change: Change,
    key: Option<Key>,
    spawn: Option<usize>,
    cause: Option<usize>,
}

impl SqliteStore {
    /// Stores a batch.
    pub(super) async fn commit_batch(&self, batch: Batch) -> Result<Committed, StoreError> {
        if batch.creates.is_empty() && batch.updates.is_empty() && batch.spawns.is_empty() {
            return Ok(Committed::default());
        }
        let joins = tally::touched_joins(&batch);
        let budgets = tally::touched_budgets(&batch);
        let Batch { now, creates, updates, spawns } = batch;
        let updates =
            updates.into_iter().map(|update| prepare_update(update, now)).collect::<Result<Vec<_>, _>>()?;
        let creates =
            creates.into_iter().map(|create| prepare_create(create, now)).collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.begin().await?;
        let mut writer = Writer { store: self, transaction: &mut transaction };
        let committed = writer.apply(now, &updates, &creates, &spawns, &joins, &budgets).await?;
        transaction.commit().await.map_err(|error| self.classify(error))?;
        Ok(committed)
    }
}

fn prepare_update(update: Update, now: Timestamp) -> Result<PreparedUpdate, StoreError> {
    let Update { mut execution, expected_version, wake_before, awaited_before, events, records } = update;
    let turns = execution.is_terminal()
        || events.iter().any(|recorded| matches!(recorded.event, Event::Reopened { .. }));
    let wake = execution.next_wake();
    let awaits = awaited_event(&execution).map(text);
    let change = Change {
        id: execution.id(),
        history: encode::history(execution.id(), &events)?,
        wake: (wake != wake_before).then_some(wake),
        awaits: (awaits != awaited_before.as_deref().map(text)).then_some(awaits),
        rows: record_rows(&execution, &events, &records, now)?,
        records,
        row: encode::execution(&mut execution, Some(expected_version))?,
    };
    Ok(PreparedUpdate { change, turns })
}

fn prepare_create(create: Create, now: Timestamp) -> Result<PreparedCreate, StoreError> {
    let Create { mut execution, events, records, idempotency, input_hash, spawn, cause } = create;
    let identity = &execution.identity;
    let tenant = identity.tenant_id.as_deref().unwrap_or_default();
    let key = idempotency.map(|(key, until)| Key {
        name: (text(tenant), text(&identity.flow.id), text(&key)),
        input_hash,
        until,
    });
    let change = Change {
        id: execution.id(),
        history: encode::history(execution.id(), &events)?,
        wake: execution.next_wake().map(Some),
        awaits: awaited_event(&execution).map(text).map(Some),
        rows: record_rows(&execution, &events, &records, now)?,
        records,
        row: encode::execution(&mut execution, None)?,
    };
    Ok(PreparedCreate { change, key, spawn, cause })
}

fn record_rows(
    execution: &Execution,
    events: &[RecordedEvent],
    records: &[Record],
    now: Timestamp,
) -> Result<RecordRows, StoreError> {
    let id = execution.id();
    let last = events.last().map_or(execution.events, |recorded| recorded.sequence);
    let mut rows = RecordRows::default();
    for record in records {
        match record {
            Record::OpenJoin(spec) => {
                let outer = tally::outer_of(execution, spec);
                rows.snapshots.push(encode::json(&json!({
                    "parent": hex(spec.parent),
                    "join": spec.join,
                    "outerParent": outer.map(|(parent, _)| hex(parent)),
                    "outerJoin": outer.map(|(_, join)| join),
                    "spec": encode::json(spec)?,
                    "context": encode::json(&spec.snapshot.context)?,
                    "items": encode::json(&*spec.items)?,
                }))?);
            }
            Record::InsertRow(row) => rows.table_rows.push(encode::json(&json!({
                "table": text(&row.table),
                "id": text(&row.id),
                "execution": hex(id),
                "pipe": row.pipe.as_deref().map(text),
                "at": now,
                "row": encode::json(&row.row)?,
            }))?),
            Record::Publish(event) => rows.events.push(encode::json(&json!({
                "id": tally::event_id(id, last, rows.events.len()),
                "name": text(&event.name),
                "source": hex(id),
                "at": now,
                "data": encode::json(&event.data)?,
            }))?),
            Record::FailedTask(task) => rows.failed_tasks.push(encode::json(&json!({
                "id": hex(id),
                "at": now,
                "task": encode::json(task)?,
            }))?),
            // The tally counts these.
            Record::CloseJoin { .. }
            | Record::EndJoin { .. }
            | Record::ChildEnded { .. }
            | Record::Spend { .. } => {}
            // The engine puts the child itself among the creates of the same batch.
            Record::StartChild(_) => {}
        }
    }
    Ok(rows)
}

/// For each update whether it is the first of its execution.
fn first_of_each(updates: &[PreparedUpdate]) -> Vec<bool> {
    let mut seen = HashSet::new();
    updates.iter().map(|update| seen.insert(update.change.id)).collect()
}

/// The rows of the updates that turn, or of those that do not.
fn update_rows(updates: &[PreparedUpdate], first: &[bool], turns: bool) -> Option<String> {
    let chosen = updates.iter().zip(first).filter(|(update, first)| **first && update.turns == turns);
    encode::some_rows(chosen.map(|(update, _)| update.change.row.as_str()))
}

/// Rows of one kind of all changes.
fn gather<'a>(changes: &[&'a Change], kind: fn(&'a Change) -> &'a Vec<String>) -> Option<String> {
    encode::some_rows(changes.iter().flat_map(|change| kind(change)).map(String::as_str))
}

/// Those that are stored.
fn accepted<'a>(creates: &'a [PreparedCreate], outcomes: &[CreateOutcome]) -> Vec<&'a PreparedCreate> {
    let chosen = creates.iter().zip(outcomes).filter(|(_, outcome)| **outcome == CreateOutcome::Created);
    chosen.map(|(create, _)| create).collect()
}

/// What changes of timers and subscriptions.
#[derive(Default)]
struct Wakes {
    wakes: Vec<String>,
    rests: Vec<String>,
    awaits: Vec<String>,
    stops: Vec<String>,
}

impl Wakes {
    fn of(changes: &[&Change]) -> Self {
        let mut all = Self::default();
        for change in changes {
            match change.wake {
                Some(Some(due)) => all.wakes.push(json!({ "id": hex(change.id), "due": due }).to_string()),
                Some(None) => all.rests.push(json!(hex(change.id)).to_string()),
                None => {}
            }
            match &change.awaits {
                Some(Some(name)) => {
                    all.awaits.push(json!({ "id": hex(change.id), "name": name }).to_string())
                }
                Some(None) => all.stops.push(json!(hex(change.id)).to_string()),
                None => {}
            }
        }
        all
    }
}

/// Runs the statements of one batch.
struct Writer<'s, 't> {
    store: &'s SqliteStore,
    transaction: &'t mut Transaction<'static, Sqlite>,
}

impl Writer<'_, '_> {
    async fn apply(
        &mut self,
        now: Timestamp,
        updates: &[PreparedUpdate],
        creates: &[PreparedCreate],
        spawns: &[Spawn],
        joins: &BTreeSet<JoinKey>,
        budgets: &BTreeSet<ExecutionId>,
    ) -> Result<Committed, StoreError> {
        let updated = self.update(updates).await?;
        let mut tally = Tally::new(self.load_joins(joins).await?, self.load_budgets(budgets).await?);
        let mut spent = BTreeSet::new();
        let mut changes: Vec<&Change> = Vec::new();
        for (update, _) in updates.iter().zip(&updated).filter(|(_, held)| **held) {
            tally.take(update.change.id, &update.change.records, &mut spent);
            changes.push(&update.change);
        }
        let spawned: Vec<bool> = spawns.iter().map(|spawn| tally.spawn(spawn)).collect();
        let outcomes = self.choose(now, creates, &spawned, &updated).await?;
        let accepted = accepted(creates, &outcomes);
        for create in &accepted {
            tally.take(create.change.id, &create.change.records, &mut spent);
            changes.push(&create.change);
        }
        let created = encode::some_rows(accepted.iter().map(|create| create.change.row.as_str()));
        self.rows(sql::EXECUTIONS_INSERT, created).await?;
        self.take_keys(now, &accepted).await?;
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
        let connection: &mut SqliteConnection = self.transaction;
        let done = sqlx::query(statement).bind(parameter).execute(connection).await;
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
        let connection: &mut SqliteConnection = self.transaction;
        let query = sqlx::query(sql::IDEMPOTENCY_FIND).bind(encode::json(&wanted)?).bind(now.as_millis());
        let found = query.fetch_all(connection).await.map_err(|error| self.store.classify(error))?;
        let what = "fm_idempotency";
        let entry = |row: &sqlx::sqlite::SqliteRow| {
            let name =
                (rows::column(row, 0, &what)?, rows::column(row, 1, &what)?, rows::column(row, 2, &what)?);
            Ok((name, (rows::id(row, 3, &what)?, rows::column(row, 4, &what)?)))
        };
        found.iter().map(entry).collect()
    }

    async fn take_keys(&mut self, now: Timestamp, accepted: &[&PreparedCreate]) -> Result<(), StoreError> {
        let taken =
            accepted.iter().filter_map(|create| create.key.as_ref().map(|key| (create.change.id, key)));
        let taken: Vec<_> = taken
            .map(|(id, Key { name: (tenant, flow, key), input_hash, until })| {
                json!({
                    "tenant": tenant, "flow": flow, "key": key, "id": hex(id), "hash": input_hash, "until": until,
                })
            })
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        let connection: &mut SqliteConnection = self.transaction;
        let query = sqlx::query(sql::IDEMPOTENCY_TAKE).bind(encode::json(&taken)?).bind(now.as_millis());
        query.execute(connection).await.map(drop).map_err(|error| self.store.classify(error))
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
        let budgets = settled.spent.iter().map(|spent| {
            json!({
                "root": hex(spent.root),
                "usd": spent.cost.usd,
                "tokens": spent.cost.tokens,
                "attempts": spent.cost.attempts,
            })
            .to_string()
        });
        let budgets: Vec<String> = budgets.collect();
        self.rows(sql::BUDGETS_SET, encode::some(&budgets)).await
    }

    async fn load_joins(
        &mut self,
        keys: &BTreeSet<JoinKey>,
    ) -> Result<BTreeMap<JoinKey, JoinState>, StoreError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.fetch(sql::JOINS_LOAD, encode::join_keys(keys)?).await?;
        found.iter().map(|row| rows::join(row).map(|state| ((state.parent, state.join), state))).collect()
    }

    async fn load_budgets(
        &mut self,
        roots: &BTreeSet<ExecutionId>,
    ) -> Result<BTreeMap<ExecutionId, flowmonkey_core::execution::state::Cost>, StoreError> {
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
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
        let connection: &mut SqliteConnection = self.transaction;
        let found = sqlx::query(statement).bind(parameter).fetch_all(connection).await;
        found.map_err(|error| self.store.classify(error))
    }
}
