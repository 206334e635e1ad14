//! Commands to decisions to one commit: the hot path of the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::decision::ChildStart;
use flowmonkey_core::execution::{Creation, Decision, Effect, Event, Execution, Record};
use flowmonkey_core::execution::{children, decide};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::{Moment, Timestamp};

use crate::around::Loaded;
use crate::config::{COMMIT_BATCH_MAX, CONFLICTS_MAX};
use crate::datasets::Datasets;
use crate::effects::Aftermath;
use crate::engine::{Counters, Engine, EngineError};
use crate::flows::SubFlows;
pub use crate::outcome::{CommandError, CommandOutcome, Fault};
use crate::store::{Batch, Committed, Create, StoreError, Update, awaited_event, number};
use crate::watch;

/// The decisions of one execution in a round.
struct Decided {
    before: Arc<Execution>,
    after: Execution,
    events: Vec<Event>,
    records: Vec<Record>,
    effects: Vec<Effect>,
    /// Places of the commands that were accepted.
    accepted: Vec<usize>,
}

/// A command with the place of its outcome.
type Placed = (usize, ExecutionId, Command);

/// What came of a try to decide and store commands.
enum Tried {
    /// They are stored, but for these, which are to be decided again.
    Done(Vec<Again>),
    /// The record refused the commit; nothing is stored.
    Refused(Vec<Placed>, StoreError),
}

/// A command that is to be decided again, on the execution as the record has it.
struct Again {
    command: Placed,
    /// Whether that is because the execution had changed meanwhile.
    conflicted: bool,
}

impl Engine {
    /// Applies one command and all that follows from it.
    ///
    /// # Errors
    /// When the core refuses it, the execution does not exist, or the record fails.
    pub async fn command(&self, id: ExecutionId, command: Command) -> Result<Arc<Execution>, CommandError> {
        match self.apply(vec![(id, command)]).await?.pop() {
            Some(CommandOutcome::Applied(execution)) => Ok(execution),
            Some(CommandOutcome::Rejected(rejection)) => Err(rejection.into()),
            Some(CommandOutcome::Failed(fault)) => Err(fault.of(id).into()),
            Some(CommandOutcome::NotFound) | None => Err(EngineError::ExecutionNotFound(id).into()),
        }
    }

    /// Applies commands in one commit and then all that follows from them. Outcomes come in the order of the commands.
    ///
    /// # Errors
    /// When the record fails; the caller may repeat all of it.
    pub async fn apply(
        &self,
        commands: Vec<(ExecutionId, Command)>,
    ) -> Result<Vec<CommandOutcome>, EngineError> {
        let _work = self.work();
        let mut aftermath = Aftermath::default();
        let outcomes = self.apply_round(commands, &mut aftermath).await;
        // What is stored is stored, even if a later commit failed; what follows from it is left to the chores if it
        // fails now.
        if let Err(error) = self.settle(aftermath).await {
            tracing::warn!(%error, "what follows from a commit is left to the chores");
        }
        outcomes
    }

    /// Applies commands; what follows is left in `aftermath`, also of what was stored before an error.
    pub(crate) async fn apply_round(
        &self,
        commands: Vec<(ExecutionId, Command)>,
        aftermath: &mut Aftermath,
    ) -> Result<Vec<CommandOutcome>, EngineError> {
        let mut outcomes = vec![CommandOutcome::NotFound; commands.len()];
        let mut conflicts: HashMap<ExecutionId, usize> = HashMap::new();
        // Executions whose copy in memory has proved old.
        let mut distrusted: BTreeSet<ExecutionId> = BTreeSet::new();
        let mut waiting: VecDeque<Vec<Placed>> = VecDeque::new();
        let mut commands =
            commands.into_iter().enumerate().map(|(place, (id, command))| (place, id, command));
        loop {
            let chunk: Vec<Placed> = commands.by_ref().take(COMMIT_BATCH_MAX).collect();
            if chunk.is_empty() {
                break;
            }
            waiting.push_back(chunk);
        }
        while let Some(chunk) = waiting.pop_front() {
            match self.apply_batch(chunk, &distrusted, &mut outcomes, aftermath).await? {
                Tried::Done(again) => {
                    let mut next = Vec::with_capacity(again.len());
                    for Again { command, conflicted } in again {
                        let id = command.1;
                        distrusted.insert(id);
                        next.push(command);
                        Counters::add(&self.counters.conflicts, usize::from(conflicted));
                    }
                    for id in next.iter().map(|(_, id, _)| *id).collect::<BTreeSet<_>>() {
                        *conflicts.entry(id).or_default() += 1;
                    }
                    next.retain(|(place, id, _)| {
                        let goes_on = conflicts.get(id).is_none_or(|count| *count <= CONFLICTS_MAX);
                        if !goes_on {
                            outcomes[*place] = CommandOutcome::Failed(Fault::Contended);
                        }
                        goes_on
                    });
                    // Before those that came later, so that each execution's commands keep their order.
                    if !next.is_empty() {
                        waiting.push_front(next);
                    }
                }
                Tried::Refused(commands, error) => {
                    let fault = Fault::from_store(error)?;
                    let mut ids: Vec<ExecutionId> = commands.iter().map(|(_, id, _)| *id).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    if ids.len() <= 1 {
                        tracing::error!(execution = ?ids.first(), %fault, "a decision cannot be stored");
                        for (place, _, _) in commands {
                            outcomes[place] = CommandOutcome::Failed(fault.clone());
                        }
                        continue;
                    }
                    // One bad execution must not stop the others: the batch is halved until it is alone.
                    let middle = ids[ids.len() / 2];
                    let (first, second) = commands.into_iter().partition(|(_, id, _)| *id < middle);
                    waiting.push_front(second);
                    waiting.push_front(first);
                }
            }
        }
        Ok(outcomes)
    }

    /// One commit.
    async fn apply_batch(
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
            // What a decision reads of datasets is known once it is made; then it is made again.
            loop {
                match around.datasets.fetch(self, around.execution.identity.root).await {
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
            around.datasets = Datasets::default();
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
            batch.updates.push(Update {
                execution: one.after.clone(),
                expected_version: one.before.version,
                wake_before: one.before.next_wake(),
                awaited_before: awaited_event(&one.before).map(ToOwned::to_owned),
                // As decided, whatever the time is by now: a replay has to give the same state.
                events: number(&one.after, one.events.clone(), one.after.updated_at),
                records: std::mem::take(&mut one.records),
            });
        }
        let shown: Vec<_> = batch
            .updates
            .iter()
            .map(|update| {
                let publishes = update.records.iter().any(|record| matches!(record, Record::Publish(_)));
                (update.events.clone(), join_specs(&update.records), publishes)
            })
            .collect();
        let committed = match self.committer.commit(&*self.store, batch).await {
            Ok(committed) => committed,
            Err(error) => {
                // Nobody knows what was stored: the copies in memory may be old now.
                for one in &decided {
                    self.forget_hot(one.before.id());
                }
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
            let after = Arc::new(one.after);
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

    /// Watchers, timers and caches after a commit.
    pub(crate) fn note_commit(
        &self,
        after: &Arc<Execution>,
        events: Vec<flowmonkey_core::execution::RecordedEvent>,
    ) {
        Counters::add(&self.counters.decisions, 1);
        self.keep_hot(after);
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).forget(after.id());
        if let Some(wake) = after.next_wake() {
            self.timer_hint(after.id(), wake);
        }
        if self.watchers.is_followed() {
            let update = watch::CommittedUpdate { execution: after.clone(), events };
            self.watchers.tell(watch::Update::Committed(Arc::new(update)));
        }
        if after.is_terminal() {
            self.watchers.ended(after);
        }
    }

    /// Fan-outs and budgets after a commit.
    pub(crate) fn note_shared(&self, committed: &Committed, aftermath: &mut Aftermath) {
        aftermath.joins.extend(committed.joins.iter().filter(|join| join.needs_attention()).cloned());
        aftermath.spent.extend(committed.spent.iter().copied());
    }

    /// Decides the commands of one execution, each on the state that the one before it left.
    fn decide_all(
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
                                after: execution,
                                events,
                                records,
                                effects,
                                accepted: vec![*place],
                            });
                        }
                        Some(decided) => {
                            decided.after = execution;
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
    async fn detached_children(
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
        execution: creation.execution,
        records: Vec::new(),
        idempotency: creation.idempotency,
        input_hash: String::new(),
        spawn: None,
        cause: None,
    }
}

fn join_specs(records: &[Record]) -> Vec<Arc<flowmonkey_core::execution::JoinSpec>> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::OpenJoin(spec) => Some(Arc::new((**spec).clone())),
            Record::CloseJoin { .. }
            | Record::EndJoin { .. }
            | Record::ChildEnded { .. }
            | Record::StartChild(_)
            | Record::InsertRow(_)
            | Record::Publish(_)
            | Record::Spend { .. }
            | Record::FailedTask(_) => None,
        })
        .collect()
}
