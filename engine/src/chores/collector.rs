//! The collector: results to decisions. Results stay with this engine until their commit; those whose engine dies are
//! read again and dropped as duplicates.

use std::time::Duration;

use flowmonkey_core::execution::command::Command;
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::ResultMessage;

use super::{Backoff, Chore};
use crate::apply::CommandOutcome;
use crate::config::COLLECT_BATCH_MAX;
use crate::engine::{Counters, Engine, EngineError};
use crate::wire::task_report;

/// Longest rest between looks, should a bell be lost.
const POLL: Duration = Duration::from_secs(1);

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Results that counted.
    pub applied: usize,
    /// Results that did not: duplicates, stale attempts, nonsense.
    pub refused: usize,
}

/// Takes results and applies them.
///
/// # Errors
/// When queue or record fail. The results that were taken stay with this engine; see [`apply`].
pub async fn tick(engine: &Engine) -> Result<Collected, EngineError> {
    let results = engine.queue.take(&engine.config.engine_id, COLLECT_BATCH_MAX).await?;
    apply(engine, &results).await
}

/// Applies results that were taken, and lets the queue forget them after the commit.
///
/// # Errors
/// When queue or record fail; the caller repeats it with the same results.
pub async fn apply(engine: &Engine, results: &[ResultMessage]) -> Result<Collected, EngineError> {
    if results.is_empty() {
        return Ok(Collected::default());
    }
    let mut collected = Collected::default();
    let deliveries: Vec<Delivery> = results
        .iter()
        .map(|result| Delivery { task_id: result.task_id.clone(), attempt: result.attempt })
        .collect();
    let mut commands = Vec::with_capacity(results.len());
    for result in results {
        match task_report(result.clone()) {
            Ok((task, report)) => commands.push((task.execution, Command::Report(Box::new(report)))),
            Err(reason) => {
                tracing::warn!(
                    task = result.task_id,
                    attempt = result.attempt,
                    reason,
                    "a result is not understood"
                );
                Counters::add(&engine.counters.results_invalid, 1);
                collected.refused += 1;
            }
        }
    }
    for outcome in engine.apply(commands).await? {
        match outcome {
            CommandOutcome::Applied(_) => collected.applied += 1,
            CommandOutcome::Rejected(rejection) => {
                tracing::debug!(%rejection, "a result was refused");
                collected.refused += 1;
                Counters::add(&engine.counters.results_refused, 1);
            }
            CommandOutcome::NotFound => {
                collected.refused += 1;
                Counters::add(&engine.counters.results_refused, 1);
            }
        }
    }
    engine.queue.acknowledge(&engine.config.engine_id, &deliveries).await?;
    Ok(collected)
}

/// Takes results and applies them, again and again. What was taken stays here until it is stored.
#[derive(Debug)]
pub struct Collector {
    taken: Vec<ResultMessage>,
    /// Whether the queue may think that this engine has results which it does not have.
    uncertain: bool,
}

impl Default for Collector {
    /// An engine that starts may have died under the same name with results in its hands.
    fn default() -> Self {
        Self { taken: Vec::new(), uncertain: true }
    }
}

impl Collector {
    /// Takes results, or those of the last tick if it failed, and applies them.
    ///
    /// # Errors
    /// When queue or record fail; the next tick goes on with the same results.
    pub async fn tick(&mut self, engine: &Engine) -> Result<Collected, EngineError> {
        let id = &engine.config.engine_id;
        if self.taken.is_empty() {
            // Results whose answer was lost are with this engine for the queue, and nobody else would ever take them.
            if self.uncertain {
                engine.queue.adopt_results(id).await?;
            }
            self.uncertain = true;
            self.taken = engine.queue.take(id, COLLECT_BATCH_MAX).await?;
            self.uncertain = false;
        }
        let collected = apply(engine, &self.taken).await?;
        self.taken.clear();
        Ok(collected)
    }
}

pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    let mut collector = Collector::default();
    while !chore.shutdown.is_cancelled() {
        match collector.tick(engine).await {
            Ok(Collected { applied: 0, refused: 0 }) => {
                backoff = Backoff::default();
                tokio::select! {
                    () = engine.queue.wait_for_results() => {}
                    () = chore.rest(POLL) => {}
                }
            }
            Ok(_) => backoff = Backoff::default(),
            Err(error) => {
                let rest = backoff.failed(chore.name(), &error);
                chore.rest(rest).await;
            }
        }
    }
}
