//! What a batch does to fan-outs and budgets: the rules that every store shares.
//!
//! A store loads the rows that [`touched_joins`] and [`touched_budgets`] name, lets a [`Tally`] work on them within its
//! transaction, and writes back what has changed.

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_core::execution::command::EmittedEvent;
use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{Execution, JoinSpec, Record};
use flowmonkey_core::ids::ExecutionId;

use super::model::{Batch, JoinState, Spawn, Spent};

/// Names a fan-out: the parent and the number of the fan-out in it.
pub(crate) type JoinKey = (ExecutionId, u32);

/// Every fan-out that a batch may read or change.
pub(crate) fn touched_joins(batch: &Batch) -> BTreeSet<JoinKey> {
    let mut keys: BTreeSet<JoinKey> = batch.spawns.iter().map(|spawn| (spawn.parent, spawn.join)).collect();
    for (execution, record) in all_records(batch) {
        match record {
            Record::OpenJoin(spec) => {
                keys.insert((spec.parent, spec.join));
            }
            Record::CloseJoin { join } | Record::EndJoin { join } => {
                keys.insert((execution, *join));
            }
            Record::ChildEnded { parent, .. } => {
                keys.insert((parent.execution, parent.join));
            }
            Record::StartChild(_)
            | Record::InsertRow(_)
            | Record::Publish(_)
            | Record::Spend { .. }
            | Record::FailedTask(_) => {}
        }
    }
    keys
}

/// Every budget that a batch may spend from.
pub(crate) fn touched_budgets(batch: &Batch) -> BTreeSet<ExecutionId> {
    let mut roots = BTreeSet::new();
    for (_, record) in all_records(batch) {
        if let Record::Spend { root, .. } = record {
            roots.insert(*root);
        }
    }
    roots
}

fn all_records(batch: &Batch) -> impl Iterator<Item = (ExecutionId, &Record)> {
    let updates = batch.updates.iter().map(|update| (update.execution.id(), &update.records));
    let creates = batch.creates.iter().map(|create| (create.execution.id(), &create.records));
    updates.chain(creates).flat_map(|(id, records)| records.iter().map(move |record| (id, record)))
}

/// The fan-outs and budgets of a batch while it is applied.
///
/// The order is: what the updates open and close; then [`Self::spawn`]; then what the accepted creates open and close;
/// then [`Self::settle`] counts the children that ended, and ends fan-outs whose parents have taken the result. So a
/// child that is made and ends in one batch is counted, and a fan-out that closes in a batch gets no more children in it.
pub(super) struct Tally {
    joins: BTreeMap<JoinKey, JoinState>,
    budgets: BTreeMap<ExecutionId, Cost>,
    changed: BTreeSet<JoinKey>,
    ended: BTreeSet<JoinKey>,
    counts: BTreeMap<JoinKey, Count>,
}

#[derive(Default)]
struct Count {
    succeeded: u32,
    failed: u32,
    cost: Cost,
}

/// What is to be written back.
pub(super) struct Settled {
    /// Fan-outs that have changed and are still there.
    pub(super) joins: Vec<JoinState>,
    /// Fan-outs that are over.
    pub(super) ended: Vec<JoinKey>,
    /// Budgets that were spent from.
    pub(super) spent: Vec<Spent>,
}

impl Tally {
    /// Works on the rows as they are.
    pub(super) fn new(joins: BTreeMap<JoinKey, JoinState>, budgets: BTreeMap<ExecutionId, Cost>) -> Self {
        Self { joins, budgets, changed: BTreeSet::new(), ended: BTreeSet::new(), counts: BTreeMap::new() }
    }

    /// Takes the records of a change that counts.
    pub(super) fn take(
        &mut self,
        execution: ExecutionId,
        records: &[Record],
        spent: &mut BTreeSet<ExecutionId>,
    ) {
        for record in records {
            match record {
                Record::OpenJoin(spec) => {
                    let key = (spec.parent, spec.join);
                    self.joins.insert(key, begin(spec));
                    self.changed.insert(key);
                }
                Record::CloseJoin { join } => {
                    let key = (execution, *join);
                    if let Some(state) = self.joins.get_mut(&key) {
                        state.closing = true;
                        self.changed.insert(key);
                    }
                }
                Record::EndJoin { join } => {
                    self.ended.insert((execution, *join));
                }
                Record::ChildEnded { parent, succeeded, cost } => {
                    let count = self.counts.entry((parent.execution, parent.join)).or_default();
                    if *succeeded {
                        count.succeeded += 1;
                    } else {
                        count.failed += 1;
                    }
                    count.cost = add(count.cost, *cost);
                }
                Record::Spend { root, cost } => {
                    let budget = self.budgets.entry(*root).or_default();
                    *budget = add(*budget, *cost);
                    spent.insert(*root);
                }
                Record::StartChild(_) | Record::InsertRow(_) | Record::Publish(_) | Record::FailedTask(_) => {
                }
            }
        }
    }

    /// Makes room for children, if the fan-out has as many as the spawn says and still takes more.
    pub(super) fn spawn(&mut self, spawn: &Spawn) -> bool {
        let key = (spawn.parent, spawn.join);
        let Some(state) = self.joins.get_mut(&key) else { return false };
        if state.closing || state.spawned != spawn.from || spawn.to < spawn.from || spawn.to > state.total {
            return false;
        }
        state.spawned = spawn.to;
        self.changed.insert(key);
        true
    }

    /// Counts, ends, and says what is to be written. A child whose fan-out is over counts for nobody.
    pub(super) fn settle(self, spent: BTreeSet<ExecutionId>) -> Settled {
        let Self { mut joins, budgets, mut changed, ended, counts } = self;
        for (key, count) in counts {
            if let Some(state) = joins.get_mut(&key) {
                // No more children can have ended than were made, whatever the batch says: a wrong count must not stop
                // the whole batch for ever.
                let left = state.spawned.saturating_sub(state.ended());
                let succeeded = count.succeeded.min(left);
                state.succeeded += succeeded;
                state.failed += count.failed.min(left - succeeded);
                state.cost = add(state.cost, count.cost);
                changed.insert(key);
            }
        }
        joins.retain(|key, _| changed.contains(key) && !ended.contains(key));
        Settled {
            joins: joins.into_values().collect(),
            ended: ended.into_iter().collect(),
            spent: spent
                .into_iter()
                .filter_map(|root| budgets.get(&root).map(|cost| Spent { root, cost: *cost }))
                .collect(),
        }
    }
}

/// A fan-out at its beginning.
fn begin(spec: &JoinSpec) -> JoinState {
    JoinState {
        parent: spec.parent,
        join: spec.join,
        total: spec.total,
        max_live: spec.max_live,
        spawned: 0,
        succeeded: 0,
        failed: 0,
        closing: false,
        stop_at_failed: spec.stop_at_failed,
        stop_at_succeeded: spec.stop_at_succeeded,
        cost: Cost::default(),
    }
}

/// A sum that every database can hold: what does not fit stops at the largest number.
fn add(left: Cost, right: Cost) -> Cost {
    const MAX: u64 = i64::MAX as u64;
    let sum = left.plus(right);
    let usd = if sum.usd.is_finite() { sum.usd } else { f64::MAX };
    Cost { usd, tokens: sum.tokens.min(MAX), attempts: sum.attempts.min(MAX) }
}

/// The id of the event that an execution publishes: stable however often the decision is stored.
pub(super) fn event_id(
    event: &EmittedEvent,
    execution: ExecutionId,
    last_sequence: u64,
    number: usize,
) -> String {
    match &event.id {
        Some(id) => id.clone(),
        None => format!("{execution}:{last_sequence}:{number}"),
    }
}

/// Where an execution's own outer snapshot is: the fan-out that made it. None for an execution that sees nothing outside.
pub(super) fn outer_of(execution: &Execution, spec: &JoinSpec) -> Option<JoinKey> {
    spec.snapshot.outer.as_ref()?;
    execution.identity.parent.filter(|link| link.is_joined()).map(|link| (link.execution, link.join))
}
