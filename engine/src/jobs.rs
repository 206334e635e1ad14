//! Jobs: the tasks of stateful handlers as rows of their own, kept up beside the executions. Written after the commit that
//! they follow from, and repaired by a chore: tasks of stateless handlers cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use flowmonkey_core::execution::error::ExecutionError;
use flowmonkey_core::execution::event::{AttemptEnded, AttemptOutcome, Event};
use flowmonkey_core::execution::state::{Activity, Phase, StepRun, Why};
use flowmonkey_core::execution::{Execution, RecordedEvent, TaskDraft};
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::store::{JobChange, StoreError, TaskOut};

/// The handler type in the name of a pool: `[tenant@][region/]handler`.
fn handler_of(pool: &str) -> &str {
    pool.rsplit(['/', '@']).next().unwrap_or(pool)
}

fn shown(error: &ExecutionError) -> Value {
    json!({ "code": error.code, "message": error.message })
}

fn is_cancelled(execution: &Execution) -> bool {
    match &execution.phase {
        Phase::Cancelled { .. } => true,
        Phase::Ending { why, .. } => matches!(why, Why::Cancel(_)),
        Phase::Running | Phase::Completed | Phase::Failed { .. } => false,
    }
}

/// Where a job is by its execution; none: the execution has moved on, and the job has ended.
fn place(execution: &Execution, number: u32) -> Option<(JobStatus, &StepRun, Option<Value>)> {
    let (status, run, error) = match &execution.activity {
        Activity::Task(task) => (JobStatus::Pending, &task.run, None),
        Activity::Wait(wait) => (JobStatus::Paused, &wait.run, None),
        Activity::Backoff { task, error, .. } => (JobStatus::Pending, task, Some(shown(error))),
        Activity::Incident(incident) => (JobStatus::Failed, &incident.run, Some(shown(&incident.error))),
        Activity::Ready | Activity::Children(_) | Activity::Nothing => return None,
    };
    (run.task == number).then_some((status, run, error))
}

/// A job by its execution, whose last ended attempt was `ended`.
fn change(
    execution: &Execution,
    task: TaskId,
    known: (u32, &str, &str),
    ended: Option<&AttemptEnded>,
) -> JobChange {
    let (attempt, step_id, handler_type) = known;
    let failure = ended.and_then(|ended| ended.error.as_ref()).map(shown);
    let (status, attempt, retry_count, error) = match place(execution, task.number) {
        Some((status, run, error)) => (status, run.attempt, Some(run.retry), error.or(failure)),
        None => {
            let status = match ended.map(|ended| ended.outcome) {
                Some(AttemptOutcome::Success) => JobStatus::Completed,
                Some(_) | None if is_cancelled(execution) => JobStatus::Cancelled,
                Some(AttemptOutcome::Wait | AttemptOutcome::Skipped) => JobStatus::Completed,
                Some(AttemptOutcome::Failure) | None => JobStatus::Failed,
            };
            (status, attempt, None, failure)
        }
    };
    JobChange {
        task,
        attempt,
        status,
        step_id: step_id.to_owned(),
        handler_type: handler_type.to_owned(),
        timeout_ms: None,
        max_retries: None,
        retry_count: retry_count.unwrap_or_default(),
        error,
        at: execution.updated_at,
    }
}

/// What follows from commits for jobs; the latest of each job.
#[derive(Debug, Default)]
pub(crate) struct JobChanges(BTreeMap<TaskId, JobChange>);

impl JobChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<JobChange> {
        std::mem::take(&mut self.0).into_values().collect()
    }

    fn add(&mut self, mut change: JobChange) {
        if let Some(before) = self.0.get(&change.task) {
            if before.attempt > change.attempt {
                return;
            }
            change.timeout_ms = change.timeout_ms.or(before.timeout_ms);
            change.max_retries = change.max_retries.or(before.max_retries);
            change.error = change.error.or_else(|| before.error.clone());
            change.retry_count = change.retry_count.max(before.retry_count);
        }
        self.0.insert(change.task, change);
    }

    /// An attempt is about to be published.
    pub(crate) fn published(&mut self, execution: &Execution, draft: &TaskDraft, now: Timestamp) {
        self.add(JobChange {
            task: draft.task,
            attempt: draft.attempt,
            status: JobStatus::Pending,
            step_id: draft.step.to_string(),
            handler_type: draft.handler_type.to_string(),
            timeout_ms: Some(draft.timeout_ms),
            max_retries: Some(draft.max_retries),
            retry_count: execution.task().map_or(0, |task| task.run.retry),
            error: None,
            at: now,
        });
    }
}

impl Engine {
    /// Notes what became of jobs in a commit.
    pub(crate) fn note_ended_jobs(
        &self,
        changes: &mut JobChanges,
        after: &Execution,
        events: &[RecordedEvent],
    ) {
        if !self.handlers.any_stateful() {
            return;
        }
        for recorded in events {
            if let Event::AttemptEnded(ended) = &recorded.event
                && ended.task != 0
                && self.handlers.is_stateful(&ended.handler_type)
            {
                let known = (ended.attempt, &*ended.step_id, &*ended.handler_type);
                changes.add(change(after, after.task_id(ended.task), known, Some(ended)));
            }
        }
    }

    /// The job of a task that is out, as if it were dispatched now: for one of which the record does not know yet.
    pub(crate) fn pending_job(&self, execution: &Execution) -> Option<JobChange> {
        let task = execution.task()?;
        let handler_type = handler_of(&task.pool);
        Some(JobChange {
            task: execution.task_id(task.run.task),
            attempt: task.run.attempt,
            status: JobStatus::Pending,
            step_id: task.run.step.to_string(),
            handler_type: handler_type.to_owned(),
            timeout_ms: self.handlers.timeout_ms(handler_type),
            max_retries: None,
            retry_count: task.run.retry,
            error: None,
            at: task.scheduled_at,
        })
    }

    /// Where a job is now that the record shows as open: what its execution says. None: as the record shows.
    pub(crate) async fn repaired_job(
        &self,
        execution: &Execution,
        row: &crate::store::JobRow,
    ) -> Result<Option<JobChange>, StoreError> {
        let ended = match place(execution, row.task.number) {
            Some((JobStatus::Pending, run, _)) if run.attempt <= row.attempt => return Ok(None),
            Some((status, run, _)) if run.attempt == row.attempt && status == row.status => return Ok(None),
            Some(_) => None,
            None => self.last_attempt(execution, row.task.number, row.attempt).await?,
        };
        let known = (row.attempt, &*row.step_id, &*row.handler_type);
        let mut change = change(execution, row.task, known, ended.as_ref());
        change.retry_count = change.retry_count.max(row.retry_count);
        Ok(Some(change))
    }

    /// The end of an attempt, from the history.
    async fn last_attempt(
        &self,
        execution: &Execution,
        number: u32,
        attempt: u32,
    ) -> Result<Option<AttemptEnded>, StoreError> {
        let mut last = None;
        let mut after = 0;
        loop {
            let page = self.store.history(execution.id(), after, HISTORY_PAGE).await?;
            let Some(end) = page.last().map(|recorded| recorded.sequence) else { return Ok(last) };
            for recorded in page {
                if let Event::AttemptEnded(ended) = recorded.event
                    && (ended.task, ended.attempt) == (number, attempt)
                {
                    last = Some(*ended);
                }
            }
            after = end;
        }
    }
}

/// Events that are read at a time.
const HISTORY_PAGE: usize = 1000;

/// Attempts of jobs that were absent from an emptied queue though their workers told of them a moment ago. Those workers
/// get one whole staleness to put their leases back; others have the short grace.
#[derive(Debug, Default)]
pub(crate) struct AbsentJobs(Mutex<BTreeMap<(TaskId, u32), Timestamp>>);

impl AbsentJobs {
    /// Of tasks that are absent, those that are not to be published yet. `beating` are the ones whose workers told of them
    /// lately; `may_begin` says of which pools the queues were emptied.
    fn hold(
        &self,
        absent: &[&TaskOut],
        beating: &BTreeSet<(TaskId, u32)>,
        may_begin: impl Fn(&str) -> bool,
        now: Timestamp,
        lease_ms: u64,
    ) -> BTreeSet<(TaskId, u32)> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was delivered anew or came back is forgotten once it could not be held any more.
        since.retain(|_, first| first.plus(lease_ms.saturating_mul(2)) > now);
        let mut held = BTreeSet::new();
        for out in absent {
            let key = (out.task, out.attempt);
            if !beating.contains(&key) {
                continue;
            }
            let first = match since.get(&key) {
                Some(first) => *first,
                None if may_begin(&out.pool) => {
                    since.insert(key, now);
                    now
                }
                None => continue,
            };
            if first.plus(lease_ms) > now {
                held.insert(key);
            }
        }
        held
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Engine {
    /// Of tasks that are absent from their queues, the jobs whose workers have the time to put their leases back.
    pub(crate) async fn jobs_to_spare(
        &self,
        absent: &[&TaskOut],
        was_emptied: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<(TaskId, u32)>, StoreError> {
        let concerned = !self.absent_jobs.is_empty() || absent.iter().any(|out| was_emptied(&out.pool));
        if absent.is_empty() || !concerned {
            return Ok(BTreeSet::new());
        }
        let now = self.now();
        let lease_ms = u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX);
        let since = now.as_millis().saturating_sub(i64::try_from(lease_ms).unwrap_or(i64::MAX));
        let attempts: Vec<(TaskId, u32)> = absent.iter().map(|out| (out.task, out.attempt)).collect();
        let beating = self.store.beating_jobs(&attempts, Timestamp::from_millis(since)).await?;
        let beating = beating.into_iter().collect();
        Ok(self.absent_jobs.hold(absent, &beating, was_emptied, now, lease_ms))
    }
}

#[cfg(test)]
mod tests {
    use flowmonkey_core::ids::ExecutionId;
    use uuid::Uuid;

    use super::*;

    fn out(attempt: u32) -> TaskOut {
        let execution = ExecutionId::from_uuid(Uuid::from_u128(1));
        TaskOut {
            task: TaskId { execution, number: 1 },
            attempt,
            scheduled_at: Timestamp::from_millis(0),
            pool: "video".into(),
            flow_id: "film".into(),
            tenant: None,
        }
    }

    #[test]
    fn a_job_that_is_told_of_is_held_for_one_staleness_from_an_emptied_queue() {
        let absent = AbsentJobs::default();
        let one = out(1);
        let key = (one.task, 1);
        let hold = |beats: bool, emptied: bool, now: i64| {
            let beating = if beats { [key].into() } else { BTreeSet::new() };
            let now = Timestamp::from_millis(now);
            absent.hold(&[&one], &beating, |_| emptied, now, 60).contains(&key)
        };
        assert!(!hold(true, false, 0), "the queue was not emptied");
        assert!(!hold(false, true, 0), "nobody told of it");
        assert!(hold(true, true, 0));
        assert!(hold(true, false, 59), "the queue is whole again, but the worker has its time");
        assert!(!hold(false, false, 59), "its worker has fallen silent");
        assert!(!hold(true, true, 60), "one staleness, and no more");
        let other = out(2);
        let beating = BTreeSet::from([(other.task, 2)]);
        let now = Timestamp::from_millis(60);
        assert!(
            !absent.hold(&[&other], &beating, |_| true, now, 60).is_empty(),
            "another attempt has its own"
        );
    }

    #[test]
    fn a_pool_names_its_handler() {
        assert_eq!(
            ["video", "eu/video", "acme@video", "acme@eu/video", "embedded/video"].map(handler_of),
            ["video"; 5]
        );
    }
}
