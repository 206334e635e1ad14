//! The reaper: expired leases to commands. It never moves things in the queue on its own: the record changes first.

use std::collections::HashMap;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::crash;

use super::HasMore;
use crate::config::REAP_BATCH_MAX;
use crate::engine::{Counters, Engine, EngineError};

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Leases that had ended.
    pub expired: usize,
}

impl HasMore for Reaped {
    fn has_more(&self) -> bool {
        self.expired == REAP_BATCH_MAX
    }
}

/// Turns leases that ended into lost leases and timeouts.
///
/// # Errors
/// When queue or record fail.
pub async fn tick(engine: &Engine) -> Result<Reaped, EngineError> {
    let expired = engine.queue.expired(REAP_BATCH_MAX).await?;
    if expired.is_empty() {
        return Ok(Reaped { expired: 0 });
    }
    Counters::add(&engine.counters.leases_expired, expired.len());
    let ended: Vec<(TaskId, u32, bool)> = expired
        .iter()
        .filter_map(|lease| {
            let delivery = &lease.dispatched.delivery;
            Some((delivery.task_id.parse().ok()?, delivery.attempt, lease.hard_end))
        })
        .collect();
    let saved = saved(engine, &ended).await?;
    let command = |(task, attempt, hard_end): (TaskId, u32, bool)| {
        let attempt = TaskAttempt { task: task.number, attempt };
        let command = if hard_end {
            Command::TimedOut(attempt)
        } else {
            Command::LeaseLost { attempt, saved_at: saved.get(&task).copied() }
        };
        (task.execution, command)
    };
    let commands = ended.into_iter().map(command).collect();
    engine.apply(commands).await?;
    crash::point("engine/lease-reaped");
    // Whatever the record said: these deliveries do not count any more.
    let deliveries: Vec<_> = expired.iter().map(|lease| lease.dispatched.clone()).collect();
    engine.queue.drop_deliveries(&deliveries).await?;
    Ok(Reaped { expired: expired.len() })
}

/// When the last checkpoints of the tasks were saved whose leases are lost.
async fn saved(
    engine: &Engine,
    ended: &[(TaskId, u32, bool)],
) -> Result<HashMap<TaskId, Timestamp>, EngineError> {
    let lost: Vec<TaskId> =
        ended.iter().filter(|(_, _, hard_end)| !hard_end).map(|(task, _, _)| *task).collect();
    if lost.is_empty() {
        return Ok(HashMap::new());
    }
    let notes = engine.store.checkpoint_notes(&lost).await?;
    Ok(notes.into_iter().map(|note| (note.task, note.saved_at)).collect())
}
