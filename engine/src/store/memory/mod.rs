//! The record in memory: for simulations, and as the model that the databases are compared with.
//!
//! Nothing survives the process. All answers come in a fixed order, so that the same calls always give the same answers.

mod access;
mod commit;
mod context;
mod control;
mod events;
mod jobs;
mod objects;
mod progress;
mod search;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{Execution, FlowReference, JoinSpec, RecordedEvent};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;

use super::access::{ApiKey, AuditRow};
use super::context::ContextPatch;
use super::control::{FlowRetention, Operation, OperationItem, Pause, PauseKind, Settlement};
use super::events::{Delivery, Webhook};
use super::jobs::JobRow;
use super::model::{
    FailedTaskRow, FlowRow, JoinState, PublishedEvent, StoredCheckpoint, TableDefinition, TableRowRecord,
};
use super::progress::ProgressRow;

pub use progress::MemoryLogLines;

/// The record in memory. A clone is a copy: what happens to one does not show in the other.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<MemoryRows>,
}

/// An object that was registered.
#[derive(Clone, Copy, Debug)]
pub struct MemoryObject {
    /// Whether something has referred to it.
    pub used: bool,
    /// When it was registered.
    pub at: Timestamp,
}

/// All that a [`MemoryStore`] holds.
#[derive(Clone, Debug, Default)]
pub struct MemoryRows {
    /// Definitions by hash.
    pub definitions: BTreeMap<String, FlowRow>,
    /// Published versions with their statuses, by tenant, flow and version.
    pub flows: BTreeMap<(Option<String>, String, String), (FlowReference, String)>,
    /// The generation of the published versions.
    pub flows_generation: u64,
    /// Executions.
    pub executions: BTreeMap<ExecutionId, Execution>,
    /// History: one list for each decision.
    pub history: BTreeMap<ExecutionId, Vec<Vec<RecordedEvent>>>,
    /// Next wakes.
    pub timers: BTreeMap<ExecutionId, Timestamp>,
    /// Names of the events that are waited for.
    pub subscriptions: BTreeMap<ExecutionId, String>,
    /// Counters of the fan-outs that are waited for.
    pub joins: BTreeMap<(ExecutionId, u32), JoinState>,
    /// What children are made of.
    pub specs: BTreeMap<(ExecutionId, u32), Arc<JoinSpec>>,
    /// Events and whether they were delivered, in the order in which they came.
    pub events: Vec<(PublishedEvent, bool)>,
    /// Idempotency keys by tenant, flow and key.
    pub idempotency: BTreeMap<(String, String, String), MemoryKey>,
    /// What trees have spent, by root.
    pub budgets: BTreeMap<ExecutionId, Cost>,
    /// Checkpoints.
    pub checkpoints: BTreeMap<TaskId, StoredCheckpoint>,
    /// Jobs.
    pub jobs: BTreeMap<TaskId, JobRow>,
    /// Staged changes of contexts, by task, attempt and sequence.
    pub patches: BTreeMap<(TaskId, u32, u32), ContextPatch>,
    /// Objects by their keys.
    pub objects: BTreeMap<String, MemoryObject>,
    /// Progress by task and instant.
    pub progress: BTreeMap<(TaskId, Timestamp), ProgressRow>,
    /// Log lines in their order.
    pub log_lines: MemoryLogLines,
    /// Parked tasks by their sequences, and what became of them.
    pub failed_tasks: BTreeMap<i64, (FailedTaskRow, Option<Settlement>)>,
    /// What people have paused.
    pub pauses: BTreeMap<(PauseKind, Option<String>, String), Pause>,
    /// Operations on many executions.
    pub operations: BTreeMap<String, Operation>,
    /// By tenant and flow.
    pub retentions: BTreeMap<(String, String), FlowRetention>,
    /// What came of them, by operation and execution.
    pub operation_items: BTreeMap<(String, ExecutionId), OperationItem>,
    /// Table definitions, by id and tenant.
    pub tables: BTreeMap<(String, Option<String>), TableDefinition>,
    /// Rows with the tables they are in, in the order of insertion.
    pub table_rows: Vec<(MemoryTable, TableRowRecord)>,
    /// Secret keys.
    pub keys: BTreeMap<String, Vec<u8>>,
    /// Who has a turn, and until when.
    pub turns: BTreeMap<String, (String, Timestamp)>,
    /// Generations of pools, and the servers that they are of.
    pub pools: BTreeMap<String, (u64, String)>,
    /// Webhooks.
    pub webhooks: BTreeMap<String, Webhook>,
    /// Deliveries by webhook and event.
    pub deliveries: BTreeMap<(String, String), Delivery>,
    /// Keys for the HTTP API.
    pub api_keys: BTreeMap<String, ApiKey>,
    /// The audit, oldest first.
    pub audit: Vec<AuditRow>,
}

/// Names a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTable {
    /// Whose it is.
    pub tenant: Option<String>,
    /// Its id.
    pub id: String,
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryKey {
    /// The execution that was started under it.
    pub execution: ExecutionId,
    /// SHA-256 of the input.
    pub input_hash: String,
    /// Until when it is remembered.
    pub until: Timestamp,
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self { rows: Mutex::new(self.dump()) }
    }
}

impl MemoryStore {
    /// Everything, as it is now.
    #[must_use]
    pub fn dump(&self) -> MemoryRows {
        self.rows().clone()
    }

    fn rows(&self) -> MutexGuard<'_, MemoryRows> {
        // No method leaves the rows half changed when it panics: a panic is a bug, and the test that met it has failed.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
