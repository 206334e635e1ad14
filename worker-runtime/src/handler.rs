//! What a handler is: a manifest and a function from a task to an outcome.

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{Checkpoint, Counter, Plumbing, PlumbingError, Progress, TaskAccess};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::wire::{
    ContextOperation, Cost, EventWait, LogLevel, RESUMED, TableRow, TaskError, TaskEvent, TaskMessage,
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::job::JobNotes;

/// Code that carries out tasks of one type. Must be safe to run more than once for the same task: a handler runs at least
/// once and gets a stable idempotency key per step.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What the handler is and needs.
    fn manifest(&self) -> &Manifest;

    /// Carries out one attempt. Dropping the future must be safe: it is dropped when the attempt ends early. A panic is
    /// contained and becomes a failure with the code `HANDLER_ERROR`.
    async fn run(&self, task: &Task) -> Result<Completion, Failure>;
}

/// One attempt in a handler's hands.
pub struct Task {
    /// The message as dispatched.
    pub message: TaskMessage,
    /// Ends when the task should stop: cancelled, lease lost, out of time, or the worker drains.
    pub cancelled: CancellationToken,
    pub(crate) access: TaskAccess,
    pub(crate) plumbing: Arc<dyn Plumbing>,
    pub(crate) journal: Arc<crate::journal::Journal>,
    pub(crate) soft_limit: CancellationToken,
    /// For stateful handlers: what their heartbeats tell.
    pub(crate) job: Option<Arc<JobNotes>>,
    pub(crate) context: crate::context::ContextState,
}

impl Task {
    /// The step's input; `Null` when the step has none.
    #[must_use]
    pub fn input(&self) -> &Value {
        self.message.input.as_ref().unwrap_or(&Value::Null)
    }

    /// The step's configuration.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.message.config
    }

    /// The part of the context that the step declared, as it came with the task: an empty object when it was too large to
    /// travel. [`Self::load_context`] and [`Self::read_context`] always see it.
    #[must_use]
    pub fn context(&self) -> &Value {
        &self.message.context
    }

    /// Stable over all attempts of one visit of the step: hand it to whatever must not act twice.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.message.idempotency_key
    }

    /// Saves a checkpoint; a later attempt can go on from it.
    ///
    /// # Errors
    /// [`PlumbingError::Stale`] when another attempt has taken over; the handler should stop.
    pub async fn save_checkpoint(&self, data: Value) -> Result<Checkpoint, PlumbingError> {
        let size = self.job.as_ref().map(|_| json_bytes(&data));
        let saved = self.plumbing.save_checkpoint(&self.access, data).await?;
        if let Some((job, size)) = self.job.as_ref().zip(size) {
            job.saved(&saved, size);
        }
        Ok(saved)
    }

    /// Cancelled once the attempt has run for `ttl.softMs` of the manifest: a good time to save a checkpoint, to pause, or
    /// to come to an end. Nothing is ended by it. Never cancelled where the manifest has no such limit.
    #[must_use]
    pub const fn soft_limit(&self) -> &CancellationToken {
        &self.soft_limit
    }

    /// What ended the pause before this attempt: `{by: time | resume | event, id, name, data}`. It stays until the next
    /// pause of the same visit, so that an attempt that failed or was lost takes nothing with it. None: the task has not
    /// paused.
    #[must_use]
    pub fn resumed(&self) -> Option<&Value> {
        self.message.metadata.other.get(RESUMED)
    }

    /// The last checkpoint of this task.
    ///
    /// Waits while no engine can be reached: to begin anew would be to do again what was saved, and to fail would use up
    /// the step's budget for nothing. The attempt's own limit ends the wait.
    ///
    /// # Errors
    /// When the attempt is stale or is to be cancelled.
    pub async fn load_checkpoint(&self) -> Result<Option<Checkpoint>, PlumbingError> {
        let entropy = SystemEntropy::new();
        let mut backoff = Backoff::default();
        loop {
            match self.plumbing.load_checkpoint(&self.access).await {
                Err(PlumbingError::Unavailable(error)) if !self.cancelled.is_cancelled() => {
                    tracing::warn!(delivery = %self.access.delivery, %error, "a checkpoint cannot be loaded yet");
                }
                loaded => return loaded,
            }
            tokio::select! {
                () = self.cancelled.cancelled() => {}
                () = tokio::time::sleep(backoff.next(&entropy)) => {}
            }
        }
    }

    /// Reports progress, 0 to 100; estimate and counters stay as they were reported last. Never waits.
    pub fn progress(&self, percent: f64, message: impl Into<Option<String>>) {
        self.change_progress(|progress| {
            progress.percent = percent;
            progress.message = message.into();
        });
    }

    /// Reports when the task is expected to end, RFC 3339, with what was reported last; none: nobody knows. Never waits.
    pub fn set_estimated_completion(&self, at: impl Into<Option<String>>) {
        self.change_progress(|progress| progress.estimated_completion = at.into());
    }

    /// Reports one counter, with what was reported last. Never waits.
    pub fn set_counter(&self, name: impl Into<String>, counter: Counter) {
        self.change_progress(|progress| {
            progress.counters.insert(name.into(), counter);
        });
    }

    /// Reports progress with all that belongs to it. What passes a limit is cut ([`Progress::bounded`]). Never waits.
    pub fn report(&self, progress: Progress) {
        self.change_progress(|last| *last = progress);
    }

    fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        let progress = self.journal.progress(change);
        if let Some(job) = &self.job {
            job.progress(&progress);
        }
        self.plumbing.progress(&self.access, progress);
    }

    /// Writes a log line of the task. Never waits; past the limit of lines, the rest is counted.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        if let Some(line) = self.journal.log(level, message.into()) {
            self.plumbing.log(&self.access, &line);
        }
    }

    /// Emits a custom event; it is published when the result is accepted.
    pub fn emit(&self, event: impl Into<String>, data: Value) {
        self.journal.emit(TaskEvent { id: None, event: event.into(), data });
    }

    /// Changes the context; merged when the result is accepted, in the order of the calls.
    pub fn update_context(&self, operation: ContextOperation) {
        self.journal.update_context(operation);
    }

    /// Inserts a row into a table when the result is accepted: exactly once.
    pub fn insert_row(&self, row: TableRow) {
        self.journal.insert_row(row);
    }

    /// Adds to what the attempt cost.
    pub fn add_cost(&self, cost: Cost) {
        self.journal.add_cost(cost);
    }
}

/// How an attempt ended well.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// Done. None: nothing is written at the step's `outputKey`.
    Success(Option<Value>),
    /// Done, and the next step is not the one the transitions name (none: the end).
    Override {
        /// The output.
        output: Option<Value>,
        /// The next step.
        next: Option<String>,
    },
    /// The step waits; the worker is free meanwhile. Afterwards the execution goes on to the next step.
    Wait(Wait),
    /// The handler gives its worker back. Afterwards the same task runs again, here or elsewhere: the same idempotency key
    /// and checkpoint, another attempt, no retry used.
    Pause(Pause),
}

impl Completion {
    /// Done, with an output.
    #[must_use]
    pub fn output(value: Value) -> Self {
        Self::Success(Some(value))
    }
}

/// What a step waits for after its handler ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wait {
    /// RFC 3339; none: until a resume.
    pub until: Option<String>,
    /// Shown to people.
    pub reason: Option<String>,
    /// A token chosen by the handler; a resume may name it.
    pub resume_token: Option<String>,
    /// Written at the step's `outputKey` at once.
    pub output: Option<Value>,
    /// Free for the handler.
    pub metadata: Map<String, Value>,
}

/// When a handler that pauses wants to go on: at a time, at an event, whichever comes first; a resume ends any pause.
/// [`Task::resumed`] of the next attempt tells which it was. Each pause counts as a step of the execution, against its
/// `maxSteps`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pause {
    /// RFC 3339; none: no time ends it.
    pub until: Option<String>,
    /// An event that ends it, which may have been published before the pause began; none: no event does.
    pub event: Option<EventWait>,
    /// Shown to people.
    pub reason: Option<String>,
    /// A token chosen by the handler; a resume may name it. The execution's own resume token of the step counts only once
    /// in a visit, however often its handler pauses.
    pub resume_token: Option<String>,
}

/// Bytes of a value as JSON.
fn json_bytes(value: &Value) -> u64 {
    serde_json::to_vec(value).map_or(0, |bytes| bytes.len() as u64)
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Code, message, details, and whether a re-try can help.
    pub error: TaskError,
    /// Milliseconds before the next attempt, at least.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure that the retry policy decides on.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error: TaskError { code: code.into(), message: message.into(), retryable: None, details: None },
            retry_after_ms: None,
        }
    }

    /// A failure that no re-try can help.
    #[must_use]
    pub fn terminal(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::new(code, message);
        failure.error.retryable = Some(false);
        failure
    }

    /// With details for programs.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.error.details = Some(details);
        self
    }

    /// With a time before which a re-try is pointless.
    #[must_use]
    pub const fn retry_after(mut self, millis: u64) -> Self {
        self.retry_after_ms = Some(millis);
        self
    }
}
