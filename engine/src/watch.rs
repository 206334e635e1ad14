//! Who watches executions: those who wait for one to end, and those who follow events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::execution::{Execution, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::wire::LogLine;
use tokio::sync::{broadcast, oneshot};

use crate::config::WATCH_BUFFER;

/// Executions waited for, below which nobody looks for those who have given up.
const SWEEP_AT_MIN: usize = 64;

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
    /// Progress of a task, volatile: the latest value counts.
    Progress {
        /// The execution.
        execution: ExecutionId,
        /// Number of the task.
        task: u32,
        /// The progress.
        progress: Progress,
    },
    /// A log line of a task, volatile.
    Log {
        /// The execution.
        execution: ExecutionId,
        /// Number of the task.
        task: u32,
        /// The line.
        line: LogLine,
    },
}

/// A committed change of an execution.
#[derive(Debug)]
pub struct CommittedUpdate {
    /// The state afterwards.
    pub execution: Arc<Execution>,
    /// What happened.
    pub events: Vec<RecordedEvent>,
}

/// All watchers of this engine process.
pub struct Watchers {
    updates: broadcast::Sender<Update>,
    ends: Mutex<Ends>,
}

/// Who waits for which end. Those who have given up are swept out whenever their number may have doubled, so that the
/// map never holds many more than there are.
#[derive(Default)]
struct Ends {
    waiting: HashMap<ExecutionId, Vec<oneshot::Sender<Arc<Execution>>>>,
    sweep_at: usize,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { updates: broadcast::channel(WATCH_BUFFER).0, ends: Mutex::default() }
    }
}

impl Watchers {
    /// Follows everything. A watcher that lags too far behind is told so, and reads the record.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Update> {
        self.updates.subscribe()
    }

    /// Whether anybody follows: nobody costs nothing.
    pub(crate) fn is_followed(&self) -> bool {
        self.updates.receiver_count() > 0
    }

    pub(crate) fn tell(&self, update: Update) {
        // No receiver is no error.
        drop(self.updates.send(update));
    }

    /// Resolves when this engine process commits the end of the execution. Ask first, then look whether it has ended
    /// already.
    pub fn end_of(&self, id: ExecutionId) -> oneshot::Receiver<Arc<Execution>> {
        let (sender, receiver) = oneshot::channel();
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.waiting.len() >= ends.sweep_at {
            ends.waiting.retain(|_, waiting| {
                waiting.retain(|sender| !sender.is_closed());
                !waiting.is_empty()
            });
            ends.sweep_at = (ends.waiting.len() * 2).max(SWEEP_AT_MIN);
        }
        let waiting = ends.waiting.entry(id).or_default();
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    pub(crate) fn ended(&self, execution: &Arc<Execution>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = ends.waiting.remove(&execution.id());
        drop(ends);
        for sender in waiting.into_iter().flatten() {
            // The one who waited may have gone.
            drop(sender.send(execution.clone()));
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
