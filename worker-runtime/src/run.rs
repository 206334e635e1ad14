//! Runs one attempt: starts its handler, watches over it, and makes a result of whatever happens.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmonkey_plumbing::api::TaskAccess;
use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::manifest::Mode;
use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::{
    ContextUpdates, LogLevel, Metrics, Outcome, ResultMessage, TaskMessage, WireError, check_result,
};
use semver::VersionReq;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::claim::Slot;
use crate::context::PATCH_UNCERTAIN;
use crate::handler::{Completion, Failure, Handler, Pause, Task, Wait};
use crate::job::{self, JobNotes};
use crate::journal::{Entries, Journal};
use crate::keeper::Keeper;
use crate::report::Report;
use crate::rfc3339;
use crate::running::Stop;
use crate::runtime::Shared;
use crate::task_log::TaskLog;

/// How long an attempt runs before that is told.
const TOLD_AFTER: Duration = Duration::from_millis(100);
/// The handler is not in this worker.
const HANDLER_NOT_FOUND: &str = "HANDLER_NOT_FOUND";
/// The handler's version is not one that the task asks for.
const HANDLER_VERSION_MISMATCH: &str = "HANDLER_VERSION_MISMATCH";
/// The handler broke.
const HANDLER_ERROR: &str = "HANDLER_ERROR";
/// The attempt ran out of time.
const TIMEOUT: &str = "TIMEOUT";
/// The attempt was cancelled and did not end by itself.
const CANCELLED: &str = "CANCELLED";
/// The result is too large or nested too deeply to be sent.
const RESULT_UNWRITABLE: &str = "RESULT_UNWRITABLE";
/// The attempt left more behind than fits a result.
const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";

/// One attempt as claimed.
pub(crate) struct Attempt {
    pub(crate) pool: Arc<str>,
    pub(crate) message: TaskMessage,
    /// Taken before the claim, so that the worker's end of time comes before the queue's; of a claim that waited, when it had to be
    /// made at the latest.
    pub(crate) claimed_at: Instant,
    pub(crate) slot: Slot,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// How an attempt ended.
enum Ended {
    Completed(Completion),
    Failed(Failure),
    /// Stopped by a drain; somebody else starts anew.
    Released,
    /// Another worker may run it by now: nothing is reported.
    Discarded,
}

impl Ended {
    /// Whether the task goes on after this attempt, so that its last checkpoint is of use.
    const fn needs_checkpoint(&self) -> bool {
        match self {
            Self::Completed(Completion::Success(_) | Completion::Override { .. }) | Self::Discarded => false,
            Self::Completed(Completion::Wait(_) | Completion::Pause(_))
            | Self::Failed(_)
            | Self::Released => true,
        }
    }
}

/// What stays of the message for the result, once the handler has it.
struct Identity {
    access: TaskAccess,
    execution_id: String,
    step_id: String,
}

/// Runs an attempt from its claim to its report.
pub(crate) async fn supervise(shared: Arc<Shared>, attempt: Attempt) {
    let Attempt { pool, message, claimed_at, slot, stop, reports } = attempt;
    let identity = Identity {
        access: TaskAccess::from(&message),
        execution_id: message.execution_id.clone(),
        step_id: message.step_id.clone(),
    };
    let started = (shared.clock.now_ms(), Instant::now());
    let journal = Arc::new(Journal::new(Arc::clone(&shared.clock), shared.config.log_lines_max));
    let mut kept = None;
    let ended = match find_handler(&shared, &message) {
        Err(failure) => {
            drop(slot);
            Ended::Failed(*failure)
        }
        Ok(handler) => {
            let log = TaskLog {
                access: identity.access.clone(),
                plumbing: Arc::clone(&shared.plumbing),
                journal: Arc::clone(&journal),
            };
            let span = log.span();
            shared.metrics.started.add(1);
            let limit = Duration::from_millis(message.remaining_ms);
            let cancelled = CancellationToken::new();
            let soft_limit = CancellationToken::new();
            let told_enough = CancellationToken::new();
            let job = (handler.manifest().mode == Mode::Stateful)
                .then(|| Arc::new(JobNotes::new(message.checkpoint.clone())));
            if let Some(notes) = &job {
                let (access, notes, ended) =
                    (identity.access.clone(), Arc::clone(notes), told_enough.clone());
                shared.handlers.spawn(job::tell(Arc::clone(&shared), access, notes, ended));
            }
            // However the attempt ends, nothing is told of it from then on.
            let _told_enough = told_enough.drop_guard();
            let soft = handler.manifest().soft_limit_ms().map(Duration::from_millis);
            let interval = handler.manifest().checkpoint_interval();
            let plumbing = Arc::clone(&shared.plumbing);
            let keeper = Keeper::new(identity.access.clone(), plumbing, Arc::clone(&journal), interval);
            let keeper = Arc::new(keeper.of_job(job.clone()));
            kept = Some(Arc::clone(&keeper));
            let task = Task {
                keeper: Arc::clone(&keeper),
                checkpoint_wait: Duration::from_millis(shared.config.checkpoint_wait_ms),
                message,
                cancelled: cancelled.clone(),
                access: identity.access.clone(),
                plumbing: Arc::clone(&shared.plumbing),
                journal: Arc::clone(&journal),
                soft_limit: soft_limit.clone(),
                job,
                context: crate::context::ContextState::default(),
            };
            let running = shared.handlers.spawn(async move {
                // Held until this future is dropped: a handler that goes on in spite of all still takes its slot.
                let _slot = slot;
                handler.run(&task).instrument(span).await
            });
            let soft = soft.filter(|soft| *soft < limit).map(|soft| SoftLimit {
                after: soft,
                token: soft_limit,
                journal: &journal,
                access: &identity.access,
            });
            let watched =
                Watched { shared: &shared, running, stop, cancelled, keeper, claimed_at, limit, soft };
            let tell = || shared.plumbing.started(&identity.access, &shared.config.worker_id);
            telling(watched.watch(), tell).await
        }
    };
    crash::point("worker/handler-ended");
    if let Some(keeper) = kept {
        keeper.end(ended.needs_checkpoint()).await;
    }
    if matches!(ended, Ended::Discarded) {
        shared.running.remove(&identity.access.delivery);
        return;
    }
    shared.running.set_reporting(&identity.access.delivery);
    let result = make_result(&shared, identity, ended, journal.take(), started);
    let delivery = result.delivery();
    if reports.send(Report { pool, result }).await.is_err() {
        // The reporter ends last; it is gone only when the runtime itself is going down.
        tracing::warn!(%delivery, "a result could not be reported: the worker has ended");
    }
}

/// Tells that an attempt runs, once it has run for a while: of a short one, its end tells as much, and a call for each would
/// cost more than many handlers do.
async fn telling<T>(work: impl Future<Output = T>, tell: impl FnOnce()) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = work.as_mut() => return done,
        () = tokio::time::sleep(TOLD_AFTER) => tell(),
    }
    work.await
}

fn find_handler(shared: &Shared, message: &TaskMessage) -> Result<Arc<dyn Handler>, Box<Failure>> {
    let wanted = &message.handler;
    let handler_type = &wanted.handler_type;
    let Some(registered) = shared.registry.registered(handler_type) else {
        let text = format!("this worker has no handler `{handler_type}`");
        return Err(Box::new(Failure::new(HANDLER_NOT_FOUND, text)));
    };
    if let Some(requirement) = &wanted.version {
        let fits = VersionReq::parse(requirement).map_err(|error| {
            let text = format!("the step asks for version `{requirement}` of `{handler_type}`: {error}");
            Box::new(Failure::terminal(HANDLER_VERSION_MISMATCH, text))
        })?;
        if !fits.matches(&registered.version) {
            let text = format!(
                "the step asks for version {requirement} of `{handler_type}`, this worker has {}",
                registered.version
            );
            return Err(Box::new(Failure::new(HANDLER_VERSION_MISMATCH, text)));
        }
    }
    Ok(Arc::clone(&registered.handler))
}

/// A running handler and all that may end it.
struct Watched<'a> {
    shared: &'a Shared,
    running: JoinHandle<Result<Completion, Failure>>,
    stop: watch::Receiver<Stop>,
    cancelled: CancellationToken,
    keeper: Arc<Keeper>,
    claimed_at: Instant,
    limit: Duration,
    soft: Option<SoftLimit<'a>>,
}

/// The time after which a handler is told that it takes long.
struct SoftLimit<'a> {
    after: Duration,
    token: CancellationToken,
    journal: &'a Journal,
    access: &'a TaskAccess,
}

impl SoftLimit<'_> {
    fn tell(&self, shared: &Shared) {
        self.token.cancel();
        let message = format!("the attempt has run for its soft limit of {} ms", self.after.as_millis());
        tracing::warn!(delivery = %self.access.delivery, "{message}");
        if let Some(line) = self.journal.log(LogLevel::Warn, message) {
            shared.plumbing.log(self.access, &line);
        }
    }
}

impl Watched<'_> {
    async fn watch(mut self) -> Ended {
        let hard_end = tokio::time::sleep(self.limit.saturating_sub(self.claimed_at.elapsed()));
        tokio::pin!(hard_end);
        let soft_end = self.soft.as_ref().map_or(self.limit, |soft| soft.after);
        let soft_end = tokio::time::sleep(soft_end.saturating_sub(self.claimed_at.elapsed()));
        tokio::pin!(soft_end);
        // Far away until somebody asks to stop.
        let grace_end = tokio::time::sleep(self.limit.saturating_mul(2));
        tokio::pin!(grace_end);
        let mut told = Stop::No;
        loop {
            tokio::select! {
                biased;
                joined = &mut self.running => return self.ended(joined, told),
                Ok(()) = self.stop.changed() => {
                    told = *self.stop.borrow_and_update();
                    match told {
                        Stop::No => {}
                        Stop::Lost => {
                            self.shared.metrics.lost.add(1);
                            return self.discard();
                        }
                        Stop::Fenced => {
                            self.shared.metrics.fenced.add(1);
                            return self.discard();
                        }
                        Stop::Cancel => self.grace(grace_end.as_mut(), self.shared.config.cancel_grace()),
                        Stop::Drain => self.grace(grace_end.as_mut(), self.shared.config.stop_grace()),
                    }
                }
                () = &mut hard_end => {
                    self.shared.metrics.timed_out.add(1);
                    self.abort();
                    let text = format!("the attempt passed its limit of {} ms", self.limit.as_millis());
                    return Ended::Failed(Failure::new(TIMEOUT, text));
                }
                () = &mut soft_end, if self.soft.is_some() => {
                    if let Some(soft) = self.soft.take() {
                        soft.tell(self.shared);
                    }
                }
                () = &mut grace_end, if told != Stop::No => {
                    self.abort();
                    return match told {
                        Stop::Drain => Ended::Released,
                        Stop::No | Stop::Cancel | Stop::Fenced | Stop::Lost => {
                            self.shared.metrics.cancelled.add(1);
                            let grace = self.shared.config.cancel_grace_ms;
                            let text = format!("the handler did not end within {grace} ms of its cancellation");
                            Ended::Failed(Failure::terminal(CANCELLED, text))
                        }
                    };
                }
            }
        }
    }

    /// Asks the handler to end, and sets the time that it has for that.
    fn grace(&self, mut end: std::pin::Pin<&mut tokio::time::Sleep>, grace: Duration) {
        self.cancelled.cancel();
        end.as_mut().reset(tokio::time::Instant::now() + grace);
    }

    fn abort(&self) {
        self.cancelled.cancel();
        self.running.abort();
    }

    fn discard(&self) -> Ended {
        self.abort();
        Ended::Discarded
    }

    fn ended(&self, joined: Result<Result<Completion, Failure>, JoinError>, told: Stop) -> Ended {
        match joined {
            Ok(Ok(completion)) => Ended::Completed(completion),
            // A failure for being told to stop is no failure of the task.
            Ok(Err(_)) if told == Stop::Drain => Ended::Released,
            // Nor is one for a checkpoint that nobody could load.
            Ok(Err(failure)) if self.keeper.is_unloaded() => {
                let code = &failure.error.code;
                tracing::warn!(code, "an attempt is handed back: its checkpoint could not be loaded");
                Ended::Released
            }
            Ok(Err(failure)) => Ended::Failed(failure),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => {
                    self.shared.metrics.panicked.add(1);
                    let text = format!("the handler panicked: {}", panic_message(&*panic));
                    Ended::Failed(Failure::new(HANDLER_ERROR, text))
                }
                // Only the end of the whole runtime drops handlers that nobody aborted.
                Err(_cancelled) => Ended::Discarded,
            },
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

fn make_result(
    shared: &Shared,
    identity: Identity,
    ended: Ended,
    entries: Entries,
    (started_ms, started): (i64, Instant),
) -> ResultMessage {
    let Entries {
        mut logs,
        logs_dropped,
        events,
        context,
        context_patches,
        context_in_flight,
        rows,
        cost,
        overflow,
    } = entries;
    let ended = match (ended, overflow) {
        (Ended::Completed(_), Some((what, limit))) => {
            let text = format!("the attempt has more than {limit} {what}");
            Ended::Failed(Failure::terminal(LIMIT_EXCEEDED, text))
        }
        (Ended::Completed(_), None) if context_in_flight => {
            let text = "the handler ended while changes of the context were on their way to the engine";
            Ended::Failed(Failure::new(PATCH_UNCERTAIN, text))
        }
        (ended, _) => ended,
    };
    if logs_dropped > 0
        && let Some(last) = logs.last().cloned()
    {
        let message = format!("{logs_dropped} more log lines were dropped");
        let line = last.line.saturating_add(1);
        logs.push(flowmonkey_plumbing::wire::LogLine { line, level: LogLevel::Warn, message, ..last });
    }
    let now_ms = shared.clock.now_ms();
    let Delivery { task_id, attempt } = identity.access.delivery;
    let mut result = ResultMessage {
        execution_id: identity.execution_id,
        step_id: identity.step_id,
        cost,
        logs,
        metrics: Metrics {
            started_at: rfc3339(started_ms),
            completed_at: rfc3339(now_ms),
            duration: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            worker_id: shared.config.worker_id.clone(),
        },
        token: identity.access.token,
        ..ResultMessage::new(task_id, attempt, Outcome::Released)
    };
    match ended {
        Ended::Completed(completion) => {
            result.events = events;
            result.rows = rows;
            result.context_patches = context_patches;
            result.context_updates = (!context.is_empty()).then_some(ContextUpdates::Operations(context));
            complete(shared, &mut result, completion);
        }
        // Changes of the context and rows of an attempt that failed are dropped with it.
        Ended::Failed(Failure { error, retry_after_ms }) => {
            shared.metrics.failed.add(1);
            result.outcome = Outcome::Failure;
            result.error = Some(error);
            result.retry_after_ms = retry_after_ms;
            result.events = events;
        }
        Ended::Released | Ended::Discarded => shared.metrics.stopped.add(1),
    }
    if let Err(error) = check_result(&result) {
        // What cannot be sent is said to be so here, while it can be sealed.
        refuse(&mut result, &error);
    }
    result
}

/// Makes a failure of a result that cannot be sent.
fn refuse(result: &mut ResultMessage, error: &WireError) {
    let failure = Failure::terminal(RESULT_UNWRITABLE, error.to_string());
    *result = ResultMessage {
        execution_id: std::mem::take(&mut result.execution_id),
        step_id: std::mem::take(&mut result.step_id),
        error: Some(failure.error),
        cost: result.cost,
        metrics: std::mem::take(&mut result.metrics),
        token: result.token.take(),
        ..ResultMessage::new(std::mem::take(&mut result.task_id), result.attempt, Outcome::Failure)
    };
}

fn complete(shared: &Shared, result: &mut ResultMessage, completion: Completion) {
    match completion {
        Completion::Success(output) => {
            shared.metrics.succeeded.add(1);
            result.outcome = Outcome::Success;
            result.output = output;
        }
        Completion::Override { output, next } => {
            shared.metrics.succeeded.add(1);
            result.outcome = Outcome::Success;
            result.output = output;
            result.next_step_override = Some(next);
        }
        Completion::Wait(Wait { until, reason, resume_token, output, metadata }) => {
            shared.metrics.waited.add(1);
            result.outcome = if output.is_some() { Outcome::Waiting } else { Outcome::Wait };
            result.output = output;
            result.wait_until = until;
            result.wait_reason = reason;
            result.resume_token = resume_token;
            result.metadata = metadata;
        }
        Completion::Pause(Pause { until, event, reason, resume_token }) => {
            shared.metrics.waited.add(1);
            result.outcome = Outcome::Wait;
            result.run_again = true;
            result.wait_until = until;
            result.wait_for_event = event;
            result.wait_reason = reason;
            result.resume_token = resume_token;
        }
    }
}
