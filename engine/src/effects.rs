//! What follows from commits: tasks to publish, children to make, parents to tell. Each effect may be repeated, and each
//! may be lost in a crash; the chores find out.

use std::collections::BTreeSet;
use std::sync::Arc;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::execution::state::{CancelSource, Cost};
use flowmonkey_core::execution::{Effect, Execution};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::{Delivery, QueueError};
use flowmonkey_plumbing::wire::TaskMessage;

use crate::engine::{Engine, EngineError};
use crate::store::{JoinState, Spent};
use crate::wire::{delivery, task_message};

/// Children that are cancelled in one commit.
const CANCEL_CHUNK_MAX: usize = 500;
/// Earlier events of a name that are offered to a wait that begins.
const EARLY_EVENTS_MAX: usize = 1000;

/// What is left to be done after commits.
#[derive(Default)]
pub(crate) struct Aftermath {
    publish: Vec<TaskMessage>,
    cancel: Vec<(TaskId, u32)>,
    drop: Vec<Delivery>,
    pub(crate) commands: Vec<(ExecutionId, Command)>,
    spawn: BTreeSet<(ExecutionId, u32)>,
    cancel_children: BTreeSet<(ExecutionId, u32)>,
    check_joins: BTreeSet<(ExecutionId, u32)>,
    subscribe: Vec<(ExecutionId, Timestamp, String)>,
    pub(crate) joins: Vec<JoinState>,
    pub(crate) spent: Vec<Spent>,
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
                        self.publish.push(task_message(*draft, execution, &engine.config, now));
                    }
                }
                Effect::CancelTask { task, attempt } => {
                    self.cancel.push((TaskId { execution: id, number: task }, attempt))
                }
                Effect::DropTask { task, attempt } => {
                    self.drop.push(delivery(TaskId { execution: id, number: task }, attempt));
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
                    self.subscribe.push((id, execution.identity.created_at, event));
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
    /// of any shape needs the same stack.
    pub(crate) async fn settle(&self, mut aftermath: Aftermath) -> Result<(), EngineError> {
        while !aftermath.is_empty() {
            let now = std::mem::take(&mut aftermath);
            let mut next = Aftermath::default();
            self.tell_queue(now.publish, now.cancel, now.drop, &mut next).await;
            for (parent, join) in now.cancel_children {
                self.cancel_children(parent, join, &mut next).await?;
            }
            let mut states = now.joins;
            for (parent, join) in now.check_joins.into_iter().chain(now.spawn) {
                states.extend(self.store.join_state(parent, join).await?);
            }
            for state in latest(states) {
                self.tend_join(&state, &mut next).await?;
            }
            for (execution, since, event) in now.subscribe {
                for early in self.store.events_since(&event, since, EARLY_EVENTS_MAX).await? {
                    next.commands.push((
                        execution,
                        Command::Event { id: early.id, name: early.name, data: early.data },
                    ));
                }
            }
            for spent in now.spent {
                self.check_budget(spent, &mut next).await?;
            }
            let mut commands = now.commands;
            commands.append(&mut next.commands);
            if !commands.is_empty() {
                // Refusals are answers: the execution has moved on by itself.
                self.apply_round(commands, &mut next).await?;
            }
            aftermath = next;
        }
        Ok(())
    }

    /// Tells the queue. What it cannot be told now, the reconciler finds.
    async fn tell_queue(
        &self,
        publish: Vec<TaskMessage>,
        cancel: Vec<(TaskId, u32)>,
        drop: Vec<Delivery>,
        next: &mut Aftermath,
    ) {
        if !publish.is_empty()
            && let Err(error) = self.queue.push(publish).await
        {
            warn_queue(&error, "tasks were not published");
        }
        if !cancel.is_empty() {
            let deliveries: Vec<Delivery> =
                cancel.iter().map(|(task, attempt)| delivery(*task, *attempt)).collect();
            match self.queue.request_cancel(&deliveries).await {
                // Nobody had started these: they do not have to be waited for.
                Ok(unstarted) => {
                    for (task, attempt) in cancel {
                        if unstarted.contains(&delivery(task, attempt)) {
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

    /// Cancels the children that have not ended; for `join` 0 the fire-and-forget ones that end with their parent.
    pub(crate) async fn cancel_children(
        &self,
        parent: ExecutionId,
        join: u32,
        next: &mut Aftermath,
    ) -> Result<(), EngineError> {
        let mut from = 0;
        loop {
            let children = self.store.live_children(parent, join, from, CANCEL_CHUNK_MAX).await?;
            let Some((last, _)) = children.last() else { return Ok(()) };
            let Some(after) = last.checked_add(1) else { return Ok(()) };
            let commands = children
                .into_iter()
                .map(|(_, child)| {
                    let reason = Some("Parent cancelled".into());
                    (child, Command::Cancel { source: CancelSource::Parent, reason })
                })
                .collect();
            self.apply_round(commands, next).await?;
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

fn warn_queue(error: &QueueError, what: &'static str) {
    tracing::warn!(%error, "{what}; the reconciler will look after it");
}
