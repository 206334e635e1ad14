//! What holds for a flow as a whole: what is written to tables, limits of time, size and cost, keys of starts.

use serde_json::Value;

use super::StepId;
use crate::flow::selector::{Path, Selector};

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
