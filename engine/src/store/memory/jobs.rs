//! Jobs in memory.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;
use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;

use super::MemoryStore;
use crate::store::StoreError;
use crate::store::jobs::{BeatOutcome, JobBeat, JobChange, JobFilter, JobRow, JobStore, ended_at};

fn fresh(change: &JobChange) -> JobRow {
    JobRow {
        task: change.task,
        attempt: change.attempt,
        status: change.status,
        step_id: change.step_id.clone(),
        handler_type: change.handler_type.clone(),
        worker: None,
        created_at: change.at,
        claimed_at: None,
        started_at: None,
        completed_at: ended_at(change),
        progress_percent: None,
        progress_message: None,
        last_heartbeat_at: None,
        checkpoint: None,
        timeout_ms: change.timeout_ms,
        max_retries: change.max_retries,
        retry_count: change.retry_count,
        error: change.error.clone(),
    }
}

fn note(row: &mut JobRow, change: &JobChange) {
    let is_later = change.attempt > row.attempt;
    let counts = is_later
        || (change.attempt == row.attempt
            && row.completed_at.is_none()
            && change.status != JobStatus::Pending);
    if !counts {
        return;
    }
    if is_later {
        (row.worker, row.claimed_at, row.started_at) = (None, None, None);
    }
    row.attempt = change.attempt;
    row.status = change.status;
    row.timeout_ms = change.timeout_ms.or(row.timeout_ms);
    row.max_retries = change.max_retries.or(row.max_retries);
    row.retry_count = change.retry_count;
    row.error.clone_from(&change.error);
    row.completed_at = ended_at(change);
}

fn beat_on(row: &mut JobRow, beat: &JobBeat) -> bool {
    let is_later = beat.attempt > row.attempt;
    let is_theirs = row.worker.as_ref().is_none_or(|worker| *worker == beat.worker);
    if !is_later && (beat.attempt < row.attempt || row.completed_at.is_some() || !is_theirs) {
        return false;
    }
    if is_later {
        (row.claimed_at, row.started_at, row.completed_at) = (None, None, None);
    }
    let was_running = !is_later && row.status == JobStatus::Running;
    row.attempt = beat.attempt;
    row.status = if beat.running || was_running { JobStatus::Running } else { JobStatus::Claimed };
    row.worker = Some(beat.worker.clone());
    row.claimed_at = row.claimed_at.or(Some(beat.at));
    if beat.running {
        row.started_at = row.started_at.or(Some(beat.at));
    }
    row.last_heartbeat_at = Some(beat.at);
    if let Some((percent, message)) = &beat.progress {
        row.progress_percent = Some(*percent);
        row.progress_message.clone_from(message);
    }
    if beat.checkpoint.is_some() {
        row.checkpoint.clone_from(&beat.checkpoint);
    }
    true
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for change in changes {
            rows.jobs.entry(change.task).and_modify(|row| note(row, change)).or_insert_with(|| fresh(change));
        }
        Ok(())
    }

    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError> {
        let mut rows = self.rows();
        if !rows.is_out(beat.task, beat.attempt) {
            return Ok(BeatOutcome::Refused);
        }
        let status = rows.executions.get(&beat.task.execution).map(|execution| execution.status());
        let noted = rows.jobs.get_mut(&beat.task).is_some_and(|row| beat_on(row, beat));
        let cancelling = status == Some(Status::Cancelling);
        Ok(if noted { BeatOutcome::Noted { cancelling } } else { BeatOutcome::Refused })
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let rows = self.rows();
        let until = filter.before.map_or(Bound::Unbounded, Bound::Excluded);
        let found = rows.jobs.range((Bound::Unbounded, until)).rev().map(|(_, row)| row).filter(|row| {
            (filter.tenant.is_none() || filter.tenant.as_deref() == rows.tenant_of(row.task.execution))
                && filter.status.is_none_or(|status| status == row.status)
                && filter.handler_type.as_ref().is_none_or(|wanted| *wanted == row.handler_type)
                && filter.execution.is_none_or(|wanted| wanted == row.task.execution)
        });
        Ok(found.take(filter.max).cloned().collect())
    }

    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError> {
        let rows = self.rows();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = rows.jobs.range((from, Bound::Unbounded)).map(|(_, row)| row);
        Ok(found.filter(|row| row.completed_at.is_none()).take(max).cloned().collect())
    }

    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        let rows = self.rows();
        let beats = |row: &JobRow| {
            matches!(row.status, JobStatus::Claimed | JobStatus::Running)
                && row.last_heartbeat_at.is_some_and(|at| at >= since)
        };
        let is_beating = |(task, attempt): &&(TaskId, u32)| {
            rows.jobs.get(task).is_some_and(|row| row.attempt == *attempt && beats(row))
        };
        Ok(attempts.iter().filter(is_beating).copied().collect())
    }

    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let gone: BTreeSet<ExecutionId> =
            executions.iter().filter(|id| !rows.executions.contains_key(id)).copied().collect();
        rows.jobs.retain(|task, _| !gone.contains(&task.execution));
        Ok(())
    }
}
