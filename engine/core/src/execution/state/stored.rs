//! The state of an execution without its context and its output, as it is stored.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Activity, BufferedSignal, Compensation, Cost, Execution, Identity, Pause, Phase, Undoable};
use crate::execution::present;
use crate::flow::definition::StepId;
use crate::time::Timestamp;

/// Serialises as the [`Execution`] would with an empty context and no output, and reads back as one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredState<'a> {
    identity: &'a Identity,
    version: u64,
    events: u64,
    run: u32,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    cursor: &'a StepId,
    phase: &'a Phase,
    activity: &'a Activity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<&'a Pause>,
    context: Map<String, Value>,
    context_bytes: usize,
    visits: &'a BTreeMap<StepId, u32>,
    step_count: u32,
    tasks: u32,
    joins: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    compensations: &'a [Undoable],
    #[serde(skip_serializing_if = "Option::is_none")]
    undoing: Option<&'a Compensation>,
    compensated: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    signals: &'a [BufferedSignal],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    signal_ids: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "present::serialize")]
    resume_data: &'a Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "present::serialize")]
    last_output: &'a Option<Value>,
    iteration: u32,
    has_errors: bool,
    budget_warned: bool,
    cost: &'a Cost,
}

impl<'a> StoredState<'a> {
    pub(super) fn of(execution: &'a Execution) -> Self {
        // All by name: a field that is added has to be thought of here.
        let Execution {
            identity,
            version,
            events,
            run,
            updated_at,
            deadline,
            cursor,
            phase,
            activity,
            pause,
            context: _,
            context_bytes,
            visits,
            step_count,
            tasks,
            joins,
            compensations,
            undoing,
            compensated,
            signals,
            signal_ids,
            last_error,
            resume_data,
            last_output,
            iteration,
            has_errors,
            budget_warned,
            cost,
            output: _,
        } = execution;
        Self {
            identity,
            version: *version,
            events: *events,
            run: *run,
            updated_at: *updated_at,
            deadline: *deadline,
            cursor,
            phase,
            activity,
            pause: pause.as_ref(),
            context: Map::new(),
            context_bytes: *context_bytes,
            visits,
            step_count: *step_count,
            tasks: *tasks,
            joins: *joins,
            compensations,
            undoing: undoing.as_ref(),
            compensated: *compensated,
            signals,
            signal_ids,
            last_error: last_error.as_ref(),
            resume_data,
            last_output,
            iteration: *iteration,
            has_errors: *has_errors,
            budget_warned: *budget_warned,
            cost,
        }
    }
}
