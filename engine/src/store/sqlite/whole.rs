//! A whole batch in one statement: the ordinary case, in which all guards hold and all ids and keys are new.
//!
//! Each statement is a message to the driver's thread and one back, and two tasks wake up for it; that is most of what an
//! ordinary step costs. So the connection that writes has a view with one column for each kind of row, and a trigger that
//! runs the statements of [`super::sql`] over what is inserted into it. SQLite stores all of it or nothing: a guard that
//! does not hold raises an error, as does an id that is taken.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sqlx::{Connection, Error, SqliteConnection, query};

use super::connections::Lent;
use super::encode;
use super::error::is_constraint;
use super::prepare::{PreparedBatch, Wakes, first_of_each, gather, update_rows};
use super::{SqliteStore, commit, sql};
use crate::store::StoreError;
use crate::store::model::{Committed, CreateOutcome};
use crate::store::tally::{Settled, Tally};

/// A statement that the trigger runs.
struct Part {
    /// The column whose rows it is run over.
    rows: &'static str,
    statement: &'static str,
    /// The column that says how many rows it must change.
    count: Option<&'static str>,
}

const fn part(rows: &'static str, statement: &'static str) -> Part {
    Part { rows, statement, count: None }
}

const fn guarded(rows: &'static str, count: &'static str, statement: &'static str) -> Part {
    Part { rows, statement, count: Some(count) }
}

/// In the order in which they run.
const PARTS: [Part; 16] = [
    guarded("steps", "step_count", sql::EXECUTIONS_STEP),
    guarded("turns", "turn_count", sql::EXECUTIONS_TURN),
    part("creates", sql::EXECUTIONS_INSERT),
    guarded("keys", "key_count", sql::IDEMPOTENCY_TAKE),
    part("history", sql::HISTORY_INSERT),
    part("wakes", sql::TIMERS_SET),
    part("rests", sql::TIMERS_CLEAR),
    part("awaits", sql::SUBSCRIPTIONS_SET),
    part("stops", sql::SUBSCRIPTIONS_CLEAR),
    part("snapshots", sql::SNAPSHOTS_INSERT),
    part("table_rows", sql::TABLE_ROWS_INSERT),
    part("events", sql::EVENTS_INSERT),
    part("failed_tasks", sql::FAILED_TASKS_INSERT),
    part("joins", sql::JOINS_SET),
    part("ended", sql::JOINS_END),
    part("budgets", sql::BUDGETS_SET),
];

/// Makes the view and its trigger for one connection; they go with it.
pub(super) fn setup() -> String {
    let rows = PARTS.iter().map(|part| part.rows);
    let counts = PARTS.iter().filter_map(|part| part.count);
    let columns: Vec<&str> = rows.chain(counts).chain(["now"]).collect();
    let nulls = vec!["NULL"; columns.len()].join(", ");
    let body: String = PARTS.iter().map(Part::in_trigger).collect();
    format!(
        "CREATE TEMP VIEW fm_batch ({}) AS SELECT {nulls};
        CREATE TEMP TRIGGER fm_batch_store INSTEAD OF INSERT ON fm_batch BEGIN\n{body}END",
        columns.join(", "),
    )
}

impl Part {
    fn in_trigger(&self) -> String {
        let statement = self.statement.trim_end();
        // A trigger returns nothing; it counts instead.
        let statement = statement.strip_suffix("RETURNING id").unwrap_or(statement);
        let statement = statement.replace("?1", &format!("NEW.{}", self.rows)).replace("?2", "NEW.now");
        let guard = self.count.map_or_else(String::new, |count| {
            format!("SELECT RAISE(ABORT, 'a guard does not hold') WHERE changes() <> NEW.{count};\n")
        });
        format!("{statement};\n{guard}")
    }
}

impl SqliteStore {
    /// Stores a batch if it can be stored as a whole; none: nothing is stored, and it has to be taken with care.
    pub(super) async fn store_whole(
        &self,
        writer: &mut Lent<'_>,
        batch: &PreparedBatch,
    ) -> Result<Option<Committed>, StoreError> {
        if !names_are_distinct(batch) || !depend_on_what_is_there(batch) {
            return Ok(None);
        }
        if batch.joins.is_empty() && batch.budgets.is_empty() {
            let Some(settled) = settle(Tally::new(BTreeMap::new(), BTreeMap::new()), batch) else {
                return Ok(None);
            };
            let stored = insert(writer, batch, &settled).await?;
            return self.outcome(stored, batch, settled);
        }
        let fail = |error| self.classify(error);
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        let mut careful = commit::Writer { store: self, connection: &mut transaction };
        let tally =
            Tally::new(careful.load_joins(&batch.joins).await?, careful.load_budgets(&batch.budgets).await?);
        let Some(settled) = settle(tally, batch) else {
            transaction.rollback().await.map_err(fail)?;
            return Ok(None);
        };
        let stored = insert(&mut transaction, batch, &settled).await?;
        let ended = if stored.is_ok() { transaction.commit().await } else { transaction.rollback().await };
        ended.map_err(fail)?;
        self.outcome(stored, batch, settled)
    }

    fn outcome(
        &self,
        stored: Result<(), Error>,
        batch: &PreparedBatch,
        settled: Settled,
    ) -> Result<Option<Committed>, StoreError> {
        match stored {
            Ok(()) => Ok(Some(Committed {
                creates: vec![CreateOutcome::Created; batch.creates.len()],
                updates: vec![true; batch.updates.len()],
                joins: settled.joins,
                spent: settled.spent,
            })),
            Err(error) if is_constraint(&error) => Ok(None),
            Err(error) => Err(self.classify(error)),
        }
    }
}

/// Whether no execution is updated twice and no key taken twice: of such, the statements would not tell the first.
fn names_are_distinct(PreparedBatch { updates, creates, .. }: &PreparedBatch) -> bool {
    let mut keys = HashSet::new();
    let mut named = creates.iter().filter_map(|create| create.key.as_ref());
    first_of_each(updates).iter().all(|first| *first) && named.all(|key| keys.insert(&key.name))
}

/// Whether the fan-outs and decisions that creates name are in the batch.
fn depend_on_what_is_there(PreparedBatch { updates, creates, spawns, .. }: &PreparedBatch) -> bool {
    let is_there = |place: Option<usize>, of: usize| place.is_none_or(|place| place < of);
    creates.iter().all(|one| is_there(one.spawn, spawns.len()) && is_there(one.cause, updates.len()))
}

/// What becomes of fan-outs and budgets if all of the batch is stored; none when a fan-out takes no more children.
fn settle(mut tally: Tally, batch: &PreparedBatch) -> Option<Settled> {
    let mut spent = BTreeSet::new();
    for update in &batch.updates {
        tally.take(update.change.id, &update.change.records, &mut spent);
    }
    if !batch.spawns.iter().all(|spawn| tally.spawn(spawn)) {
        return None;
    }
    for create in &batch.creates {
        tally.take(create.change.id, &create.change.records, &mut spent);
    }
    Some(tally.settle(spent))
}

/// The one statement. The outer error is ours, the inner one the database's.
async fn insert(
    connection: &mut SqliteConnection,
    batch: &PreparedBatch,
    settled: &Settled,
) -> Result<Result<(), Error>, StoreError> {
    let PreparedBatch { now, updates, creates, .. } = batch;
    let first = vec![true; updates.len()];
    let turns = updates.iter().filter(|update| update.turns).count();
    let keys = commit::key_rows(creates);
    let changes: Vec<_> = updates
        .iter()
        .map(|update| &update.change)
        .chain(creates.iter().map(|create| &create.change))
        .collect();
    let timed = Wakes::of(&changes);
    let budgets = commit::budget_rows(settled);
    let values: [Option<String>; PARTS.len()] = [
        update_rows(updates, &first, false),
        update_rows(updates, &first, true),
        encode::some_rows(creates.iter().map(|create| create.change.row.as_str())),
        encode::some(&keys),
        gather(&changes, |change| &change.history),
        encode::some(&timed.wakes),
        encode::some(&timed.rests),
        encode::some(&timed.awaits),
        encode::some(&timed.stops),
        gather(&changes, |change| &change.rows.snapshots),
        gather(&changes, |change| &change.rows.table_rows),
        gather(&changes, |change| &change.rows.events),
        gather(&changes, |change| &change.rows.failed_tasks),
        (!settled.joins.is_empty()).then(|| encode::joins(&settled.joins)).transpose()?,
        (!settled.ended.is_empty()).then(|| encode::join_keys(&settled.ended)).transpose()?,
        encode::some(&budgets),
    ];
    let mut statement = query(sql::BATCH_STORE);
    for value in values {
        statement = statement.bind(value);
    }
    for count in [updates.len() - turns, turns, keys.len()] {
        statement = statement.bind(encode::integer(count as u64));
    }
    Ok(statement.bind(now.as_millis()).execute(connection).await.map(drop))
}
