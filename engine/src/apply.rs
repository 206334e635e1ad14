//! Commands to decisions to commits: the hot path of the engine.

mod batch;
mod decided;
mod noted;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::ids::ExecutionId;

use crate::config::{COMMIT_BATCH_MAX, CONFLICTS_MAX};
use crate::effects::Aftermath;
use crate::engine::{Counters, Engine, EngineError};
pub use crate::outcome::{CommandError, CommandOutcome, Fault};
use crate::store::StoreError;

pub(crate) use decided::create_row;

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
}
