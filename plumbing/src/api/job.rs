//! Jobs: tasks of stateful handlers. Their workers also send the heartbeat message of the seed format, which feeds `fm_jobs`;
//! liveness is the queue's lease only.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PlumbingError, Progress, TaskAccess};
use crate::wire::CheckpointReference;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Dispatched; no worker has it.
    Pending,
    /// A worker has it and loads what it needs.
    Claimed,
    /// The handler runs.
    Running,
    /// The handler gave its worker back until a time or an event.
    Paused,
    /// The step succeeded.
    Completed,
    /// The step failed for good.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What the worker of a job says of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// The task; empty: the one that the token is of.
    #[serde(default)]
    pub task_id: String,
    /// The fence; 0: the attempt that the token is of.
    #[serde(default)]
    pub attempt: u32,
    /// The worker.
    pub worker_id: String,
    /// `claimed` or `running`.
    pub status: JobStatus,
    /// The latest progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last saved checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointReference>,
    /// RFC 3339, by the worker's clock; for people.
    #[serde(default)]
    pub heartbeat_at: String,
}

/// What the engine says to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatAnswer {
    /// The task is to be cancelled.
    pub cancel_requested: bool,
    /// The record has another attempt: stop, the result will be refused.
    pub lease_lost: bool,
}

/// Heartbeats of jobs.
#[async_trait]
pub trait JobApi: Send + Sync {
    /// Tells the record how a job is getting on.
    async fn heartbeat(
        &self,
        access: &TaskAccess,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError>;
}
