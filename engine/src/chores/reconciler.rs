//! The reconciler: queue versus record. It is also the relay: a task that was committed and never published is present
//! nowhere, and is published. The queue can be lost as a whole; this rebuilds it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::Dispatched;

use super::HasMore;
use crate::apply::CommandOutcome;
use crate::config::{RECONCILE_AFTER, RECONCILE_BATCH_MAX, RECONCILE_PROBE};
use crate::engine::{Counters, Engine, EngineError};
use crate::wire::dispatched;

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Tasks that are out.
    pub looked_at: usize,
    /// Tasks that were present nowhere, and were delivered anew.
    pub republished: usize,
}

impl HasMore for Reconciled {
    fn has_more(&self) -> bool {
        false
    }
}

/// Compares all tasks that have been out for a while with the queue.
///
/// # Errors
/// When queue or record fail.
pub async fn tick(engine: &Engine) -> Result<Reconciled, EngineError> {
    reconcile(engine, RECONCILE_AFTER).await
}

/// As [`tick`], for tasks that have been out for `after`. At start nothing can be on its way: `Duration::ZERO`.
///
/// # Errors
/// When queue or record fail.
pub async fn reconcile(engine: &Engine, after: Duration) -> Result<Reconciled, EngineError> {
    let mut reconciled = Reconciled::default();
    let age = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    let until = Timestamp::from_millis(engine.now().as_millis().saturating_sub(age));
    // A queue that was full is asked with a few tasks first.
    let mut at_a_time =
        if engine.queue_full.load(Ordering::SeqCst) { RECONCILE_PROBE } else { RECONCILE_BATCH_MAX };
    let mut last = None;
    loop {
        let page = engine.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
        let Some(end) = page.last() else { return Ok(reconciled) };
        last = Some(end.task.execution);
        reconciled.looked_at += page.len();
        let deliveries: Vec<Dispatched> =
            page.iter().map(|out| dispatched(out.task, out.attempt, &out.pool)).collect();
        let present = engine.queue.present(&deliveries).await?;
        let commands: Vec<_> = page
            .iter()
            .zip(present)
            .filter(|(_, present)| !present)
            .map(|(out, _)| {
                let attempt = TaskAttempt { task: out.task.number, attempt: out.attempt };
                (out.task.execution, Command::Republish(attempt))
            })
            .collect();
        let mut commands = commands.into_iter();
        loop {
            let part: Vec<_> = commands.by_ref().take(at_a_time).collect();
            if part.is_empty() {
                break;
            }
            let outcomes = engine.apply(part).await?;
            // Those that moved on by themselves meanwhile were not missing.
            let missed =
                outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count();
            reconciled.republished += missed;
            Counters::add(&engine.counters.republished, missed);
            if engine.queue_full.load(Ordering::SeqCst) {
                // Each further task would use up an attempt and find no room either. The record holds the backlog.
                return Ok(reconciled);
            }
            at_a_time = at_a_time.saturating_mul(2).min(RECONCILE_BATCH_MAX);
        }
    }
}
