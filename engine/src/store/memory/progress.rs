//! Progress and log lines over maps.

use std::ops::Bound;

use async_trait::async_trait;
use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;

use super::{MemoryRows, MemoryStore};
use crate::store::StoreError;
use crate::store::progress::{LogFilter, LogPlace, LogRow, ProgressRow, ProgressStore, ROLLUP_LEVELS};

#[async_trait]
impl ProgressStore for MemoryStore {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        let mut all = self.rows();
        for row in rows {
            if all.executions.contains_key(&row.task.execution) {
                all.progress.insert((row.task, row.at), row.clone());
            }
        }
        Ok(())
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        Ok(self.rows().latest_progress(task).cloned())
    }

    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError> {
        let after = match after {
            Some((number, at)) => Bound::Excluded((TaskId { execution, number }, at)),
            None => Bound::Included((TaskId { execution, number: 0 }, Timestamp::from_millis(i64::MIN))),
        };
        let rows = self.rows();
        let own = rows.progress.range((after, Bound::Unbounded)).map(|(_, row)| row);
        Ok(own.take_while(|row| row.task.execution == execution).take(max).cloned().collect())
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        Ok(self.rows().children_done(parent, join, 1))
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        let mut all = self.rows();
        for row in rows {
            if all.executions.contains_key(&row.task.execution) {
                all.log_lines.entry((row.task.execution, row.place())).or_insert_with(|| row.clone());
            }
        }
        Ok(())
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        let LogFilter { execution, task, attempt, after, max } = *filter;
        let rows = self.rows();
        let from = Bound::Excluded((execution, after));
        let own = rows.log_lines.range((from, Bound::Unbounded)).take_while(|((id, _), _)| *id == execution);
        let wanted = own.filter(|((_, place), _)| {
            task.is_none_or(|task| place.task == task)
                && attempt.is_none_or(|attempt| place.attempt == attempt)
        });
        Ok(wanted.map(|(_, row)| row.clone()).take(max).collect())
    }
}

/// Log lines in their order, by execution.
pub type MemoryLogLines = std::collections::BTreeMap<(ExecutionId, LogPlace), LogRow>;

impl MemoryRows {
    fn latest_progress(&self, task: TaskId) -> Option<&ProgressRow> {
        let first = (task, Timestamp::from_millis(i64::MIN));
        let last = (task, Timestamp::from_millis(i64::MAX));
        self.progress.range(first..=last).next_back().map(|(_, row)| row)
    }

    /// What the children of a fan-out that have not ended have done; they are at `level`.
    fn children_done(&self, parent: ExecutionId, join: u32, level: u32) -> f64 {
        let children = self.executions.values().filter(|child| {
            let link = child.identity.parent;
            !child.is_terminal() && link.is_some_and(|link| link.execution == parent && link.join == join)
        });
        children.map(|child| self.done(child, level)).sum()
    }

    /// What a child that has not ended has done.
    fn done(&self, child: &Execution, level: u32) -> f64 {
        if let Some(out) = child.task() {
            let latest = self.latest_progress(child.task_id(out.run.task));
            return latest
                .filter(|row| row.attempt == out.run.attempt)
                .map_or(0.0, |row| row.progress.percent / 100.0);
        }
        let id = child.id();
        let mut own = self.joins.range((id, 0)..=(id, u32::MAX)).filter(|(_, join)| join.total > 0);
        let Some(((_, number), join)) = own.next() else { return 0.0 };
        let below = if level < ROLLUP_LEVELS { self.children_done(id, *number, level + 1) } else { 0.0 };
        (f64::from(join.succeeded + join.failed) + below) / f64::from(join.total)
    }
}
