//! Jobs: the attempts of stateful handlers. Beside the lease, which is what counts, their workers tell the engine how they are
//! getting on, from a task of its own: an engine that is away or slow holds up neither the handler nor its lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowmonkey_plumbing::api::{
    Checkpoint, Heartbeat, HeartbeatAnswer, JobStatus, PlumbingError, Progress, TaskAccess,
};
use flowmonkey_plumbing::wire::CheckpointReference;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::rfc3339;
use crate::running::Stop;
use crate::runtime::Shared;

/// What a job has to tell: the latest of each.
#[derive(Debug, Default)]
pub(crate) struct JobNotes(Mutex<Notes>);

#[derive(Clone, Debug, Default)]
struct Notes {
    progress: Option<Progress>,
    checkpoint: Option<CheckpointReference>,
}

impl JobNotes {
    pub(crate) fn new(checkpoint: Option<CheckpointReference>) -> Self {
        Self(Mutex::new(Notes { progress: None, checkpoint }))
    }

    fn change(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn progress(&self, progress: &Progress) {
        self.change(|notes| notes.progress = Some(progress.clone()));
    }

    pub(crate) fn saved(&self, checkpoint: &Checkpoint, size: u64) {
        let Checkpoint { id, saved_at, .. } = checkpoint;
        let reference = CheckpointReference { id: id.clone(), saved_at: saved_at.clone(), size };
        self.change(|notes| notes.checkpoint = Some(reference));
    }

    fn latest(&self) -> Notes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells the engine of an attempt until `ended`: that it was claimed, that its handler runs, and then every
/// `job_heartbeat_ms` how it is getting on.
pub(crate) async fn tell(
    shared: Arc<Shared>,
    access: TaskAccess,
    notes: Arc<JobNotes>,
    ended: CancellationToken,
) {
    let telling = async {
        if !beat(&shared, &access, &notes, JobStatus::Claimed).await {
            return;
        }
        let mut rhythm = tokio::time::interval(Duration::from_millis(shared.config.job_heartbeat_ms));
        // An engine that was slow is not told twice in a row.
        rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rhythm.tick().await;
            if !beat(&shared, &access, &notes, JobStatus::Running).await {
                return;
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = ended.cancelled() => {}
    }
}

/// One heartbeat. False: there is no use in another.
async fn beat(shared: &Shared, access: &TaskAccess, notes: &JobNotes, status: JobStatus) -> bool {
    let Notes { progress, checkpoint } = notes.latest();
    let delivery = &access.delivery;
    let heartbeat = Heartbeat {
        task_id: delivery.task_id.clone(),
        attempt: delivery.attempt,
        worker_id: shared.config.worker_id.clone(),
        status,
        progress,
        checkpoint,
        heartbeat_at: rfc3339(shared.clock.now_ms()),
    };
    match shared.plumbing.heartbeat(access, &heartbeat).await {
        Ok(HeartbeatAnswer { lease_lost: true, .. }) | Err(PlumbingError::Stale { .. }) => {
            tracing::warn!(%delivery, "the engine says that the job is not this worker's any more");
            shared.running.lost(delivery);
            false
        }
        Ok(HeartbeatAnswer { cancel_requested, lease_lost: false }) => {
            if cancel_requested {
                shared.running.stop(delivery, Stop::Cancel);
            }
            true
        }
        // An older engine, or a token without the scope: the lease is what counts.
        Err(error @ (PlumbingError::Refused { .. } | PlumbingError::TooLarge { .. })) => {
            tracing::warn!(%delivery, %error, "the engine does not take the heartbeats of a job");
            false
        }
        Err(PlumbingError::Unavailable(error)) => {
            tracing::debug!(%delivery, %error, "no engine takes the heartbeat of a job");
            true
        }
    }
}
