//! Deletion of executions with all that belongs to them, before their time.

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::ids::ExecutionId;

use crate::engine::{Engine, EngineError};

/// Executions that go in one transaction.
const DELETE_BATCH_MAX: usize = 500;
/// Times that executions of a tree are ended before others must have begun new ones each time.
const TERMINATIONS_MAX: usize = 64;

/// Why an execution is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It, or one below it, has not ended.
    #[error("{0} has not ended; only a tree of executions that has can be deleted")]
    Live(ExecutionId),
    /// It is a child: trees go as a whole.
    #[error("the execution is a child; delete the root of its tree, {0}")]
    Child(ExecutionId),
    /// Record or queue failed, or there is no such execution.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Engine {
    /// Deletes an execution, its children, and all that belongs to them: history, checkpoints, logs, progress, jobs, parked
    /// tasks, published events, and its idempotency key. Objects of the object store go a little later. With `terminate`
    /// what has not ended is ended first. How many executions went.
    ///
    /// # Errors
    /// See [`DeleteError`]. What went until then is gone; the call may be repeated.
    pub async fn delete(&self, id: ExecutionId, terminate: bool) -> Result<usize, DeleteError> {
        let mut root = self.execution(id).await?;
        if root.identity.parent.is_some() {
            return Err(DeleteError::Child(root.identity.root));
        }
        for _ in 0..TERMINATIONS_MAX {
            let live = self.store.live_in_tree(id, DELETE_BATCH_MAX).await.map_err(EngineError::from)?;
            // The root first: from then on nobody begins a child.
            let alive: Vec<ExecutionId> =
                (!root.is_terminal()).then_some(id).into_iter().chain(live).collect();
            let Some(first) = alive.first().copied() else { break };
            if !terminate {
                return Err(DeleteError::Live(first));
            }
            let reason = || Some("deleted".to_owned());
            let commands = alive.into_iter().map(|id| (id, Command::Terminate { reason: reason() }));
            self.apply(commands.collect()).await?;
            root = self.execution(id).await?;
        }
        self.forget_hot(id);
        let mut gone = 0;
        loop {
            let step = self.store.delete_tree(&root, DELETE_BATCH_MAX).await.map_err(EngineError::from)?;
            if step == 0 {
                break;
            }
            gone += step;
        }
        if gone == 0 { Err(DeleteError::Live(id)) } else { Ok(gone) }
    }
}
