//! One commit: executions are loaded, their commands decided, and what came of it is stored.

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_core::execution::Record;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::ids::ExecutionId;

use super::{Again, CommandOutcome, Fault, Placed, Tried};
use crate::effects::Aftermath;
use crate::engine::{Engine, EngineError};
use crate::flows::SubFlows;
use crate::joins::opened_joins;
use crate::store::{Batch, Update, awaited_event, number};

impl Engine {
    /// One commit.
    pub(super) async fn apply_batch(
        &self,
        commands: Vec<Placed>,
        distrusted: &BTreeSet<ExecutionId>,
        outcomes: &mut [CommandOutcome],
        aftermath: &mut Aftermath,
    ) -> Result<Tried, EngineError> {
        let mut by_execution: BTreeMap<ExecutionId, Vec<(usize, Command)>> = BTreeMap::new();
        for (place, id, command) in commands {
            by_execution.entry(id).or_default().push((place, command));
        }
        let ids: BTreeSet<ExecutionId> = by_execution.keys().copied().collect();
        let mut loaded = BTreeMap::new();
        let mut remembered = BTreeSet::new();
        let mut flows = SubFlows::default();
        let found = match self.hot(&ids, distrusted).await {
            // A row that cannot be read, asked for alone.
            Err(error) if ids.len() == 1 => {
                let fault = Fault::from_store(error)?;
                for (place, _) in by_execution.into_values().flatten() {
                    outcomes[place] = CommandOutcome::Failed(fault.clone());
                }
                return Ok(Tried::Done(Vec::new()));
            }
            found => found?,
        };
        for (execution, fresh) in found {
            let id = execution.id();
            if !fresh {
                remembered.insert(id);
            }
            match self.load_around(execution, &mut flows).await {
                Ok(around) => {
                    loaded.insert(id, around);
                }
                Err(error) => {
                    // One execution whose flow cannot be read must not stop the others.
                    let fault = Fault::from_store(error)?;
                    tracing::error!(execution = %id, %fault, "an execution cannot be decided");
                    for (place, _) in by_execution.remove(&id).into_iter().flatten() {
                        outcomes[place] = CommandOutcome::Failed(fault.clone());
                    }
                }
            }
        }
        let mut decided = Vec::new();
        let mut repeatable = Vec::new();
        let mut again = Vec::new();
        for (id, commands) in by_execution {
            let Some(around) = loaded.get_mut(&id) else {
                self.missing(id, ids.len() == 1, &commands, outcomes).await?;
                continue;
            };
            let mut decision = self.decide_all(around, &commands, outcomes);
            // What a decision reads of the record is known once it is made; then it is made again.
            loop {
                match around.fetch(self).await {
                    Ok(false) => break,
                    Ok(true) => decision = self.decide_all(around, &commands, outcomes),
                    Err(error) => {
                        let fault = Fault::from_store(error)?;
                        for (place, _) in &commands {
                            outcomes[*place] = CommandOutcome::Failed(fault.clone());
                        }
                        decision = None;
                        remembered.remove(&id);
                        break;
                    }
                }
            }
            // Decided: what was read for it is let go, however many others are in the batch.
            around.let_go();
            match decision {
                Some(one) => {
                    repeatable.push(commands);
                    decided.push(one);
                }
                // No commit proves that the copy in memory was the record's: an old one must not refuse.
                None if remembered.contains(&id) => {
                    self.forget_hot(id);
                    again.extend(
                        commands.into_iter().map(|(place, command)| Again {
                            command: (place, id, command),
                            conflicted: false,
                        }),
                    );
                }
                None => {}
            }
        }
        if decided.is_empty() {
            return Ok(Tried::Done(again));
        }
        let now = self.now();
        let mut batch = Batch { now, ..Batch::default() };
        for one in &mut decided {
            self.detached_children(one, &loaded, &mut batch, now).await?;
            self.announce(Some(&one.before), &one.after, &mut one.records);
            batch.updates.push(Update {
                execution: one.after.clone(),
                expected_version: one.before.version,
                wake_before: one.before.next_wake(),
                awaited_before: awaited_event(&one.before).map(ToOwned::to_owned),
                // As decided, whatever the time is by now: a replay has to give the same state.
                events: number(&one.after, std::mem::take(&mut one.events), one.after.updated_at),
                records: std::mem::take(&mut one.records),
            });
        }
        let shown: Vec<_> = batch
            .updates
            .iter()
            .map(|update| {
                let publishes = update.records.iter().any(|record| matches!(record, Record::Publish(_)));
                (update.events.clone(), opened_joins(&update.records), publishes)
            })
            .collect();
        let committed = match self.committer.commit(&*self.store, batch).await {
            Ok(committed) => committed,
            Err(error) => {
                // Nobody knows what was stored: the copies in memory may be old now.
                for one in &decided {
                    self.forget_hot(one.before.id());
                }
                self.doubt(&error, decided.iter().map(|one| (&*one.before, &*one.effects)));
                let commands = decided.iter().zip(repeatable).flat_map(|(one, commands)| {
                    let id = one.before.id();
                    commands.into_iter().map(move |(place, command)| (place, id, command))
                });
                let commands = commands.chain(again.into_iter().map(|again| again.command));
                return Ok(Tried::Refused(commands.collect(), error));
            }
        };
        for (((one, commands), (events, specs, publishes)), applied) in
            decided.into_iter().zip(repeatable).zip(shown).zip(&committed.updates)
        {
            let id = one.before.id();
            if !*applied {
                self.forget_hot(id);
                again.extend(
                    commands
                        .into_iter()
                        .map(|(place, command)| Again { command: (place, id, command), conflicted: true }),
                );
                continue;
            }
            let after = one.after;
            for place in one.accepted {
                outcomes[place] = CommandOutcome::Applied(after.clone());
            }
            for spec in specs {
                self.keep_join(&spec);
            }
            if publishes {
                self.event_bell.notify_one();
            }
            self.note_ended_jobs(&mut aftermath.jobs, &after, &events);
            self.note_commit(&after, events);
            aftermath.add_effects(self, &after, one.effects, now);
        }
        self.note_shared(&committed, aftermath);
        Ok(Tried::Done(again))
    }

    /// An execution that was not found among others is missing, or cannot be read: asked for alone, the record says which.
    async fn missing(
        &self,
        id: ExecutionId,
        was_alone: bool,
        commands: &[(usize, Command)],
        outcomes: &mut [CommandOutcome],
    ) -> Result<(), EngineError> {
        let outcome = if was_alone {
            CommandOutcome::NotFound
        } else {
            match self.store.load(&[id]).await {
                Ok(_) => CommandOutcome::NotFound,
                Err(error) => CommandOutcome::Failed(Fault::from_store(error)?),
            }
        };
        for (place, _) in commands {
            outcomes[*place] = outcome.clone();
        }
        Ok(())
    }
}
