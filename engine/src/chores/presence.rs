//! Presence: tells the queue that this engine lives, takes over the results of engines that do not, and learns which
//! workers are there.

use std::sync::atomic::Ordering;

use super::HasMore;
use super::collector::collector_name;
use crate::engine::{Engine, EngineError};

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Results of dead engines that can be taken again.
    pub adopted: usize,
    /// Workers that are there.
    pub workers: usize,
}

impl HasMore for Present {
    fn has_more(&self) -> bool {
        false
    }
}

/// Gives a sign of life, and looks who else is there.
///
/// # Errors
/// When the queue fails.
pub async fn tick(engine: &Engine) -> Result<Present, EngineError> {
    let mut present = Present::default();
    for number in 0..engine.config.collectors.max(1) {
        present.adopted += engine.queue.keep_alive(&collector_name(engine, number)).await?;
    }
    if present.adopted > 0 {
        tracing::warn!(results = present.adopted, "results of an engine that has died are taken over");
        engine.counters.results_adopted.fetch_add(present.adopted as u64, Ordering::Relaxed);
    }
    if let Some(announced) = &engine.announced {
        let workers = engine.queue.workers().await?;
        present.workers = workers.len();
        announced.learn(&workers);
    }
    Ok(present)
}
