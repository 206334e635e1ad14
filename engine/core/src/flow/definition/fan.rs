//! Steps that are done by children.

use std::sync::Arc;

use serde_json::Value;

use super::Graph;
use crate::flow::expression::Expression;
use crate::flow::selector::Selector;

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
    /// The child's tenant, when the parent has none; a parent's own stays.
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
