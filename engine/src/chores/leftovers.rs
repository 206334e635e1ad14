//! Leftovers: what follows from commits of this engine and could not be done, because the record was away for a moment, is
//! done now.

use super::HasMore;
use crate::engine::{Engine, EngineError};

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Things that were left to be done.
    pub done: usize,
}

impl HasMore for Finished {
    fn has_more(&self) -> bool {
        false
    }
}

/// Does what was left. Costs nothing while there is nothing.
///
/// # Errors
/// When the record is still away.
pub async fn tick(engine: &Engine) -> Result<Finished, EngineError> {
    Ok(Finished { done: engine.do_what_was_left().await? })
}
