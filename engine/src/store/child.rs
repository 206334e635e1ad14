//! A child as its parent sees it.

use flowmonkey_core::execution::error::ExecutionError;
use flowmonkey_core::execution::{Execution, Phase};

use super::StoreError;
use super::model::ChildRow;

/// Code of the error of a cancelled child.
const CANCELLED: &str = "CANCELLED";

/// What a parent takes from a child: its result, its error, what it could undo.
///
/// # Errors
/// [`StoreError::Corrupt`] when the execution is nobody's child.
pub(super) fn child_row(execution: Execution) -> Result<ChildRow, StoreError> {
    let link = execution.identity.parent.ok_or_else(|| StoreError::Corrupt {
        what: format!("fm_executions {}", execution.id()),
        reason: "its state names no parent".into(),
    })?;
    let error = match &execution.phase {
        Phase::Failed { error, .. } => Some(error.clone()),
        Phase::Cancelled { cancellation } => Some(ExecutionError {
            code: CANCELLED.into(),
            message: cancellation.reason.clone().unwrap_or_else(|| "the execution was cancelled".into()),
            step_id: Some(execution.cursor.clone()),
            details: None,
            timestamp: cancellation.cancelled_at,
        }),
        Phase::Running | Phase::Ending { .. } | Phase::Completed => None,
    };
    let ended = execution.is_terminal();
    let completed = matches!(execution.phase, Phase::Completed);
    let is_sub_flow = execution.identity.graph.is_empty();
    Ok(ChildRow {
        index: link.index,
        id: execution.id(),
        status: execution.status(),
        error,
        compensations: if completed { execution.compensations } else { Vec::new() },
        context: (is_sub_flow && ended).then_some(execution.context),
        has_errors: execution.has_errors,
        output: execution.output,
    })
}
