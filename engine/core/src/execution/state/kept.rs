//! What an execution keeps for later: what a pause holds, what can be undone, signals that came early, costs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FlowReference, is_default};
use crate::execution::command::TaskReport;
use crate::flow::definition::StepId;
use crate::ids::ExecutionId;
use crate::time::Timestamp;

/// Set while an execution is paused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// When.
    pub since: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A result that arrived meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<TaskReport>>,
}

/// A successful visit that can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compensation {
    /// The step to undo.
    pub step: StepId,
    /// Which visit.
    pub visit: u32,
    /// The execution whose step it was: this one, or a child of it.
    pub execution: ExecutionId,
    /// Whether it is not known if the step took effect.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uncertain: bool,
    /// The flow and the graph that hold the undoing step.
    pub flow: FlowReference,
    /// Path of the graph.
    pub graph: Vec<String>,
    /// The undoing step.
    pub with: StepId,
    /// What the undoing step's input reads of the context as it was at that visit.
    pub context: Map<String, Value>,
}

/// A signal that arrived before anything waited for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BufferedSignal {
    /// Its name.
    pub name: String,
    /// Its data.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::execution::present")]
    pub data: Option<Value>,
    /// Names it, so that sending it twice counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// US dollars.
    #[serde(default)]
    pub usd: f64,
    /// Tokens of language models.
    #[serde(default)]
    pub tokens: u64,
    /// Deliveries of tasks.
    #[serde(default)]
    pub attempts: u64,
}

impl Cost {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            usd: self.usd + other.usd,
            tokens: self.tokens.saturating_add(other.tokens),
            attempts: self.attempts.saturating_add(other.attempts),
        }
    }
}
