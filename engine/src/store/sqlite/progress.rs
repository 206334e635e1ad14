//! Progress and log lines in SQLite.

use async_trait::async_trait;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use serde::Serialize;
use sqlx::query;
use uuid::fmt::Simple;

use super::encode::{blob, hex, integer, json, some, text};
use super::{SqliteStore, sql};
use crate::store::StoreError;
use crate::store::progress::{LogFilter, LogRow, ProgressRow, ProgressStore, ROLLUP_LEVELS, level_word};
use crate::store::rows;

#[derive(Serialize)]
struct NewProgress {
    execution: Simple,
    task: u32,
    at: Timestamp,
    attempt: u32,
    step: String,
    percent: f64,
    progress: String,
}

#[derive(Serialize)]
struct NewLine {
    execution: Simple,
    task: u32,
    attempt: u32,
    line: u32,
    at: Timestamp,
    step: String,
    level: &'static str,
    message: String,
}

#[async_trait]
impl ProgressStore for SqliteStore {
    async fn put_progress(&self, rows: &[ProgressRow]) -> Result<(), StoreError> {
        let new = rows.iter().map(|row| {
            json(&NewProgress {
                execution: hex(row.task.execution),
                task: row.task.number,
                at: row.at,
                attempt: row.attempt,
                step: text(&row.step),
                percent: row.progress.percent,
                progress: json(&row.progress)?,
            })
        });
        let Some(new) = some(&new.collect::<Result<Vec<_>, _>>()?) else { return Ok(()) };
        self.write(query(sql::PROGRESS_PUT).bind(new)).await.map(drop)
    }

    async fn latest_progress(&self, task: TaskId) -> Result<Option<ProgressRow>, StoreError> {
        let statement = query(sql::PROGRESS_LATEST).bind(blob(task.execution)).bind(task.number);
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
            query(sql::PROGRESS_PAGE).bind(blob(execution)).bind(task).bind(at).bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| rows::progress(row, execution)))
    }

    async fn live_children_done(&self, parent: ExecutionId, join: u32) -> Result<f64, StoreError> {
        let row = self
            .read_one(query(sql::PROGRESS_CHILDREN).bind(blob(parent)).bind(join).bind(ROLLUP_LEVELS))
            .await?;
        row.map_or(Ok(0.0), |row| rows::column(&row, 0, &"fm_progress"))
    }

    async fn put_log_lines(&self, rows: &[LogRow]) -> Result<(), StoreError> {
        let new = rows.iter().map(|row| {
            json(&NewLine {
                execution: hex(row.task.execution),
                task: row.task.number,
                attempt: row.attempt,
                line: row.line,
                at: row.at,
                step: text(&row.step),
                level: level_word(row.level),
                message: text(&row.message),
            })
        });
        let Some(new) = some(&new.collect::<Result<Vec<_>, _>>()?) else { return Ok(()) };
        self.write(query(sql::TASK_LOGS_PUT).bind(new)).await.map(drop)
    }

    async fn log_lines(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        let statement = query(sql::TASK_LOGS_PAGE)
            .bind(blob(filter.execution))
            .bind(filter.after.task)
            .bind(filter.after.attempt)
            .bind(filter.after.line)
            .bind(filter.task)
            .bind(filter.attempt)
            .bind(integer(filter.max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| rows::log_line(row, filter.execution)))
    }
}
