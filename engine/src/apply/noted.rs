//! Who is told of a commit within this process.

use std::sync::{Arc, PoisonError};

use flowmonkey_core::execution::{Execution, RecordedEvent};

use crate::effects::Aftermath;
use crate::engine::{Counters, Engine};
use crate::store::Committed;
use crate::watch;

impl Engine {
    /// Watchers, timers and caches after a commit.
    pub(crate) fn note_commit(&self, after: &Arc<Execution>, events: Arc<[RecordedEvent]>) {
        Counters::add(&self.counters.decisions, 1);
        self.keep_hot(after);
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).forget(after.id());
        if let Some(wake) = after.next_wake() {
            self.timer_hint(after.id(), wake);
        }
        self.watchers.committed(after, &events);
        if self.watchers.is_followed() {
            let update = watch::CommittedUpdate { execution: after.clone(), events };
            self.watchers.tell(watch::Update::Committed(Arc::new(update)));
        }
        self.talk_of_commit(after);
    }

    /// Fan-outs and budgets after a commit.
    pub(crate) fn note_shared(&self, committed: &Committed, aftermath: &mut Aftermath) {
        aftermath.joins.extend(committed.joins.iter().filter(|join| join.needs_attention()).cloned());
        aftermath.spent.extend(committed.spent.iter().copied());
    }
}
