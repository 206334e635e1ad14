//! Jobs: what the record knows of the tasks of stateful handlers, beside the execution that they belong to.
//!
//! Architecture invariant: an execution never depends on its jobs. They show who works on what and how far it is, and lend
//! workers a grace after their queue was lost; were all rows gone, everything would end as it does with them.

use async_trait::async_trait;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;
use serde_json::Value;

use super::StoreError;

/// What the engine knows of a job after a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct JobChange {
    /// Names the job: its task.
    pub task: TaskId,
    /// The attempt of which this is said.
    pub attempt: u32,
    /// Where the job is: not `claimed` nor `running`, of which workers tell.
    pub status: JobStatus,
    /// The step.
    pub step_id: String,
    /// The handler type.
    pub handler_type: String,
    /// Milliseconds that the attempt may run; none: not known now, what was known stays.
    pub timeout_ms: Option<u64>,
    /// Retries that the step may use; none: as with `timeout_ms`.
    pub max_retries: Option<u32>,
    /// Retries used.
    pub retry_count: u32,
    /// Why the last attempt failed: `{code, message}`.
    pub error: Option<Value>,
    /// When.
    pub at: Timestamp,
}

/// What a worker says of its job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobBeat {
    /// The job.
    pub task: TaskId,
    /// The fence.
    pub attempt: u32,
    /// The worker.
    pub worker: String,
    /// Whether the handler runs; else the worker has only claimed the task.
    pub running: bool,
    /// 0 to 100, and what is shown to people.
    pub progress: Option<(f64, Option<String>)>,
    /// The last checkpoint.
    pub checkpoint: Option<String>,
    /// When it arrived, by the engine's clock.
    pub at: Timestamp,
}

/// What the record says to a worker's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Noted.
    Noted {
        /// Whether the execution is being cancelled.
        cancelling: bool,
    },
    /// Nothing has changed: the record has another attempt, the job is another worker's, or it is not known.
    Refused,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Names the job: its task.
    pub task: TaskId,
    /// The latest attempt.
    pub attempt: u32,
    /// Where it is.
    pub status: JobStatus,
    /// The step.
    pub step_id: String,
    /// The handler type.
    pub handler_type: String,
    /// Who has it, or had it last in this attempt.
    pub worker: Option<String>,
    /// When the job was dispatched first.
    pub created_at: Timestamp,
    /// When the worker took it.
    pub claimed_at: Option<Timestamp>,
    /// When the handler began.
    pub started_at: Option<Timestamp>,
    /// When the job ended.
    pub completed_at: Option<Timestamp>,
    /// 0 to 100.
    pub progress_percent: Option<f64>,
    /// Shown to people.
    pub progress_message: Option<String>,
    /// The last heartbeat.
    pub last_heartbeat_at: Option<Timestamp>,
    /// The last checkpoint of which a worker told.
    pub checkpoint: Option<String>,
    /// Milliseconds that the attempt may run.
    pub timeout_ms: Option<u64>,
    /// Retries that the step may use.
    pub max_retries: Option<u32>,
    /// Retries used.
    pub retry_count: u32,
    /// Why the last attempt failed.
    pub error: Option<Value>,
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only of executions of this tenant.
    pub tenant: Option<String>,
    /// Only those that are here.
    pub status: Option<JobStatus>,
    /// Only of this handler.
    pub handler_type: Option<String>,
    /// Only of this execution.
    pub execution: Option<ExecutionId>,
    /// Only those before this one in the list (the cursor of the page before).
    pub before: Option<TaskId>,
    /// At most this many.
    pub max: usize,
}

/// Whether a job that is here has ended.
#[must_use]
pub const fn job_has_ended(status: JobStatus) -> bool {
    match status {
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => true,
        JobStatus::Pending | JobStatus::Claimed | JobStatus::Running | JobStatus::Paused => false,
    }
}

/// The jobs of a record.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Notes where jobs are after a commit. A change of an older attempt than the record's job has changes nothing; nor does
    /// one that says `pending` of an attempt that is known, or anything of one that has ended. Repeatable. A job occurs at
    /// most once.
    async fn note_jobs(&self, changes: &[JobChange]) -> Result<(), StoreError>;

    /// Notes a worker's heartbeat, if the record has its attempt out and no other worker has told of that attempt.
    async fn note_beat(&self, beat: &JobBeat) -> Result<BeatOutcome, StoreError>;

    /// Jobs by filter, those of the newest executions first.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError>;

    /// Jobs that have not ended, by task, after `after`.
    async fn open_jobs(&self, after: Option<TaskId>, max: usize) -> Result<Vec<JobRow>, StoreError>;

    /// Of `attempts`, those whose worker told of them at or after `since`.
    async fn beating_jobs(
        &self,
        attempts: &[(TaskId, u32)],
        since: Timestamp,
    ) -> Result<Vec<(TaskId, u32)>, StoreError>;

    /// Forgets the jobs of executions that are not there any more.
    async fn forget_jobs(&self, executions: &[ExecutionId]) -> Result<(), StoreError>;
}

/// As it is stored.
pub(super) const fn status_text(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Pending => "pending",
        JobStatus::Claimed => "claimed",
        JobStatus::Running => "running",
        JobStatus::Paused => "paused",
        JobStatus::Completed => "completed",
        JobStatus::Failed => "failed",
        JobStatus::Cancelled => "cancelled",
    }
}

/// As it was stored.
pub(super) fn status_of(text: &str) -> Option<JobStatus> {
    let all = [
        JobStatus::Pending,
        JobStatus::Claimed,
        JobStatus::Running,
        JobStatus::Paused,
        JobStatus::Completed,
        JobStatus::Failed,
        JobStatus::Cancelled,
    ];
    all.into_iter().find(|status| status_text(*status) == text)
}

/// When a job has ended that a change says to be there.
pub(super) const fn ended_at(change: &JobChange) -> Option<Timestamp> {
    if job_has_ended(change.status) { Some(change.at) } else { None }
}
