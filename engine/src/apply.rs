//! Commands to decisions to one commit: the hot path of the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::decision::ChildStart;
use flowmonkey_core::execution::{
    Creation, Decision, Effect, Event, Execution, FlowReference, Record, Rejection, World,
};
use flowmonkey_core::execution::{children, decide};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash};
use flowmonkey_core::time::{Moment, Timestamp};

use crate::config::{COMMIT_BATCH_MAX, CONFLICTS_MAX};
use crate::effects::Aftermath;
use crate::engine::{Counters, Engine, EngineError};
use crate::flows::{LoadedFlow, resolve_sub_flows};
use crate::store::{Batch, Committed, Create, StoreError, Update, awaited_event, number};
use crate::watch;

/// What came of a command.
#[derive(Clone, Debug)]
pub enum CommandOutcome {
    /// It is decided and stored; the state afterwards.
    Applied(Arc<Execution>),
    /// The core refused it; nothing has changed.
    Rejected(Rejection),
    /// The execution does not exist.
    NotFound,
}

/// Why a single command did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The core refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It could not be decided or stored.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// One execution in a round: everything its decisions need.
pub(crate) struct Loaded {
    pub(crate) execution: Arc<Execution>,
    pub(crate) flow: Arc<LoadedFlow>,
    other_flows: HashMap<FlowHash, Arc<Flow>>,
    outer: Option<Arc<Snapshot>>,
    sub_flows: HashMap<(String, Option<String>), FlowReference>,
}

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

impl Engine {
    /// Applies one command and all that follows from it.
    ///
    /// # Errors
    /// When the core refuses it, the execution does not exist, or the record fails.
    pub async fn command(&self, id: ExecutionId, command: Command) -> Result<Arc<Execution>, CommandError> {
        match self.apply(vec![(id, command)]).await?.pop() {
            Some(CommandOutcome::Applied(execution)) => Ok(execution),
            Some(CommandOutcome::Rejected(rejection)) => Err(rejection.into()),
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
        let outcomes = self.apply_round(commands, &mut aftermath).await?;
        self.settle(aftermath).await?;
        Ok(outcomes)
    }

    /// Applies commands; what follows is left in `aftermath`.
    pub(crate) async fn apply_round(
        &self,
        commands: Vec<(ExecutionId, Command)>,
        aftermath: &mut Aftermath,
    ) -> Result<Vec<CommandOutcome>, EngineError> {
        let mut outcomes = vec![CommandOutcome::NotFound; commands.len()];
        let mut waiting: Vec<(usize, ExecutionId, Command)> =
            commands.into_iter().enumerate().map(|(place, (id, command))| (place, id, command)).collect();
        let mut conflicts = 0;
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(COMMIT_BATCH_MAX));
            let conflicted = self.apply_batch(waiting, &mut outcomes, aftermath).await?;
            if let Some((_, id, _)) = conflicted.first() {
                Counters::add(&self.counters.conflicts, conflicted.len());
                conflicts += 1;
                if conflicts > CONFLICTS_MAX {
                    return Err(EngineError::Contended(*id));
                }
            }
            waiting = conflicted;
            waiting.extend(rest);
        }
        Ok(outcomes)
    }

    /// One commit. Returns the commands whose executions had changed meanwhile.
    async fn apply_batch(
        &self,
        commands: Vec<(usize, ExecutionId, Command)>,
        outcomes: &mut [CommandOutcome],
        aftermath: &mut Aftermath,
    ) -> Result<Vec<(usize, ExecutionId, Command)>, EngineError> {
        let ids: BTreeSet<ExecutionId> = commands.iter().map(|(_, id, _)| *id).collect();
        let mut loaded = BTreeMap::new();
        for execution in self.hot(&ids).await? {
            match self.load_around(execution.clone()).await {
                Ok(around) => {
                    loaded.insert(execution.id(), around);
                }
                // One execution whose flow cannot be read must not stop the others.
                Err(StoreError::Corrupt { what, reason }) => {
                    tracing::error!(execution = %execution.id(), what, reason, "an execution cannot be decided");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut by_execution: BTreeMap<ExecutionId, Vec<(usize, Command)>> = BTreeMap::new();
        for (place, id, command) in commands {
            by_execution.entry(id).or_default().push((place, command));
        }
        let mut decided = Vec::new();
        let mut repeatable = Vec::new();
        let mut refused = BTreeMap::new();
        for (id, commands) in by_execution {
            let Some(around) = loaded.get(&id) else { continue };
            match self.decide_all(around, &commands, outcomes) {
                Some(one) => {
                    repeatable.push(commands);
                    decided.push(one);
                }
                None => {
                    refused.insert(id, commands);
                }
            }
        }
        for around in self.moved_on(&loaded, refused.keys()).await? {
            let id = around.execution.id();
            let Some(commands) = refused.remove(&id) else { continue };
            if let Some(one) = self.decide_all(&around, &commands, outcomes) {
                repeatable.push(commands);
                decided.push(one);
            }
            loaded.insert(id, around);
        }
        if decided.is_empty() {
            return Ok(Vec::new());
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
        let committed = self.committer.commit(&*self.store, batch).await?;
        let mut conflicted = Vec::new();
        for (((one, commands), (events, specs, publishes)), applied) in
            decided.into_iter().zip(repeatable).zip(shown).zip(&committed.updates)
        {
            let id = one.before.id();
            if !*applied {
                self.forget_hot(id);
                conflicted.extend(commands.into_iter().map(|(place, command)| (place, id, command)));
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
            self.note_commit(&after, events);
            aftermath.add_effects(self, &after, one.effects, now);
        }
        self.note_shared(&committed, aftermath);
        Ok(conflicted)
    }

    /// Those of `ids` that have changed in the record since they were loaded. The version guard makes an old copy in
    /// memory harmless for what is accepted; nothing guards a refusal, so that one counts only on the latest state.
    async fn moved_on(
        &self,
        loaded: &BTreeMap<ExecutionId, Loaded>,
        ids: impl Iterator<Item = &ExecutionId>,
    ) -> Result<Vec<Loaded>, EngineError> {
        let ids: Vec<ExecutionId> = ids.copied().collect();
        let mut moved = Vec::new();
        if ids.is_empty() {
            return Ok(moved);
        }
        for current in self.store.load(&ids).await? {
            let id = current.id();
            if loaded.get(&id).is_some_and(|known| known.execution.version != current.version) {
                self.forget_hot(id);
                moved.push(self.load_around(Arc::new(current)).await?);
            }
        }
        Ok(moved)
    }

    /// Watchers, timers and caches after a commit.
    pub(crate) fn note_commit(
        &self,
        after: &Arc<Execution>,
        events: Vec<flowmonkey_core::execution::RecordedEvent>,
    ) {
        Counters::add(&self.counters.decisions, 1);
        self.keep_hot(after);
        if let Some(wake) = after.next_wake() {
            self.timer_hint(wake);
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

    /// Everything that decisions on `execution` need.
    pub(crate) async fn load_around(&self, execution: Arc<Execution>) -> Result<Loaded, StoreError> {
        let flow = self.flows.get(&*self.store, &execution.identity.flow.hash).await?;
        let mut other_flows = HashMap::new();
        let hashes: BTreeSet<FlowHash> = execution.flows_needed().cloned().collect();
        for hash in hashes {
            let other = self.flows.get(&*self.store, &hash).await?;
            other_flows.insert(hash, other.flow.clone());
        }
        let outer = self.outer(&execution).await?;
        let sub_flows = resolve_sub_flows(&*self.store, &flow, &execution).await?;
        Ok(Loaded { execution, flow, other_flows, outer, sub_flows })
    }

    /// Gives the world as `around` shows it to `see`.
    pub(crate) fn with_world<T>(&self, around: &Loaded, see: impl FnOnce(&World<'_>) -> T) -> T {
        let id = around.execution.id();
        see(&World {
            flow: &around.flow.flow,
            flows: &|hash| around.other_flows.get(hash).cloned(),
            outer: around.outer.as_deref(),
            limits: &self.config.limits,
            flow_exists: &|flow, version| {
                around.sub_flows.contains_key(&(flow.to_owned(), version.map(ToOwned::to_owned)))
            },
            handlers: &*self.handlers,
            resume_url: &|step, visit| self.resume_url(id, step, visit),
        })
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
                Ok(creation) => batch.creates.push(create_row(creation, now)),
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
