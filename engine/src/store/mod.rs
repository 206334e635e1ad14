//! The record: what the engine knows for certain. One trait, one conformance suite, an implementation per database.
//!
//! Architecture invariant: one commit per batch of decisions. Each update is guarded by the execution's version; a
//! conflict drops that execution's changes only, never the batch. Repeating a batch whose answer was lost changes nothing.

pub(crate) mod access;
mod child;
mod compatibility;
#[doc(hidden)]
pub mod conformance;
mod context;
mod control;
mod creates;
mod encode;
mod error;
pub(crate) mod events;
mod flows;
mod jobs;
mod memory;
mod model;
mod objects;
mod postgres;
mod progress;
mod rows;
mod search;
mod sqlite;
mod tally;
mod tenants;
mod transfer;

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::execution::{Event, Execution, RecordedEvent};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;

use crate::access::Visibility;

pub use access::{AccessStore, ApiKey, ApiKeyFilter, AuditEntry, AuditFilter, AuditRow, AuditSeal};
pub use context::{ContextPatch, ContextStore, Staged};
pub use control::{
    ArchivedFlow, ControlStore, FailedTaskEntry, FailedTaskFilter, FlowRetention, Operation, OperationItem,
    Pause, PauseKind, SettledAs, Settlement,
};
pub use error::StoreError;
pub use events::{
    Delivery, DeliveryStatus, DeliveryTry, EventAttributes, EventFilter, EventPlace, EventStore, NewDelivery,
    SettledDelivery, Webhook, WebhookNote,
};
pub use jobs::{BeatOutcome, JobBeat, JobChange, JobFilter, JobRow, JobStore, job_has_ended};
pub use memory::{MemoryKey, MemoryLogLines, MemoryObject, MemoryRows, MemoryStore, MemoryTable};
pub use model::{
    Batch, CheckpointContent, CheckpointNote, ChildRow, Column, Committed, Create, CreateOutcome,
    ExecutionFilter, ExecutionSummary, FailedTaskRow, FlowRow, FoundFlow, Join, JoinState, ListPage,
    ObjectReference, PublishOutcome, PublishedEvent, PublishedFlow, Retention, Spawn, Spent,
    StoredCheckpoint, TableDefinition, TableRowRecord, TaskOut, Update, awaited_event,
};
pub use objects::ObjectTable;
pub use postgres::{
    Causes, Inspection, POSTGRES_SCHEMA_VERSION, PoolFacts, PostgresOptions, PostgresSession, PostgresStore,
    PostgresUrlError, ServerFacts, TableFacts,
};
pub use progress::{LogFilter, LogPlace, LogRow, ProgressRow, ProgressStore};
pub use search::{COUNT_MAX, Count, IdPrefix, InvalidIdPrefix, SearchStore, Span};
pub use sqlite::{Durability, SCHEMA_VERSION, SqliteOptions, SqliteStore, verify};
pub(crate) use tally::{JoinKey, touched_budgets, touched_joins};
pub use transfer::{TransferError, TransferProgress, TransferredTable, transfer};

/// The record. All instants are arguments; nothing here reads a clock.
#[async_trait]
pub trait Store:
    AccessStore
    + ContextStore
    + ControlStore
    + EventStore
    + JobStore
    + ObjectTable
    + ProgressStore
    + SearchStore
    + Send
    + Sync
    + 'static
{
    // Flows.

    /// Keeps a definition by its hash without publishing it. Repeatable.
    async fn put_definition(&self, flow: &FlowRow) -> Result<(), StoreError>;

    /// Publishes a version among the flows of `tenant`, or of none: each has names of its own. The same content again is
    /// unchanged, the same version with other content a conflict.
    async fn publish(
        &self,
        tenant: Option<&str>,
        flow: &FlowRow,
        now: Timestamp,
    ) -> Result<PublishOutcome, StoreError>;

    /// A definition by its hash, published or not.
    async fn definition(&self, hash: &FlowHash) -> Result<Option<FlowRow>, StoreError>;

    /// A published version among the flows of `tenant`, or of none; without `version` the latest by SemVer order that has
    /// the status `published`, with the generation that this holds in.
    async fn find_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FoundFlow, StoreError>;

    /// All published versions of all flows that are seen (or of `id`), latest first; a tenant's after those of none.
    async fn list_flows(&self, seen: &Visibility, id: Option<&str>)
    -> Result<Vec<PublishedFlow>, StoreError>;

    // Executions.

    /// The executions with these ids; unknown ones are left out.
    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError>;

    /// Stores a batch of decisions in one transaction. Outcomes come in the order of the batch.
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError>;

    /// Executions by filter, newest first.
    async fn list(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError>;

    /// Events of an execution with a sequence above `after`, at most about `max` (whole decisions).
    async fn history(
        &self,
        id: ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    // Time.

    /// Executions whose next wake is at or before `now`, earliest first.
    async fn due(&self, now: Timestamp, max: usize) -> Result<Vec<ExecutionId>, StoreError>;

    /// The earliest next wake of all.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    // Tasks.

    /// Tasks that are out, in the order of execution ids, after `after`, whose attempt was scheduled at or before
    /// `until`. Paused executions are left out.
    async fn tasks_out(
        &self,
        after: Option<ExecutionId>,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskOut>, StoreError>;

    // Joins.

    /// A fan-out with its counters, snapshot and items.
    async fn join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError>;

    /// The counters of a fan-out.
    async fn join_state(&self, parent: ExecutionId, join: u32) -> Result<Option<JoinState>, StoreError>;

    /// The parent's context at the fan-out. Kept as long as the parent.
    async fn snapshot(&self, parent: ExecutionId, join: u32) -> Result<Option<Arc<Snapshot>>, StoreError>;

    /// Fan-outs that somebody has to look after ([`JoinState::needs_attention`]), after the given one.
    async fn joins_to_tend(
        &self,
        after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError>;

    /// Children of a fan-out in their order, from the place `from`, at most `max`.
    async fn children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<ChildRow>, StoreError>;

    /// Children of a fan-out that have not ended, from the place `from`. For `join` 0: fire-and-forget children that
    /// end with their parent.
    async fn live_children(
        &self,
        parent: ExecutionId,
        join: u32,
        from: u32,
        max: usize,
    ) -> Result<Vec<(u32, ExecutionId)>, StoreError>;

    // Events.

    /// Stores an event that came from outside. Repeatable by its id within its tenant; false when it was there.
    async fn publish_event(&self, event: &PublishedEvent) -> Result<bool, StoreError>;

    /// Events that have not been delivered to those who wait for them, oldest first.
    async fn undelivered_events(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError>;

    /// Notes that events of `tenant`, or of none, were delivered.
    async fn mark_delivered(&self, tenant: Option<&str>, ids: &[String]) -> Result<(), StoreError>;

    /// Events of `tenant`, or of none, with a name, published at or after `since`, oldest first.
    async fn events_since(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError>;

    /// Executions of `tenant`, or of none, that wait for an event of this name, in the order of ids, after `after`.
    async fn subscribers(
        &self,
        tenant: Option<&str>,
        name: &str,
        after: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<ExecutionId>, StoreError>;

    // Checkpoints.

    /// Saves the checkpoint of a task, if `attempt` is the record's, and answers its version; none when it is stale. An
    /// object that it refers to must have been registered.
    async fn save_checkpoint(
        &self,
        task: TaskId,
        attempt: u32,
        checkpoint: &StoredCheckpoint,
    ) -> Result<Option<u64>, StoreError>;

    /// The last checkpoint of a task.
    async fn load_checkpoint(&self, task: TaskId) -> Result<Option<StoredCheckpoint>, StoreError>;

    /// Which of `tasks` have a checkpoint, in the order of their ids.
    async fn checkpoint_notes(&self, tasks: &[TaskId]) -> Result<Vec<CheckpointNote>, StoreError>;

    /// Forgets the checkpoint of a task, if `attempt` is the record's; false when it is stale.
    async fn clear_checkpoint(&self, task: TaskId, attempt: u32) -> Result<bool, StoreError>;

    // Tables.

    /// Creates a table of its tenant, or replaces its columns; its rows stay.
    async fn define_table(&self, table: &TableDefinition, now: Timestamp) -> Result<(), StoreError>;

    /// All defined tables that are seen, by id.
    async fn tables(&self, seen: &Visibility) -> Result<Vec<TableDefinition>, StoreError>;

    /// Rows of a table of `tenant`, or of none, in the order of insertion, after `after`.
    async fn table_rows(
        &self,
        tenant: Option<&str>,
        table: &str,
        after: Option<i64>,
        max: usize,
    ) -> Result<Vec<TableRowRecord>, StoreError>;

    // Several engines.

    /// Lets `holder` have the turn called `name` until `until`: true when nobody else has it at `now`. Whoever holds it
    /// may ask again to keep it. Turns spare work that several engines would do at once; nothing is wrong if two do it.
    async fn take_turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError>;

    /// The generation of a pool on the queue servers called `server_id`: 1 at first, and one more each time the servers are
    /// others than those noted before. Repeatable.
    async fn pool_generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError>;

    // Upkeep.

    /// Secret keys for tokens, by name; made with `fresh` on first use.
    async fn signing_key(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Deletes what has passed its retention: ended root executions with all that belongs to them, delivered events,
    /// expired idempotency keys and checkpoints. Returns how many rows went; call again while it is `max`.
    async fn prune(&self, retention: &Retention, max: usize) -> Result<usize, StoreError>;

    /// Executions by status, for metrics and `doctor`.
    async fn counts(&self) -> Result<Vec<(flowmonkey_core::execution::Status, u64)>, StoreError>;

    /// Whether the record can be read and written now.
    async fn check(&self) -> Result<(), StoreError>;
}

/// Numbers `events`, the last of which is the execution's last.
#[must_use]
pub fn number(execution: &Execution, events: Vec<Event>, at: Timestamp) -> Arc<[RecordedEvent]> {
    let first = execution.events + 1 - events.len() as u64;
    events.into_iter().zip(first..).map(|(event, sequence)| RecordedEvent { sequence, at, event }).collect()
}
