//! Decisions of one execution, and the rows of what is made with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::decision::ChildStart;
use flowmonkey_core::execution::{Creation, Decision, Effect, Event, Execution, Record, children, decide};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::{Moment, Timestamp};

use super::CommandOutcome;
use crate::around::Loaded;
use crate::engine::{Engine, EngineError};
use crate::store::{Batch, Create, number};

/// The decisions of one execution in a round.
pub(super) struct Decided {
    pub(super) before: Arc<Execution>,
    pub(super) after: Arc<Execution>,
    pub(super) events: Vec<Event>,
    pub(super) records: Vec<Record>,
    pub(super) effects: Vec<Effect>,
    /// Places of the commands that were accepted.
    pub(super) accepted: Vec<usize>,
}

impl Engine {
    /// Decides the commands of one execution, each on the state that the one before it left.
    pub(super) fn decide_all(
        &self,
        around: &Loaded,
        commands: &[(usize, Command)],
        outcomes: &mut [CommandOutcome],
    ) -> Option<Decided> {
        let mut decided: Option<Decided> = None;
        let now = self.now();
        self.with_world(around, |world| {
            for (place, command) in commands {
                let current = decided.as_ref().map_or(&*around.execution, |decided| &decided.after);
                match decide(current, world, command.clone(), Moment { now, ..self.moment() }) {
                    Ok(Decision { execution, events, records, effects }) => match &mut decided {
                        None => {
                            decided = Some(Decided {
                                before: around.execution.clone(),
                                after: Arc::new(execution),
                                events,
                                records,
                                effects,
                                accepted: vec![*place],
                            });
                        }
                        Some(decided) => {
                            decided.after = Arc::new(execution);
                            decided.events.extend(events);
                            decided.records.extend(records);
                            decided.effects.extend(effects);
                            decided.accepted.push(*place);
                        }
                    },
                    Err(rejection) => outcomes[*place] = CommandOutcome::Rejected(rejection),
                }
            }
        });
        decided
    }

    /// Turns fire-and-forget children into creates of the same commit.
    pub(super) async fn detached_children(
        &self,
        one: &mut Decided,
        loaded: &BTreeMap<ExecutionId, Loaded>,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let starts: Vec<ChildStart> = one
            .records
            .iter()
            .filter_map(|record| match record {
                Record::StartChild(start) => Some((**start).clone()),
                Record::OpenJoin(_)
                | Record::CloseJoin { .. }
                | Record::EndJoin { .. }
                | Record::ChildEnded { .. }
                | Record::InsertRow(_)
                | Record::Publish(_)
                | Record::Spend { .. }
                | Record::FailedTask(_) => None,
            })
            .collect();
        for start in starts {
            let around = loaded.get(&one.before.id());
            let key = (start.start.flow_id.clone(), start.start.version.clone());
            let Some(reference) = around.and_then(|around| around.sub_flows.get(&key)) else { continue };
            let flow = self.flows.get(&*self.store, &reference.hash).await?;
            match children::detached(&start, &flow.flow, &self.config.limits, now) {
                Ok(creation) => {
                    let cause = Some(batch.updates.len());
                    batch.creates.push(Create { cause, ..create_row(creation, now) });
                }
                // Nobody waits for it: what is left is to say so.
                Err(error) => {
                    tracing::warn!(execution = %one.before.id(), flow = reference.id, %error, "a sub-flow did not start");
                }
            }
        }
        Ok(())
    }
}

/// A new execution that has not begun, as a row.
pub(crate) fn create_row(creation: Creation, now: Timestamp) -> Create {
    Create {
        events: number(&creation.execution, vec![creation.event], now),
        execution: Arc::new(creation.execution),
        records: Vec::new(),
        idempotency: creation.idempotency,
        input_hash: String::new(),
        spawn: None,
        cause: None,
        flows: None,
    }
}
