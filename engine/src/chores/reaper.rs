//! The reaper: expired leases to commands. It never moves things in the queue on its own: the record changes first.

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::ids::TaskId;
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
    let commands = expired
        .iter()
        .filter_map(|lease| {
            let task: TaskId = lease.dispatched.delivery.task_id.parse().ok()?;
            let attempt = TaskAttempt { task: task.number, attempt: lease.dispatched.delivery.attempt };
            let command =
                if lease.hard_end { Command::TimedOut(attempt) } else { Command::LeaseLost(attempt) };
            Some((task.execution, command))
        })
        .collect();
    engine.apply(commands).await?;
    crash::point("engine/lease-reaped");
    // Whatever the record said: these deliveries do not count any more.
    let deliveries: Vec<_> = expired.iter().map(|lease| lease.dispatched.clone()).collect();
    engine.queue.drop_deliveries(&deliveries).await?;
    Ok(Reaped { expired: expired.len() })
}
