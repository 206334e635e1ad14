//! The reconciler: queue versus record. It is also the relay: a task that was committed and never published is present
//! nowhere, and is published. The queue can be lost as a whole; this rebuilds it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::Dispatched;
use tokio::time::Instant;

use super::{Backoff, Chore};
use crate::apply::CommandOutcome;
use crate::config::{RECONCILE_AFTER, RECONCILE_BATCH_MAX, RECONCILE_PROBE};
use crate::engine::{Counters, Engine, EngineError};
use crate::store::TaskOut;
use crate::wire::dispatched;

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Tasks that are out.
    pub looked_at: usize,
    /// Tasks that were present nowhere, and were delivered anew.
    pub republished: usize,
}

/// A turn outlives so many looks of its holder.
const TURN_LOOKS: u32 = 5;

/// How patient a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long a task must have been out to be missed: before that a relay may be on its way.
    pub age: Duration,
    /// How long the workers of a queue that was emptied have to re-assert what they run, before it is rebuilt.
    pub grace: Duration,
}

impl Patience {
    /// At the start of a process that owns queue and record alone: nothing can be on its way, and no worker runs.
    pub const NONE: Self = Self { age: Duration::ZERO, grace: Duration::ZERO };
}

/// Compares all tasks that have been out for a while with the queue.
///
/// # Errors
/// When queue or record fail.
pub async fn tick(engine: &Engine) -> Result<Reconciled, EngineError> {
    let grace = engine.config.rebuild_grace;
    reconcile(engine, Patience { age: RECONCILE_AFTER, grace }).await
}

/// As [`tick`], as patient as `patience` says.
///
/// # Errors
/// When queue or record fail.
pub async fn reconcile(engine: &Engine, patience: Patience) -> Result<Reconciled, EngineError> {
    let mut reconciled = Reconciled::default();
    let age = i64::try_from(patience.age.as_millis()).unwrap_or(i64::MAX);
    let grace_ms = u64::try_from(patience.grace.as_millis()).unwrap_or(u64::MAX);
    engine.compare_pools().await?;
    let now = engine.now();
    let until = Timestamp::from_millis(now.as_millis().saturating_sub(age));
    let mut rebuilt = engine.pools.to_rebuild(now, grace_ms);
    engine.begin_rebuild(&rebuilt).await?;
    // A queue that was full is asked with a few tasks first.
    let mut at_a_time =
        if engine.queue_full.load(Ordering::SeqCst) { RECONCILE_PROBE } else { RECONCILE_BATCH_MAX };
    let mut last = None;
    loop {
        let page = engine.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.task.execution);
        reconciled.looked_at += page.len();
        if page.iter().any(|out| !rebuilt.contains(&out.pool) && !engine.pools.is_settled(&out.pool)) {
            // Pools that this engine has not met before.
            engine.pools.note(page.iter().map(|out| out.pool.as_str()));
            engine.compare_pools().await?;
            let mut more = engine.pools.to_rebuild(engine.now(), grace_ms);
            more.retain(|pool| !rebuilt.contains(pool));
            engine.begin_rebuild(&more).await?;
            rebuilt.extend(more);
        }
        let (page, deliveries): (Vec<&TaskOut>, Vec<Dispatched>) = page
            .iter()
            // A queue that was emptied: what is absent may be in the hands of a worker that has yet to say so.
            .filter(|out| rebuilt.contains(&out.pool) || engine.pools.is_settled(&out.pool))
            .map(|out| (out, dispatched(out.task, out.attempt, &out.pool)))
            .unzip();
        let present = engine.queue.present(&deliveries).await?;
        let absent = page.into_iter().zip(present).filter(|(_, present)| !present).map(|(out, _)| out);
        let absent: Vec<&TaskOut> = absent.collect();
        // In this order: a queue that is whole now was whole when it was asked for the tasks.
        let pools = absent.iter().map(|out| out.pool.as_str()).collect();
        let emptied = engine.emptied_meanwhile(pools, &rebuilt).await?;
        rebuilt.retain(|pool| !emptied.contains(pool));
        let commands: Vec<_> = absent
            .into_iter()
            .filter(|out| !emptied.contains(&out.pool))
            .map(|out| {
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
    engine.end_rebuild(rebuilt).await?;
    Ok(reconciled)
}

/// Compares again and again: everything now and then, and at once when a queue was emptied.
pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    let mut last_at: Option<Instant> = None;
    while !chore.shutdown.is_cancelled() {
        let rest = match look(engine, &mut last_at).await {
            Ok(_) => {
                backoff = Backoff::default();
                engine.config.look_at_queue_every
            }
            Err(error) => backoff.failed(chore.name(), &error),
        };
        chore.rest(rest).await;
    }
}

/// Looks whether a queue was emptied, and compares everything if it was, or if that was `last_at` long enough ago and it is
/// this engine's turn. None: nothing was to be done, or another engine does it.
///
/// # Errors
/// When queue or record fail.
pub async fn look(engine: &Engine, last_at: &mut Option<Instant>) -> Result<Option<Reconciled>, EngineError> {
    let config = &engine.config;
    engine.compare_pools().await?;
    if !engine.has_turn("reconcile", config.look_at_queue_every * TURN_LOOKS).await? {
        return Ok(None);
    }
    let grace_ms = u64::try_from(config.rebuild_grace.as_millis()).unwrap_or(u64::MAX);
    let is_due = last_at.is_none_or(|last_at| last_at.elapsed() >= config.reconcile_every);
    if !is_due && engine.pools.to_rebuild(engine.now(), grace_ms).is_empty() {
        return Ok(None);
    }
    let reconciled = tick(engine).await?;
    tracing::trace!(?reconciled, "queue and record were compared");
    *last_at = Some(Instant::now());
    Ok(Some(reconciled))
}
