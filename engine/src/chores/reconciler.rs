//! The reconciler: queue versus record. It is also the relay: a task that was committed and never published is present
//! nowhere, and is published. The queue can be lost as a whole; this rebuilds it.

use std::collections::BTreeSet;
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
/// So many times the grace is a queue left to the engine whose turn it is.
const OTHERS_GRACES: u64 = 3;

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
    let age = i64::try_from(patience.age.as_millis()).unwrap_or(i64::MAX);
    let grace_ms = u64::try_from(patience.grace.as_millis()).unwrap_or(u64::MAX);
    engine.compare_pools().await?;
    let until = Timestamp::from_millis(engine.now().as_millis().saturating_sub(age));
    let mut walk = Walk::begin(engine, grace_ms).await?;
    let mut last = None;
    loop {
        let page = engine.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.task.execution);
        walk.reconciled.looked_at += page.len();
        walk.meet(&page).await?;
        let missing = walk.missing(&page).await?;
        walk.republish(missing).await?;
    }
    engine.end_rebuild(walk.rebuilt).await?;
    Ok(walk.reconciled)
}

/// A walk over all tasks that are out.
struct Walk<'a> {
    engine: &'a Engine,
    grace_ms: u64,
    /// Pools that are rebuilt by this walk.
    rebuilt: BTreeSet<String>,
    /// Pools of which something was passed by: this walk does not rebuild them.
    passed_by: BTreeSet<String>,
    /// Tasks that are delivered in one go.
    at_a_time: usize,
    /// Whether they have to be of one pool, as some pool has no room.
    one_pool: bool,
    reconciled: Reconciled,
}

impl<'a> Walk<'a> {
    async fn begin(engine: &'a Engine, grace_ms: u64) -> Result<Self, EngineError> {
        let rebuilt = engine.pools.to_rebuild(engine.now(), grace_ms);
        engine.begin_rebuild(&rebuilt).await?;
        // A queue that was full is asked with a few tasks first.
        let one_pool = engine.queue_full.load(Ordering::SeqCst);
        let at_a_time = if one_pool { RECONCILE_PROBE } else { RECONCILE_BATCH_MAX };
        let passed_by = BTreeSet::new();
        Ok(Self {
            engine,
            grace_ms,
            rebuilt,
            passed_by,
            at_a_time,
            one_pool,
            reconciled: Reconciled::default(),
        })
    }

    /// Whether something that is absent from the pool's queue may be delivered anew. A queue that was emptied: it may be in
    /// the hands of a worker that has yet to say so.
    fn is_comparable(&self, pool: &str) -> bool {
        !self.passed_by.contains(pool) && (self.rebuilt.contains(pool) || self.engine.pools.is_settled(pool))
    }

    /// Gets to know pools that this engine has not met before.
    async fn meet(&mut self, page: &[TaskOut]) -> Result<(), EngineError> {
        let engine = self.engine;
        if page.iter().all(|out| self.passed_by.contains(&out.pool) || self.is_comparable(&out.pool)) {
            return Ok(());
        }
        engine.pools.note(page.iter().map(|out| out.pool.as_str()));
        engine.compare_pools().await?;
        let mut more = engine.pools.to_rebuild(engine.now(), self.grace_ms);
        more.retain(|pool| !self.rebuilt.contains(pool) && !self.passed_by.contains(pool));
        engine.begin_rebuild(&more).await?;
        self.rebuilt.extend(more);
        Ok(())
    }

    /// Those that are present nowhere though their queues are whole, by pool.
    async fn missing<'p>(&mut self, page: &'p [TaskOut]) -> Result<Vec<&'p TaskOut>, EngineError> {
        let engine = self.engine;
        let (looked_at, left): (Vec<&TaskOut>, Vec<&TaskOut>) =
            page.iter().partition(|out| self.is_comparable(&out.pool));
        self.pass_by(left.into_iter().map(|out| out.pool.as_str()));
        let deliveries: Vec<Dispatched> =
            looked_at.iter().map(|out| dispatched(out.task, out.attempt, &out.pool)).collect();
        let present = engine.queue.present(&deliveries).await?;
        let absent = looked_at.into_iter().zip(present).filter(|(_, present)| !present).map(|(out, _)| out);
        let mut absent: Vec<&TaskOut> = absent.collect();
        // In this order: a queue that is whole now was whole when it was asked for the tasks.
        let pools = absent.iter().map(|out| out.pool.as_str()).collect();
        let emptied = engine.emptied_meanwhile(pools, &self.rebuilt).await?;
        absent.retain(|out| !emptied.contains(&out.pool));
        self.pass_by(emptied.iter().map(String::as_str));
        // Their workers are about to say that they run them; unless there can be none.
        let was_emptied = |pool: &str| self.grace_ms > 0 && self.rebuilt.contains(pool);
        let spared = engine.jobs_to_spare(&absent, was_emptied).await?;
        absent.retain(|out| !spared.contains(&(out.task, out.attempt)));
        // What a pause holds back is not missing.
        absent.retain(|out| !engine.controls.holds(out));
        absent.sort_by(|one, other| one.pool.cmp(&other.pool));
        Ok(absent)
    }

    fn pass_by<'p>(&mut self, pools: impl Iterator<Item = &'p str>) {
        for pool in pools {
            self.rebuilt.remove(pool);
            if !self.passed_by.contains(pool) {
                self.passed_by.insert(pool.to_owned());
            }
        }
    }

    async fn republish(&mut self, mut missing: Vec<&TaskOut>) -> Result<(), EngineError> {
        let engine = self.engine;
        while let Some(first) = missing.first() {
            let pool = first.pool.as_str();
            let wanted = missing.iter().take(self.at_a_time);
            let count = wanted.take_while(|out| !self.one_pool || out.pool == pool).count();
            let part = missing.drain(..count).map(|out| {
                let attempt = TaskAttempt { task: out.task.number, attempt: out.attempt };
                (out.task.execution, Command::Republish(attempt))
            });
            let outcomes = engine.apply(part.collect()).await?;
            // Those that moved on by themselves meanwhile were not missing.
            let missed =
                outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count();
            self.reconciled.republished += missed;
            Counters::add(&engine.counters.republished, missed);
            if !engine.queue_full.load(Ordering::SeqCst) {
                self.at_a_time = self.at_a_time.saturating_mul(2).min(RECONCILE_BATCH_MAX);
                continue;
            }
            if self.one_pool {
                // Each further task of it would use up an attempt and find no room either. The record holds the backlog.
                self.pass_by(std::iter::once(pool));
                missing.retain(|out| out.pool != pool);
            }
            (self.one_pool, self.at_a_time) = (true, RECONCILE_PROBE);
        }
        Ok(())
    }
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
/// this engine's turn. None: nothing was to be done, or another engine does it. A queue that nobody rebuilds is rebuilt
/// whosever turn it is.
///
/// # Errors
/// When queue or record fail.
pub async fn look(engine: &Engine, last_at: &mut Option<Instant>) -> Result<Option<Reconciled>, EngineError> {
    let config = &engine.config;
    engine.compare_pools().await?;
    let grace_ms = u64::try_from(config.rebuild_grace.as_millis()).unwrap_or(u64::MAX);
    if engine.has_turn("reconcile", config.look_at_queue_every * TURN_LOOKS).await? {
        let is_due = last_at.is_none_or(|last_at| last_at.elapsed() >= config.reconcile_every);
        if !is_due && engine.pools.to_rebuild(engine.now(), grace_ms).is_empty() {
            return Ok(None);
        }
    } else if engine.pools.to_rebuild(engine.now(), grace_ms.saturating_mul(OTHERS_GRACES)).is_empty() {
        return Ok(None);
    }
    // Else the engine whose turn it is does not know the pool: it has never sent a task there.
    let reconciled = tick(engine).await?;
    tracing::trace!(?reconciled, "queue and record were compared");
    *last_at = Some(Instant::now());
    Ok(Some(reconciled))
}
