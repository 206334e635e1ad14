//! Who and whose an execution is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::is_default;
use crate::flow::definition::ParentClose;
use crate::ids::{ExecutionId, FlowHash};
use crate::time::Timestamp;

/// Who and whose an execution is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its id.
    pub id: ExecutionId,
    /// The execution at the root of the tree; itself for a root.
    pub root: ExecutionId,
    /// Which child of which fan-out it is; none for a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentLink>,
    /// Executions above it.
    pub depth: u16,
    /// The pinned flow version.
    pub flow: FlowReference,
    /// Other flows of the same document, which sub-flows resolve to first. Empty for published flows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundle: Vec<FlowReference>,
    /// Which graph of the flow it runs: empty for the flow's own, else the path of a body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graph: Vec<String>,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Free for the starter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Searchable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The key that it was started under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Where it was rerun from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Whether spending is counted for the root's budget.
    #[serde(default)]
    pub budgeted: bool,
    /// Milliseconds: replaces the flow's `timeouts.waitMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_timeout_ms: Option<u64>,
    /// W3C trace context of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A pinned flow version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReference {
    /// The flow's id.
    pub id: String,
    /// The flow's version.
    pub version: String,
    /// The definition's hash: what is loaded.
    pub hash: FlowHash,
}

/// Which child of which fan-out an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentLink {
    /// The parent.
    pub execution: ExecutionId,
    /// The fan-out, by its number in the parent; 0 for a fire-and-forget child, which reports to nobody.
    pub join: u32,
    /// The child's place.
    pub index: u32,
    /// What happens to the child when the parent ends first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub abandon: bool,
}

impl ParentLink {
    /// Whether the parent counts on this child's end.
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        self.join != 0
    }

    /// From the flow's word.
    #[must_use]
    pub fn detached(execution: ExecutionId, index: u32, close: ParentClose) -> Self {
        Self { execution, join: 0, index, abandon: close == ParentClose::Abandon }
    }
}

/// Where an execution was rerun from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The original execution.
    pub rerun_of: ExecutionId,
    /// The step that the rerun began at.
    pub from_step: String,
}
