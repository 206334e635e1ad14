//! The collector: results to decisions. Results stay with this engine until their commit; those whose engine dies are
//! read again and dropped as duplicates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_core::execution::{Execution, Rejection};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::mac::MacError;
use flowmonkey_plumbing::queue::redis::TASK_UNREADABLE;
use flowmonkey_plumbing::queue::{Delivery, Dispatched, Taken};
use flowmonkey_plumbing::wire::{Metrics, Outcome, ResultMessage};
use tokio::sync::Mutex;

use super::{Backoff, Chore, patches, presence};
use crate::apply::{CommandOutcome, Fault};
use crate::config::COLLECT_BATCH_MAX;
use crate::engine::{Counters, Engine, EngineError};
use crate::evidence::{RefusedFor, RefusedResult};
use crate::turns::while_held;
use crate::wire::{task_report, unreadable_report};

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
    let name = collector_name(engine, 0);
    let mut results = engine.queue.take(&name, COLLECT_BATCH_MAX).await?;
    apply(engine, &name, &mut results).await
}

/// Applies results that were taken, and lets the queue forget them after the commit. What is done is taken out of
/// `results`; left are those of executions that too many others were changing.
///
/// # Errors
/// When queue or record fail; the caller repeats it with the results that are left.
pub async fn apply(engine: &Engine, name: &str, results: &mut Vec<Taken>) -> Result<Collected, EngineError> {
    if results.is_empty() {
        return Ok(Collected::default());
    }
    let mut collected = Collected::default();
    let mut said = Vec::new();
    let mut commands = Vec::with_capacity(results.len());
    let mut places = Vec::with_capacity(results.len());
    // Those that count on staged changes of the context.
    let mut patched = BTreeMap::new();
    for (place, taken) in results.iter().enumerate() {
        if let Err(reason) = check_origin(engine, taken).await? {
            tracing::warn!(delivery = %taken.dispatched.delivery, reason, "a result is not known to be of its pool");
            Counters::add(&engine.counters.results_refused, 1);
            collected.refused += 1;
            note(engine, &taken.dispatched.delivery, metrics(taken).worker_id, RefusedFor::Forged, reason);
            continue;
        }
        if let Ok(result) = &taken.result
            && !result.logs.is_empty()
        {
            said.push(result);
        }
        if let Some((execution, command)) = unread_task(taken) {
            commands.push((execution, command));
            places.push(place);
            continue;
        }
        let understood = match &taken.result {
            Ok(result) => task_report(result.clone()),
            Err(error) => Err(error.to_string()),
        };
        match understood {
            Ok((task, report)) => {
                if let Ok(result @ ResultMessage { context_patches: 1.., .. }) = &taken.result {
                    patched.insert(commands.len(), patches::patches_of(result));
                }
                commands.push((task.execution, Command::Report(Box::new(report))));
                places.push(place);
            }
            Err(reason) => {
                tracing::warn!(delivery = %taken.dispatched.delivery, reason, "a result is not understood");
                Counters::add(&engine.counters.results_invalid, 1);
                collected.refused += 1;
                let metrics = metrics(taken);
                if let Some((task, report)) = unreadable_report(&taken.dispatched.delivery, &metrics, &reason)
                {
                    commands.push((task.execution, Command::Report(Box::new(report))));
                    places.push(place);
                }
                note(engine, &taken.dispatched.delivery, metrics.worker_id, RefusedFor::Invalid, reason);
            }
        }
    }
    if !said.is_empty() {
        engine.keep_lines(said.into_iter()).await?;
    }
    let mut contended = Vec::new();
    let outcomes = if patched.is_empty() {
        engine.apply(commands).await?
    } else {
        patches::apply(engine, commands, &patched).await?
    };
    for (place, outcome) in places.into_iter().zip(outcomes) {
        let taken = &results[place];
        let (reason, detail) = match outcome {
            CommandOutcome::Applied(_) => {
                collected.applied += 1;
                continue;
            }
            CommandOutcome::Failed(Fault::Contended) => {
                contended.push(place);
                continue;
            }
            CommandOutcome::Rejected(rejection) => (refused_for(&rejection), rejection.to_string()),
            CommandOutcome::NotFound => {
                (RefusedFor::UnknownExecution, "the execution does not exist".to_owned())
            }
            // It cannot ever be applied to the execution as it is, and must not be in the way of others.
            CommandOutcome::Failed(fault) => (RefusedFor::Unusable, fault.to_string()),
        };
        tracing::debug!(delivery = %taken.dispatched.delivery, detail, "a result was refused");
        collected.refused += 1;
        Counters::add(&engine.counters.results_refused, 1);
        note(engine, &taken.dispatched.delivery, metrics(taken).worker_id, reason, detail);
    }
    let is_left = |place: &usize| contended.binary_search(place).is_ok();
    let done: Vec<Dispatched> = results
        .iter()
        .enumerate()
        .filter(|(place, _)| !is_left(place))
        .map(|(_, taken)| taken.dispatched.clone())
        .collect();
    crash::point("engine/before-acknowledge");
    engine.queue.acknowledge(name, &done).await?;
    crash::point("engine/after-acknowledge");
    let mut place = 0..;
    results.retain(|_| place.next().is_some_and(|place| is_left(&place)));
    Ok(collected)
}

/// That a result is of the pool that its task was dispatched to: whoever can write to a queue can write anything. The inner
/// error says why it is not.
async fn check_origin(engine: &Engine, taken: &Taken) -> Result<Result<(), String>, EngineError> {
    let pool = &taken.dispatched.pool;
    let required = engine.config.require_result_mac;
    let result = match &taken.result {
        Ok(result) if taken.seal.is_some() || !says_unreadable(result) => Ok(result),
        // Whoever could not read the message did not read the token.
        Ok(_) => Err("it has no MAC".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let result = match result {
        Ok(result) => result,
        Err(_) if !required => return Ok(Ok(())),
        // It has no MAC that could be read. It counts as a failed attempt, so that its budget ends it, but only for the pool
        // that the record has the task in: members of one pool can disturb each other, pools cannot.
        Err(error) => {
            let delivery = &taken.dispatched.delivery;
            let Ok(task) = delivery.task_id.parse::<TaskId>() else { return Ok(Ok(())) };
            let execution = engine.store.load(&[task.execution]).await?.pop();
            let is_theirs = execution
                .as_ref()
                .and_then(Execution::task)
                .is_some_and(|out| out.run.task == task.number && out.pool == *pool);
            return Ok(if is_theirs { Ok(()) } else { Err(error) });
        }
    };
    Ok(match engine.task_tokens.check_result(result, taken.seal.as_ref()) {
        Ok(claims) if claims.pool == *pool => Ok(()),
        Ok(_) => Err(MacError::Foreign.to_string()),
        Err(MacError::Missing) if !required => Ok(()),
        Err(error @ (MacError::Missing | MacError::Token(_) | MacError::Forged | MacError::Foreign)) => {
            Err(error.to_string())
        }
    })
}

/// A task whose message a worker could not read was not run: it is delivered anew, perhaps to a newer worker, and parked
/// when that has happened too often. The retries are for what handlers do.
fn unread_task(taken: &Taken) -> Option<(ExecutionId, Command)> {
    taken.result.as_ref().ok().filter(|result| says_unreadable(result))?;
    let delivery = &taken.dispatched.delivery;
    let task: TaskId = delivery.task_id.parse().ok()?;
    let attempt = TaskAttempt { task: task.number, attempt: delivery.attempt };
    Some((task.execution, Command::LeaseLost { attempt, saved_at: None }))
}

/// Whether a worker says that it could not read the task.
fn says_unreadable(result: &ResultMessage) -> bool {
    result.outcome == Outcome::Failure
        && result.error.as_ref().is_some_and(|error| error.code == TASK_UNREADABLE)
}

/// When and where the attempt ran, as far as that can be read.
fn metrics(taken: &Taken) -> Metrics {
    taken.result.as_ref().map(|result| result.metrics.clone()).unwrap_or_default()
}

/// Keeps the evidence of a result that did not count.
pub(crate) fn note(engine: &Engine, delivery: &Delivery, worker: String, reason: RefusedFor, detail: String) {
    engine.evidence.note(RefusedResult {
        at: engine.now(),
        task: delivery.task_id.clone(),
        attempt: delivery.attempt,
        worker,
        reason,
        detail,
    });
}

pub(crate) fn refused_for(rejection: &Rejection) -> RefusedFor {
    match rejection {
        Rejection::Finished(_) => RefusedFor::Finished,
        Rejection::StaleAttempt => RefusedFor::Stale,
        Rejection::StaleJoin
        | Rejection::AlreadyCancelling
        | Rejection::Compensating
        | Rejection::NotWaiting(_)
        | Rejection::InvalidAnswer(_)
        | Rejection::SignalBufferFull { .. }
        | Rejection::DuplicateSignal
        | Rejection::AlreadyPaused
        | Rejection::NotPaused
        | Rejection::Paused
        | Rejection::NotRetryable(_)
        | Rejection::Compensated
        | Rejection::CountedChild
        | Rejection::NothingDue => RefusedFor::Other,
    }
}

/// How the queue knows a collector: results stay with it until they are acknowledged.
pub(crate) fn collector_name(engine: &Engine, number: usize) -> String {
    match number {
        0 => engine.config.engine_id.clone(),
        _ => format!("{}.{number}", engine.config.engine_id),
    }
}

/// Takes results and applies them, again and again. What was taken stays here until it is stored.
#[derive(Debug)]
pub struct Collector {
    number: usize,
    taken: Vec<Taken>,
    /// Whether the queue may think that this engine has results which it does not have.
    uncertain: bool,
    /// When the collector gave its own last sign of life.
    shown_at: Option<Timestamp>,
}

impl Default for Collector {
    /// An engine that starts may have died under the same name with results in its hands.
    fn default() -> Self {
        Self::new(0)
    }
}

impl Collector {
    /// One of the engine's collectors, by number.
    #[must_use]
    pub const fn new(number: usize) -> Self {
        Self { number, taken: Vec::new(), uncertain: true, shown_at: None }
    }

    /// Takes results, or those of the last tick if it failed, and applies them.
    ///
    /// # Errors
    /// When queue or record fail; the next tick goes on with the same results.
    pub async fn tick(&mut self, engine: &Engine) -> Result<Collected, EngineError> {
        self.take(engine).await?;
        self.apply(engine).await
    }

    /// Takes results, unless some are left of the last tick; how many there are.
    async fn take(&mut self, engine: &Engine) -> Result<usize, EngineError> {
        if self.taken.is_empty() {
            let name = collector_name(engine, self.number);
            // Results whose answer was lost are with this engine for the queue, and nobody else would ever take them.
            if self.uncertain {
                engine.queue.adopt_results(&name).await?;
            }
            self.uncertain = true;
            self.show(engine, &name).await?;
            self.taken = engine.queue.take(&name, COLLECT_BATCH_MAX).await?;
            self.uncertain = false;
            if !self.taken.is_empty() {
                crash::point("engine/results-taken");
            }
        }
        Ok(self.taken.len())
    }

    async fn apply(&mut self, engine: &Engine) -> Result<Collected, EngineError> {
        apply(engine, &collector_name(engine, self.number), &mut self.taken).await
    }

    /// Makes sure that the queue has heard of this engine lately: nobody would take over results from one that it does not
    /// know, because it has just started, or was silent for so long that it was taken for dead.
    async fn show(&mut self, engine: &Engine, name: &str) -> Result<(), EngineError> {
        let now = engine.now();
        let every = u64::try_from(engine.config.presence_every.as_millis()).unwrap_or(u64::MAX);
        if self.shown_at.is_none_or(|at| at.plus(every) <= now) {
            presence::show(engine, name).await?;
            self.shown_at = Some(now);
        }
        Ok(())
    }
}

/// Runs one of several collectors, which take results in turns.
pub(super) async fn run(chore: Chore, number: usize, turns: Arc<Mutex<()>>) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    let mut collector = Collector::new(number);
    while let Some(turn) = chore.shutdown.run_until_cancelled(turns.clone().lock_owned()).await {
        let collected = match collector.take(engine).await {
            // One who has nothing to do keeps the turn while it waits: there is nothing to take for the others either.
            Ok(0) => {
                next(&chore).await;
                continue;
            }
            Ok(results) => while_held(turn, results, Box::pin(collector.apply(engine))).await,
            Err(error) => {
                drop(turn);
                Err(error)
            }
        };
        match collected {
            // What is left is of executions that others are changing.
            Ok(Collected { applied: 0, refused: 0 }) => next(&chore).await,
            Ok(_) => backoff = Backoff::default(),
            Err(error) => {
                let rest = backoff.failed(chore.name(), &error);
                chore.rest(rest).await;
            }
        }
    }
}

/// Waits until there may be results.
async fn next(chore: &Chore) {
    tokio::select! {
        () = chore.engine.queue.wait_for_results() => {}
        () = chore.rest(POLL) => {}
    }
}
