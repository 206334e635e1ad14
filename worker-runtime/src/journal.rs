//! What one attempt leaves behind besides its outcome: logs, events, changes of the context, rows, cost. All bounded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowmonkey_plumbing::api::{CONTEXT_OPERATIONS_MAX, Progress};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::wire::{ContextOperation, Cost, LogLevel, LogLine, TableRow, TaskEvent};

use crate::rfc3339;

/// Log lines kept of one attempt, unless the manifest says otherwise.
pub(crate) const LOG_LINES_DEFAULT: usize = 1000;
/// Bytes of one log message; the rest is cut off, and the message says so.
pub(crate) const LOG_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Custom events of one attempt.
pub(crate) const EVENTS_MAX: usize = 1000;
/// Table rows of one attempt.
pub(crate) const ROWS_MAX: usize = 10_000;

/// Ends a log message that was cut off.
const CUT_OFF: &str = "… (cut off)";

/// Collects what one attempt leaves behind.
pub(crate) struct Journal {
    clock: Arc<dyn Clock>,
    log_lines_max: usize,
    entries: Mutex<Entries>,
    /// What was reported last.
    progress: Mutex<Progress>,
}

/// What an attempt left behind.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// The first lines, in order.
    pub(crate) logs: Vec<LogLine>,
    /// Log lines past the limit.
    pub(crate) logs_dropped: u64,
    /// In order.
    pub(crate) events: Vec<TaskEvent>,
    /// In order.
    pub(crate) context: Vec<ContextOperation>,
    /// How many patches of the context are staged.
    pub(crate) context_patches: u32,
    /// Changes of the context were on their way to be staged when the attempt ended. Such an attempt must not succeed: they may
    /// be lost.
    pub(crate) context_in_flight: bool,
    /// In order.
    pub(crate) rows: Vec<TableRow>,
    /// None: the attempt reported no cost.
    pub(crate) cost: Option<Cost>,
    /// What did not fit, and its limit. Such an attempt must not succeed: part of its effect would be missing.
    pub(crate) overflow: Option<(&'static str, usize)>,
}

impl Journal {
    pub(crate) fn new(clock: Arc<dyn Clock>, log_lines_max: usize) -> Self {
        Self { clock, log_lines_max, entries: Mutex::default(), progress: Mutex::default() }
    }

    /// Keeps a log line. None: the limit is reached, the line is only counted.
    pub(crate) fn log(&self, level: LogLevel, message: String) -> Option<LogLine> {
        let mut entries = self.entries();
        if entries.logs.len() >= self.log_lines_max {
            entries.logs_dropped += 1;
            return None;
        }
        let line = LogLine {
            line: u32::try_from(entries.logs.len() + 1).unwrap_or(u32::MAX),
            level,
            message: cut_off(message),
            timestamp: rfc3339(self.clock.now_ms()),
        };
        entries.logs.push(line.clone());
        Some(line)
    }

    /// Changes what was reported last; gives it within its limits.
    pub(crate) fn progress(&self, change: impl FnOnce(&mut Progress)) -> Progress {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        *progress = std::mem::take(&mut *progress).bounded();
        progress.clone()
    }

    pub(crate) fn emit(&self, event: TaskEvent) {
        let Entries { events, overflow, .. } = &mut *self.entries();
        push_bounded(events, event, EVENTS_MAX, "events", overflow);
    }

    pub(crate) fn update_context(&self, operation: ContextOperation) {
        let Entries { context, overflow, .. } = &mut *self.entries();
        push_bounded(context, operation, CONTEXT_OPERATIONS_MAX, "changes of the context", overflow);
    }

    /// Takes the changes of the context out, to be staged.
    pub(crate) fn take_context(&self) -> Vec<ContextOperation> {
        let mut entries = self.entries();
        entries.context_in_flight = true;
        std::mem::take(&mut entries.context)
    }

    /// Puts changes back that were not staged, before those that have come since.
    pub(crate) fn put_context_back(&self, mut operations: Vec<ContextOperation>) {
        let mut entries = self.entries();
        operations.append(&mut entries.context);
        entries.context = operations;
        entries.context_in_flight = false;
    }

    /// Notes that so many patches of the context are staged.
    pub(crate) fn staged(&self, patches: u32) {
        let mut entries = self.entries();
        (entries.context_patches, entries.context_in_flight) = (patches, false);
    }

    pub(crate) fn insert_row(&self, row: TableRow) {
        let Entries { rows, overflow, .. } = &mut *self.entries();
        push_bounded(rows, row, ROWS_MAX, "table rows", overflow);
    }

    pub(crate) fn add_cost(&self, cost: Cost) {
        let mut entries = self.entries();
        let sum = entries.cost.get_or_insert_default();
        // A cost that is no number would make the sum none for ever.
        if cost.usd.is_finite() {
            sum.usd += cost.usd;
        }
        sum.tokens = sum.tokens.saturating_add(cost.tokens);
    }

    /// Takes all that was collected; what comes later belongs to an attempt that has ended.
    pub(crate) fn take(&self) -> Entries {
        std::mem::take(&mut *self.entries())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push_bounded<T>(
    items: &mut Vec<T>,
    item: T,
    limit: usize,
    what: &'static str,
    overflow: &mut Option<(&'static str, usize)>,
) {
    if items.len() < limit {
        items.push(item);
    } else {
        overflow.get_or_insert((what, limit));
    }
}

fn cut_off(mut message: String) -> String {
    if message.len() > LOG_MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(LOG_MESSAGE_BYTES_MAX - CUT_OFF.len()));
        message.push_str(CUT_OFF);
        message.shrink_to_fit();
    }
    message
}

#[cfg(test)]
mod tests {
    use flowmonkey_plumbing::clock::SystemClock;
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_past_the_limit_are_counted_not_kept() {
        let journal = Journal::new(Arc::new(SystemClock), 2);
        assert!(journal.log(LogLevel::Info, "a".into()).is_some());
        assert!(journal.log(LogLevel::Warn, "b".into()).is_some());
        assert!(journal.log(LogLevel::Info, "c".into()).is_none());
        let entries = journal.take();
        assert_eq!(entries.logs.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(entries.logs_dropped, 1);
        assert_eq!(entries.overflow, None);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let journal = Journal::new(Arc::new(SystemClock), 1);
        let line = journal.log(LogLevel::Info, "ü".repeat(LOG_MESSAGE_BYTES_MAX)).unwrap();
        assert!(line.message.len() <= LOG_MESSAGE_BYTES_MAX);
        assert!(line.message.ends_with(CUT_OFF) && line.message.starts_with("üü"));
    }

    #[test]
    fn events_past_the_limit_are_an_overflow() {
        let journal = Journal::new(Arc::new(SystemClock), 1);
        for number in 0..=EVENTS_MAX {
            journal.emit(TaskEvent { id: None, event: "e".into(), data: json!(number) });
        }
        let entries = journal.take();
        assert_eq!((entries.events.len(), entries.overflow), (EVENTS_MAX, Some(("events", EVENTS_MAX))));
    }

    #[test]
    fn costs_add_up_and_odd_ones_do_no_harm() {
        let journal = Journal::new(Arc::new(SystemClock), 1);
        journal.add_cost(Cost { usd: 0.5, tokens: u64::MAX });
        journal.add_cost(Cost { usd: f64::NAN, tokens: 1 });
        assert_eq!(journal.take().cost, Some(Cost { usd: 0.5, tokens: u64::MAX }));
    }
}
