//! The timer: what is due. Waits cost nothing but a row: one task sleeps until the earliest of all.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::Dispatched;

use super::{Backoff, Chore};
use crate::apply::CommandOutcome;
use crate::config::{STUCK_TIMER_REST, STUCK_TIMERS_MAX, TIMER_BATCH_MAX};
use crate::engine::{Engine, EngineError};
use crate::store::StoreError;
use crate::wire::dispatched;

/// Longest sleep, should a wake have been stored by another engine.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Rest while the earliest of all is due and does not move.
const STUCK_SLEEP: Duration = Duration::from_millis(250);

/// How long engines leave a wake that is due to the one that stored it, in milliseconds.
const OTHERS_HAVE_MS: i64 = 250;

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Woken {
    /// Executions that were due and are not left alone for a while.
    pub due: usize,
    /// Executions that moved.
    pub moved: usize,
}

/// Executions that were due and did not move. Without this memory a page of them would be in the way of everything that
/// is due after them. One that does not move twice in a row is left alone for a while; once may be a race.
#[derive(Debug, Default)]
pub(crate) struct Stuck(HashMap<ExecutionId, Option<Timestamp>>);

impl Stuck {
    fn is_left_alone(&self, id: ExecutionId) -> bool {
        self.0.get(&id).is_some_and(Option::is_some)
    }

    /// Forgets those whose time has come; how many are left alone still.
    fn wake_up(&mut self, now: Timestamp) -> usize {
        self.0.retain(|_, until| until.is_none_or(|until| until > now));
        self.0.values().filter(|until| until.is_some()).count()
    }

    fn note(&mut self, id: ExecutionId, now: Timestamp) {
        let rest = u64::try_from(STUCK_TIMER_REST.as_millis()).unwrap_or(u64::MAX);
        if let Some(until) = self.0.get_mut(&id) {
            *until = Some(now.plus(rest));
        } else if self.0.len() < STUCK_TIMERS_MAX {
            self.0.insert(id, None);
        }
    }

    /// It has moved.
    pub(crate) fn forget(&mut self, id: ExecutionId) {
        self.0.remove(&id);
    }
}

/// Wakes what is due.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Woken, EngineError> {
    let now = engine.now();
    let left_alone = {
        let mut stuck = engine.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.wake_up(now)
    };
    let mut due = engine.store.due(now, TIMER_BATCH_MAX + left_alone).await?;
    leave_to_others(engine, now, left_alone, &mut due).await?;
    {
        let stuck = engine.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        due.retain(|id| !stuck.is_left_alone(*id));
    }
    due.truncate(TIMER_BATCH_MAX);
    if due.is_empty() {
        return Ok(Woken { due: 0, moved: 0 });
    }
    let ids: BTreeSet<ExecutionId> = due.iter().copied().collect();
    let mut late = Vec::new();
    let mut commands: Vec<(ExecutionId, Command)> = Vec::with_capacity(due.len());
    let found = match engine.hot(&ids, &BTreeSet::new()).await {
        // Asked for alone, it is said to be corrupt; among others it is left out. Either way it must not hold up others.
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Internal { .. })) if ids.len() == 1 => {
            tracing::error!(%error, "an execution that is due cannot be read");
            Vec::new()
        }
        found => found?,
    };
    for (execution, _) in found {
        match late_start(&execution, now) {
            Some((attempt, pool)) => late.push((execution.task_id(attempt.task), attempt, pool)),
            None => commands.push((execution.id(), Command::Wake)),
        }
    }
    match started(engine, &late).await {
        Ok(found) => commands.extend(found),
        // Other timers do not need the queue.
        Err(error) => tracing::warn!(%error, "whether tasks were started in time is looked at later"),
    }
    let asked: Vec<ExecutionId> = commands.iter().map(|(id, _)| *id).collect();
    let outcomes = engine.apply(commands).await?;
    let mut moved = BTreeSet::new();
    for (id, outcome) in asked.into_iter().zip(outcomes) {
        match outcome {
            CommandOutcome::Applied(_) => {
                moved.insert(id);
            }
            CommandOutcome::Rejected(rejection) => tracing::trace!(%rejection, "nothing was due after all"),
            CommandOutcome::NotFound | CommandOutcome::Failed(_) => {}
        }
    }
    let mut stuck = engine.stuck.lock().unwrap_or_else(PoisonError::into_inner);
    for id in ids.difference(&moved) {
        stuck.note(*id, now);
    }
    Ok(Woken { due: due.len(), moved: moved.len() })
}

/// Of several engines, the one that stored a wake answers it: were they all to, all but one would work for nothing. The
/// others look after what is overdue.
async fn leave_to_others(
    engine: &Engine,
    now: Timestamp,
    left_alone: usize,
    due: &mut Vec<ExecutionId>,
) -> Result<(), EngineError> {
    if !engine.config.shares_record || due.is_empty() || due.iter().all(|id| engine.is_our_wake(*id)) {
        return Ok(());
    }
    let overdue_at = Timestamp::from_millis(now.as_millis().saturating_sub(OTHERS_HAVE_MS));
    let overdue = engine.store.due(overdue_at, TIMER_BATCH_MAX + left_alone).await?;
    let overdue: HashSet<ExecutionId> = overdue.into_iter().collect();
    due.retain(|id| engine.is_our_wake(*id) || overdue.contains(id));
    Ok(())
}

/// The attempt that should have been taken by a worker by now, if no other limit of it has come.
fn late_start(execution: &Execution, now: Timestamp) -> Option<(TaskAttempt, String)> {
    let task = execution.task().filter(|task| {
        task.start_by.is_some_and(|due| due <= now) && task.total_by.is_none_or(|due| due > now)
    })?;
    Some((TaskAttempt { task: task.run.task, attempt: task.run.attempt }, task.pool.clone()))
}

/// Whether tasks were started in time: only the queue knows. Nothing is said of those that are absent from a queue that was
/// emptied: a worker may have them, and has yet to say so.
async fn started(
    engine: &Engine,
    late: &[(TaskId, TaskAttempt, String)],
) -> Result<Vec<(ExecutionId, Command)>, EngineError> {
    if late.is_empty() {
        return Ok(Vec::new());
    }
    let deliveries: Vec<Dispatched> =
        late.iter().map(|(task, attempt, pool)| dispatched(*task, attempt.attempt, pool)).collect();
    let untaken: HashSet<Dispatched> = engine.queue.take_back(&deliveries).await?.into_iter().collect();
    let present = engine.queue.present(&deliveries).await?;
    let is_absent = |(delivery, present): &(&Dispatched, &bool)| !**present && !untaken.contains(*delivery);
    let absent = deliveries.iter().zip(&present).filter(is_absent);
    let absent = absent.map(|(delivery, _)| delivery.pool.as_str()).collect();
    let emptied = engine.emptied_meanwhile(absent, &BTreeSet::new()).await?;
    let found = late.iter().zip(deliveries.iter().zip(present));
    Ok(found
        .filter_map(|((task, attempt, pool), (delivery, present))| {
            let command = if untaken.contains(delivery) {
                Command::NotStarted(*attempt)
            } else if present {
                Command::Started(*attempt)
            } else if emptied.contains(pool) {
                return None;
            } else {
                Command::NotStarted(*attempt)
            };
            Some((task.execution, command))
        })
        .collect())
}

impl Engine {
    /// Whether this engine stored the wake of the execution.
    fn is_our_wake(&self, id: ExecutionId) -> bool {
        self.our_wakes.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Tells the timer of a wake that it may not know of.
    pub(crate) fn timer_hint(&self, id: ExecutionId, wake: Timestamp) {
        if self.config.shares_record {
            self.our_wakes.lock().unwrap_or_else(PoisonError::into_inner).put(id, ());
        }
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
        let began = engine.now();
        let rest = match tick(engine).await {
            // Work that moved something may have left more; work that moved nothing must not spin.
            Ok(Woken { moved, .. }) if moved > 0 => continue,
            Ok(_) => match engine.store.next_due().await {
                Ok(next) => {
                    backoff = Backoff::default();
                    sleep_until(engine, next, began)
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

fn sleep_until(engine: &Engine, next: Option<Timestamp>, looked_at: Timestamp) -> Duration {
    if next.is_some_and(|next| next <= looked_at) {
        // It was due already when the tick looked, and did not move. What is due behind it is not known, so the look is
        // repeated, but not in a busy loop.
        return STUCK_SLEEP;
    }
    // What is due after the next look is found by it: the timer need not be told, and read the record, with every start.
    let last = looked_at.plus(u64::try_from(SLEEP_MAX.as_millis()).unwrap_or(u64::MAX));
    let look = next.map_or(last, |next| next.min(last));
    engine.timer_next.fetch_min(look.as_millis(), Ordering::SeqCst);
    Duration::from_millis(look.since(engine.now()).max(1)).min(SLEEP_MAX)
}
