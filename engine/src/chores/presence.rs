//! Presence: tells the queue that this engine lives, takes over the results of engines that do not, and learns which
//! workers are there.

use flowmonkey_plumbing::queue::QueueError;

use super::HasMore;
use super::collector::collector_name;
use crate::engine::{Counters, Engine, EngineError};

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Results of dead engines, or of no list, that can be taken again.
    pub adopted: usize,
    /// Workers that are there.
    pub workers: usize,
}

impl HasMore for Present {
    fn has_more(&self) -> bool {
        false
    }
}

/// Gives a sign of life for one of the engine's collectors; how many results of dead engines, or of no list, can be taken again.
pub(crate) async fn show(engine: &Engine, collector: &str) -> Result<usize, QueueError> {
    let adopted = engine.queue.keep_alive(collector).await?;
    if adopted > 0 {
        tracing::warn!(
            results = adopted,
            "results of an engine that has died, or that were in no list, can be taken again"
        );
        Counters::add(&engine.counters.results_adopted, adopted);
    }
    Ok(adopted)
}

/// Gives a sign of life, and looks who else is there.
///
/// # Errors
/// When the queue fails.
pub async fn tick(engine: &Engine) -> Result<Present, EngineError> {
    let mut present = Present::default();
    for number in 0..engine.config.collectors.max(1) {
        present.adopted += show(engine, &collector_name(engine, number)).await?;
    }
    if let Some(announced) = &engine.announced {
        let workers = engine.queue.workers().await?;
        present.workers = workers.len();
        announced.learn(&workers);
    }
    Ok(present)
}
