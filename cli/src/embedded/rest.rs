//! When nothing moves, and what could move it: the ground for skipping time, for ending, and for asking a person.

use std::collections::BTreeSet;

use flowmonkey_core::execution::state::WaitOn;
use flowmonkey_core::execution::{Activity, Execution, Phase, Status};
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::{Engine, EngineError, chores};
use flowmonkey_plumbing::clock::SkippingClock;

/// Executions with a wake that are looked at to find one which time can move.
const LOOK_AT_MAX: usize = 10_000;

/// What moves an engine next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Something moves now.
    Now,
    /// Nothing moves until this instant.
    At(Timestamp),
    /// Nothing moves until somebody signals, resumes, retries or starts something.
    Never,
}

/// What moves `engine` next. Tasks of pools that are not `served` by a worker of this process move nothing.
///
/// # Errors
/// When record or queue fail.
pub(crate) async fn next(engine: &Engine, served: &BTreeSet<String>) -> Result<Next, EngineError> {
    let Some(before) = engine.rest() else { return Ok(Next::Now) };
    // Queue first: what leaves the queue has been committed, and is seen in the record.
    let (mut unserved, mut busy) = (0, 0);
    for (pool, depth) in engine.queue().depths().await? {
        let ready = depth.high + depth.normal + depth.low;
        busy += depth.in_flight + depth.results;
        if served.contains(&pool) {
            busy += ready;
        } else {
            unserved += ready;
        }
    }
    if busy > 0 {
        return Ok(Next::Now);
    }
    let store = engine.store();
    let due = store.next_due().await?;
    if due.is_some_and(|due| due <= engine.now()) {
        return Ok(Next::Now);
    }
    let out: u64 = store
        .counts()
        .await?
        .into_iter()
        .filter(|(status, _)| *status == Status::WaitingForWorker)
        .map(|(_, count)| count)
        .sum();
    let on_the_way = usize::try_from(out).unwrap_or(usize::MAX) > unserved;
    if on_the_way
        || !store.undelivered_events(1).await?.is_empty()
        || !store.joins_to_tend(None, 1).await?.is_empty()
        || engine.rest() != Some(before)
    {
        return Ok(Next::Now);
    }
    Ok(due.map_or(Next::Never, Next::At))
}

/// Whether time alone can move one of the executions. A signal, an event or an approval is skipped only when the step
/// has a limit of its own; that the whole execution has one does not count, for it is not what the author waits for.
///
/// # Errors
/// When the record fails.
async fn can_be_skipped(engine: &Engine) -> Result<bool, EngineError> {
    let store = engine.store();
    let waiting = store.due(Timestamp::from_millis(i64::MAX), LOOK_AT_MAX).await?;
    Ok(store.load(&waiting).await?.iter().any(moves_by_time))
}

fn moves_by_time(execution: &Execution) -> bool {
    match &execution.phase {
        Phase::Running => {}
        Phase::Ending { .. } => return execution.next_wake().is_some(),
        Phase::Completed | Phase::Failed { .. } | Phase::Cancelled { .. } => return false,
    }
    match &execution.activity {
        Activity::Ready | Activity::Backoff { .. } => true,
        Activity::Task(task) => task.start_by.is_some() || task.total_by.is_some(),
        Activity::Wait(wait) => {
            wait.deadline.is_some()
                || match &wait.on {
                    WaitOn::Timer { .. } => true,
                    WaitOn::Signal { .. } | WaitOn::Event { .. } => false,
                    WaitOn::Approval { escalate_at, .. } => escalate_at.is_some(),
                    WaitOn::Handler { until, .. } => until.is_some(),
                }
        }
        Activity::Children(fan) => fan.total_by.is_some(),
        Activity::Incident(_) | Activity::Nothing => false,
    }
}

/// Moves virtual time to the next wake, if nothing else moves and time alone can. Says what moves the engine next.
///
/// # Errors
/// When record or queue fail.
pub(crate) async fn skip(
    engine: &Engine,
    clock: &SkippingClock,
    served: &BTreeSet<String>,
) -> Result<Next, EngineError> {
    let wake = match next(engine, served).await? {
        Next::At(wake) => wake,
        other @ (Next::Now | Next::Never) => return Ok(other),
    };
    if !can_be_skipped(engine).await? {
        return Ok(Next::Never);
    }
    clock.skip_to(wake.as_millis());
    // The timer sleeps on the wall clock: wake what is due here and now. Doing it twice is harmless.
    while chores::timer::tick(engine).await?.moved > 0 {}
    Ok(Next::Now)
}
