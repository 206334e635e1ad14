//! For tests of handlers: an attempt without a queue.

use std::sync::Arc;

use flowmonkey_plumbing::api::{Plumbing, TaskAccess};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::wire::{LogLine, TableRow, TaskMessage};
use tokio_util::sync::CancellationToken;

use crate::handler::Task;
use crate::journal::{Journal, LOG_LINES_DEFAULT};

impl Task {
    /// An attempt for the tests of a handler; nothing is claimed, leased or reported.
    #[must_use]
    pub fn for_test(message: TaskMessage, plumbing: Arc<dyn Plumbing>) -> Self {
        Self {
            cancelled: CancellationToken::new(),
            soft_limit: CancellationToken::new(),
            job: None,
            access: TaskAccess::from(&message),
            plumbing,
            context: crate::context::ContextState::default(),
            journal: Arc::new(Journal::new(Arc::new(SystemClock), LOG_LINES_DEFAULT)),
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
