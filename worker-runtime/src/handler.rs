//! What a handler is: a manifest and a function from a task to an outcome.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointData, Counter, EmittedEvent, Plumbing, PlumbingError, Progress, SavedCheckpoint,
    TaskAccess,
};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::wire::{
    ContextOperation, Cost, EventWait, LogLevel, RESUMED, TableRow, TaskError, TaskEvent, TaskMessage,
};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::job::JobNotes;
use crate::keeper::Keeper;

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
    pub(crate) keeper: Arc<Keeper>,
    /// How long a checkpoint may take to be loaded.
    pub(crate) checkpoint_wait: Duration,
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

    /// Saves a checkpoint, JSON or bytes; a later attempt can go on from it. Up to 1 MiB is stored in the engine's record, more
    /// in its object store, 1 GiB at most unless it is set to another limit.
    ///
    /// # Errors
    /// [`PlumbingError::Stale`] when another attempt has taken over; the handler should stop. After all others it may go on:
    /// the last good checkpoint stays, and the task's log says so.
    pub async fn save_checkpoint(
        &self,
        data: impl Into<CheckpointData> + Send,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        let saved = self.keeper.save(data.into()).await;
        match &saved {
            Ok(_) | Err(PlumbingError::Stale { .. }) => {}
            Err(
                error @ (PlumbingError::TooLarge { .. }
                | PlumbingError::Refused { .. }
                | PlumbingError::Unavailable(_)),
            ) => self.keeper.not_saved(&error.to_string()),
        }
        saved
    }

    /// Saves a checkpoint by and by: at most one in each interval of the manifest's `checkpoint.intervalMs` (default 10 s), the
    /// latest one, beside the handler; and what is left when the attempt ends without having succeeded. Never waits. What
    /// fails is said in the task's log, and tried again with the next one.
    pub fn keep_checkpoint(&self, data: impl Into<CheckpointData>) {
        self.keeper.keep(data.into());
    }

    /// Whether the interval of the manifest's `checkpoint.intervalMs` (default 10 s) has passed since the last checkpoint was
    /// saved, or since the attempt began.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        self.keeper.is_due()
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

    /// Forgets the task's checkpoint.
    ///
    /// # Errors
    /// [`PlumbingError::Stale`] when another attempt has taken over; the handler should stop.
    pub async fn clear_checkpoint(&self) -> Result<(), PlumbingError> {
        self.plumbing.clear_checkpoint(&self.access).await
    }

    /// The last checkpoint of this task.
    ///
    /// Waits while no engine can be reached: to begin anew would be to do again what was saved, and to fail would use up
    /// the step's budget for nothing. After [`WorkerConfig::checkpoint_wait_ms`] it gives up: a handler that fails then hands
    /// its attempt back, and somebody else starts anew.
    ///
    /// # Errors
    /// When the attempt is stale or is to be cancelled; [`PlumbingError::Unavailable`] when the time is over.
    ///
    /// [`WorkerConfig::checkpoint_wait_ms`]: crate::WorkerConfig::checkpoint_wait_ms
    pub async fn load_checkpoint(&self) -> Result<Option<Checkpoint>, PlumbingError> {
        let entropy = SystemEntropy::new();
        let mut backoff = Backoff::default();
        let end = Instant::now() + self.checkpoint_wait;
        loop {
            match self.plumbing.load_checkpoint(&self.access).await {
                Err(PlumbingError::Unavailable(error)) => {
                    if self.cancelled.is_cancelled() || Instant::now() >= end {
                        self.keeper.set_unloaded(true);
                        return Err(PlumbingError::Unavailable(error));
                    }
                    tracing::warn!(delivery = %self.access.delivery, %error, "a checkpoint cannot be loaded yet");
                }
                loaded => {
                    self.keeper.set_unloaded(false);
                    return loaded;
                }
            }
            tokio::select! {
                () = self.cancelled.cancelled() => {}
                () = tokio::time::sleep(backoff.next(&entropy).min(end - Instant::now())) => {}
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

    /// As [`Self::emit`], under an id of the handler's own: all who publish it publish one event. Ids are shared by the whole
    /// system: make yours of [`Self::idempotency_key`].
    pub fn emit_as(&self, id: impl Into<String>, event: impl Into<String>, data: Value) {
        self.journal.emit(TaskEvent { id: Some(id.into()), event: event.into(), data });
    }

    /// Publishes an event at once, while the handler goes on; its id. It stays published when the attempt fails, and an
    /// attempt that begins anew publishes another one: see [`Self::emit_now_as`].
    ///
    /// # Errors
    /// [`PlumbingError::Stale`] when another attempt has taken over: the handler should stop. Others: nothing was published,
    /// or nobody knows whether it was.
    pub async fn emit_now(&self, event: impl Into<String>, data: Value) -> Result<String, PlumbingError> {
        let event = EmittedEvent { id: None, event: event.into(), data };
        Ok(self.emit_all_now(vec![event]).await?.pop().unwrap_or_default())
    }

    /// As [`Self::emit_now`], under an id of the handler's own: all who publish it publish one event. Ids are shared by the
    /// whole system: make yours of [`Self::idempotency_key`], so that each attempt of the step says the same.
    ///
    /// # Errors
    /// As [`Self::emit_now`].
    pub async fn emit_now_as(
        &self,
        id: impl Into<String>,
        event: impl Into<String>,
        data: Value,
    ) -> Result<(), PlumbingError> {
        let event = EmittedEvent { id: Some(id.into()), event: event.into(), data };
        self.emit_all_now(vec![event]).await.map(drop)
    }

    /// As [`Self::emit_now`], for many in one call: all are published, or none. Their ids, in order.
    ///
    /// # Errors
    /// As [`Self::emit_now`].
    pub async fn emit_all_now(&self, events: Vec<EmittedEvent>) -> Result<Vec<String>, PlumbingError> {
        self.plumbing.emit_events(&self.access, events).await
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
