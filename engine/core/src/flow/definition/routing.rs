//! Steps that choose where to go.

use std::collections::BTreeMap;

use serde_json::Value;

use super::StepId;
use crate::flow::condition::Condition;
use crate::flow::expression::Expression;
use crate::flow::selector::Path;

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
