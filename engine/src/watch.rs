//! Who watches executions: those who wait for one to end, and those who follow events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::execution::{Execution, RecordedEvent, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::wire::LogLine;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, broadcast, oneshot};

use crate::config::{STORY_CONTEXT_BYTES_MAX, WATCH_BUFFER};

/// Executions waited for, below which nobody looks for those who have given up.
const SWEEP_AT_MIN: usize = 64;
/// Events of one execution that are kept for whoever waits for its story; of a longer one the record is read.
const STORY_EVENTS_MAX: usize = 256;

/// What watchers are told.
#[derive(Clone, Debug)]
pub enum Update {
    /// A commit: the events have sequences, and can be read again from the history.
    Committed(Arc<CommittedUpdate>),
    /// A handler began, volatile.
    Started {
        /// The execution.
        execution: ExecutionId,
        /// Number of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// The worker instance.
        worker: String,
    },
    /// Another engine committed: what can be read from the record.
    Elsewhere {
        /// The execution.
        execution: ExecutionId,
        /// Sequence of its last event.
        sequence: u64,
        /// Its status afterwards.
        status: Status,
    },
    /// Updates of other engines may be missing here: whoever needs all reads the record.
    Missed,
    /// Progress of a task, or of an execution that waits for children; volatile: the latest value counts.
    Progress {
        /// The execution.
        execution: ExecutionId,
        /// Number of the task; none: it is made of what the children have done.
        task: Option<u32>,
        /// The step; none: not known yet.
        step: Option<Arc<str>>,
        /// When the engine heard of it.
        at: Timestamp,
        /// The progress.
        progress: Progress,
    },
    /// A log line of a task, volatile.
    Log {
        /// The execution.
        execution: ExecutionId,
        /// Number of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// The step; none: not known yet.
        step: Option<Arc<str>>,
        /// The line.
        line: LogLine,
    },
}

/// Progress as people and programs see it: `{percent, message, estimatedCompletion?, counters?, updatedAt}`.
#[must_use]
pub fn shown_progress(progress: &Progress, at: Timestamp) -> Value {
    let mut shown = Map::new();
    shown.insert("percent".into(), json!(progress.percent));
    shown.insert("message".into(), json!(progress.message));
    if let Some(estimate) = &progress.estimated_completion {
        shown.insert("estimatedCompletion".into(), json!(estimate));
    }
    if !progress.counters.is_empty() {
        shown.insert("counters".into(), json!(progress.counters));
    }
    shown.insert("updatedAt".into(), json!(at.to_rfc3339()));
    Value::Object(shown)
}

impl Update {
    /// Progress as it is sent live: `{"type": "execution.progress", executionId, stepId, progress}`; none: it is something
    /// else.
    #[must_use]
    pub fn progress_json(&self) -> Option<Value> {
        match self {
            Self::Progress { execution, task: _, step, at, progress } => Some(json!({
                "type": "execution.progress",
                "executionId": execution,
                "stepId": step.as_deref(),
                "progress": shown_progress(progress, *at),
            })),
            Self::Committed(_)
            | Self::Started { .. }
            | Self::Elsewhere { .. }
            | Self::Missed
            | Self::Log { .. } => None,
        }
    }
}

/// A committed change of an execution.
#[derive(Debug)]
pub struct CommittedUpdate {
    /// The state afterwards.
    pub execution: Arc<Execution>,
    /// What happened.
    pub events: Arc<[RecordedEvent]>,
}

/// All watchers of this engine process.
pub struct Watchers {
    updates: broadcast::Sender<Update>,
    /// Rung when somebody begins to watch.
    pub(crate) began: Notify,
    ends: Mutex<Ends>,
}

/// The end of an execution, as its commits told it.
#[derive(Clone, Debug)]
pub struct Story {
    /// The state at the end.
    pub execution: Arc<Execution>,
    /// All events, oldest first; none: this process has not heard all of them, and the record is to be read.
    pub history: Option<Vec<RecordedEvent>>,
}

/// What is heard of an execution from its start on.
struct Heard {
    sender: oneshot::Sender<Story>,
    events: Vec<RecordedEvent>,
}

impl Heard {
    fn hear(&mut self, execution: &Execution, events: &[RecordedEvent]) {
        // What is too large is let go: then the first event is missing, and the record is read.
        if execution.context_bytes > STORY_CONTEXT_BYTES_MAX
            || self.events.len() + events.len() > STORY_EVENTS_MAX
        {
            self.events.clear();
        }
        self.events.extend_from_slice(events);
    }

    fn tell(self, execution: &Arc<Execution>) {
        let Self { sender, events } = self;
        let is_whole = events.len() as u64 == execution.events
            && events.iter().zip(1..).all(|(event, sequence)| event.sequence == sequence);
        // The one who waited may have gone.
        drop(sender.send(Story { execution: execution.clone(), history: is_whole.then_some(events) }));
    }
}

/// Those who wait for one end.
#[derive(Default)]
struct Waiting {
    ends: Vec<oneshot::Sender<Arc<Execution>>>,
    story: Option<Heard>,
}

impl Waiting {
    /// Forgets those who have given up; whether anybody is left.
    fn sweep(&mut self) -> bool {
        self.ends.retain(|sender| !sender.is_closed());
        self.story = self.story.take().filter(|heard| !heard.sender.is_closed());
        !self.ends.is_empty() || self.story.is_some()
    }

    fn is_anybody(&self) -> bool {
        self.ends.iter().any(|sender| !sender.is_closed())
            || self.story.as_ref().is_some_and(|heard| !heard.sender.is_closed())
    }

    fn tell(self, execution: &Arc<Execution>) {
        for sender in self.ends {
            // The one who waited may have gone.
            drop(sender.send(execution.clone()));
        }
        if let Some(heard) = self.story {
            heard.tell(execution);
        }
    }
}

/// Who waits for which end. Those who have given up are swept out whenever their number may have doubled, so that the
/// map never holds many more than there are.
#[derive(Default)]
struct Ends {
    waiting: HashMap<ExecutionId, Waiting>,
    sweep_at: usize,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { updates: broadcast::channel(WATCH_BUFFER).0, began: Notify::new(), ends: Mutex::default() }
    }
}

impl Watchers {
    /// Follows everything. A watcher that lags too far behind is told so, and reads the record.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Update> {
        let receiver = self.updates.subscribe();
        self.began.notify_one();
        receiver
    }

    /// How many follow.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.updates.receiver_count()
    }

    /// Whether anybody follows: nobody costs nothing.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers() > 0
    }

    /// Whether anybody follows, or waits for an end.
    pub(crate) fn is_asked(&self) -> bool {
        let waits = |ends: &Ends| ends.waiting.values().any(Waiting::is_anybody);
        self.is_followed() || waits(&self.ends.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anybody waits for the end of this execution.
    pub(crate) fn waits_for(&self, id: ExecutionId) -> bool {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).waiting.contains_key(&id)
    }

    pub(crate) fn tell(&self, update: Update) {
        // No receiver is no error.
        drop(self.updates.send(update));
    }

    /// Resolves when this engine process commits the end of the execution. Ask first, then look whether it has ended
    /// already.
    pub fn end_of(&self, id: ExecutionId) -> oneshot::Receiver<Arc<Execution>> {
        let (sender, receiver) = oneshot::channel();
        self.wait_for(id, |waiting| waiting.ends.push(sender));
        receiver
    }

    /// As [`Self::end_of`], with all that this process commits of the execution from now on: before its start, that is all
    /// there is to hear.
    pub(crate) fn story_of(&self, id: ExecutionId) -> oneshot::Receiver<Story> {
        let (sender, receiver) = oneshot::channel();
        self.wait_for(id, |waiting| waiting.story = Some(Heard { sender, events: Vec::new() }));
        receiver
    }

    fn wait_for(&self, id: ExecutionId, add: impl FnOnce(&mut Waiting)) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.waiting.len() >= ends.sweep_at {
            ends.waiting.retain(|_, waiting| waiting.sweep());
            ends.sweep_at = (ends.waiting.len() * 2).max(SWEEP_AT_MIN);
        }
        let waiting = ends.waiting.entry(id).or_default();
        waiting.sweep();
        add(waiting);
        drop(ends);
        self.began.notify_one();
    }

    /// This process has committed.
    pub(crate) fn committed(&self, execution: &Arc<Execution>, events: &[RecordedEvent]) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = ends.waiting.get_mut(&execution.id()).and_then(|waiting| waiting.story.as_mut())
        {
            heard.hear(execution, events);
        }
        drop(ends);
        if execution.is_terminal() {
            self.ended(execution);
        }
    }

    /// The execution has ended, here or elsewhere.
    pub(crate) fn ended(&self, execution: &Arc<Execution>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = ends.waiting.remove(&execution.id());
        drop(ends);
        if let Some(waiting) = waiting {
            waiting.tell(execution);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn those_who_have_given_up_are_forgotten() {
        let watchers = Watchers::default();
        let id = |number: u128| ExecutionId::from_uuid(Uuid::from_u128(number));
        let patient = watchers.end_of(id(0));
        for number in 1..10_000 {
            drop(watchers.end_of(id(number)));
        }
        let ends = watchers.ends.lock().unwrap();
        assert!(ends.waiting.len() <= 2 * SWEEP_AT_MIN, "{}", ends.waiting.len());
        assert!(ends.waiting.contains_key(&id(0)));
        drop((ends, patient));
    }
}
