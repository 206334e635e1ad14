//! What follows from commits: tasks to publish, children to make, parents to tell. Each effect may be repeated, and each
//! may be lost in a crash; the chores find out.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::execution::state::{CancelSource, Cost};
use flowmonkey_core::execution::{Effect, Execution};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::queue::{Dispatched, QueueError};
use flowmonkey_plumbing::wire::{CheckpointReference, TaskMessage};

use crate::apply::CommandOutcome;
use crate::config::EARLY_EVENTS_MAX;
use crate::engine::{Engine, EngineError};
use crate::jobs::JobChanges;
use crate::store::{CheckpointNote, JoinState, Spent, StoreError};
use crate::wire::{dispatched, task_message};

/// Children that are cancelled in one commit.
const CANCEL_CHUNK_MAX: usize = 500;
/// Earlier events that are offered to a wait in one commit.
const EARLY_EVENTS_PAGE: usize = 500;

/// A wait for an event, which may have been published before it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Who waits.
    pub(crate) execution: ExecutionId,
    /// Its tenant: only events of the same one, or of none, are meant.
    pub(crate) tenant: Option<String>,
    /// When the execution began: older events are not meant.
    pub(crate) since: Timestamp,
    /// The event's name.
    pub(crate) name: String,
}

impl Subscription {
    pub(crate) fn of(execution: &Execution, name: String) -> Self {
        let identity = &execution.identity;
        Self { execution: identity.id, tenant: identity.tenant_id.clone(), since: identity.created_at, name }
    }
}

/// What is left to be done after commits.
#[derive(Default)]
pub(crate) struct Aftermath {
    pub(crate) publish: Vec<TaskMessage>,
    pub(crate) cancel: Vec<(TaskId, u32, String)>,
    pub(crate) drop: Vec<Dispatched>,
    pub(crate) commands: Vec<(ExecutionId, Command)>,
    pub(crate) spawn: BTreeSet<(ExecutionId, u32)>,
    pub(crate) cancel_children: BTreeSet<(ExecutionId, u32)>,
    pub(crate) check_joins: BTreeSet<(ExecutionId, u32)>,
    pub(crate) subscribe: Vec<Subscription>,
    pub(crate) joins: Vec<JoinState>,
    pub(crate) spent: Vec<Spent>,
    pub(crate) jobs: JobChanges,
}

impl Aftermath {
    fn is_empty(&self) -> bool {
        self.publish.is_empty()
            && self.cancel.is_empty()
            && self.drop.is_empty()
            && self.commands.is_empty()
            && self.spawn.is_empty()
            && self.cancel_children.is_empty()
            && self.check_joins.is_empty()
            && self.subscribe.is_empty()
            && self.joins.is_empty()
            && self.spent.is_empty()
            && self.jobs.is_empty()
    }

    /// Notes the wishes of decisions that were stored.
    pub(crate) fn add_effects(
        &mut self,
        engine: &Engine,
        execution: &Arc<Execution>,
        effects: Vec<Effect>,
        now: Timestamp,
    ) {
        let id = execution.id();
        for effect in effects {
            match effect {
                Effect::PublishTask(draft) => {
                    // A later decision of the same commit may have moved on already.
                    if execution.task().is_some_and(|task| {
                        task.run.task == draft.task.number && task.run.attempt == draft.attempt
                    }) {
                        if engine.handlers.any_stateful() && engine.handlers.is_stateful(&draft.handler_type)
                        {
                            self.jobs.published(execution, &draft, now);
                        }
                        self.publish.push(task_message(
                            *draft,
                            execution,
                            &engine.config,
                            &engine.task_tokens,
                            now,
                        ));
                    }
                }
                Effect::CancelTask { task, attempt, pool } => {
                    self.cancel.push((TaskId { execution: id, number: task }, attempt, pool));
                }
                Effect::DropTask { task, attempt, pool } => {
                    self.drop.push(dispatched(TaskId { execution: id, number: task }, attempt, &pool));
                }
                Effect::SpawnChildren { join } => {
                    self.spawn.insert((id, join));
                }
                Effect::CancelChildren { join } => {
                    self.cancel_children.insert((id, join));
                    self.check_joins.insert((id, join));
                }
                Effect::CheckJoin { join } => {
                    self.check_joins.insert((id, join));
                }
                Effect::BeginChild { child } => self.commands.push((child, Command::Begin)),
                Effect::Subscribe { event } => {
                    self.subscribe.push(Subscription::of(execution, event));
                }
                Effect::CancelDetached => {
                    self.cancel_children.insert((id, 0));
                }
            }
        }
    }
}

impl Engine {
    /// Does what follows, and what follows from that, until nothing is left. Not recursive, so that a tree of executions
    /// of any shape needs the same stack. What cannot be followed up for one execution does not stop the others.
    ///
    /// # Errors
    /// When the record is away; what was not done is kept to be tried again.
    pub(crate) async fn settle(&self, mut aftermath: Aftermath) -> Result<(), EngineError> {
        while !aftermath.is_empty() {
            let mut now = std::mem::take(&mut aftermath);
            let mut next = Aftermath::default();
            self.tell_queue(now.publish, now.cancel, now.drop, &mut next).await;
            if !now.jobs.is_empty()
                && let Err(error) = self.store.note_jobs(&now.jobs.take()).await
            {
                tracing::warn!(%error, "where jobs are is noted later");
            }
            let rest = Rest {
                cancel_children: now.cancel_children,
                check_joins: now.check_joins.into_iter().chain(now.spawn).collect(),
                joins: now.joins,
                subscribe: now.subscribe,
                spent: now.spent,
                commands: now.commands,
            };
            if let Err(error) = self.follow_up(&rest, &mut next).await {
                // What was stored on the way is published all the same.
                let (publish, cancel, drop) = (
                    std::mem::take(&mut next.publish),
                    std::mem::take(&mut next.cancel),
                    std::mem::take(&mut next.drop),
                );
                self.tell_queue(publish, cancel, drop, &mut next).await;
                self.left_over.add(rest.into());
                self.left_over.add(next.into());
                return Err(error);
            }
            aftermath = next;
        }
        Ok(())
    }

    async fn follow_up(&self, rest: &Rest, next: &mut Aftermath) -> Result<(), EngineError> {
        for &(parent, join) in &rest.cancel_children {
            bear(self.cancel_children(parent, join, next).await.map(drop))?;
        }
        let mut states = rest.joins.clone();
        for &(parent, join) in &rest.check_joins {
            match self.store.join_state(parent, join).await {
                Ok(state) => states.extend(state),
                Err(error) => bear(Err(error.into()))?,
            }
        }
        for state in latest(states) {
            bear(self.tend_join(&state, next).await)?;
        }
        for subscription in &rest.subscribe {
            bear(self.offer_early_events(subscription, next).await.map(drop))?;
        }
        for spent in &rest.spent {
            bear(self.check_budget(*spent, next).await)?;
        }
        let mut commands = rest.commands.clone();
        commands.append(&mut next.commands);
        if !commands.is_empty() {
            // Refusals are answers: the execution has moved on by itself.
            self.apply_round(commands, next).await?;
        }
        Ok(())
    }

    /// Offers a wait the events of its name that were published since the execution began, until one is taken. Whether
    /// one was.
    pub(crate) async fn offer_early_events(
        &self,
        Subscription { execution, tenant, since, name }: &Subscription,
        next: &mut Aftermath,
    ) -> Result<bool, EngineError> {
        let (execution, mut since) = (*execution, *since);
        let mut offered = 0;
        loop {
            let page = self.store.events_since(tenant.as_deref(), name, since, EARLY_EVENTS_PAGE).await?;
            let Some(last) = page.last().map(|last| last.at) else { return Ok(false) };
            let is_last = page.len() < EARLY_EVENTS_PAGE;
            offered += page.len();
            let commands = page
                .into_iter()
                .map(|early| {
                    let command = Command::Event { id: early.id, name: early.name, data: early.data };
                    (execution, command)
                })
                .collect();
            let outcomes = self.apply_round(commands, next).await?;
            // Taken: a wait that begins after this one asks for itself.
            let taken = outcomes.iter().any(|outcome| matches!(outcome, CommandOutcome::Applied(_)));
            if taken || is_last || offered >= EARLY_EVENTS_MAX {
                return Ok(taken);
            }
            // The last instant again, as more events may share it; but never the same page twice.
            since = if last > since { last } else { last.plus(1) };
        }
    }

    /// Tells the queue. What it cannot be told now, the reconciler finds.
    async fn tell_queue(
        &self,
        publish: Vec<TaskMessage>,
        cancel: Vec<(TaskId, u32, String)>,
        drop: Vec<Dispatched>,
        next: &mut Aftermath,
    ) {
        self.push_tasks(publish).await;
        if !cancel.is_empty() {
            let deliveries: Vec<Dispatched> =
                cancel.iter().map(|(task, attempt, pool)| dispatched(*task, *attempt, pool)).collect();
            match self.queue.request_cancel(&deliveries).await {
                // Nobody had started these: they do not have to be waited for.
                Ok(mut unstarted) => {
                    let asked: Vec<Dispatched> =
                        deliveries.iter().filter(|one| !unstarted.contains(one)).cloned().collect();
                    unstarted.extend(self.held_back(&asked).await);
                    for ((task, attempt, _), delivery) in cancel.into_iter().zip(&deliveries) {
                        if unstarted.contains(delivery) {
                            let attempt = TaskAttempt { task: task.number, attempt };
                            next.commands.push((task.execution, Command::Republish(attempt)));
                        }
                    }
                }
                Err(error) => warn_queue(&error, "workers were not told to cancel"),
            }
        }
        if !drop.is_empty()
            && let Err(error) = self.queue.drop_deliveries(&drop).await
        {
            warn_queue(&error, "old deliveries were not dropped");
        }
    }

    /// Makes tasks ready, with those of others who ask meanwhile.
    async fn push_tasks(&self, tasks: Vec<TaskMessage>) {
        if tasks.is_empty() {
            return;
        }
        let push = async |brought: Vec<Vec<TaskMessage>>| {
            self.push_now(brought.into_iter().flatten().collect()).await;
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.publishing.join(tasks, push).await;
    }

    /// Makes tasks ready. A queue that has no room for all of them gets as many as it takes, if they are of one pool: of several,
    /// some may have become ready and been done by now, and would be done twice if they were pushed again.
    async fn push_now(&self, mut tasks: Vec<TaskMessage>) {
        self.pools.note(tasks.iter().map(|task| task.pool.as_str()));
        if self.controls.any_paused() {
            let held = self.controls.held();
            tasks.retain(|task| {
                held.pause(&task.pool, task.metadata.tenant_id.as_deref(), &task.flow_id).is_none()
            });
        }
        let named = self.with_checkpoints(tasks).await;
        let mut parts = vec![named];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            // Halves are pushed again after a refusal, so they are kept; a queue with room is told once.
            let copy = part.clone();
            crash::point("engine/before-publish");
            match self.queue.push(copy).await {
                Ok(()) => {
                    crash::point("engine/after-publish");
                    self.queue_full.store(false, Ordering::SeqCst);
                }
                Err(QueueError::Full { .. }) if part.len() > 1 && is_of_one_pool(&part) => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => {
                    let full = matches!(error, QueueError::Full { .. });
                    self.queue_full.store(full, Ordering::SeqCst);
                    warn_queue(&error, "tasks were not published");
                    return;
                }
            }
        }
    }

    /// Names the last checkpoints in tasks that may have one: later deliveries. First ones have none, and cost nothing. Left
    /// out are tasks of which the record does not say: workers begin anew where nothing is named, so that such a task is left
    /// to the reconciler.
    async fn with_checkpoints(&self, mut tasks: Vec<TaskMessage>) -> Vec<TaskMessage> {
        let later = |task: &TaskMessage| if task.attempt > 1 { task.task_id.parse().ok() } else { None };
        let asked: Vec<TaskId> = tasks.iter().filter_map(later).collect();
        if asked.is_empty() {
            return tasks;
        }
        match self.store.checkpoint_notes(&asked).await {
            Ok(notes) => {
                let notes: HashMap<TaskId, CheckpointNote> =
                    notes.into_iter().map(|note| (note.task, note)).collect();
                for task in &mut tasks {
                    let note = later(task).and_then(|id| notes.get(&id));
                    task.checkpoint = note.map(|note| CheckpointReference {
                        size: note.bytes,
                        id: note.id.clone(),
                        saved_at: note.saved_at.to_rfc3339(),
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "tasks whose checkpoints are not known are published later");
                tasks.retain(|task| later(task).is_none());
            }
        }
        tasks
    }

    /// Cancels the children that have not ended; for `join` 0 the fire-and-forget ones that end with their parent.
    /// How many were told that were not ending already.
    pub(crate) async fn cancel_children(
        &self,
        parent: ExecutionId,
        join: u32,
        next: &mut Aftermath,
    ) -> Result<usize, EngineError> {
        let mut from = 0;
        let mut told = 0;
        loop {
            let children = self.store.live_children(parent, join, from, CANCEL_CHUNK_MAX).await?;
            let Some((last, _)) = children.last() else { return Ok(told) };
            let after = last.checked_add(1);
            let commands = children
                .into_iter()
                .map(|(_, child)| {
                    let reason = Some("Parent cancelled".into());
                    (child, Command::Cancel { source: CancelSource::Parent, reason })
                })
                .collect();
            let outcomes = self.apply_round(commands, next).await?;
            told += outcomes.iter().filter(|one| matches!(one, CommandOutcome::Applied(_))).count();
            let Some(after) = after else { return Ok(told) };
            from = after;
        }
    }

    /// Ends a tree that has spent its budget, and warns once before.
    async fn check_budget(&self, spent: Spent, next: &mut Aftermath) -> Result<(), EngineError> {
        let Some(root) = self.store.load(&[spent.root]).await?.pop() else { return Ok(()) };
        if root.is_terminal() {
            return Ok(());
        }
        let budget = self.flows.get(&*self.store, &root.identity.flow.hash).await?.flow.budget;
        let Cost { usd, attempts, .. } = spent.cost;
        let over = budget.max_cost_usd.is_some_and(|limit| usd > limit)
            || budget.max_attempts.is_some_and(|limit| attempts > limit);
        if over {
            next.commands.push((spent.root, Command::BudgetExceeded { spent: spent.cost }));
        } else if !root.budget_warned && budget.warn_cost_usd.is_some_and(|limit| usd > limit) {
            next.commands.push((spent.root, Command::BudgetWarning { spent: spent.cost }));
        }
        Ok(())
    }
}

/// What is to be followed up in the record.
pub(crate) struct Rest {
    pub(crate) cancel_children: BTreeSet<(ExecutionId, u32)>,
    pub(crate) check_joins: BTreeSet<(ExecutionId, u32)>,
    pub(crate) joins: Vec<JoinState>,
    pub(crate) subscribe: Vec<Subscription>,
    pub(crate) spent: Vec<Spent>,
    pub(crate) commands: Vec<(ExecutionId, Command)>,
}

/// What concerns one execution only is logged, and left to the chores.
pub(crate) fn bear(result: Result<(), EngineError>) -> Result<(), EngineError> {
    let Err(error) = result else { return Ok(()) };
    match error {
        EngineError::Store(StoreError::Corrupt { .. } | StoreError::Internal { .. })
        | EngineError::Contended(_)
        | EngineError::ExecutionNotFound(_)
        | EngineError::FlowNotFound(_)
        | EngineError::IdTaken(_)
        | EngineError::NotEnded(_)
        | EngineError::Start(_) => {
            tracing::warn!(%error, "what follows from a commit is left to the chores");
            Ok(())
        }
        EngineError::Store(
            StoreError::Unavailable { .. } | StoreError::Full { .. } | StoreError::Schema { .. },
        )
        | EngineError::Queue(_) => Err(error),
    }
}

/// One state per fan-out: counters only grow, so the one with the most is the latest.
fn latest(states: Vec<JoinState>) -> Vec<JoinState> {
    let mut latest: std::collections::BTreeMap<(ExecutionId, u32), JoinState> =
        std::collections::BTreeMap::new();
    for state in states {
        let key = (state.parent, state.join);
        match latest.get(&key) {
            Some(known)
                if (known.spawned, known.ended(), known.closing)
                    >= (state.spawned, state.ended(), state.closing) => {}
            Some(_) | None => {
                latest.insert(key, state);
            }
        }
    }
    latest.into_values().collect()
}

fn is_of_one_pool(tasks: &[TaskMessage]) -> bool {
    tasks.windows(2).all(|pair| pair[0].pool == pair[1].pool)
}

fn warn_queue(error: &QueueError, what: &'static str) {
    tracing::warn!(%error, "{what}; the reconciler will look after it");
}
