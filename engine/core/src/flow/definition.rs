//! A flow after validation: types that cannot be wrong. Made by [`super::parse`] only; never checked again.
//!
//! Architecture invariant: everything that can be refused about a definition is refused before these types exist.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::condition::Condition;
use super::expression::Expression;
use super::schema::Schema;
use super::selector::{Path, Selector};
use crate::ids::FlowHash;

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

/// A step that a handler carries out.
#[derive(Debug)]
pub struct TaskStep {
    /// Opaque to the engine; the handler reads it.
    pub config: Value,
    /// SemVer requirement on the handler's version.
    pub handler_version: Option<semver::VersionReq>,
    /// Milliseconds: hard limit of one attempt (code `TIMEOUT`).
    pub timeout_ms: Option<u64>,
    /// Milliseconds without a heartbeat after which the lease ends.
    pub heartbeat_timeout_ms: Option<u64>,
    /// Milliseconds that an attempt may wait for a worker (code `SCHEDULE_TO_START_TIMEOUT`).
    pub schedule_to_start_ms: Option<u64>,
    /// Which list of the queue.
    pub priority: Priority,
    /// How much of the context travels with the task.
    pub context: ContextNeeds,
    /// Replaces the idempotency key that handlers are given.
    pub idempotency_key: Option<Selector>,
}

/// Which list of a pool's queue a task waits in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Claimed first.
    High,
    /// The default.
    #[default]
    Normal,
    /// Claimed last, but every tenth claim starts here.
    Low,
}

/// How much of the context travels with a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContextNeeds {
    /// All of the execution's own context, up to the inline limit. The default.
    #[default]
    Full,
    /// Nothing.
    None,
    /// These paths only.
    Paths(Vec<Path>),
}

/// What happens when the retries of a step are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// The step fails: `onFailure`, else the execution fails. The default.
    #[default]
    Fail,
    /// The execution is parked for a person.
    Incident,
}

/// Where the cursor goes after a step. None: the end of the graph (`onFailure`: the execution fails).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transitions {
    /// After success.
    pub on_success: Option<StepId>,
    /// After a failure whose retries are used up.
    pub on_failure: Option<StepId>,
    /// After a wait; none: `onSuccess`.
    pub on_resume: Option<StepId>,
}

/// When and how often a failed step runs again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Re-tries; the first run is not counted.
    pub max_attempts: u32,
    /// Milliseconds before the first re-try. 0: at once.
    pub backoff_ms: u64,
    /// Factor from one back-off to the next.
    pub backoff_multiplier: f64,
    /// Milliseconds: upper limit of one back-off.
    pub max_backoff_ms: u64,
    /// Codes that are retried; none: all, `[]`: no code.
    pub retry_on: Option<Vec<String>>,
    /// Codes that are never retried.
    pub no_retry_on: Vec<String>,
    /// How chance changes a back-off.
    pub jitter: Jitter,
    /// Milliseconds from the first attempt after which no re-try starts.
    pub total_ms: Option<u64>,
}

/// How chance changes a back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all. The default.
    #[default]
    None,
    /// Half of it is fixed, half is drawn.
    Equal,
    /// All of it is drawn.
    Full,
}

/// `delay`, `wait`.
#[derive(Debug)]
pub enum Delay {
    /// Milliseconds, all units added up.
    For(u64),
    /// Until the instant (RFC 3339 or epoch milliseconds) that the template gives.
    Until(Selector),
}

/// `wait-signal`: waits until the named signal (or the step's resume token) arrives.
#[derive(Debug)]
pub struct WaitSignal {
    /// The signal's name; by default the step's id.
    pub signal: String,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
}

/// `wait-event`: waits until a matching event arrives.
#[derive(Debug)]
pub struct WaitEvent {
    /// The event's name.
    pub event: String,
    /// CEL over `event` (name, data) and the context; none: every event of that name.
    pub matches: Option<Expression>,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
}

/// `approval`: a wait for a person's answer.
#[derive(Debug)]
pub struct Approval {
    /// The signal's name; by default the step's id.
    pub signal: String,
    /// Who may answer; shown, not enforced by the core.
    pub assignees: Vec<String>,
    /// What an answer must look like; another answer is refused.
    pub form: Option<Schema>,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
    /// When nobody answers in time, others are asked.
    pub escalation: Option<Escalation>,
}

/// When nobody answers an approval in time, others are asked (once).
#[derive(Debug)]
pub struct Escalation {
    /// Milliseconds after the approval began.
    pub after_ms: u64,
    /// The new assignees.
    pub assignees: Vec<String>,
}

/// `conditional`: the first case that holds wins.
#[derive(Debug)]
pub struct Cases {
    /// In order.
    pub cases: Vec<Case>,
    /// When no case holds.
    pub default: DefaultTarget,
}

/// One case of a `conditional`.
#[derive(Debug)]
pub struct Case {
    /// What must hold.
    pub condition: CaseCondition,
    /// Where the cursor goes then; none completes the graph.
    pub target: Option<StepId>,
}

/// What must hold for a case.
#[derive(Debug)]
pub enum CaseCondition {
    /// FlowMonkey's operators over a path of the step's input.
    Operator(Condition),
    /// CEL.
    When(Expression),
}

/// Where the cursor goes when no case holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultTarget {
    /// No default was given: the step fails with `NO_MATCH`.
    NoMatch,
    /// To this step; none completes the graph.
    Target(Option<StepId>),
}

/// `switch`.
#[derive(Debug)]
pub enum Switch {
    /// The text of the value at `path` of the input chooses.
    Value {
        /// Where the value is in the step's input.
        path: Path,
        /// Text to target.
        cases: BTreeMap<String, Option<StepId>>,
        /// When no text is equal.
        default: DefaultTarget,
    },
    /// CEL cases.
    Cases(Cases),
}

/// `branch`: FlowMonkey's test handler; equality over paths of the context.
#[derive(Debug)]
pub struct Branch {
    /// In order: path, wanted value, target.
    pub conditions: Vec<(Path, Value, StepId)>,
    /// When none is equal.
    pub default: DefaultTarget,
}

/// When a fan-out has enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinRule {
    /// Every child must end; `onItemError` says what a failed one means. The default.
    #[default]
    All,
    /// The first success; fails when all fail.
    Any,
    /// This many successes; fails when they cannot be reached any more.
    N(u32),
    /// Every child must end; failures are results (`status`, `output` or `error` for each).
    Settled,
}

/// What a failed child means to a fan-out with the join rule `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnItemError {
    /// The others are cancelled and the step fails. The default.
    #[default]
    FailFast,
    /// The others go on; the step succeeds with `null` in the failed places.
    Continue,
    /// As `continue` up to this many failures, then as `fail-fast`.
    Tolerate(u32),
}

/// `parallel`.
#[derive(Debug)]
pub struct Parallel {
    /// In order: name and body.
    pub branches: Vec<(String, Arc<Graph>)>,
    /// When it has enough.
    pub join: JoinRule,
    /// What a failed branch means.
    pub on_item_error: OnItemError,
}

/// `map`.
#[derive(Debug)]
pub struct MapStep {
    /// Gives the array.
    pub items: Selector,
    /// The key of the item in the child's context; by default `item`.
    pub item_key: String,
    /// Children alive at a time; none: the engine's limit.
    pub max_concurrency: Option<u32>,
    /// What each child runs.
    pub body: Arc<Graph>,
    /// When it has enough.
    pub join: JoinRule,
    /// What a failed item means.
    pub on_item_error: OnItemError,
}

/// `loop`.
#[derive(Debug)]
pub struct LoopStep {
    /// When the loop goes on.
    pub condition: LoopCondition,
    /// Iterations after which the step fails with `MAX_ITERATIONS`.
    pub max_iterations: u32,
    /// What each iteration runs.
    pub body: Arc<Graph>,
}

/// When a loop goes on. CEL over the context and `iteration` (iterations done so far).
#[derive(Debug)]
pub enum LoopCondition {
    /// Checked before each iteration; goes on while true.
    While(Expression),
    /// Checked after each iteration; goes on until true.
    Until(Expression),
}

/// `sub-flow`.
#[derive(Debug)]
pub struct SubFlow {
    /// The flow to run.
    pub flow_id: String,
    /// Exact version; none: the latest when the child starts.
    pub version: Option<semver::Version>,
    /// False: fire and forget.
    pub wait_for_completion: bool,
    /// What happens to the child when this execution ends first.
    pub on_parent_close: ParentClose,
    /// Given to the child.
    pub metadata: Option<Value>,
    /// Replaces the parent's tenant.
    pub tenant_id: Option<String>,
}

/// What happens to a child when its parent ends first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentClose {
    /// It is cancelled. The default.
    #[default]
    Cancel,
    /// It goes on.
    Abandon,
}

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

/// A silent tap: writes a step's output into a table.
#[derive(Debug)]
pub struct Pipe {
    /// Unique within the flow.
    pub id: String,
    /// The step whose output is tapped.
    pub step: StepId,
    /// For which outcomes.
    pub on: PipeOn,
    /// The table.
    pub table: String,
    /// Path in the output, column.
    pub mappings: Vec<(Path, String)>,
    /// Column to value; wins over mappings.
    pub static_values: serde_json::Map<String, Value>,
}

/// For which outcomes a pipe acts. Waits count as failures, as in FlowMonkey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PipeOn {
    /// The default.
    #[default]
    Success,
    /// Failures and waits.
    Failure,
    /// Every outcome.
    Any,
}

/// Time limits of a whole execution. None unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Milliseconds from creation to the end (`EXECUTION_TIMEOUT`).
    pub execution_ms: Option<u64>,
    /// Milliseconds that one wait may last (`WAIT_TIMEOUT`), where the wait has no limit of its own.
    pub wait_ms: Option<u64>,
}

/// Limits that a flow narrows or widens, within the engine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowLimits {
    /// Applied outcomes (`MAX_STEPS`).
    pub max_steps: Option<u32>,
    /// Bytes of the context as JSON.
    pub context_bytes: Option<usize>,
}

/// What a tree of executions may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// US dollars, as reported by handlers (`BUDGET_EXCEEDED`).
    pub max_cost_usd: Option<f64>,
    /// US dollars: a warning event is emitted once.
    pub warn_cost_usd: Option<f64>,
    /// Attempts of the whole tree (`BUDGET_EXCEEDED`).
    pub max_attempts: Option<u64>,
}

impl Budget {
    /// Whether anything is limited, so that spending must be counted.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.max_cost_usd.is_some() || self.warn_cost_usd.is_some() || self.max_attempts.is_some()
    }
}

/// Idempotency key for starts that give none.
#[derive(Debug)]
pub struct IdempotencyRule {
    /// Gives the key from the initial context; absent or null: no key.
    pub key: Selector,
    /// Milliseconds that the key is remembered; none: the engine's default (24 h), at most 7 days.
    pub window_ms: Option<u64>,
}
