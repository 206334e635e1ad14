//! The task message: one attempt of one step, as the engine dispatches it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::is_false;
use crate::token::TaskToken;

/// One attempt of one step of one execution. Fields of the seed's format keep their names; durations end in `Ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskMessage {
    /// [`super::PROTOCOL_VERSION`] of the sender.
    pub v: u16,
    /// Names the task; the same in all its attempts.
    pub task_id: String,
    /// The fence: which delivery of the task this is, from 1.
    pub attempt: u32,
    /// The execution the task belongs to.
    pub execution_id: String,
    /// The flow's id.
    pub flow_id: String,
    /// The flow's version.
    pub flow_version: String,
    /// The step within the flow.
    pub step_id: String,
    /// Which handler, and which versions of it will do.
    pub handler: HandlerReference,
    /// The pool whose queue carries the task: `[tenant@][region/]handler`.
    pub pool: String,
    /// The step's resolved input; none: the step has no input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The part of the context that the step declared.
    #[serde(default)]
    pub context: Value,
    /// Set when the declared part of the context is too large to travel: then `context` is empty, and what it would hold is
    /// read there with the task's token, as a whole or by path. A path on the engine's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_url: Option<String>,
    /// With `context_url`: bytes of what is read there, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_bytes: Option<u64>,
    /// The step's own configuration; the seed's `timeout`, `retries`, `backoff` are filled in where absent.
    #[serde(default)]
    pub config: Value,
    /// Stable over all attempts of one visit of the step.
    pub idempotency_key: String,
    /// Hard end of this attempt, RFC 3339, for people; `remaining_ms` is what counts.
    pub deadline: String,
    /// Milliseconds that the attempt may run, from its claim.
    pub remaining_ms: u64,
    /// Milliseconds between heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds without a heartbeat after which the lease ends.
    pub lease_ms: u64,
    /// Which of the queue's lists.
    #[serde(default)]
    pub priority: Priority,
    /// Whether one more lost worker parks the task: a worker runs no two such tasks at a time, so that one of them that
    /// kills its worker takes no other with it. Workers may ignore it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolate: bool,
    /// The last checkpoint of this task, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointReference>,
    /// What the worker shows to the engine for this attempt: the plumbing APIs, and the result's MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TaskToken>,
    /// W3C trace context of the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Where the task came from.
    #[serde(default)]
    pub metadata: TaskMetadata,
}

/// Which handler carries out a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerReference {
    /// The handler type; the name of its queue.
    #[serde(rename = "type")]
    pub handler_type: String,
    /// SemVer requirement; none: any version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Which of a pool's lists a task waits in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Claimed first.
    High,
    /// The default.
    #[default]
    Normal,
    /// Claimed last, but every tenth claim starts here.
    Low,
}

/// The last checkpoint of a task. The data is loaded through the Checkpoint API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReference {
    /// Names the checkpoint.
    pub id: String,
    /// RFC 3339.
    pub saved_at: String,
    /// Bytes of the data as JSON.
    pub size: u64,
}

/// Where a task came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskMetadata {
    /// The execution's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub dispatched_at: String,
    /// Fields of newer or other senders.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}
