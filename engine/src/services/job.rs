//! Heartbeats of jobs in process.

use async_trait::async_trait;
use flowmonkey_plumbing::api::{Heartbeat, HeartbeatAnswer, JobApi, JobStatus, PlumbingError, TaskAccess};

use super::plumbing::{EnginePlumbing, stale, task, unavailable};
use crate::store::{BeatOutcome, JobBeat};

/// Characters of a progress message that are kept with a job.
const MESSAGE_CHARS_MAX: usize = 1000;
/// Bytes of the name of a checkpoint.
const CHECKPOINT_ID_BYTES_MAX: usize = 200;

fn refused(detail: &str) -> PlumbingError {
    PlumbingError::Refused { code: "INVALID_REQUEST".into(), detail: detail.into() }
}

#[async_trait]
impl JobApi for EnginePlumbing {
    async fn heartbeat(
        &self,
        access: &TaskAccess,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        let (engine, delivery) = (&self.0, &access.delivery);
        let task = task(delivery)?;
        let running = match heartbeat.status {
            JobStatus::Claimed => false,
            JobStatus::Running => true,
            JobStatus::Pending
            | JobStatus::Paused
            | JobStatus::Completed
            | JobStatus::Failed
            | JobStatus::Cancelled => return Err(refused("a worker's job is `claimed` or `running`")),
        };
        let checkpoint = heartbeat.checkpoint.as_ref().map(|checkpoint| checkpoint.id.clone());
        if checkpoint.as_ref().is_some_and(|id| id.len() > CHECKPOINT_ID_BYTES_MAX) {
            return Err(refused("`checkpoint.id` is too long"));
        }
        let progress = heartbeat.progress.as_ref().filter(|progress| progress.percent.is_finite());
        let beat = JobBeat {
            task,
            attempt: delivery.attempt,
            worker: heartbeat.worker_id.clone(),
            running,
            progress: progress.map(|progress| {
                let message = progress.message.as_ref();
                let message = message.map(|text| text.chars().take(MESSAGE_CHARS_MAX).collect());
                (progress.percent.clamp(0.0, 100.0), message)
            }),
            checkpoint,
            at: engine.now(),
        };
        let mut outcome = engine.store.note_beat(&beat).await.map_err(unavailable)?;
        if outcome == BeatOutcome::Refused {
            // Stale, another worker's, or so early that the record does not know the job yet.
            let loaded = engine.store.load(&[task.execution]).await.map_err(unavailable)?;
            let job = loaded.first().and_then(|execution| engine.pending_job(execution));
            let job = job.filter(|job| job.task == task && job.attempt == delivery.attempt);
            let job = job.ok_or_else(|| stale(delivery))?;
            engine.store.note_jobs(&[job]).await.map_err(unavailable)?;
            outcome = engine.store.note_beat(&beat).await.map_err(unavailable)?;
        }
        Ok(match outcome {
            BeatOutcome::Noted { cancelling } => {
                HeartbeatAnswer { cancel_requested: cancelling, lease_lost: false }
            }
            // A job is one worker's.
            BeatOutcome::Refused => HeartbeatAnswer { cancel_requested: false, lease_lost: true },
        })
    }
}
