//! What a decision is: facts to store, records to store with them, and wishes for afterwards.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::command::{EmittedEvent, TableRow};
use super::error::ExecutionError;
use super::event::Event;
use super::state::{
    ChildStacks, Cost, Execution, FlowReference, Identity, ParentLink, ResumedBy, StackPage, StepRun,
};
use crate::flow::dataset::{Dataset, DatasetReference};
use crate::flow::definition::{Flow, Priority, StepId};
use crate::flow::scope::Snapshot;
use crate::ids::{ExecutionId, FlowHash, TaskId};
use crate::limits::Limits;

/// What the core sees besides the execution itself.
pub struct World<'a> {
    /// The execution's flow.
    pub flow: &'a Flow,
    /// Other flows that compensations name; see [`Execution::flows_needed`].
    pub flows: &'a dyn Fn(&FlowHash) -> Option<Arc<Flow>>,
    /// The parent's context at the fan-out; for bodies.
    pub outer: Option<&'a Snapshot>,
    /// The engine's limits.
    pub limits: &'a Limits,
    /// Whether a flow that a sub-flow step names can be started.
    pub flow_exists: &'a dyn Fn(&str, Option<&str>) -> bool,
    /// What is known of handlers.
    pub handlers: &'a dyn Handlers,
    /// Gives a dataset that is read. A shell that has to fetch it first answers [`Dataset::Unknown`], notes it, and
    /// decides again when it has it: what was decided without it does not count.
    pub datasets: &'a dyn Fn(&DatasetReference) -> Dataset,
    /// Gives the top of what children have left to undo. None when that is not known yet: the shell notes it, reads it, and
    /// decides again, as with datasets. Flows that the page names are known then, too.
    pub stacks: &'a dyn Fn(&ChildStacks) -> Option<StackPage>,
    /// Gives the URL that resumes a step's visit.
    pub resume_url: &'a dyn Fn(&str, u32) -> String,
}

/// What the engine knows of handlers.
pub trait Handlers: Send + Sync {
    /// Whether a task of this type may wait for a worker. False fails the execution with `HANDLER_NOT_FOUND`.
    fn accepts(&self, handler_type: &str) -> bool;

    /// Milliseconds: the manifest's default limit of one attempt.
    fn timeout_ms(&self, handler_type: &str) -> Option<u64>;

    /// Whether tasks of this type are jobs: long-running, with checkpoints, and a row of their own in the record.
    fn is_stateful(&self, handler_type: &str) -> bool {
        let _ = handler_type;
        false
    }

    /// Whether any type is stateful: the cheap question before the one for each task.
    fn any_stateful(&self) -> bool {
        false
    }

    /// Where tasks of this type of `execution` go: what is put before the handler type to name the pool. None: nothing.
    fn route(&self, handler_type: &str, execution: ExecutionId) -> Option<Arc<str>> {
        let _ = (handler_type, execution);
        None
    }
}

/// What follows from a command.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The state afterwards: the events applied.
    pub execution: Execution,
    /// Facts, to be stored in this order.
    pub events: Vec<Event>,
    /// To be stored in the same commit.
    pub records: Vec<Record>,
    /// To be done after the commit. Each may be repeated, and each may be lost in a crash: the chores find out.
    pub effects: Vec<Effect>,
}

/// What is stored in the commit of a decision, beside the execution and its events.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A fan-out begins.
    OpenJoin(Box<JoinSpec>),
    /// No more children are made for it.
    CloseJoin {
        /// Which.
        join: u32,
    },
    /// The parent has taken its result.
    EndJoin {
        /// Which.
        join: u32,
    },
    /// This child of a fan-out has ended: its parent counts it once.
    ChildEnded {
        /// Whose child it is.
        parent: ParentLink,
        /// Whether it completed.
        succeeded: bool,
        /// What it cost.
        cost: Cost,
    },
    /// A fire-and-forget child.
    StartChild(Box<ChildStart>),
    /// A row for a table.
    InsertRow(TableRow),
    /// An event for whoever waits for it.
    Publish(EmittedEvent),
    /// Something was spent of the root's budget.
    Spend {
        /// The root.
        root: ExecutionId,
        /// What.
        cost: Cost,
    },
    /// A task is parked; what is needed to replay it is kept.
    FailedTask(Box<FailedTask>),
}

/// A fan-out as the record keeps it, so that children can be made without the parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinSpec {
    /// The parent.
    pub parent: ExecutionId,
    /// Its number in the parent.
    pub join: u32,
    /// The step.
    pub step: StepId,
    /// What the children are.
    pub kind: JoinKind,
    /// Children in all.
    pub total: u32,
    /// Children alive at a time.
    pub max_live: u32,
    /// This many failures decide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at_failed: Option<u32>,
    /// This many successes decide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at_succeeded: Option<u32>,
    /// What children inherit.
    pub inherited: Inherited,
    /// The parent's context now; stored once for all children.
    #[serde(skip)]
    pub snapshot: Arc<Snapshot>,
    /// One for each child; empty for branches. Stored once for all children.
    #[serde(skip)]
    pub items: Arc<Vec<Value>>,
}

/// What the children of a fan-out are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum JoinKind {
    /// One per item.
    Map {
        /// Key of the item in the child's context.
        #[serde(rename = "itemKey")]
        item_key: String,
    },
    /// One per branch.
    Parallel {
        /// Names in order.
        branches: Vec<String>,
    },
    /// One iteration.
    Loop {
        /// Iterations done before.
        iteration: u32,
    },
    /// Another flow.
    SubFlow(SubFlowStart),
}

/// Another flow to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubFlowStart {
    /// The flow.
    pub flow_id: String,
    /// Exact version; none: the latest when the child starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its initial context.
    pub context: Map<String, Value>,
    /// Free for the starter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// The child's tenant, when the parent has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Whether the child goes on when the parent ends first.
    #[serde(default)]
    pub abandon: bool,
}

/// What children inherit from their parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inherited {
    /// The root of the tree.
    pub root: ExecutionId,
    /// The parent's depth.
    pub depth: u16,
    /// The parent's flow.
    pub flow: FlowReference,
    /// Other flows of the same document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundle: Vec<FlowReference>,
    /// Path of the parent's graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graph: Vec<String>,
    /// The parent's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Whether spending is counted.
    #[serde(default)]
    pub budgeted: bool,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Inherited {
    /// From the parent.
    #[must_use]
    pub fn from(identity: &Identity) -> Self {
        Self {
            root: identity.root,
            depth: identity.depth,
            flow: identity.flow.clone(),
            bundle: identity.bundle.clone(),
            graph: identity.graph.clone(),
            tenant_id: identity.tenant_id.clone(),
            budgeted: identity.budgeted,
            traceparent: identity.traceparent.clone(),
        }
    }
}

/// A fire-and-forget child to be started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildStart {
    /// Its id.
    pub id: ExecutionId,
    /// Whose child it is.
    pub parent: ParentLink,
    /// What it runs.
    pub start: SubFlowStart,
    /// What it inherits.
    pub inherited: Inherited,
}

/// What is needed to look at a parked task and to replay it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedTask {
    /// The counters of the visit.
    pub run: StepRun,
    /// Its type.
    pub handler_type: String,
    /// Why.
    pub error: ExecutionError,
    /// The step's resolved input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

/// A wish for after the commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the task ready for its pool.
    PublishTask(Box<TaskDraft>),
    /// Tell the worker to stop.
    CancelTask {
        /// Number of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// The pool whose queue carries it.
        pool: String,
    },
    /// Remove the attempt from the queue: it does not count any more.
    DropTask {
        /// Number of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// The pool whose queue carries it.
        pool: String,
    },
    /// Make children, as many as may live.
    SpawnChildren {
        /// For which fan-out.
        join: u32,
    },
    /// Cancel the children that are left.
    CancelChildren {
        /// Of which fan-out.
        join: u32,
    },
    /// Look whether the fan-out has ended meanwhile.
    CheckJoin {
        /// Which.
        join: u32,
    },
    /// Start the fire-and-forget child.
    BeginChild {
        /// Its id.
        child: ExecutionId,
    },
    /// Give it the events of this name that were published before it waited.
    Subscribe {
        /// The event's name.
        event: String,
    },
    /// Cancel fire-and-forget children that end with their parent.
    CancelDetached,
}

/// An attempt as dispatched, before it is put into words for the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskDraft {
    /// Names the task.
    pub task: TaskId,
    /// The fence.
    pub attempt: u32,
    /// The step.
    pub step: StepId,
    /// The handler type.
    pub handler_type: Arc<str>,
    /// SemVer requirement.
    pub handler_version: Option<String>,
    /// The pool whose queue carries it.
    pub pool: String,
    /// Which of the queue's lists.
    pub priority: Priority,
    /// The step's resolved input.
    pub input: Option<Value>,
    /// The declared part of the context.
    pub context: Value,
    /// Set when the declared part is too large to travel: about so many bytes, as JSON; then `context` is an empty object.
    pub context_bytes: Option<usize>,
    /// The step's own configuration.
    pub config: Value,
    /// Stable over all attempts of the visit.
    pub idempotency_key: String,
    /// Milliseconds that the attempt may run.
    pub timeout_ms: u64,
    /// Milliseconds without a heartbeat; none: the engine's setting.
    pub heartbeat_timeout_ms: Option<u64>,
    /// Retries that the step may use.
    pub max_retries: u32,
    /// What ended the last pause of this visit.
    pub resumed: Option<Resumed>,
}

/// What ended a pause, and what it brought.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resumed {
    /// By what.
    #[serde(flatten)]
    pub by: ResumedBy,
    /// The event's data, or the resume's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}
