//! The sweeper: every execution that has not ended has a live cause. Fan-outs whose effects were lost in a crash are
//! looked after here; each repair is counted, and the goal is none.

use super::HasMore;
use crate::effects::Aftermath;
use crate::engine::{Counters, Engine, EngineError};

/// Fan-outs looked at in one tick.
const SWEEP_BATCH_MAX: usize = 200;

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Swept {
    /// Fan-outs that needed attention.
    pub joins: usize,
}

impl HasMore for Swept {
    fn has_more(&self) -> bool {
        false
    }
}

/// Looks after fan-outs that nobody looks after.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Swept, EngineError> {
    let mut joins = 0;
    let mut last = None;
    loop {
        let page = engine.store.joins_to_tend(last, SWEEP_BATCH_MAX).await?;
        let Some(end) = page.last() else { return Ok(Swept { joins }) };
        last = Some((end.parent, end.join));
        joins += page.len();
        Counters::add(&engine.counters.repairs, page.len());
        let mut aftermath = Aftermath::default();
        for state in &page {
            if state.closing && !state.is_complete() {
                engine.cancel_children(state.parent, state.join, &mut aftermath).await?;
            }
        }
        aftermath.joins.extend(page);
        engine.settle(aftermath).await?;
    }
}
