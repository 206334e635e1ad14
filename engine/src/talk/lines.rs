//! Log lines within their limits, and as rows of the record.

use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::wire::{LogLine, ResultMessage};

use super::{count, is_line};
use crate::config::{LOG_BYTES_PER_ATTEMPT_MAX, LOG_LINE_BYTES_MAX, TALK_ROWS_MAX};
use crate::engine::{Engine, EngineError};
use crate::store::{LogRow, StoreError};

/// A line with its text within the limit.
pub(super) fn bounded(line: &LogLine) -> LogLine {
    let mut line = line.clone();
    line.message.truncate(line.message.floor_char_boundary(LOG_LINE_BYTES_MAX));
    line
}

/// A line as the record keeps it.
pub(super) fn row(task: TaskId, attempt: u32, step: &str, line: LogLine, now: Timestamp) -> LogRow {
    LogRow {
        task,
        attempt,
        line: line.line,
        step: step.to_owned(),
        level: line.level,
        at: Timestamp::parse_rfc3339(&line.timestamp).unwrap_or(now),
        message: line.message,
    }
}

impl Engine {
    /// Keeps the log lines that came with results; those that came live are there already. To be done before the results
    /// count: afterwards nobody would bring the lines again. Lines that the record refuses are not worth a result.
    pub(crate) async fn keep_lines<'a>(
        &self,
        results: impl Iterator<Item = &'a ResultMessage>,
    ) -> Result<(), EngineError> {
        let now = self.now();
        let rows: Vec<LogRow> = results
            .filter(|result| !result.logs.is_empty())
            .flat_map(|result| self.lines_of(result, now))
            .collect();
        for rows in rows.chunks(TALK_ROWS_MAX) {
            match self.store.put_log_lines(rows).await {
                Ok(()) => count(&self.talk.counters.lines_stored, rows.len()),
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Full { .. })) => {
                    return Err(error.into());
                }
                Err(
                    error @ (StoreError::Corrupt { .. }
                    | StoreError::Schema { .. }
                    | StoreError::Internal { .. }),
                ) => {
                    tracing::warn!(%error, lines = rows.len(), "log lines of results are not kept");
                    count(&self.talk.counters.lines_dropped, rows.len());
                }
            }
        }
        Ok(())
    }

    fn lines_of(&self, result: &ResultMessage, now: Timestamp) -> Vec<LogRow> {
        let Ok(task) = result.task_id.parse::<TaskId>() else { return Vec::new() };
        let mut bytes = 0;
        let lines = result.logs.iter().zip(1_u32..).map(|(line, place)| {
            let line = bounded(line);
            // A sender that does not count has its lines in order.
            let number = if line.line == 0 { place } else { line.line };
            row(task, result.attempt, &result.step_id, LogLine { line: number, ..line }, now)
        });
        let lines = lines.filter(|line| is_line(line.line, &self.config));
        lines
            .take_while(|line| {
                bytes += line.message.len();
                bytes <= LOG_BYTES_PER_ATTEMPT_MAX
            })
            .collect()
    }
}
