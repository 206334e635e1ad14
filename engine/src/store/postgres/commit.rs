//! One batch: one statement where steps or starts are all there is, else one transaction.
//!
//! Everything is put into the form of the database before the first statement.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use flowmonkey_core::execution::{Execution, Record, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, query_with};
use uuid::Uuid;

use super::columns::{self, Borrowing, ExecutionRow, FixedColumns, Following, HistoryRow};
use super::write::{Outcome, Writer};
use super::{PostgresStore, Shared, array, sql};
use crate::store::StoreError;
use crate::store::creates::Key;
use crate::store::encode::{integer, json, text};
use crate::store::model::{Batch, Committed, Create, CreateOutcome, Spawn, Update, awaited_event};
use crate::store::tally::{self, JoinKey};
use crate::store::tenants;

/// Parameters of the largest statement of the hot path.
const PARAMETERS_MAX: usize = 58;

/// Times that a batch is begun anew because another engine was faster with an idempotency key or an id, or changed flows. Each
/// time what that engine did is known.
const RACES: usize = 8;

/// An execution's change in the form of the database.
pub(super) struct Change {
    pub(super) id: ExecutionId,
    pub(super) row: ExecutionRow,
    history: Vec<HistoryRow>,
    /// The next wake, if it is to be written.
    wake: Option<Option<Timestamp>>,
    /// The event waited for, if it is to be written.
    awaits: Option<Option<String>>,
    pub(super) records: Vec<Record>,
    /// Rows that the records become.
    pub(super) rows: RecordRows,
}

impl Change {
    /// About as many bytes as it takes in a statement.
    fn bytes(&self) -> usize {
        let history = self.history.iter().map(HistoryRow::bytes);
        self.row.bytes() + history.sum::<usize>()
    }
}

/// What records become, beside fan-outs and budgets.
#[derive(Default)]
pub(super) struct RecordRows {
    pub(super) snapshots: Vec<SnapshotRow>,
    pub(super) table_rows: Vec<TableRow>,
    pub(super) events: Vec<EventRow>,
    pub(super) failed_tasks: Vec<FailedTaskRow>,
}

impl RecordRows {
    fn is_empty(&self) -> bool {
        let Self { snapshots, table_rows, events, failed_tasks } = self;
        snapshots.is_empty() && table_rows.is_empty() && events.is_empty() && failed_tasks.is_empty()
    }
}

pub(super) struct SnapshotRow {
    pub(super) parent: Uuid,
    pub(super) join: i64,
    pub(super) outer_parent: Option<Uuid>,
    pub(super) outer_join: Option<i64>,
    pub(super) spec: String,
    pub(super) context: String,
    pub(super) items: String,
}

pub(super) struct TableRow {
    pub(super) table: String,
    pub(super) id: String,
    pub(super) execution: Uuid,
    pub(super) pipe: Option<String>,
    pub(super) at: i64,
    pub(super) row: String,
    pub(super) tenant: String,
}

pub(super) struct EventRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) source: Option<Uuid>,
    pub(super) at: i64,
    pub(super) data: String,
    pub(super) tenant: String,
}

pub(super) struct FailedTaskRow {
    pub(super) execution: Uuid,
    pub(super) at: i64,
    pub(super) task: String,
    pub(super) number: i64,
    pub(super) handler: String,
    pub(super) code: String,
}

/// An update with the version that the record must have.
pub(super) struct PreparedUpdate {
    pub(super) change: Change,
    pub(super) expected: i64,
}

/// A create with what decides whether it is stored.
pub(super) struct PreparedCreate {
    pub(super) change: Change,
    pub(super) fixed: FixedColumns,
    pub(super) key: Option<Key>,
    pub(super) spawn: Option<usize>,
    pub(super) cause: Option<usize>,
    /// The generation of flows that it is for.
    pub(super) flows: Option<i64>,
}

/// A batch in the form of the database.
pub(super) struct Prepared {
    pub(super) now: Timestamp,
    pub(super) updates: Vec<PreparedUpdate>,
    pub(super) creates: Vec<PreparedCreate>,
    pub(super) spawns: Vec<Spawn>,
    pub(super) joins: BTreeSet<JoinKey>,
    /// Whether something is spent.
    pub(super) spends: bool,
}

impl PostgresStore {
    /// Stores a batch.
    pub(super) async fn commit_batch(&self, batch: Batch) -> Result<Committed, StoreError> {
        if batch.creates.is_empty() && batch.updates.is_empty() && batch.spawns.is_empty() {
            return Ok(Committed::default());
        }
        let prepared = prepare(batch)?;
        let is_alone = self.shared.session.has_named_statements() && prepared.is_plain();
        if is_alone && let Some(committed) = self.shared.write_alone(&prepared).await? {
            return Ok(committed);
        }
        let shared = self.shared.clone();
        // Who was refused alone is told why.
        self.shielded(async move { shared.transact(&prepared, is_alone).await }).await
    }
}

impl Shared {
    /// The hot path: one statement, one round trip. Dropping it while it runs does no harm. None: nothing of it is stored, because
    /// something in it is for another generation of flows.
    async fn write_alone(&self, prepared: &Prepared) -> Result<Option<Committed>, StoreError> {
        let Prepared { updates, creates, .. } = prepared;
        let (steps, starts) = (first_updates(updates), first_creates(creates.iter()));
        let (query, has_steps) = match (steps.is_empty(), starts.is_empty()) {
            (_, true) => (step(sized(sql::EXECUTIONS_STEP, prepared), &steps), true),
            (true, false) => (start(sized(sql::EXECUTIONS_START, prepared), &starts), false),
            (false, false) => {
                let query = step(sized(sql::EXECUTIONS_STEP_AND_START, prepared), &steps);
                (start(query, &starts), true)
            }
        };
        let mut connection = self.connection().await?;
        let row = query.fetch_optional(&mut *connection).await.map_err(|error| self.classify(error))?;
        connection.done();
        let Some(row) = row else { return Ok(None) };
        let held = if has_steps { ids(&row, 0, &"fm_step")? } else { Vec::new() };
        let stored = if starts.is_empty() { Vec::new() } else { ids(&row, has_steps.into(), &"fm_start")? };
        let mut stored: HashSet<ExecutionId> = stored.into_iter().collect();
        let outcome = |create: &PreparedCreate| {
            if stored.remove(&create.change.id) { CreateOutcome::Created } else { CreateOutcome::IdTaken }
        };
        Ok(Some(Committed {
            creates: creates.iter().map(outcome).collect(),
            updates: which_held(updates, &held),
            ..Committed::default()
        }))
    }

    /// Everything else. `is_wary`: something has stood in the way of it before.
    async fn transact(
        self: Arc<Self>,
        prepared: &Prepared,
        mut is_wary: bool,
    ) -> Result<Committed, StoreError> {
        let mut connection = self.connection().await?;
        for _ in 0..RACES {
            let mut transaction = self.begin(&mut connection).await?;
            let mut writer = Writer { shared: &self, connection: &mut transaction, is_wary };
            match writer.apply(prepared).await? {
                Outcome::Stored(committed) => {
                    transaction.commit().await.map_err(|error| self.classify(error))?;
                    connection.done();
                    return Ok(committed);
                }
                Outcome::Raced => transaction.rollback().await.map_err(|error| self.classify(error))?,
            }
            is_wary = true;
        }
        let reason =
            format!("{}: others were faster with the same keys, ids or flows again and again", self.place);
        Err(StoreError::Unavailable { reason, source: None })
    }
}

impl Prepared {
    /// Whether updates and creates are all there is to write, and nothing but their own rows decides about them.
    fn is_plain(&self) -> bool {
        let updates = self.updates.iter().map(|update| &update.change);
        let mut changes = updates.chain(self.creates.iter().map(|create| &create.change));
        self.joins.is_empty()
            && !self.spends
            && self.spawns.is_empty()
            && changes.all(|change| change.rows.is_empty())
            && self
                .creates
                .iter()
                .all(|create| create.key.is_none() && create.spawn.is_none() && create.cause.is_none())
    }
}

fn prepare(batch: Batch) -> Result<Prepared, StoreError> {
    let joins = tally::touched_joins(&batch);
    let spends = !tally::touched_budgets(&batch).is_empty();
    let Batch { now, creates, updates, spawns } = batch;
    let updates = updates.into_iter().map(|update| prepare_update(update, now)).collect::<Result<_, _>>()?;
    let creates = creates.into_iter().map(|create| prepare_create(create, now)).collect::<Result<_, _>>()?;
    Ok(Prepared { now, updates, creates, spawns, joins, spends })
}

fn prepare_update(update: Update, now: Timestamp) -> Result<PreparedUpdate, StoreError> {
    let Update { execution, expected_version, wake_before, awaited_before, events, records } = update;
    let wake = execution.next_wake();
    let awaits = awaited_event(&execution).map(text);
    let change = Change {
        id: execution.id(),
        history: columns::history(execution.id(), &events)?,
        wake: (wake != wake_before).then_some(wake),
        awaits: (awaits != awaited_before.as_deref().map(text)).then_some(awaits),
        rows: record_rows(&execution, &events, &records, now)?,
        records,
        row: columns::execution(&execution)?,
    };
    Ok(PreparedUpdate { change, expected: integer(expected_version) })
}

fn prepare_create(create: Create, now: Timestamp) -> Result<PreparedCreate, StoreError> {
    let Create { execution, events, records, idempotency, input_hash, spawn, cause, flows } = create;
    let identity = &execution.identity;
    let tenant = identity.tenant_id.as_deref().unwrap_or_default();
    let key = idempotency.map(|(key, until)| Key {
        name: (text(tenant), text(&identity.flow.id), text(&key)),
        input_hash: text(&input_hash),
        until,
    });
    let fixed = columns::fixed(&execution)?;
    let change = Change {
        id: execution.id(),
        history: columns::history(execution.id(), &events)?,
        wake: execution.next_wake().map(Some),
        awaits: awaited_event(&execution).map(text).map(Some),
        rows: record_rows(&execution, &events, &records, now)?,
        records,
        row: columns::execution(&execution)?,
    };
    Ok(PreparedCreate { change, fixed, key, spawn, cause, flows: flows.map(integer) })
}

fn record_rows(
    execution: &Execution,
    events: &[RecordedEvent],
    records: &[Record],
    now: Timestamp,
) -> Result<RecordRows, StoreError> {
    let id = execution.id().as_uuid();
    let at = now.as_millis();
    let last = events.last().map_or(execution.events, |recorded| recorded.sequence);
    let tenant = tenants::column(execution.identity.tenant_id.as_deref());
    let mut rows = RecordRows::default();
    for record in records {
        match record {
            Record::OpenJoin(spec) => {
                let outer = tally::outer_of(execution, spec);
                rows.snapshots.push(SnapshotRow {
                    parent: spec.parent.as_uuid(),
                    join: spec.join.into(),
                    outer_parent: outer.map(|(parent, _)| parent.as_uuid()),
                    outer_join: outer.map(|(_, join)| join.into()),
                    spec: json(spec)?,
                    context: json(&spec.snapshot.context)?,
                    items: json(&*spec.items)?,
                });
            }
            Record::InsertRow(row) => rows.table_rows.push(TableRow {
                table: text(&row.table),
                id: text(&row.id),
                execution: id,
                pipe: row.pipe.as_deref().map(text),
                at,
                row: json(&row.row)?,
                tenant: text(tenant),
            }),
            Record::Publish(event) => rows.events.push(EventRow {
                id: text(&tally::event_id(event, execution.id(), last, rows.events.len())),
                name: text(&event.name),
                source: Some(id),
                at,
                data: json(&event.data)?,
                tenant: text(tenant),
            }),
            Record::FailedTask(task) => {
                rows.failed_tasks.push(FailedTaskRow {
                    execution: id,
                    at,
                    task: json(task)?,
                    number: i64::from(task.run.task),
                    handler: text(&task.handler_type),
                    code: text(&task.error.code),
                });
            }
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

/// The first update of each execution, in the order of ids: locks are taken in this order.
pub(super) fn first_updates(updates: &[PreparedUpdate]) -> Vec<&PreparedUpdate> {
    let mut chosen: Vec<&PreparedUpdate> = updates.iter().collect();
    chosen.sort_by_key(|update| update.change.id);
    chosen.dedup_by_key(|update| update.change.id);
    chosen
}

/// As [`first_updates`].
pub(super) fn first_creates<'a>(
    creates: impl Iterator<Item = &'a PreparedCreate>,
) -> Vec<&'a PreparedCreate> {
    let mut chosen: Vec<&PreparedCreate> = creates.collect();
    chosen.sort_by_key(|create| create.change.id);
    chosen.dedup_by_key(|create| create.change.id);
    chosen
}

/// For each update whether it is held. A second update of one execution in a batch counts as a conflict.
pub(super) fn which_held(updates: &[PreparedUpdate], held: &[ExecutionId]) -> Vec<bool> {
    let mut held: HashSet<ExecutionId> = held.iter().copied().collect();
    updates.iter().map(|update| held.remove(&update.change.id)).collect()
}

/// A statement with room for what a batch binds, so that its buffer is not copied again and again while it grows.
fn sized<'q>(statement: &'static str, prepared: &Prepared) -> Borrowing<'q> {
    let updates = prepared.updates.iter().map(|update| &update.change);
    let changes = updates.chain(prepared.creates.iter().map(|create| &create.change));
    let mut arguments = PgArguments::default();
    arguments.reserve(PARAMETERS_MAX, changes.map(Change::bytes).sum());
    query_with(statement, arguments)
}

/// Binds updates.
pub(super) fn step<'q>(query: Borrowing<'q>, updates: &[&'q PreparedUpdate]) -> Borrowing<'q> {
    let changes = || updates.iter().map(|update| &update.change);
    let rows: Vec<&ExecutionRow> = changes().map(|change| &change.row).collect();
    let expected = updates.iter().map(|update| update.expected).collect();
    columns::step(query, &rows, expected, following(changes()))
}

/// Binds creates, and the generations of flows that they are for: the statement gives no row, and does nothing, in any other.
pub(super) fn start<'q>(query: Borrowing<'q>, creates: &[&'q PreparedCreate]) -> Borrowing<'q> {
    let changes = || creates.iter().map(|create| &create.change);
    let rows: Vec<&ExecutionRow> = changes().map(|change| &change.row).collect();
    let fixed: Vec<&FixedColumns> = creates.iter().map(|create| &create.fixed).collect();
    let generations: BTreeSet<i64> = creates.iter().filter_map(|create| create.flows).collect();
    let generations: Vec<i64> = generations.into_iter().collect();
    columns::start(query, &rows, &fixed, following(changes())).bind(generations)
}

fn following<'q>(changes: impl Iterator<Item = &'q Change>) -> Following<'q> {
    let mut all = Following::default();
    for change in changes {
        let id = change.id.as_uuid();
        all.history.extend(&change.history);
        if let Some(wake) = change.wake {
            all.wakes.push((id, wake.map(Timestamp::as_millis)));
        }
        if let Some(awaits) = &change.awaits {
            all.awaits.push((id, awaits.as_deref()));
        }
    }
    all
}

/// The ids that a function gives, by the place of its column.
pub(super) fn ids(row: &PgRow, column: usize, what: &dyn Display) -> Result<Vec<ExecutionId>, StoreError> {
    let ids: Vec<Uuid> = array(row, column, what)?;
    Ok(ids.into_iter().map(ExecutionId::from_uuid).collect())
}
