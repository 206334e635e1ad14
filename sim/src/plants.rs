//! Planted faults: each breaks one promise of a store, a queue or a client, and a checker must find out. They are a test
//! of the checkers.

mod stacks;

use std::sync::Arc;

use flowmonkey_core::execution::state::Why;
use flowmonkey_core::execution::{Event, Record};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::store::{Batch, Committed, CreateOutcome, MemoryStore, Store, StoreError, Update};

/// One promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Updates are stored whatever the version.
    VersionGuardIgnored,
    /// Starts are stored whatever the generation of flows.
    FlowsGuardIgnored,
    /// An ended child counts twice for its parent.
    ChildCountedTwice,
    /// The end of a child is not counted.
    ChildNotCounted,
    /// Idempotency keys are not remembered.
    KeyForgotten,
    /// Children are made though others made them first.
    SpawnGuardIgnored,
    /// Some executions are never due.
    TimerLost,
    /// A result is stored a second time.
    ResultAppliedTwice,
    /// Steps are retried once more than their flow allows.
    OneRetryTooMany,
    /// Cancellations are answered and not stored.
    CancelSwallowed,
    /// Some starts are answered and not stored.
    StartSwallowed,
    /// Rows are inserted twice.
    RowInsertedTwice,
    /// What can be undone is not remembered.
    CompensationForgotten,
    /// Of what is read of children's stacks, the oldest entry is lost.
    StackPageTorn,
    /// What was read of children's stacks is left to be read again.
    StackPageRepeated,
    /// Accepted signals are forgotten.
    SignalIdsForgotten,
    /// Events of the history get lost.
    HistoryLost,
    /// Results are never forgotten by the queue.
    NeverAcknowledged,
    /// The queue says of all leases that they have ended.
    LeasesEndEarly,
    /// Every result is taken for one of the current attempt.
    FenceRemoved,
    /// The last decision on an execution that has ended is stored a second time.
    TerminalRewritten,
    /// The queue says that it has everything when it was emptied.
    GenerationFeigned,
    /// The queue does not note that a pool has been rebuilt.
    GenerationNeverWritten,
    /// The queue gives a worker back its lease though a newer attempt is there.
    ReassertedOverNewer,
    /// Nobody takes over the results of engines that have died.
    DeadEnginesForgotten,
    /// Who has a turn keeps it for ever.
    TurnNeverEnds,
}

impl Plant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::VersionGuardIgnored,
        Self::FlowsGuardIgnored,
        Self::ChildCountedTwice,
        Self::ChildNotCounted,
        Self::KeyForgotten,
        Self::SpawnGuardIgnored,
        Self::TimerLost,
        Self::ResultAppliedTwice,
        Self::OneRetryTooMany,
        Self::CancelSwallowed,
        Self::StartSwallowed,
        Self::RowInsertedTwice,
        Self::CompensationForgotten,
        Self::StackPageTorn,
        Self::StackPageRepeated,
        Self::SignalIdsForgotten,
        Self::HistoryLost,
        Self::NeverAcknowledged,
        Self::LeasesEndEarly,
        Self::FenceRemoved,
        Self::TerminalRewritten,
        Self::GenerationFeigned,
        Self::GenerationNeverWritten,
        Self::ReassertedOverNewer,
        Self::DeadEnginesForgotten,
        Self::TurnNeverEnds,
    ];

    /// By its name as in the list above.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|plant| format!("{plant:?}") == name)
    }
}

/// Whether a plant that breaks things for some executions breaks them for this one.
pub(crate) fn is_chosen(id: ExecutionId) -> bool {
    id.as_uuid().as_bytes()[15].is_multiple_of(4)
}

/// What a store with the planted fault does with a batch: what it stored, and what it answered.
pub(crate) async fn commit(
    plant: Option<Plant>,
    store: &MemoryStore,
    batch: Batch,
) -> Result<Planted, StoreError> {
    let mut asked = batch.clone();
    let mut stored = batch;
    let mut swallowed_updates = Vec::new();
    let mut swallowed_creates = Vec::new();
    match plant {
        Some(Plant::VersionGuardIgnored) => {
            for update in &mut stored.updates {
                if let Some(current) = store.load(&[update.execution.id()]).await?.pop() {
                    update.expected_version = current.version;
                }
            }
        }
        Some(Plant::FlowsGuardIgnored) => {
            for create in &mut stored.creates {
                create.flows = None;
            }
        }
        Some(Plant::ChildCountedTwice | Plant::ChildNotCounted | Plant::RowInsertedTwice) => {
            for records in records(&mut stored) {
                rewrite(plant, records);
            }
        }
        Some(Plant::KeyForgotten) => {
            for create in &mut stored.creates {
                create.idempotency = None;
            }
        }
        Some(Plant::SpawnGuardIgnored) => {
            for spawn in std::mem::take(&mut stored.spawns) {
                let state = store.join_state(spawn.parent, spawn.join).await?;
                if state.is_some_and(|state| state.spawned == spawn.from) {
                    stored.spawns.push(spawn);
                }
            }
            if stored.spawns.is_empty() {
                for create in &mut stored.creates {
                    create.spawn = None;
                }
            }
        }
        Some(Plant::CancelSwallowed) => {
            let is_cancel = |event: &Event| matches!(event, Event::EndingBegan { why: Why::Cancel(_), .. });
            swallowed_updates = places(&stored.updates, |update| {
                update.events.iter().any(|recorded| is_cancel(&recorded.event))
            });
        }
        Some(Plant::StartSwallowed) => {
            swallowed_creates = places(&stored.creates, |create| {
                create.execution.identity.parent.is_none() && is_chosen(create.execution.id())
            });
        }
        Some(Plant::CompensationForgotten) => {
            for update in &mut stored.updates {
                let before = update.events.len();
                let is_undo = |event: &Event| matches!(event, Event::CompensationAdded(_));
                keep_events(update, |event| !is_undo(event));
                let forgotten = before - update.events.len();
                let execution = Arc::make_mut(&mut update.execution);
                let kept = execution.compensations.len().saturating_sub(forgotten);
                execution.compensations.truncate(kept);
                execution.events -= forgotten as u64;
                let first = execution.events + 1 - update.events.len() as u64;
                for (recorded, sequence) in Arc::make_mut(&mut update.events).iter_mut().zip(first..) {
                    recorded.sequence = sequence;
                }
            }
            asked = stored.clone();
        }
        Some(Plant::StackPageTorn) => {
            stored.updates.iter_mut().for_each(stacks::tear_pages);
            asked = stored.clone();
        }
        Some(Plant::StackPageRepeated) => {
            stored.updates.iter_mut().for_each(stacks::repeat_pages);
            asked = stored.clone();
        }
        Some(Plant::SignalIdsForgotten) => {
            for update in &mut stored.updates {
                Arc::make_mut(&mut update.execution).signal_ids.clear();
            }
        }
        Some(Plant::HistoryLost) => {
            for update in &mut stored.updates {
                if is_chosen(update.execution.id()) {
                    keep_events(update, |event| !matches!(event, Event::ContextChanged { .. }));
                }
            }
        }
        Some(
            Plant::TimerLost
            | Plant::ResultAppliedTwice
            | Plant::OneRetryTooMany
            | Plant::NeverAcknowledged
            | Plant::LeasesEndEarly
            | Plant::FenceRemoved
            | Plant::TerminalRewritten
            | Plant::GenerationFeigned
            | Plant::GenerationNeverWritten
            | Plant::ReassertedOverNewer
            | Plant::DeadEnginesForgotten
            | Plant::TurnNeverEnds,
        )
        | None => {}
    }
    remove(&mut stored.updates, &swallowed_updates);
    remove(&mut asked.updates, &swallowed_updates);
    remove(&mut stored.creates, &swallowed_creates);
    remove(&mut asked.creates, &swallowed_creates);
    let committed = store.commit(stored).await?;
    let mut happened = vec![(asked.clone(), committed.clone())];
    if let Some(again) = again(plant, &asked, &committed) {
        let committed = store.commit(again.clone()).await?;
        happened.push((again, committed));
    }
    let mut answer = committed;
    for place in swallowed_updates {
        answer.updates.insert(place, true);
    }
    for place in swallowed_creates {
        answer.creates.insert(place, CreateOutcome::Created);
    }
    Ok(Planted { happened, answer })
}

/// What came of a batch.
pub(crate) struct Planted {
    /// What took effect, as the books shall see it.
    pub(crate) happened: Vec<(Batch, Committed)>,
    /// What the engine is told.
    pub(crate) answer: Committed,
}

fn records(batch: &mut Batch) -> impl Iterator<Item = &mut Vec<Record>> {
    let updates = batch.updates.iter_mut().map(|update| &mut update.records);
    updates.chain(batch.creates.iter_mut().map(|create| &mut create.records))
}

fn rewrite(plant: Option<Plant>, records: &mut Vec<Record>) {
    let mut more = Vec::new();
    for record in records.iter() {
        match (plant, record) {
            (Some(Plant::ChildCountedTwice), Record::ChildEnded { .. }) => more.push(record.clone()),
            (Some(Plant::RowInsertedTwice), Record::InsertRow(row)) => {
                let mut copy = row.clone();
                copy.id.push_str("-again");
                more.push(Record::InsertRow(copy));
            }
            _ => {}
        }
    }
    if plant == Some(Plant::ChildNotCounted) {
        records.retain(
            |record| !matches!(record, Record::ChildEnded { parent, .. } if is_chosen(parent.execution)),
        );
    }
    records.append(&mut more);
}

/// A second storing of what was stored.
fn again(plant: Option<Plant>, batch: &Batch, committed: &Committed) -> Option<Batch> {
    let wanted = |update: &flowmonkey_engine::store::Update| match plant {
        Some(Plant::ResultAppliedTwice) => update.events.iter().any(
            |recorded| matches!(&recorded.event, Event::AttemptEnded(ended) if ended.worker_id.is_some()),
        ),
        Some(Plant::TerminalRewritten) => update.execution.is_terminal(),
        _ => false,
    };
    let updates = batch.updates.iter().zip(&committed.updates);
    let mut update =
        updates.filter(|(_, applied)| **applied).map(|(update, _)| update).find(|u| wanted(u))?.clone();
    let count = update.events.len() as u64;
    update.expected_version = update.execution.version;
    let execution = Arc::make_mut(&mut update.execution);
    execution.version += 1;
    execution.events += count;
    for recorded in Arc::make_mut(&mut update.events) {
        recorded.sequence += count;
    }
    update.records.clear();
    Some(Batch { now: batch.now, updates: vec![update], ..Batch::default() })
}

fn keep_events(update: &mut Update, wanted: impl Fn(&Event) -> bool) {
    update.events = update.events.iter().filter(|recorded| wanted(&recorded.event)).cloned().collect();
}

fn places<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| wanted(item)).map(|(place, _)| place).collect()
}

fn remove<T>(items: &mut Vec<T>, places: &[usize]) {
    let mut place = 0;
    items.retain(|_| {
        place += 1;
        !places.contains(&(place - 1))
    });
}
