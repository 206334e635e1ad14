//! A flow after validation: types that cannot be wrong. Made by [`super::parse`] only; never checked again.
//!
//! Architecture invariant: everything that can be refused about a definition is refused before these types exist.

mod fan;
mod routing;
mod rules;
mod task;
mod wait;

use super::expression::Expression;
use super::schema::Schema;
use super::selector::{Path, Selector};
use crate::ids::FlowHash;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use fan::{JoinRule, LoopCondition, LoopStep, MapStep, OnItemError, Parallel, ParentClose, SubFlow};
pub use routing::{Branch, Case, CaseCondition, Cases, DefaultTarget, Switch};
pub use rules::{Budget, FlowLimits, IdempotencyRule, Pipe, PipeOn, Timeouts};
pub use task::{ContextNeeds, Jitter, OnExhausted, Priority, RetryPolicy, TaskStep, Transitions};
pub use wait::{Approval, Delay, Escalation, WaitEvent, WaitSignal};

/// The name of a step within its graph.
pub type StepId = Arc<str>;

/// A validated flow: one immutable version of a definition.
#[derive(Debug)]
pub struct Flow {
    /// The flow's id, by convention in kebab-case.
    pub id: String,
    /// SemVer 2, as written.
    pub version: semver::Version,
    /// For display.
    pub name: Option<String>,
    /// For display.
    pub description: Option<String>,
    /// For display and search.
    pub tags: Vec<String>,
    /// Only published flows start.
    pub status: FlowStatus,
    /// The steps of the flow itself; bodies have graphs of their own.
    pub graph: Arc<Graph>,
    /// Whether some step, in a body or not, starts children that nobody waits for and that end with their parent.
    pub closes_children: bool,
    /// Silent taps that write step outputs into tables.
    pub pipes: Vec<Pipe>,
    /// Checked against the initial context.
    pub input_schema: Option<Schema>,
    /// Checked against the flow's output.
    pub output_schema: Option<Schema>,
    /// The flow's result; none: the flow has no output value.
    pub output: Option<Selector>,
    /// Time limits of a whole execution.
    pub timeouts: Timeouts,
    /// Limits that the flow narrows or widens.
    pub limits: FlowLimits,
    /// What a tree of executions may cost.
    pub budget: Budget,
    /// Label name to the path in the initial context that it is read from.
    pub labels: BTreeMap<String, Path>,
    /// Idempotency key for starts that give none.
    pub idempotency: Option<IdempotencyRule>,
    /// The first step of the clean-up after a cancel.
    pub on_cancel: Option<StepId>,
    /// The first step of the clean-up after a failure.
    pub on_failure: Option<StepId>,
    /// SHA-256 of the canonical definition.
    pub hash: FlowHash,
    /// The definition as JSON, as stored and shown.
    pub source: Arc<Value>,
}

impl Flow {
    /// The graph at `path`: the flow's own for an empty path, else the body of the named step (`["quote"]`), or of a
    /// branch of it (`["checks", "stock"]`), and so on inwards. `None` when there is no such body.
    #[must_use]
    pub fn graph_at(&self, path: &[String]) -> Option<&Arc<Graph>> {
        let mut graph = &self.graph;
        let mut rest = path;
        while let [step, tail @ ..] = rest {
            let kind = &graph.steps.get(step.as_str())?.kind;
            (graph, rest) = match (kind.bodies().next()?, tail) {
                ((None, body), tail) => (body, tail),
                ((Some(_), _), [branch, tail @ ..]) => {
                    (kind.bodies().find(|(name, _)| *name == Some(branch.as_str()))?.1, tail)
                }
                ((Some(_), _), []) => return None,
            };
        }
        Some(graph)
    }
}

/// Whether a flow may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowStatus {
    /// Being written; starts only when forced.
    Draft,
    /// May start. The default.
    #[default]
    Published,
    /// Kept for running executions; starts only when forced.
    Archived,
}

/// A graph of steps with one entry.
#[derive(Debug)]
pub struct Graph {
    /// Where the cursor starts.
    pub initial: StepId,
    /// All steps by id.
    pub steps: BTreeMap<StepId, Arc<Step>>,
    /// The steps' ids in the order of the document, for display.
    pub order: Vec<StepId>,
    /// The result of a body; none: the output of the last step.
    pub output: Option<Selector>,
}

impl Graph {
    /// Shows every step to `see`, those of bodies within it included.
    pub fn each_step<'a>(&'a self, see: &mut impl FnMut(&'a Step)) {
        for step in self.steps.values() {
            see(step);
            for (_, body) in step.kind.bodies() {
                body.each_step(see);
            }
        }
    }
}

/// One node of a graph.
#[derive(Debug)]
pub struct Step {
    /// Unique within its graph.
    pub id: StepId,
    /// The `type` as written; for a task, the handler type after the alias (`http` is `http-request`).
    pub type_name: Arc<str>,
    /// For display.
    pub name: Option<String>,
    /// What the step does.
    pub kind: StepKind,
    /// What the step is given; none: no input.
    pub input: Option<Selector>,
    /// Dotted path in the context where the output is written.
    pub output_key: Option<Path>,
    /// Where the cursor goes next.
    pub transitions: Transitions,
    /// What happens when the step fails; none: no retries.
    pub retry: Option<RetryPolicy>,
    /// False skips the step: it goes to `onSuccess`.
    pub when: Option<Expression>,
    /// Milliseconds: limit of all attempts and back-offs of one visit together.
    pub total_timeout_ms: Option<u64>,
    /// Checked against the step's output.
    pub output_schema: Option<Schema>,
    /// The step that undoes this one.
    pub compensate_with: Option<StepId>,
    /// What happens when the retries are used up.
    pub on_exhausted: OnExhausted,
}

/// What a step does: either the engine does it itself, or it is a task for a handler.
#[derive(Debug)]
pub enum StepKind {
    /// Dispatched to a handler.
    Task(TaskStep),
    /// `delay`, `wait`: a durable timer.
    Delay(Delay),
    /// `wait-signal`.
    WaitSignal(WaitSignal),
    /// `wait-event`.
    WaitEvent(WaitEvent),
    /// `approval`.
    Approval(Approval),
    /// `conditional`: operators over paths of the step's input, or CEL cases.
    Conditional(Cases),
    /// `switch`: one value of the step's input against texts, or CEL cases.
    Switch(Switch),
    /// `branch`: equality over paths of the context.
    Branch(Branch),
    /// `parallel`: named branches.
    Parallel(Parallel),
    /// `map`: one child per item.
    Map(MapStep),
    /// `loop`: one child after the other.
    Loop(LoopStep),
    /// `sub-flow`.
    SubFlow(SubFlow),
    /// `emit`: an event with the step's input as data.
    Emit(Emit),
    /// `set`: the output is `value` when it is given, else the input.
    Set(Option<Value>),
    /// `echo`: the output is the input.
    Echo,
    /// `fail`: the step fails.
    Fail(Failure),
    /// `succeed`: the execution completes here; the output is the input.
    Succeed,
}

impl StepKind {
    /// Whether it starts a child that nobody waits for and that ends with its parent.
    pub(crate) fn starts_child_to_close(&self) -> bool {
        matches!(self, Self::SubFlow(sub_flow)
            if !sub_flow.wait_for_completion && sub_flow.on_parent_close != ParentClose::Abandon)
    }

    /// The graphs that the step's children run, by the name of the branch for `parallel`; none for steps without children
    /// in this flow.
    pub fn bodies(&self) -> impl Iterator<Item = (Option<&str>, &Arc<Graph>)> {
        let none: &[(String, Arc<Graph>)] = &[];
        let (only, branches) = match self {
            Self::Map(map) => (Some(&map.body), none),
            Self::Loop(config) => (Some(&config.body), none),
            Self::Parallel(parallel) => (None, parallel.branches.as_slice()),
            Self::Task(_)
            | Self::Delay(_)
            | Self::WaitSignal(_)
            | Self::WaitEvent(_)
            | Self::Approval(_)
            | Self::Conditional(_)
            | Self::Switch(_)
            | Self::Branch(_)
            | Self::SubFlow(_)
            | Self::Emit(_)
            | Self::Set(_)
            | Self::Echo
            | Self::Fail(_)
            | Self::Succeed => (None, none),
        };
        let branches = branches.iter().map(|(name, branch)| (Some(name.as_str()), branch));
        only.into_iter().map(|body| (None, body)).chain(branches)
    }
}

/// How the names of the engine's own events begin. Steps may wait for them, and not emit them.
pub const RESERVED_EVENTS: &str = "flowmonkey.";

/// `emit`.
#[derive(Debug)]
pub struct Emit {
    /// The event's name.
    pub event: String,
    /// The event's data; none: the step's input.
    pub data: Option<Selector>,
}

/// `fail`.
#[derive(Debug)]
pub struct Failure {
    /// Default `FAIL`.
    pub code: String,
    /// Default `Failed`.
    pub message: String,
}
