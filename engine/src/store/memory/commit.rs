//! Batches, one row after the other.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use flowmonkey_core::execution::{Execution, Record, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;

use super::{MemoryKey, MemoryRows, MemoryTable};
use crate::store::model::{
    Batch, Committed, Create, CreateOutcome, FailedTaskRow, PublishedEvent, TableRowRecord, Update,
    awaited_event,
};
use crate::store::tally::{self, Tally};

impl MemoryRows {
    /// Stores a batch.
    pub(super) fn commit(&mut self, batch: Batch) -> Committed {
        let joins = tally::touched_joins(&batch);
        let joins =
            joins.into_iter().filter_map(|key| self.joins.get(&key).map(|state| (key, state.clone())));
        let budgets = tally::touched_budgets(&batch);
        let budgets =
            budgets.into_iter().filter_map(|root| self.budgets.get(&root).map(|cost| (root, *cost)));
        let mut tally = Tally::new(joins.collect(), budgets.collect());
        let Batch { now, creates, updates, spawns } = batch;
        let mut spent = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut committed = Committed::default();
        for update in updates {
            let id = update.execution.id();
            let current =
                self.executions.get(&id).is_some_and(|stored| stored.version == update.expected_version);
            let holds = seen.insert(id) && current;
            if holds {
                tally.take(id, &update.records, &mut spent);
                self.update(update, now);
            }
            committed.updates.push(holds);
        }
        let spawned: Vec<bool> = spawns.iter().map(|spawn| tally.spawn(spawn)).collect();
        for create in creates {
            let outcome = self.outcome(&create, &spawned, &committed.updates, now);
            if outcome == CreateOutcome::Created {
                tally.take(create.execution.id(), &create.records, &mut spent);
                self.create(create, now);
            }
            committed.creates.push(outcome);
        }
        let settled = tally.settle(spent);
        for state in &settled.joins {
            self.joins.insert((state.parent, state.join), state.clone());
        }
        for key in &settled.ended {
            self.joins.remove(key);
        }
        for spent in &settled.spent {
            self.budgets.insert(spent.root, spent.cost);
        }
        Committed { joins: settled.joins, spent: settled.spent, ..committed }
    }

    fn update(&mut self, update: Update, now: Timestamp) {
        let Update { execution, wake_before, awaited_before, events, records, .. } = update;
        if execution.next_wake() != wake_before {
            self.set_wake(&execution);
        }
        if awaited_event(&execution) != awaited_before.as_deref() {
            self.set_awaited(&execution);
        }
        self.store(execution, &events, records, now);
    }

    fn outcome(&self, create: &Create, spawned: &[bool], updated: &[bool], now: Timestamp) -> CreateOutcome {
        let fails = |index: Option<usize>, held: &[bool]| {
            index.is_some_and(|index| !held.get(index).copied().unwrap_or(false))
        };
        if fails(create.spawn, spawned) || fails(create.cause, updated) {
            return CreateOutcome::NotSpawned;
        }
        let name = key_name(create);
        if let Some(key) = name.and_then(|name| self.idempotency.get(&name)).filter(|key| key.until > now) {
            return CreateOutcome::Existing {
                id: key.execution,
                input_differs: key.input_hash != create.input_hash,
            };
        }
        if self.executions.contains_key(&create.execution.id()) {
            return CreateOutcome::IdTaken;
        }
        if create.flows.is_some_and(|generation| generation != self.flows_generation) {
            return CreateOutcome::FlowsChanged;
        }
        CreateOutcome::Created
    }

    fn create(&mut self, create: Create, now: Timestamp) {
        if let (Some(name), Some((_, until))) = (key_name(&create), &create.idempotency) {
            let (execution, input_hash) = (create.execution.id(), create.input_hash.clone());
            self.idempotency.insert(name, MemoryKey { execution, input_hash, until: *until });
        }
        self.set_wake(&create.execution);
        self.set_awaited(&create.execution);
        self.store(create.execution, &create.events, create.records, now);
    }

    fn set_wake(&mut self, execution: &Execution) {
        match execution.next_wake() {
            Some(due) => self.timers.insert(execution.id(), due),
            None => self.timers.remove(&execution.id()),
        };
    }

    fn set_awaited(&mut self, execution: &Execution) {
        match awaited_event(execution) {
            Some(name) => self.subscriptions.insert(execution.id(), name.into()),
            None => self.subscriptions.remove(&execution.id()),
        };
    }

    fn store(
        &mut self,
        execution: Arc<Execution>,
        events: &[RecordedEvent],
        records: Vec<Record>,
        now: Timestamp,
    ) {
        let id = execution.id();
        let last = events.last().map_or(execution.events, |recorded| recorded.sequence);
        let decisions = events.chunk_by(|left, right| left.at == right.at).map(<[RecordedEvent]>::to_vec);
        self.history.entry(id).or_default().extend(decisions);
        let tenant = execution.identity.tenant_id.clone();
        self.executions.insert(id, Arc::unwrap_or_clone(execution));
        self.records((id, tenant), last, records, now);
    }

    fn records(
        &mut self,
        (id, tenant): (ExecutionId, Option<String>),
        last: u64,
        records: Vec<Record>,
        now: Timestamp,
    ) {
        let mut published = 0;
        for record in records {
            match record {
                Record::OpenJoin(spec) => {
                    self.specs.insert((spec.parent, spec.join), spec.into());
                }
                Record::InsertRow(row) => {
                    let table = MemoryTable { tenant: tenant.clone(), id: row.table };
                    let known = |(other, known): &(MemoryTable, TableRowRecord)| {
                        *other == table && known.id == row.id
                    };
                    if !self.table_rows.iter().any(known) {
                        let sequence = self.table_rows.last().map_or(1, |(_, last)| last.sequence + 1);
                        let record =
                            TableRowRecord { sequence, id: row.id, row: row.row, execution: id, at: now };
                        self.table_rows.push((table, record));
                    }
                }
                Record::Publish(event) => {
                    let event = PublishedEvent {
                        id: tally::event_id(&event, id, last, published),
                        name: event.name,
                        data: event.data,
                        tenant: tenant.clone(),
                        source: Some(id),
                        at: now,
                        attributes: None,
                    };
                    published += 1;
                    self.publish(event);
                }
                Record::FailedTask(task) => {
                    let sequence = self.failed_tasks.last_key_value().map_or(1, |(last, _)| last + 1);
                    let row = FailedTaskRow { execution: id, at: now, task: *task };
                    self.failed_tasks.insert(sequence, (row, None));
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
    }

    /// Keeps an event unless its tenant has one with its id.
    pub(super) fn publish(&mut self, event: PublishedEvent) -> bool {
        let is_new =
            self.events.iter().all(|(known, _)| known.id != event.id || known.tenant != event.tenant);
        if is_new {
            self.events.push((event, false));
        }
        is_new
    }
}

fn key_name(create: &Create) -> Option<(String, String, String)> {
    let identity = &create.execution.identity;
    let (key, _) = create.idempotency.as_ref()?;
    Some((identity.tenant_id.clone().unwrap_or_default(), identity.flow.id.clone(), key.clone()))
}
