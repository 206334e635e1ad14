//! Operations on many executions: each open one goes on by a batch, whoever of the engines it was asked of.

use super::HasMore;
use crate::engine::{Engine, EngineError};

/// Operations that go on in one tick: a long one does not hold up others.
const OPERATIONS_AT_ONCE: usize = 10;

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Operations that went on.
    pub operations: usize,
    /// Executions that they are done with.
    pub executions: usize,
}

impl HasMore for Carried {
    fn has_more(&self) -> bool {
        self.operations > 0
    }
}

/// Carries out the next batch of the oldest open operations.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Carried, EngineError> {
    let open = engine.store.open_operations(OPERATIONS_AT_ONCE).await?;
    let mut carried = Carried { operations: open.len(), executions: 0 };
    for operation in open {
        carried.executions += engine.carry_on(operation).await?;
    }
    Ok(carried)
}
