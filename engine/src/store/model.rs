//! What goes into the record and comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flowmonkey_core::execution::decision::{FailedTask, JoinSpec};
use flowmonkey_core::execution::error::ExecutionError;
use flowmonkey_core::execution::state::{Activity, Cost, Undoable};
use flowmonkey_core::execution::{Execution, FlowReference, Record, RecordedEvent, Status};
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::events::EventAttributes;
pub use super::search::ExecutionFilter;

/// A flow definition.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowRow {
    /// The flow's id.
    pub id: String,
    /// SemVer.
    pub version: String,
    /// Of the canonical definition.
    pub hash: FlowHash,
    /// `draft`, `published` or `archived`.
    pub status: String,
    /// The definition.
    pub definition: Arc<Value>,
}

/// A published version, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedFlow {
    /// Whose it is; none: nobody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The version.
    #[serde(flatten)]
    pub flow: FlowReference,
}

/// What came of looking for a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundFlow {
    /// The version, if there is one.
    pub flow: Option<FlowReference>,
    /// The generation of flows that the answer holds in: another one begins whenever a version is published, archived or restored,
    /// and none comes twice. A create that names it ([`Create::flows`]) spares the next look. None: looking costs too little for
    /// that, or an exact version was asked for, which never changes.
    pub generation: Option<u64>,
}

/// What came of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is new.
    Created,
    /// The same content was published before.
    Unchanged,
    /// The version exists with other content.
    Conflict {
        /// The hash of the content that is there.
        existing: FlowHash,
    },
}

/// Decisions to be stored in one transaction. An execution occurs at most once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The instant of the batch.
    pub now: Timestamp,
    /// New executions.
    pub creates: Vec<Create>,
    /// Changed executions.
    pub updates: Vec<Update>,
    /// Fan-outs that get the children among `creates` which name them: all of a fan-out's or none.
    pub spawns: Vec<Spawn>,
}

/// A new execution, begun or not.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its state.
    pub execution: Arc<Execution>,
    /// Its history so far.
    pub events: Arc<[RecordedEvent]>,
    /// What else its decisions store.
    pub records: Vec<Record>,
    /// Its key, and the instant until which the key is remembered. An expired key is taken over.
    pub idempotency: Option<(String, Timestamp)>,
    /// SHA-256 of the input, to tell a repeated start from another one under the same key.
    pub input_hash: String,
    /// Index into [`Batch::spawns`]: it is a child of that fan-out.
    pub spawn: Option<usize>,
    /// Index into [`Batch::updates`]: that decision starts it, and it is stored only if that decision is.
    pub cause: Option<usize>,
    /// The generation that its flow was found in ([`FoundFlow::generation`]): it is stored only in that one. None: in any.
    pub flows: Option<u64>,
}

/// Children for a fan-out. Counts only if the fan-out has `from` children now and is not closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// The parent.
    pub parent: ExecutionId,
    /// The fan-out.
    pub join: u32,
    /// Children before.
    pub from: u32,
    /// Children afterwards.
    pub to: u32,
}

/// A changed execution.
#[derive(Clone, Debug)]
pub struct Update {
    /// Its state afterwards.
    pub execution: Arc<Execution>,
    /// The version that the record must have.
    pub expected_version: u64,
    /// The next wake before, so that an unchanged one costs nothing.
    pub wake_before: Option<Timestamp>,
    /// The event waited for before, so that an unchanged one costs nothing.
    pub awaited_before: Option<String>,
    /// New history.
    pub events: Arc<[RecordedEvent]>,
    /// What else its decisions store.
    pub records: Vec<Record>,
}

/// The event that an execution waits for.
#[must_use]
pub fn awaited_event(execution: &Execution) -> Option<&str> {
    match &execution.activity {
        Activity::Wait(wait) => wait.on.event(),
        Activity::Ready
        | Activity::Task(_)
        | Activity::Backoff { .. }
        | Activity::Children(_)
        | Activity::Incident(_)
        | Activity::Nothing => None,
    }
}

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// For each create.
    pub creates: Vec<CreateOutcome>,
    /// For each update: whether its guard held.
    pub updates: Vec<bool>,
    /// Every fan-out that the batch opened, counted or closed, as it is now.
    pub joins: Vec<JoinState>,
    /// Every budget that the batch spent from, as it is now.
    pub spent: Vec<Spent>,
}

/// What came of a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is stored.
    Created,
    /// Its idempotency key names this execution.
    Existing {
        /// Which.
        id: ExecutionId,
        /// Whether it was started with another input.
        input_differs: bool,
    },
    /// The id is taken by an execution that was stored before.
    IdTaken,
    /// The fan-out, or the execution that starts it, has moved on.
    NotSpawned,
    /// Flows were published, archived or restored since its flow was found.
    FlowsChanged,
}

/// What a tree has spent of its budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// The root.
    pub root: ExecutionId,
    /// All that was spent.
    pub cost: Cost,
}

/// The counters of a fan-out.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinState {
    /// The parent.
    pub parent: ExecutionId,
    /// Its number in the parent.
    pub join: u32,
    /// Children in all.
    pub total: u32,
    /// Children alive at a time.
    pub max_live: u32,
    /// Children made.
    pub spawned: u32,
    /// Children that completed.
    pub succeeded: u32,
    /// Children that failed or were cancelled.
    pub failed: u32,
    /// Whether no more children are made.
    pub closing: bool,
    /// This many failures decide it.
    pub stop_at_failed: Option<u32>,
    /// This many successes decide it.
    pub stop_at_succeeded: Option<u32>,
    /// What its children have cost.
    pub cost: Cost,
}

impl JoinState {
    /// Children that have ended.
    #[must_use]
    pub const fn ended(&self) -> u32 {
        self.succeeded + self.failed
    }

    /// Whether all children are terminal and no more will be made.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        let wanted = if self.closing { self.spawned } else { self.total };
        self.ended() >= wanted
    }

    /// Whether enough children have ended, though some are left.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        !self.closing
            && !self.is_complete()
            && (self.stop_at_failed.is_some_and(|limit| self.failed >= limit)
                || self.stop_at_succeeded.is_some_and(|limit| self.succeeded >= limit))
    }

    /// Children that may be made now. More are made only once a good part of the places is free, so that making them
    /// costs little per child.
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.closing || self.is_decided() {
            return 0;
        }
        let live = self.spawned - self.ended();
        let free = self.max_live.saturating_sub(live).min(self.total - self.spawned);
        let worth_it = live == 0 || free >= self.max_live.div_ceil(4) || free == self.total - self.spawned;
        if worth_it { free } else { 0 }
    }

    /// Whether somebody has to look after it: children to make, to cancel, or a result to take.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.is_complete()
            || self.is_decided()
            || self.room() > 0
            || (self.closing && self.ended() < self.spawned)
    }
}

/// A fan-out.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its counters.
    pub state: JoinState,
    /// What its children are made of, snapshot and items included.
    pub spec: Arc<JoinSpec>,
}

/// A child of a fan-out.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRow {
    /// Its place.
    pub index: u32,
    /// Its id.
    pub id: ExecutionId,
    /// Its status.
    pub status: Status,
    /// Its result.
    pub output: Option<Value>,
    /// Why it failed; a cancelled one has the code `CANCELLED`.
    pub error: Option<ExecutionError>,
    /// What it could undo; for completed children.
    pub compensations: Vec<Undoable>,
    /// Its final context; for sub-flows only.
    pub context: Option<Map<String, Value>>,
    /// Whether it completed with tolerated errors.
    pub has_errors: bool,
}

/// A task that is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOut {
    /// Names the task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// When the attempt was scheduled.
    pub scheduled_at: Timestamp,
    /// The pool whose queue carries it.
    pub pool: String,
    /// The flow of its execution.
    pub flow_id: String,
    /// The tenant of its execution.
    pub tenant: Option<String>,
}

/// A parked task.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedTaskRow {
    /// Whose task.
    pub execution: ExecutionId,
    /// When.
    pub at: Timestamp,
    /// What is needed to look at it and to replay it.
    pub task: FailedTask,
}

/// One page of executions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListPage {
    /// Newest first.
    pub items: Vec<ExecutionSummary>,
    /// Where the next page begins.
    pub next: Option<ExecutionId>,
}

/// What a list shows of an execution.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSummary {
    /// Its id.
    pub id: ExecutionId,
    /// Its flow.
    pub flow_id: String,
    /// Its flow's version.
    pub flow_version: String,
    /// Its status.
    pub status: Status,
    /// The step it is at.
    pub current_step_id: String,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_reason: Option<String>,
    /// Code of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_execution_id: Option<ExecutionId>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was created; milliseconds since the epoch in the record, RFC 3339 outside.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: Timestamp,
    /// When it last changed.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: Timestamp,
}

fn rfc3339<S: serde::Serializer>(instant: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(instant)
}

/// An event for whoever waits for it.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedEvent {
    /// Names it: publishing it twice counts once.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
    /// Whose it is: only executions and webhooks of the same tenant, or of none, get it.
    pub tenant: Option<String>,
    /// The execution that published it; none: it came from outside.
    pub source: Option<ExecutionId>,
    /// When.
    pub at: Timestamp,
    /// What it says of itself beside that; none for what this system publishes itself.
    pub attributes: Option<Box<EventAttributes>>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCheckpoint {
    /// Names it.
    pub id: String,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// Counts the saves of its task from 1. The store sets it: what a save says here does not count.
    pub version: u64,
    /// Bytes of what the handler saved, as it sent them.
    pub bytes: u64,
    /// What the handler saved.
    pub content: CheckpointContent,
}

/// What a checkpoint holds, or where that is.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckpointContent {
    /// A value.
    Json(Value),
    /// Bytes, and the type that was given with them.
    Bytes(String, Bytes),
    /// In the object store.
    Object(ObjectReference),
}

/// An object of the object store, as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// Its name in the object store; registered before it was written.
    pub key: String,
    /// The type of what is in it.
    pub content_type: String,
    /// SHA-256 of what is in it before it was compressed, in hexadecimal.
    pub sha256: String,
}

/// That there is a checkpoint, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointNote {
    /// Of which task.
    pub task: TaskId,
    /// Names it.
    pub id: String,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// Bytes of what the handler saved, as it sent them.
    pub bytes: u64,
}

/// A table that rows go into. Rows of a table that is not defined are kept all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// Its id.
    pub id: String,
    /// Whose it is; none: nobody's. Only executions of the same tenant write into it.
    #[serde(rename = "tenantId", default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its id: the key in rows.
    pub id: String,
    /// For display.
    #[serde(default)]
    pub name: String,
    /// `string`, `number`, `boolean`, `datetime` or `json`.
    #[serde(rename = "type")]
    pub column_type: String,
    /// Whether rows must have it.
    #[serde(default)]
    pub required: bool,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRowRecord {
    /// Place in the order of insertion.
    pub sequence: i64,
    /// Its id.
    pub id: String,
    /// Column to value.
    pub row: Map<String, Value>,
    /// The execution it came from.
    pub execution: ExecutionId,
    /// When.
    pub at: Timestamp,
}

/// What has passed its time. Each instant: older than this goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Root executions that ended before, with their children and history.
    pub executions_before: Timestamp,
    /// Delivered events published before.
    pub events_before: Timestamp,
    /// Checkpoints of tasks of executions that ended before.
    pub checkpoints_before: Timestamp,
    /// Idempotency keys that expired before.
    pub keys_before: Timestamp,
    /// Progress that was reported before.
    pub progress_before: Timestamp,
    /// Log lines that were written before.
    pub logs_before: Timestamp,
}
