//! Jobs in SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};
use sqlx::query;

use super::encode::{self, blob, hex};
use super::{SqliteStore, sql};
use crate::store::StoreError;
use crate::store::encode::{integer, json, text};
use crate::store::jobs::{
    BeatOutcome, JobBeat, JobChange, JobFilter, JobRow, JobStore, ended_at, status_text,
};
use crate::store::rows;

fn change(change: &JobChange) -> Result<Value, StoreError> {
    Ok(json!({
        "execution": hex(change.task.execution).to_string(),
        "task": change.task.number,
        "attempt": change.attempt,
        "status": status_text(change.status),
        "step": text(&change.step_id),
        "handler": text(&change.handler_type),
        "at": change.at.as_millis(),
        "ended": ended_at(change).map(Timestamp::as_millis),
        "timeout": change.timeout_ms.map(integer),
        "retries": change.max_retries,
        "retry": change.retry_count,
        "error": change.error.as_ref().map(json).transpose()?,
    }))
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = changes.iter().map(change).collect::<Result<Vec<_>, _>>()?;
        self.write(query(sql::JOBS_NOTE).bind(json(&changes)?)).await.map(drop)
    }

    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError> {
        let statement = query(sql::JOBS_BEAT)
            .bind(blob(beat.task.execution))
            .bind(i64::from(beat.task.number))
            .bind(i64::from(beat.attempt))
            .bind(text(&beat.worker))
            .bind(beat.running)
            .bind(beat.at.as_millis())
            .bind(beat.progress.as_ref().map(|(percent, _)| *percent))
            .bind(beat.progress.as_ref().and_then(|(_, message)| message.as_deref()).map(text))
            .bind(beat.checkpoint.as_deref().map(text));
        Ok(match self.write_rows(statement).await?.first() {
            Some(row) => BeatOutcome::Noted { cancelling: rows::column(row, 0, &"fm_jobs")? },
            None => BeatOutcome::Refused,
        })
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let statement = query(sql::JOBS_LIST)
            .bind(filter.status.map(status_text))
            .bind(filter.handler_type.as_deref().map(text))
            .bind(filter.execution.map(blob))
            .bind(filter.before.map(|before| blob(before.execution)))
            .bind(filter.before.map_or(i64::MAX, |before| i64::from(before.number)))
            .bind(integer(filter.max as u64))
            .bind(filter.tenant.as_deref().map(text));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::job))
    }

    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError> {
        let statement = query(sql::JOBS_OPEN)
            .bind(after.map(|after| blob(after.execution)))
            .bind(after.map_or(-1, |after| i64::from(after.number)))
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::job))
    }

    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        let wanted: BTreeSet<(TaskId, u32)> = attempts.iter().copied().collect();
        let ids: BTreeSet<ExecutionId> = attempts.iter().map(|(task, _)| task.execution).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found =
            self.read(query(sql::JOBS_BEATING).bind(encode::ids(&ids)?).bind(since.as_millis())).await?;
        let what = "fm_jobs";
        let beating = self.sound(&found, |row| {
            let task = TaskId { execution: rows::id(row, 0, &what)?, number: rows::count(row, 1, &what)? };
            Ok((task, rows::count(row, 2, &what)?))
        });
        Ok(beating.into_iter().filter(|one| wanted.contains(one)).collect())
    }

    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        self.write(query(sql::JOBS_FORGET).bind(encode::ids(executions)?)).await.map(drop)
    }
}
