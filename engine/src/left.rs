//! What follows from commits and could not be done, as the record was away or did not answer. It is kept here, and done when the
//! record is back; what is lost with this process is found by the chores.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::{Effect, Execution};
use flowmonkey_core::ids::ExecutionId;

use crate::effects::{Aftermath, Rest, Subscription};
use crate::engine::{Engine, EngineError};
use crate::store::{Spent, StoreError};

/// What is kept at most; the sweeper finds the rest.
const LEFT_MAX: usize = 10_000;

/// What is left to be done. All of it may be done again, and in any order.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) cancel_children: BTreeSet<(ExecutionId, u32)>,
    pub(crate) check_joins: BTreeSet<(ExecutionId, u32)>,
    pub(crate) subscribe: Vec<Subscription>,
    pub(crate) spent: Vec<Spent>,
    pub(crate) commands: Vec<(ExecutionId, Command)>,
}

impl Left {
    pub(crate) fn len(&self) -> usize {
        self.cancel_children.len()
            + self.check_joins.len()
            + self.subscribe.len()
            + self.spent.len()
            + self.commands.len()
    }

    fn append(&mut self, mut other: Self) {
        self.cancel_children.append(&mut other.cancel_children);
        self.check_joins.append(&mut other.check_joins);
        self.subscribe.append(&mut other.subscribe);
        self.spent.append(&mut other.spent);
        self.commands.append(&mut other.commands);
    }
}

impl From<Rest> for Left {
    fn from(rest: Rest) -> Self {
        let Rest { cancel_children, mut check_joins, joins, subscribe, spent, commands } = rest;
        // Not the counters: they are old by the time.
        check_joins.extend(joins.into_iter().map(|state| (state.parent, state.join)));
        Self { cancel_children, check_joins, subscribe, spent, commands }
    }
}

impl From<Aftermath> for Left {
    fn from(aftermath: Aftermath) -> Self {
        let Aftermath {
            // The reconciler finds out.
            publish: _,
            cancel: _,
            drop: _,
            // The chore of jobs finds out.
            jobs: _,
            mut commands,
            spawn,
            cancel_children,
            mut check_joins,
            subscribe,
            joins,
            spent,
        } = aftermath;
        check_joins.extend(spawn);
        // They follow from the counters again, and carry results.
        commands.retain(|(_, one)| !matches!(one, Command::JoinEnded(_) | Command::JoinDecided { .. }));
        Rest { cancel_children, check_joins, joins, subscribe, spent, commands }.into()
    }
}

impl From<Left> for Aftermath {
    fn from(left: Left) -> Self {
        let Left { cancel_children, check_joins, subscribe, spent, commands } = left;
        Self { cancel_children, check_joins, subscribe, spent, commands, ..Self::default() }
    }
}

/// Where an engine keeps it.
#[derive(Default)]
pub(crate) struct LeftOver(Mutex<Left>);

impl LeftOver {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, more: Left) {
        let mut left = self.left();
        if left.len() + more.len() <= LEFT_MAX {
            left.append(more);
        }
    }

    pub(crate) fn take(&self) -> Left {
        std::mem::take(&mut *self.left())
    }
}

impl Engine {
    /// Keeps what is to be looked at after a commit of which nobody knows whether it took effect: only what the record
    /// itself decides, so that nothing is done for a commit that did not.
    pub(crate) fn doubt<'a>(
        &self,
        error: &StoreError,
        decided: impl IntoIterator<Item = (&'a Execution, &'a [Effect])>,
    ) {
        match error {
            StoreError::Unavailable { .. } => {}
            StoreError::Full { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Internal { .. }
            | StoreError::Schema { .. } => return,
        }
        let mut left = Left::default();
        for (execution, effects) in decided {
            let id = execution.id();
            let parent = execution.identity.parent.as_ref().filter(|link| link.is_joined());
            left.check_joins.extend(parent.map(|link| (link.execution, link.join)));
            for effect in effects {
                match effect {
                    Effect::SpawnChildren { join } | Effect::CheckJoin { join } => {
                        left.check_joins.insert((id, *join));
                    }
                    Effect::Subscribe { event } => {
                        left.subscribe.push(Subscription::of(execution, event.clone()));
                    }
                    // Tasks are found by the reconciler. The others would undo what goes on, had the commit failed.
                    Effect::PublishTask(_)
                    | Effect::CancelTask { .. }
                    | Effect::DropTask { .. }
                    | Effect::CancelChildren { .. }
                    | Effect::BeginChild { .. }
                    | Effect::CancelDetached => {}
                }
            }
        }
        self.left_over.add(left);
    }

    /// Tries again what was left; how much that was.
    ///
    /// # Errors
    /// When the record is still away: then it is left again.
    pub(crate) async fn do_what_was_left(&self) -> Result<usize, EngineError> {
        let left = self.left_over.take();
        let count = left.len();
        if count > 0 {
            let _work = self.work();
            self.settle(Aftermath::from(left)).await?;
        }
        Ok(count)
    }
}
