//! For tests of handlers: an attempt without a queue.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::api::{Plumbing, TaskAccess};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::manifest::AutoCheckpoint;
use flowmonkey_plumbing::wire::{LogLine, TableRow, TaskMessage};
use tokio_util::sync::CancellationToken;

use crate::config::CHECKPOINT_WAIT_MS;
use crate::handler::Task;
use crate::journal::{Journal, LOG_LINES_DEFAULT};
use crate::keeper::Keeper;

impl Task {
    /// An attempt for the tests of a handler; nothing is claimed, leased or reported.
    #[must_use]
    pub fn for_test(message: TaskMessage, plumbing: Arc<dyn Plumbing>) -> Self {
        let access = TaskAccess::from(&message);
        let journal = Arc::new(Journal::new(Arc::new(SystemClock), LOG_LINES_DEFAULT));
        let interval = AutoCheckpoint::default().interval();
        let keeper = Keeper::new(access.clone(), Arc::clone(&plumbing), Arc::clone(&journal), interval);
        Self {
            cancelled: CancellationToken::new(),
            soft_limit: CancellationToken::new(),
            job: None,
            context: crate::context::ContextState::default(),
            access,
            plumbing,
            journal,
            keeper: Arc::new(keeper),
            checkpoint_wait: Duration::from_millis(CHECKPOINT_WAIT_MS),
            message,
        }
    }

    /// The rows and log lines that the handler has left so far; they are taken out.
    #[must_use]
    pub fn take_rows_and_logs(&self) -> (Vec<TableRow>, Vec<LogLine>) {
        let entries = self.journal.take();
        (entries.rows, entries.logs)
    }
}
