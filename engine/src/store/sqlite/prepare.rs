//! A batch in the form of the database: made before anything of the database is taken.

use std::collections::{BTreeSet, HashSet};

use flowmonkey_core::execution::{Event, Execution, Record, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde_json::json;

use super::encode::{self, hex, text};
use crate::store::StoreError;
use crate::store::creates::Key;
use crate::store::model::{Batch, Create, CreateOutcome, Spawn, Update, awaited_event};
use crate::store::tally::{self, JoinKey};
use crate::store::tenants;

/// A batch in the form of the database.
pub(super) struct PreparedBatch {
    pub(super) now: Timestamp,
    pub(super) updates: Vec<PreparedUpdate>,
    pub(super) creates: Vec<PreparedCreate>,
    pub(super) spawns: Vec<Spawn>,
    /// Fan-outs that it may read or change.
    pub(super) joins: BTreeSet<JoinKey>,
    /// Budgets that it may spend from.
    pub(super) budgets: BTreeSet<ExecutionId>,
}

impl PreparedBatch {
    pub(super) fn new(batch: Batch) -> Result<Self, StoreError> {
        let joins = tally::touched_joins(&batch);
        let budgets = tally::touched_budgets(&batch);
        let Batch { now, creates, updates, spawns } = batch;
        let updates =
            updates.into_iter().map(|update| prepare_update(update, now)).collect::<Result<_, _>>()?;
        let creates =
            creates.into_iter().map(|create| prepare_create(create, now)).collect::<Result<_, _>>()?;
        Ok(Self { now, updates, creates, spawns, joins, budgets })
    }
}

/// An execution's change in the form of the database.
pub(super) struct Change {
    pub(super) id: ExecutionId,
    pub(super) row: String,
    pub(super) history: Vec<String>,
    /// The next wake, if it is to be written.
    pub(super) wake: Option<Option<Timestamp>>,
    /// The event waited for, if it is to be written.
    pub(super) awaits: Option<Option<String>>,
    pub(super) records: Vec<Record>,
    /// Rows that the records become.
    pub(super) rows: RecordRows,
}

/// What records become, beside fan-outs and budgets.
#[derive(Default)]
pub(super) struct RecordRows {
    pub(super) snapshots: Vec<String>,
    pub(super) table_rows: Vec<String>,
    pub(super) events: Vec<String>,
    pub(super) failed_tasks: Vec<String>,
}

/// An update; `turns` if it ends or reopens the execution.
pub(super) struct PreparedUpdate {
    pub(super) change: Change,
    pub(super) turns: bool,
}

/// A create with what decides whether it is stored.
pub(super) struct PreparedCreate {
    pub(super) change: Change,
    pub(super) key: Option<Key>,
    pub(super) spawn: Option<usize>,
    pub(super) cause: Option<usize>,
}

fn prepare_update(update: Update, now: Timestamp) -> Result<PreparedUpdate, StoreError> {
    let Update { execution, expected_version, wake_before, awaited_before, events, records } = update;
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
        row: encode::execution(&execution, Some(expected_version))?,
    };
    Ok(PreparedUpdate { change, turns })
}

fn prepare_create(create: Create, now: Timestamp) -> Result<PreparedCreate, StoreError> {
    // This store tells no generations of flows, so that no create names one.
    let Create { execution, events, records, idempotency, input_hash, spawn, cause, flows: _ } = create;
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
        row: encode::execution(&execution, None)?,
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
    let tenant = tenants::column(execution.identity.tenant_id.as_deref());
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
                "tenant": text(tenant),
            }))?),
            Record::Publish(event) => rows.events.push(encode::json(&json!({
                "id": text(&tally::event_id(event, id, last, rows.events.len())),
                "name": text(&event.name),
                "source": hex(id),
                "at": now,
                "data": encode::json(&event.data)?,
                "tenant": text(tenant),
            }))?),
            Record::FailedTask(task) => rows.failed_tasks.push(encode::json(&json!({
                "id": hex(id),
                "at": now,
                "task": encode::json(task)?,
                "number": task.run.task,
                "handler": text(&task.handler_type),
                "code": text(&task.error.code),
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
pub(super) fn first_of_each(updates: &[PreparedUpdate]) -> Vec<bool> {
    let mut seen = HashSet::new();
    updates.iter().map(|update| seen.insert(update.change.id)).collect()
}

/// The rows of the updates that turn, or of those that do not.
pub(super) fn update_rows(updates: &[PreparedUpdate], first: &[bool], turns: bool) -> Option<String> {
    let chosen = updates.iter().zip(first).filter(|(update, first)| **first && update.turns == turns);
    encode::some_rows(chosen.map(|(update, _)| update.change.row.as_str()))
}

/// Rows of one kind of all changes.
pub(super) fn gather<'a>(changes: &[&'a Change], kind: fn(&'a Change) -> &'a Vec<String>) -> Option<String> {
    encode::some_rows(changes.iter().flat_map(|change| kind(change)).map(String::as_str))
}

/// Those that are stored.
pub(super) fn accepted<'a>(
    creates: &'a [PreparedCreate],
    outcomes: &[CreateOutcome],
) -> Vec<&'a PreparedCreate> {
    let chosen = creates.iter().zip(outcomes).filter(|(_, outcome)| **outcome == CreateOutcome::Created);
    chosen.map(|(create, _)| create).collect()
}

/// What changes of timers and subscriptions.
#[derive(Default)]
pub(super) struct Wakes {
    pub(super) wakes: Vec<String>,
    pub(super) rests: Vec<String>,
    pub(super) awaits: Vec<String>,
    pub(super) stops: Vec<String>,
}

impl Wakes {
    pub(super) fn of(changes: &[&Change]) -> Self {
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
