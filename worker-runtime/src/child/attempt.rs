//! One attempt in the hands of a child: hands it the task, listens, and ends it one way or another.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

use flowmonkey_plumbing::api::{Checkpoint, PlumbingError, SavedCheckpoint};
use flowmonkey_plumbing::manifest::{ChildLimits, Manifest};
use flowmonkey_plumbing::wire::LogLevel;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, Sleep};

use super::conversation::Conversation;
use super::launch::HANDLER_ERROR;
use super::output::{Budget, Exceeded};
use super::process::{DRAIN, tail};
use super::protocol::{self, ChildResult, Malformed, Said};
use super::requests::{Answered, Requests};
use crate::handler::{Completion, Failure, Task};

/// A limit of the manifest was passed.
const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
/// The attempt was told to stop.
const CANCELLED: &str = "CANCELLED";
/// The attempt took longer than its handler lets it.
const TIMEOUT: &str = "TIMEOUT";
/// Lines of standard error that a failure quotes.
const STDERR_LINES: usize = 20;
/// Bytes of each of them.
const STDERR_LINE_BYTES: usize = 512;
/// Time to write the `cancel` line to a child whose pipe may be full.
const CANCEL_WRITE: Duration = Duration::from_millis(100);
/// Bytes of answers that may wait for a child to read them; then nothing more is read of what it writes.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;
/// The longest grace; more would overflow the clock.
const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The last checkpoint of the task. One without a reference has none: no engine needs to be there to begin it.
pub(super) async fn load_checkpoint(task: &Task) -> Result<Option<Checkpoint>, Failure> {
    if task.message.checkpoint.is_none() {
        return Ok(None);
    }
    task.load_checkpoint().await.map_err(|error| {
        Failure::new(HANDLER_ERROR, format!("the checkpoint of the task cannot be loaded: {error}"))
    })
}

/// Hands on what a child left behind with its result.
pub(super) fn leave_behind(task: &Task, result: ChildResult) -> Box<Result<Completion, Failure>> {
    let ChildResult { ended, context, events, cost } = result;
    for operation in context {
        task.update_context(operation);
    }
    for event in events {
        task.emit(event.event, event.data);
    }
    if let Some(cost) = cost {
        task.add_cost(cost);
    }
    Box::new(ended)
}

/// How an attempt ended.
pub(super) enum Ended {
    /// With a result; the child can take another task.
    Done(Box<ChildResult>, Option<Box<Conversation>>),
    /// Without a result.
    Failed(Failure),
    /// The child exited before it said a word: it may never have seen the task.
    Unheard(Failure),
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The child has the task.
    Working,
    /// The child was told to stop and has some time for it.
    Cancelling,
    /// The result is there, or no result can come: the child has some time to exit.
    Leaving,
    /// The child has exited; its last words may be in the pipes.
    Exited(ExitStatus),
}

/// Why an attempt was told to stop.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The task was stopped.
    Cancelled,
    /// Another attempt has taken over.
    Stale,
    /// It took too long.
    Late(Duration),
}

type Saving<'a> = Pin<Box<dyn Future<Output = Result<SavedCheckpoint, PlumbingError>> + Send + 'a>>;

/// One attempt in the hands of a child.
pub(super) struct Attempt<'a> {
    task: &'a Task,
    limits: &'a ChildLimits,
    reuse: bool,
    name: &'a str,
    conversation: Conversation,
    phase: Phase,
    result: Option<Box<ChildResult>>,
    saving: Option<Saving<'a>>,
    /// A checkpoint that waits for the requests before it.
    to_save: Option<serde_json::Value>,
    requests: Requests<'a>,
    /// How long it may take.
    timeout: Duration,
    /// Why it was told to stop.
    stopped: Option<Stop>,
    heard: bool,
    /// Whether it was told that it takes long.
    told_soft: bool,
    logs: usize,
    last_stderr: VecDeque<String>,
    stdout_open: bool,
    stderr_open: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        task: &'a Task,
        manifest: &'a Manifest,
        name: &'a str,
        conversation: Conversation,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            task,
            limits: &manifest.limits,
            reuse: manifest.reuse,
            name,
            conversation,
            phase: Phase::Working,
            result: None,
            saving: None,
            to_save: None,
            requests: Requests::new(task, manifest.limits.line_bytes),
            timeout: timeout.map_or(GRACE_MAX, |timeout| timeout.min(GRACE_MAX)),
            stopped: None,
            heard: false,
            told_soft: false,
            logs: 0,
            last_stderr: VecDeque::new(),
            stdout_open: true,
            stderr_open: true,
        }
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.limits.grace_ms).min(GRACE_MAX)
    }

    /// Runs the attempt to its end. When this is dropped, the child and its group are killed.
    pub(super) async fn run(mut self, execute: &[u8]) -> Ended {
        self.conversation.feed.push_task(execute);
        let listened = self.listen().await;
        if let Some(dropped) = self.logs.checked_sub(self.limits.log_lines).filter(|dropped| *dropped > 0) {
            self.task.log(LogLevel::Warn, format!("{dropped} more log lines were dropped"));
        }
        match (self.result.take(), listened) {
            (Some(result), Ok(reusable)) => {
                Ended::Done(result, reusable.then(|| Box::new(self.conversation)))
            }
            // The limits are for what comes before the result.
            (Some(result), Err(_)) => Ended::Done(result, None),
            (None, Err(failure)) => Ended::Failed(failure),
            (None, Ok(_)) => self.without_result(),
        }
    }

    /// Listens until the child has nothing more to say. True: it has had its say and can take another task.
    async fn listen(&mut self) -> Result<bool, Failure> {
        let budget = Budget::new(self.limits.output_bytes);
        let task = self.task;
        // Far away until somebody has to end.
        let deadline = tokio::time::sleep(GRACE_MAX);
        let late = tokio::time::sleep(self.timeout);
        tokio::pin!(deadline, late);
        loop {
            if !self.requests.are_writing()
                && let Some(data) = self.to_save.take()
            {
                self.saving = Some(Box::pin(task.keeper.save(data.into())));
            }
            let is_storing = self.saving.is_some() || self.requests.are_writing();
            if self.result.is_some() && !is_storing {
                match self.phase {
                    Phase::Working if self.reuse && !self.conversation.feed.has_more() => {
                        self.catch_up(&budget).await;
                        return Ok(true);
                    }
                    Phase::Working => self.leave(deadline.as_mut()),
                    Phase::Cancelling | Phase::Leaving | Phase::Exited(_) => {}
                }
            }
            let Self { conversation, saving, requests, .. } = self;
            let exited = matches!(self.phase, Phase::Exited(_));
            if exited && !self.stdout_open && !self.stderr_open && !is_storing {
                return Ok(false);
            }
            let reads_on = self.stdout_open
                && saving.is_none()
                && self.to_save.is_none()
                && requests.have_room()
                && conversation.feed.unread() <= UNREAD_BYTES_MAX;
            tokio::select! {
                line = conversation.stdout.next(&budget), if reads_on => {
                    match line.map_err(|exceeded| self.exceeded(exceeded))? {
                        Some(line) => self.hear(&line).map_err(|failure| *failure)?,
                        None => {
                            self.stdout_open = false;
                            // No result can come any more, but its exit says why.
                            if matches!(self.phase, Phase::Working) {
                                self.leave(deadline.as_mut());
                            }
                        }
                    }
                }
                line = conversation.stderr.next(&budget), if self.stderr_open => {
                    match line.map_err(|exceeded| self.exceeded(exceeded))? {
                        Some(line) => self.hear_error(&line),
                        None => self.stderr_open = false,
                    }
                }
                saved = save(saving), if saving.is_some() => {
                    self.saving = None;
                    self.saved(saved, deadline.as_mut()).await;
                }
                answered = requests.next(), if !requests.is_empty() => {
                    self.answer(answered, deadline.as_mut()).await;
                }
                () = conversation.feed.flush(), if conversation.feed.has_more() => {}
                () = task.cancelled.cancelled(), if matches!(self.phase, Phase::Working) => {
                    self.cancel(Stop::Cancelled, deadline.as_mut()).await;
                }
                () = task.soft_limit().cancelled(), if !self.told_soft && matches!(self.phase, Phase::Working) => {
                    self.told_soft = true;
                    let line = protocol::soft_limit(&task.message.task_id);
                    self.conversation.feed.push(line.as_bytes());
                }
                () = &mut late, if matches!(self.phase, Phase::Working) => {
                    self.cancel(Stop::Late(self.timeout), deadline.as_mut()).await;
                }
                () = task.cancelled.cancelled(), if matches!(self.phase, Phase::Leaving) => return Ok(false),
                status = conversation.group.wait(), if !exited => {
                    let status = status.map_err(|error| {
                        Failure::new(HANDLER_ERROR, format!("`{}` cannot be waited for: {error}", self.name))
                    })?;
                    // What it started goes with it; this also closes the pipes that those processes hold.
                    self.conversation.group.kill();
                    self.phase = Phase::Exited(status);
                    deadline.as_mut().reset(Instant::now() + DRAIN);
                }
                () = &mut deadline, if !(exited && is_storing) => match self.phase {
                    Phase::Working => deadline.as_mut().reset(Instant::now() + GRACE_MAX),
                    Phase::Cancelling | Phase::Leaving | Phase::Exited(_) => {
                        self.conversation.group.kill();
                        return Ok(false);
                    }
                },
            }
        }
    }

    /// Takes in what a child that stays has written to standard error so far.
    async fn catch_up(&mut self, budget: &Budget) {
        loop {
            let line = tokio::select! {
                biased;
                line = self.conversation.stderr.next(budget) => line,
                () = std::future::ready(()) => return,
            };
            match line {
                Ok(Some(line)) => self.hear_error(&line),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn leave(&mut self, deadline: Pin<&mut Sleep>) {
        self.phase = Phase::Leaving;
        self.conversation.feed.pipe = None;
        deadline.reset(Instant::now() + self.grace());
    }

    async fn cancel(&mut self, why: Stop, deadline: Pin<&mut Sleep>) {
        self.stopped = Some(why);
        self.phase = Phase::Cancelling;
        let Conversation { group, feed, .. } = &mut self.conversation;
        feed.push(protocol::cancel(&self.task.message.task_id).as_bytes());
        // Whether it can be told in words or not, the signal follows.
        drop(tokio::time::timeout(CANCEL_WRITE, feed.flush()).await);
        group.ask_to_end();
        deadline.reset(Instant::now() + self.grace());
    }

    async fn saved(&mut self, saved: Result<SavedCheckpoint, PlumbingError>, mut deadline: Pin<&mut Sleep>) {
        match saved {
            Ok(_) => {}
            // Another attempt has taken over.
            Err(PlumbingError::Stale { .. }) => {
                if matches!(self.phase, Phase::Working) {
                    self.cancel(Stop::Stale, deadline.as_mut()).await;
                }
            }
            Err(
                error @ (PlumbingError::TooLarge { .. }
                | PlumbingError::Refused { .. }
                | PlumbingError::Unavailable(_)),
            ) => {
                self.task.keeper.not_saved(&error.to_string());
            }
        }
        if matches!(self.phase, Phase::Exited(_)) {
            // The lines behind the checkpoint have waited for it.
            deadline.reset(Instant::now() + DRAIN);
        }
    }

    async fn answer(&mut self, answered: Answered, mut deadline: Pin<&mut Sleep>) {
        self.conversation.feed.push(answered.line.as_bytes());
        match self.phase {
            Phase::Working if answered.is_stale => self.cancel(Stop::Stale, deadline.as_mut()).await,
            // The lines behind the request may have waited for it.
            Phase::Exited(_) => deadline.reset(Instant::now() + DRAIN),
            Phase::Working | Phase::Cancelling | Phase::Leaving => {}
        }
    }

    /// Takes in a line of standard output.
    fn hear(&mut self, line: &[u8]) -> Result<(), Box<Failure>> {
        self.heard = true;
        match protocol::parse(line, &self.task.message.task_id) {
            // The first result counts.
            Ok(Said::Result(result)) => {
                self.result.get_or_insert(result);
            }
            Ok(Said::Log(level, message)) => self.log(level, message),
            Ok(Said::Progress(progress)) => self.task.report(progress),
            Ok(Said::Checkpoint(data)) => self.to_save = Some(data),
            Ok(Said::Event(event)) => self.task.journal.emit(event),
            Ok(Said::Request(request)) => {
                if let Some(answered) = self.requests.begin(request) {
                    self.conversation.feed.push(answered.line.as_bytes());
                }
            }
            Ok(Said::Nothing) => {}
            Err(error @ Malformed::Line { .. }) => self.log(LogLevel::Warn, error.to_string()),
            Err(error @ Malformed::Result { .. }) => {
                return Err(Box::new(Failure::new(HANDLER_ERROR, error.to_string())));
            }
            Err(error @ Malformed::TooDeep) => {
                return Err(Box::new(Failure::terminal(LIMIT_EXCEEDED, error.to_string())));
            }
        }
        Ok(())
    }

    /// Takes in a line of standard error.
    fn hear_error(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(line).into_owned();
        if self.last_stderr.len() == STDERR_LINES {
            self.last_stderr.pop_front();
        }
        self.last_stderr.push_back(tail(&line, STDERR_LINE_BYTES).to_owned());
        self.log(LogLevel::Info, line);
    }

    fn log(&mut self, level: LogLevel, message: String) {
        if self.logs < self.limits.log_lines {
            self.task.log(level, message);
        }
        self.logs = self.logs.saturating_add(1);
    }

    fn exceeded(&self, exceeded: Exceeded) -> Failure {
        let name = self.name;
        let message = match exceeded {
            Exceeded::Line(limit) => {
                format!("`{name}` wrote a line of more than {limit} bytes (limits.lineBytes)")
            }
            Exceeded::Output(limit) => {
                format!("`{name}` wrote more than {limit} bytes in one task (limits.outputBytes)")
            }
        };
        Failure::terminal(LIMIT_EXCEEDED, message)
    }

    fn without_result(&self) -> Ended {
        let name = self.name;
        if let Some(why) = self.stopped {
            return Ended::Failed(match why {
                Stop::Cancelled => Failure::terminal(CANCELLED, "the task was stopped"),
                Stop::Stale => Failure::terminal(CANCELLED, "another attempt has taken over"),
                Stop::Late(limit) => {
                    Failure::new(TIMEOUT, format!("`{name}` ran longer than {} ms", limit.as_millis()))
                }
            });
        }
        let quoted: Vec<_> = self.last_stderr.iter().map(String::as_str).collect();
        let quoted = if quoted.is_empty() { String::new() } else { format!(": {}", quoted.join("\n")) };
        match self.phase {
            Phase::Exited(status) => {
                use std::os::unix::process::ExitStatusExt;
                if let (Some(signal), Some(limit)) = (status.signal(), self.limits.cpu_seconds)
                    && signal == Signal::XCPU.as_raw()
                {
                    let message =
                        format!("`{name}` used more than {limit} s of processor time (limits.cpuSeconds)");
                    return Ended::Failed(Failure::terminal(LIMIT_EXCEEDED, message));
                }
                let message = format!("`{name}` ended without a result, {status}{quoted}");
                let failure = Failure::new(HANDLER_ERROR, message).details(json!({
                    "exitCode": status.code(),
                    "signal": status.signal(),
                    "stderr": self.last_stderr,
                }));
                if self.heard { Ended::Failed(failure) } else { Ended::Unheard(failure) }
            }
            Phase::Working | Phase::Cancelling | Phase::Leaving => {
                let message = format!("`{name}` closed its standard output without a result{quoted}");
                let details = json!({ "exitCode": null, "signal": null, "stderr": self.last_stderr });
                Ended::Failed(Failure::new(HANDLER_ERROR, message).details(details))
            }
        }
    }
}

/// Waits for the checkpoint that is being saved.
async fn save(saving: &mut Option<Saving<'_>>) -> Result<SavedCheckpoint, PlumbingError> {
    match saving {
        Some(saving) => saving.await,
        None => std::future::pending().await,
    }
}
