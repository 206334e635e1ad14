//! Progress and log lines in Postgres.

use async_trait::async_trait;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use sqlx::query;
use uuid::Uuid;

use super::columns::key;
use super::{PostgresStore, sql};
use crate::store::StoreError;
use crate::store::encode::{integer, json, text};
use crate::store::progress::{LogFilter, LogRow, ProgressRow, ProgressStore, ROLLUP_LEVELS, level_word};
use crate::store::rows;

/// One column of many rows.
fn all<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

#[async_trait]
impl ProgressStore for PostgresStore {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let progress = rows.iter().map(|row| json(&row.progress).map(|json| text(&json)));
        let statement = query(sql::PROGRESS_PUT)
            .bind(all::<_, Uuid>(rows, |row| key(&row.task.execution)))
            .bind(all(rows, |row| i64::from(row.task.number)))
            .bind(all(rows, |row| row.at.as_millis()))
            .bind(all(rows, |row| i64::from(row.attempt)))
            .bind(all(rows, |row| text(&row.step)))
            .bind(all(rows, |row| row.progress.percent))
            .bind(progress.collect::<Result<Vec<_>, _>>()?);
        self.write(statement).await.map(drop)
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        let statement = query(sql::PROGRESS_LATEST).bind(key(&task.execution)).bind(i64::from(task.number));
        let row = self.read_one(statement).await?;
        row.as_ref().map(|row| rows::progress(row, task.execution)).transpose()
    }

    async fn progress_page(
        &self,
        execution: ExecutionId,
        after: Option<(u32, Timestamp)>,
        max: usize,
    ) -> Result<Vec<ProgressRow>, StoreError> {
        let (task, at) = after.map_or((-1, 0), |(task, at)| (i64::from(task), at.as_millis()));
        let statement =
            query(sql::PROGRESS_PAGE).bind(key(&execution)).bind(task).bind(at).bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| rows::progress(row, execution)))
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        let statement = query(sql::PROGRESS_CHILDREN)
            .bind(key(&parent))
            .bind(i64::from(join))
            .bind(i64::from(ROLLUP_LEVELS));
        let row = self.read_one(statement).await?;
        row.map_or(Ok(0.0), |row| rows::column(&row, 0, &"fm_progress"))
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = query(sql::TASK_LOGS_PUT)
            .bind(all::<_, Uuid>(rows, |row| key(&row.task.execution)))
            .bind(all(rows, |row| i64::from(row.task.number)))
            .bind(all(rows, |row| i64::from(row.attempt)))
            .bind(all(rows, |row| i64::from(row.line)))
            .bind(all(rows, |row| row.at.as_millis()))
            .bind(all(rows, |row| text(&row.step)))
            .bind(all(rows, |row| level_word(row.level)))
            .bind(all(rows, |row| text(&row.message)));
        self.write(statement).await.map(drop)
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        let statement = query(sql::TASK_LOGS_PAGE)
            .bind(key(&filter.execution))
            .bind(i64::from(filter.after.task))
            .bind(i64::from(filter.after.attempt))
            .bind(i64::from(filter.after.line))
            .bind(filter.task.map(i64::from))
            .bind(filter.attempt.map(i64::from))
            .bind(integer(filter.max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| rows::log_line(row, filter.execution)))
    }
}
