//! The timer: what is due. Waits cost nothing but a row: one task sleeps until the earliest of all.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;

use super::{Backoff, Chore};
use crate::apply::CommandOutcome;
use crate::config::TIMER_BATCH_MAX;
use crate::engine::{Engine, EngineError};
use crate::wire::delivery;

/// Longest sleep, should a wake have been stored by another engine.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Woken {
    /// Executions that were due.
    pub due: usize,
    /// Executions that moved.
    pub moved: usize,
}

/// Wakes what is due.
///
/// # Errors
/// When record or queue fail.
pub async fn tick(engine: &Engine) -> Result<Woken, EngineError> {
    let now = engine.now();
    let due = engine.store.due(now, TIMER_BATCH_MAX).await?;
    if due.is_empty() {
        return Ok(Woken { due: 0, moved: 0 });
    }
    let ids: BTreeSet<ExecutionId> = due.iter().copied().collect();
    let mut commands = Vec::with_capacity(due.len());
    for execution in engine.hot(&ids).await? {
        commands.push((execution.id(), wake(engine, &execution, now).await?));
    }
    let outcomes = engine.apply(commands).await?;
    let moved = outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count();
    for outcome in &outcomes {
        if let CommandOutcome::Rejected(rejection) = outcome {
            tracing::trace!(%rejection, "nothing was due after all");
        }
    }
    Ok(Woken { due: due.len(), moved })
}

/// The command for an execution that is due. Whether a task was started in time only the queue knows.
async fn wake(engine: &Engine, execution: &Execution, now: Timestamp) -> Result<Command, EngineError> {
    let late = execution.task().filter(|task| {
        task.start_by.is_some_and(|due| due <= now) && task.total_by.is_none_or(|due| due > now)
    });
    let Some(task) = late else { return Ok(Command::Wake) };
    let attempt = TaskAttempt { task: task.run.task, attempt: task.run.attempt };
    let delivery = delivery(execution.task_id(task.run.task), task.run.attempt);
    let untaken = engine.queue.take_back(std::slice::from_ref(&delivery)).await?;
    let present = engine.queue.present(std::slice::from_ref(&delivery)).await?;
    Ok(if untaken.is_empty() && present == [true] {
        Command::Started(attempt)
    } else {
        Command::NotStarted(attempt)
    })
}

impl Engine {
    /// Tells the timer of a wake that it may not know of.
    pub(crate) fn timer_hint(&self, wake: Timestamp) {
        if self.timer_next.fetch_min(wake.as_millis(), Ordering::SeqCst) > wake.as_millis() {
            self.timer_bell.notify_one();
        }
    }
}

pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    while !chore.shutdown.is_cancelled() {
        // Hints that come while the record is read count for the next round.
        engine.timer_next.store(i64::MAX, Ordering::SeqCst);
        let rest = match tick(engine).await {
            // Work that moved something may have left more; work that moved nothing must not spin.
            Ok(Woken { moved, .. }) if moved > 0 => continue,
            Ok(_) => match engine.store.next_due().await {
                Ok(next) => {
                    backoff = Backoff::default();
                    sleep_until(engine, next)
                }
                Err(error) => backoff.failed(chore.name(), &error.into()),
            },
            Err(error) => backoff.failed(chore.name(), &error),
        };
        tokio::select! {
            () = engine.timer_bell.notified() => {}
            () = chore.rest(rest) => {}
        }
    }
}

fn sleep_until(engine: &Engine, next: Option<Timestamp>) -> Duration {
    let Some(next) = next else { return SLEEP_MAX };
    engine.timer_next.fetch_min(next.as_millis(), Ordering::SeqCst);
    // At least a millisecond: something due that does not move is looked at again, but not in a busy loop.
    Duration::from_millis(next.since(engine.now()).max(1)).min(SLEEP_MAX)
}
