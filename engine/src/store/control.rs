//! What people do to the record beside executions: parked tasks that are settled, queues that are paused, flows that are
//! archived, executions that are deleted, and operations on many executions at once.

use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, FlowReference, Status};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoreError;
use super::model::FailedTaskRow;
use super::rows::{self, RecordRow};
use super::tenants;

/// Which parked tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedTaskFilter {
    /// Only of this handler.
    pub handler_type: Option<String>,
    /// Only of executions of this flow.
    pub flow_id: Option<String>,
    /// Only with this error.
    pub error_code: Option<String>,
    /// Only of this execution.
    pub execution: Option<ExecutionId>,
    /// Only of executions of this tenant; none: of all.
    pub tenant: Option<String>,
    /// Only those that were parked at or after this instant.
    pub since: Option<Timestamp>,
    /// Only those that were parked before this instant.
    pub until: Option<Timestamp>,
    /// Only those that still wait for a person.
    pub open: bool,
    /// Only those before this one in the list (the cursor of the page before).
    pub before: Option<i64>,
    /// At most this many.
    pub max: usize,
}

/// A parked task, and what has become of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedTaskEntry {
    /// Place in the list; the newest has the highest.
    pub sequence: i64,
    /// The task.
    pub row: FailedTaskRow,
    /// What a person has decided.
    pub settled: Option<Settlement>,
    /// The execution's status now.
    pub status: Status,
    /// Whether no later task of the execution was parked.
    pub is_last: bool,
}

impl FailedTaskEntry {
    /// Whether the task still waits for a person. One that nobody settled may have been left behind: its execution was
    /// retried or cancelled as a whole.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.settled.is_none() && self.is_last && matches!(self.status, Status::Incident | Status::Paused)
    }
}

/// What a person has decided about a parked task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What.
    pub outcome: SettledAs,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// What becomes of a parked task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SettledAs {
    /// It was tried again.
    Replayed,
    /// It was given up, and its execution with it.
    Discarded,
}

impl SettledAs {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// What a pause holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseKind {
    /// The tasks of a flow's executions.
    Flow,
    /// The tasks of a pool.
    Pool,
}

impl PauseKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Flow => "flow",
        }
    }
}

/// A pause: tasks of the pool or flow are not given to workers until it is lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Of what.
    pub kind: PauseKind,
    /// Whose flow. A pool names its tenant itself: none.
    pub tenant: Option<String>,
    /// The pool, or the flow's id.
    pub name: String,
    /// Since when.
    pub at: Timestamp,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// An operation on many executions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Names it.
    pub id: String,
    /// What is done: the word of the API.
    pub verb: String,
    /// Why, where the verb takes a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// To which executions: the filter as it was sent.
    pub filter: Value,
    /// Who asked.
    pub by: String,
    /// Whose executions; none: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// At most so many executions.
    pub max: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was done with all, or had stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The execution that was looked at last; newest first, and none that was made after the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<ExecutionId>,
    /// Executions on which the verb was carried out.
    pub done: u64,
    /// Executions that refused it.
    pub refused: u64,
    /// When somebody asked it to stop. Only [`ControlStore::stop_operation`] sets it.
    #[serde(skip)]
    pub stopped_at: Option<Timestamp>,
    /// Why it cannot be carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Operation {
    /// Executions that it is done with.
    #[must_use]
    pub const fn handled(&self) -> u64 {
        self.done.saturating_add(self.refused)
    }

    /// Whether this comes after what is stored.
    pub(super) fn follows(&self, stored: &Self) -> bool {
        let is_further = stored.handled() < self.handled();
        let ends = stored.handled() == self.handled() && self.ended_at.is_some();
        stored.ended_at.is_none() && (is_further || ends)
    }
}

/// What came of an operation for one execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationItem {
    /// Which execution.
    pub execution: ExecutionId,
    /// Code of the refusal; none: it was carried out.
    pub code: Option<String>,
}

/// How long the executions of a flow are kept after their end, where that is not the default: those of trees whose root is
/// one of the flow's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRetention {
    /// Whose flow; none: nobody's.
    pub tenant: Option<String>,
    /// Its id.
    pub flow_id: String,
    /// Milliseconds that those are kept which completed; none: the default.
    pub completed_ms: Option<u64>,
    /// Milliseconds that those are kept which failed or were cancelled; none: the default.
    pub failed_ms: Option<u64>,
    /// When it was said.
    pub at: Timestamp,
    /// Who said it.
    pub by: String,
}

impl FlowRetention {
    /// Executions that completed before this instant go.
    #[must_use]
    pub fn completed_before(&self, now: Timestamp) -> Option<Timestamp> {
        self.completed_ms.map(|kept| earlier(now, kept))
    }

    /// Executions that ended otherwise before this instant go.
    #[must_use]
    pub fn failed_before(&self, now: Timestamp) -> Option<Timestamp> {
        self.failed_ms.map(|kept| earlier(now, kept))
    }
}

fn earlier(now: Timestamp, kept_ms: u64) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_sub(i64::try_from(kept_ms).unwrap_or(i64::MAX)))
}

/// A version of a flow that does not start any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchivedFlow {
    /// Whose flow; none: nobody's.
    pub tenant: Option<String>,
    /// Its id.
    pub id: String,
    /// The version.
    pub version: String,
}

/// What people do to the record beside executions.
#[async_trait]
pub trait ControlStore: Send + Sync + 'static {
    /// Parked tasks by filter, newest first.
    async fn failed_tasks(&self, filter: &FailedTaskFilter) -> Result<Vec<FailedTaskEntry>, StoreError>;

    /// The last time that a task was parked.
    async fn failed_task(&self, task: TaskId) -> Result<Option<FailedTaskEntry>, StoreError>;

    /// Notes what becomes of a parked task, unless that was noted before; whether it was noted now.
    async fn settle_failed_task(&self, sequence: i64, settlement: &Settlement) -> Result<bool, StoreError>;

    /// All pauses, by kind and name.
    async fn pauses(&self) -> Result<Vec<Pause>, StoreError>;

    /// Notes a pause; false when there was one already, which stays as it is.
    async fn set_pause(&self, pause: &Pause) -> Result<bool, StoreError>;

    /// Lifts a pause; false when there was none.
    async fn lift_pause(&self, kind: PauseKind, tenant: Option<&str>, name: &str)
    -> Result<bool, StoreError>;

    /// All versions of a tenant's flow, or of one of nobody's, with their statuses, latest first.
    async fn flow_versions(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Vec<(FlowReference, String)>, StoreError>;

    /// Archives a version of a flow, or gives it the status back that its definition has (`published` where that is
    /// `archived`); without `version` all of them. How many have changed.
    async fn archive_flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        archived: bool,
    ) -> Result<usize, StoreError>;

    /// All archived versions, by tenant, id and version.
    async fn archived_flows(&self) -> Result<Vec<ArchivedFlow>, StoreError>;

    /// Executions of the tree of `root` that have not ended, at most `max`; the root not among them.
    async fn live_in_tree(&self, root: ExecutionId, max: usize) -> Result<Vec<ExecutionId>, StoreError>;

    /// Deletes at most `max` executions of the tree of `root` with all that belongs to them, children first, the root once
    /// it has no child; how many went. None while any of them has not ended, and none when `root` is a child. The events
    /// that they published go along once they are delivered, the idempotency key with the root. Rows of tables stay.
    async fn delete_tree(&self, root: &Execution, max: usize) -> Result<usize, StoreError>;

    /// Stores an operation, or its progress: what is behind that of another engine, or comes after the end, changes nothing.
    async fn save_operation(&self, operation: &Operation) -> Result<(), StoreError>;

    /// An operation.
    async fn operation(&self, id: &str) -> Result<Option<Operation>, StoreError>;

    /// Operations that are not done, oldest first.
    async fn open_operations(&self, max: usize) -> Result<Vec<Operation>, StoreError>;

    /// Operations of a tenant, or of all, newest first (ids begin with their instants), before `before`.
    async fn operations(
        &self,
        tenant: Option<&str>,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError>;

    /// Notes that an operation is to stop; false when it has ended, was stopped before, or does not exist.
    async fn stop_operation(&self, id: &str, at: Timestamp) -> Result<bool, StoreError>;

    /// Notes what came of an operation for some executions. Repeatable: what was noted first stays.
    async fn note_operation(&self, id: &str, items: &[OperationItem]) -> Result<(), StoreError>;

    /// What came of an operation so far, newest execution first, before `before`.
    async fn operation_items(
        &self,
        id: &str,
        before: Option<ExecutionId>,
        max: usize,
    ) -> Result<Vec<OperationItem>, StoreError>;

    /// How long executions are kept of flows where that is not the default, by tenant and flow.
    async fn flow_retentions(&self) -> Result<Vec<FlowRetention>, StoreError>;

    /// Says how long the executions of a flow are kept, whatever was said before.
    async fn set_flow_retention(&self, retention: &FlowRetention) -> Result<(), StoreError>;

    /// The default holds again for a flow; false when it did.
    async fn lift_flow_retention(&self, tenant: Option<&str>, flow: &str) -> Result<bool, StoreError>;

    /// Deletes at most `max` executions of a flow that have passed its retention, with all that belongs to them: trees of
    /// which nothing is alive, as [`Store::prune`](super::Store::prune) does, which leaves them alone. How many went.
    async fn prune_flow(
        &self,
        retention: &FlowRetention,
        now: Timestamp,
        max: usize,
    ) -> Result<usize, StoreError>;

    /// Forgets operations that ended before an instant, at most `max`; how many went.
    async fn forget_operations(&self, before: Timestamp, max: usize) -> Result<usize, StoreError>;
}

/// A parked task, in the order of the columns of `failed_tasks_*`.
pub(super) fn failed_task(row: &impl RecordRow) -> Result<FailedTaskEntry, StoreError> {
    let sequence: i64 = rows::column(row, 0, &"fm_failed_tasks")?;
    let what = format!("fm_failed_tasks {sequence}");
    let outcome: Option<String> = rows::column(row, 4, &what)?;
    let settled = match outcome.as_deref() {
        None => None,
        Some(word) => {
            let known = [SettledAs::Replayed, SettledAs::Discarded];
            let outcome = known.into_iter().find(|known| known.as_str() == word);
            Some(Settlement {
                outcome: outcome.ok_or_else(|| rows::corrupt(&what, format!("`{word}` settles nothing")))?,
                at: rows::instant(row, 5, &what)?,
                by: rows::column(row, 6, &what)?,
                reason: rows::column(row, 7, &what)?,
            })
        }
    };
    Ok(FailedTaskEntry {
        sequence,
        row: FailedTaskRow {
            execution: rows::id(row, 1, &what)?,
            at: rows::instant(row, 2, &what)?,
            task: rows::parsed(row, 3, &what)?,
        },
        settled,
        status: rows::status(row, 8, &what)?,
        is_last: rows::column(row, 9, &what)?,
    })
}

/// A pause, in the order of the columns of `pauses_list`.
pub(super) fn pause(row: &impl RecordRow) -> Result<Pause, StoreError> {
    let what = "a row of fm_pauses";
    let word: String = rows::column(row, 0, &what)?;
    let kind = [PauseKind::Pool, PauseKind::Flow].into_iter().find(|kind| kind.as_str() == word);
    Ok(Pause {
        kind: kind.ok_or_else(|| rows::corrupt(what, format!("`{word}` cannot be paused")))?,
        tenant: tenants::owner(rows::column(row, 1, &what)?),
        name: rows::column(row, 2, &what)?,
        at: rows::instant(row, 3, &what)?,
        by: rows::column(row, 4, &what)?,
        reason: rows::column(row, 5, &what)?,
    })
}

/// An archived version, in the order of the columns of `flows_archived`.
pub(super) fn archived_flow(row: &impl RecordRow) -> Result<ArchivedFlow, StoreError> {
    let what = "a row of fm_flows";
    Ok(ArchivedFlow {
        tenant: tenants::owner(rows::column(row, 0, &what)?),
        id: rows::column(row, 1, &what)?,
        version: rows::column(row, 2, &what)?,
    })
}

/// An operation, in the order of the columns of `operations_*`.
pub(super) fn operation(row: &impl RecordRow) -> Result<Operation, StoreError> {
    let what = "a row of fm_operations";
    let operation: Operation = rows::parsed(row, 0, &what)?;
    let stopped_at: Option<i64> = rows::column(row, 1, &what)?;
    Ok(Operation { stopped_at: stopped_at.map(Timestamp::from_millis), ..operation })
}

/// What came of an operation for one execution.
pub(super) fn operation_item(row: &impl RecordRow) -> Result<OperationItem, StoreError> {
    let what = "a row of fm_operation_items";
    Ok(OperationItem { execution: rows::id(row, 0, &what)?, code: rows::column(row, 1, &what)? })
}

/// How long a flow's executions are kept, in the order of the columns of `retention_list`.
pub(super) fn flow_retention(row: &impl RecordRow) -> Result<FlowRetention, StoreError> {
    let what = "a row of fm_retention";
    let millis = |place| -> Result<Option<u64>, StoreError> {
        let millis: Option<i64> = rows::column(row, place, &what)?;
        let whole = |millis| u64::try_from(millis).map_err(|error| rows::corrupt(what, error));
        millis.map(whole).transpose()
    };
    Ok(FlowRetention {
        tenant: tenants::owner(rows::column(row, 0, &what)?),
        flow_id: rows::column(row, 1, &what)?,
        completed_ms: millis(2)?,
        failed_ms: millis(3)?,
        at: rows::instant(row, 4, &what)?,
        by: rows::column(row, 5, &what)?,
    })
}
