//! What running tasks say of themselves: throttled, told to those who watch, stored in batches.
//!
//! Architecture invariant: nobody who talks waits here, for the record or for the network; every buffer has a limit, and what
//! does not fit is dropped and counted. The latest progress of each task is stored in the end, and the lines of an attempt
//! come again with its result.

mod flush;
mod lines;
mod rollup;
pub mod spread;
mod tasks;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::wire::LogLine;
use lru::LruCache;
use tokio::sync::Notify;

pub use flush::Flushed;
use tasks::Tasks;

use crate::config::{
    EngineConfig, LINE_BYTES_WAITING_MAX, LINES_WAITING_MAX, LIVE_PROGRESS_EVERY, LOG_BYTES_PER_ATTEMPT_MAX,
    ROLLUPS_WAITING_MAX,
};
use crate::engine::Engine;
use crate::store::LogRow;
use crate::watch::Update;

/// Counters of what tasks said, for metrics and tests.
#[derive(Debug, Default)]
pub struct TalkCounters {
    /// Reports of progress that came.
    pub progress_heard: AtomicU64,
    /// Of these, those that were left out because too many tasks talk at once.
    pub progress_dropped: AtomicU64,
    /// Rows of progress that were stored.
    pub progress_stored: AtomicU64,
    /// Log lines that came live.
    pub lines_heard: AtomicU64,
    /// Of these, those that were not kept: past a limit, or not counted by their sender. A result may bring them again.
    pub lines_dropped: AtomicU64,
    /// Log lines that were stored, live or of results; a line may count twice.
    pub lines_stored: AtomicU64,
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// What running tasks say of themselves.
pub struct Talk {
    state: Mutex<State>,
    /// Rung when something waits to be stored or told.
    pub(crate) bell: Notify,
    /// What was said.
    pub counters: TalkCounters,
    pub(crate) spread: spread::Spread,
}

struct State {
    tasks: Tasks,
    /// Log lines that wait to be stored, in the order in which they came.
    lines: VecDeque<LogRow>,
    line_bytes: usize,
    /// Executions whose children did something.
    rollups: BTreeSet<ExecutionId>,
    /// The percentage that was told last of an execution with children.
    rolled_up: LruCache<ExecutionId, i64>,
}

impl Default for Talk {
    fn default() -> Self {
        let told = NonZeroUsize::new(ROLLUPS_WAITING_MAX).unwrap_or(NonZeroUsize::MIN);
        let state = State {
            tasks: Tasks::default(),
            lines: VecDeque::new(),
            line_bytes: 0,
            rollups: BTreeSet::new(),
            rolled_up: LruCache::new(told),
        };
        Self {
            state: Mutex::new(state),
            bell: Notify::new(),
            counters: TalkCounters::default(),
            spread: spread::Spread::default(),
        }
    }
}

impl State {
    /// Notes that the children of `parent` did something; past the limit they show with the next thing they do.
    fn note_parent(&mut self, parent: ExecutionId) {
        if self.rollups.len() < ROLLUPS_WAITING_MAX {
            self.rollups.insert(parent);
        }
    }
}

impl Talk {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, and every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notices for watchers of other engines that were dropped for want of room.
    #[must_use]
    pub fn notices_dropped(&self) -> u64 {
        self.spread.dropped()
    }

    /// Whether the record had this attempt out a moment ago. A worker that talks is not asked for each time.
    pub(crate) fn was_out(&self, task: TaskId, attempt: u32, now: Timestamp) -> bool {
        self.state().tasks.was_out(task, attempt, now)
    }

    /// Learns what the task that an execution has out is about, as read from the record now.
    pub(crate) fn learn(&self, execution: &Execution, now: Timestamp) {
        if let Some(out) = execution.task() {
            let task = execution.task_id(out.run.task);
            if let Some(talking) = self.state().tasks.talking(task, out.run.attempt, now) {
                talking.learn(execution);
                talking.verified_at = Some(now);
            }
        }
    }
}

impl Engine {
    /// Whether anybody, here or at another engine, wants to be told.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.is_followed() || self.talk.spread.is_wanted(self.now())
    }

    /// Tells those who watch here and elsewhere.
    pub(crate) fn tell(&self, update: Update) {
        if self.talk.spread.is_wanted(self.now()) {
            self.talk.spread.offer(&update);
        }
        if self.watchers.is_followed() {
            self.watchers.tell(update);
        }
    }

    /// A handler began.
    pub(crate) fn task_started(&self, task: TaskId, attempt: u32, worker: &str) {
        if self.is_watched() {
            let (execution, task) = (task.execution, task.number);
            self.tell(Update::Started { execution, task, attempt, worker: worker.into() });
        }
    }

    /// A task reports progress: told at once unless it was told a moment ago, stored a little later.
    pub(crate) fn task_progress(&self, task: TaskId, attempt: u32, progress: Progress) {
        let (now, progress) = (self.now(), progress.bounded());
        count(&self.talk.counters.progress_heard, 1);
        let watched = self.is_watched();
        let mut guard = self.talk.state();
        let state = &mut *guard;
        let Some(talking) = state.tasks.talking(task, attempt, now) else {
            count(&self.talk.counters.progress_dropped, 1);
            return;
        };
        if attempt < talking.attempt {
            // An attempt that is over.
            return;
        }
        if !talking.is_known()
            && let Some(execution) = self.peek_hot(task.execution)
        {
            talking.learn(&execution);
        }
        talking.latest = Some((now, progress));
        talking.to_store = true;
        talking.to_tell = true;
        if watched && now.since(talking.told_at) >= millis(LIVE_PROGRESS_EVERY) {
            // Under the lock, so that the latest is told last.
            if let Some(update) = talking.tell(task, now) {
                self.tell(update);
            }
        }
        drop(guard);
        self.talk.bell.notify_one();
    }

    /// A task writes a log line: told at once, stored a little later.
    pub(crate) fn task_log(&self, task: TaskId, attempt: u32, line: &LogLine) {
        let (now, counters) = (self.now(), &self.talk.counters);
        count(&counters.lines_heard, 1);
        let line = lines::bounded(line);
        let watched = self.is_watched();
        let mut guard = self.talk.state();
        let state = &mut *guard;
        let Some(talking) = state.tasks.talking(task, attempt, now) else {
            count(&counters.lines_dropped, 1);
            return;
        };
        if !talking.is_known()
            && let Some(execution) = self.peek_hot(task.execution)
        {
            talking.learn(&execution);
        }
        let step = talking.step.clone();
        let bytes = line.message.len();
        let fits = is_line(line.line, &self.config)
            && attempt == talking.attempt
            && bytes <= LOG_BYTES_PER_ATTEMPT_MAX.saturating_sub(talking.log_bytes)
            && state.lines.len() < LINES_WAITING_MAX
            && bytes <= LINE_BYTES_WAITING_MAX.saturating_sub(state.line_bytes);
        if fits {
            talking.log_bytes += bytes;
            state.line_bytes += bytes;
            let shown = step.as_deref().unwrap_or_default();
            state.lines.push_back(lines::row(task, attempt, shown, line.clone(), now));
        } else {
            count(&counters.lines_dropped, 1);
        }
        drop(guard);
        if watched {
            let (execution, task) = (task.execution, task.number);
            self.tell(Update::Log { execution, task, attempt, step, line });
        }
        if fits {
            self.talk.bell.notify_one();
        }
    }

    /// Watchers elsewhere, and those of the parent, after a commit.
    pub(crate) fn talk_of_commit(&self, after: &Arc<Execution>) {
        if !self.is_watched() {
            return;
        }
        if self.talk.spread.is_wanted(self.now()) {
            let (execution, sequence, status) = (after.id(), after.events, after.status());
            self.talk.spread.offer(&Update::Elsewhere { execution, sequence, status });
        }
        if let Some(parent) = after.identity.parent.filter(|_| after.is_terminal()) {
            self.talk.state().note_parent(parent.execution);
            self.talk.bell.notify_one();
        }
    }
}

/// Whether a line of this number is stored: those that are not counted come again, with numbers, with the result.
fn is_line(line: u32, config: &EngineConfig) -> bool {
    (1..=config.log_lines_max.saturating_add(1)).contains(&line)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
