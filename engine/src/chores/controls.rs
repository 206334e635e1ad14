//! Controls: what people have paused or archived through any engine is known to this one, too, and acted on.

use super::HasMore;
use crate::engine::{Engine, EngineError};

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Tasks that were taken out of queues, as their pools or flows are paused.
    pub taken_back: usize,
    /// Tasks that became ready again, as their pause was lifted.
    pub delivered: usize,
}

impl HasMore for Held {
    fn has_more(&self) -> bool {
        false
    }
}

/// Looks at what is held back.
///
/// # Errors
/// When record or queue fail.
pub async fn tick(engine: &Engine) -> Result<Held, EngineError> {
    let looked = engine.look_at_controls().await?;
    Ok(Held { taken_back: looked.taken_back, delivered: looked.delivered })
}
