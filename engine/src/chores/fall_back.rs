//! The fall-back: what waits in queues that nobody serves any more goes to where later tasks of its handler go, the pools
//! of embedded workers. What a worker has in hand stays with it; when that worker is dead, its leases end, and the next
//! delivery finds its way by itself.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_plumbing::queue::Dispatched;

use super::HasMore;
use crate::apply::CommandOutcome;
use crate::config::RECONCILE_BATCH_MAX;
use crate::engine::{Engine, EngineError};
use crate::handlers::AnnouncedHandlers;
use crate::store::TaskOut;
use crate::wire::dispatched;

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FellBack {
    /// Tasks that were taken out of queues that nobody serves, and delivered anew.
    pub moved: usize,
}

impl HasMore for FellBack {
    fn has_more(&self) -> bool {
        false
    }
}

/// Moves what is ready in queues that are left to the fall-back. Costs nothing while there are none, and a look at the
/// queues while nothing is ready in them.
///
/// # Errors
/// When queue or record fail.
pub async fn tick(engine: &Engine) -> Result<FellBack, EngineError> {
    let mut fell_back = FellBack::default();
    let mut pools = engine.announced.as_deref().map(AnnouncedHandlers::abandoned).unwrap_or_default();
    if pools.is_empty() {
        return Ok(fell_back);
    }
    let depths = engine.queue.depths().await?;
    let waiting: BTreeSet<String> = depths
        .into_iter()
        .filter(|(_, depth)| depth.high + depth.normal + depth.low > 0)
        .map(|(pool, _)| pool)
        .collect();
    pools.retain(|pool| waiting.contains(pool));
    if pools.is_empty() {
        return Ok(fell_back);
    }
    let until = engine.now();
    let mut last = None;
    loop {
        let page = engine.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.task.execution);
        fell_back.moved += move_ready(engine, &pools, page).await?;
        if engine.queue_full.load(Ordering::SeqCst) {
            // The rest waits where it is.
            break;
        }
    }
    if fell_back.moved > 0 {
        tracing::warn!(tasks = fell_back.moved, ?pools, "tasks that no worker is there for run in process");
    }
    Ok(fell_back)
}

/// Moves those of the tasks that are ready in one of the pools; how many were.
async fn move_ready(
    engine: &Engine,
    pools: &BTreeSet<String>,
    page: Vec<TaskOut>,
) -> Result<usize, EngineError> {
    let tasks: Vec<TaskOut> = page.into_iter().filter(|out| pools.contains(&out.pool)).collect();
    if tasks.is_empty() {
        return Ok(0);
    }
    let deliveries: Vec<Dispatched> =
        tasks.iter().map(|out| dispatched(out.task, out.attempt, &out.pool)).collect();
    // First out of the queue, so that no worker that comes now begins what is delivered anew. What the record is not told
    // of, because this process dies, is present nowhere: the reconciler's.
    let taken: BTreeSet<Dispatched> = engine.queue.take_back(&deliveries).await?.into_iter().collect();
    let ready = tasks.iter().zip(&deliveries).filter(|(_, delivery)| taken.contains(*delivery));
    let commands: Vec<_> = ready
        .map(|(out, _)| {
            let attempt = TaskAttempt { task: out.task.number, attempt: out.attempt };
            (out.task.execution, Command::Republish(attempt))
        })
        .collect();
    if commands.is_empty() {
        return Ok(0);
    }
    let outcomes = engine.apply(commands).await?;
    Ok(outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count())
}
