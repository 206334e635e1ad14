//! Rows on their way out of the database. Nothing panics: what cannot be understood is corrupt, and named.

use std::fmt::Display;
use std::sync::Arc;

use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{Execution, FlowReference, Status};
use flowmonkey_core::ids::{ExecutionId, FlowHash};
use flowmonkey_core::time::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row, Type};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::model::{ExecutionSummary, FlowRow, JoinState, PublishedEvent};

/// A row that cannot be understood.
pub(super) fn corrupt(what: impl Display, reason: impl Display) -> StoreError {
    StoreError::Corrupt { what: what.to_string(), reason: reason.to_string() }
}

/// A column of a row of `what`.
pub(super) fn column<'r, T>(row: &'r PgRow, index: usize, what: &dyn Display) -> Result<T, StoreError>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(index).map_err(|error| corrupt(what, error))
}

/// A column that holds JSON.
pub(super) fn parsed<T: DeserializeOwned>(
    row: &PgRow,
    index: usize,
    what: &dyn Display,
) -> Result<T, StoreError> {
    let text: &str = column(row, index, what)?;
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

/// A column that holds JSON, or nothing.
fn optional_parsed<T: DeserializeOwned>(
    row: &PgRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<T>, StoreError> {
    let text: Option<&str> = column(row, index, what)?;
    text.map(|text| serde_json::from_str(text).map_err(|error| corrupt(what, error))).transpose()
}

/// A column that holds an execution's id.
pub(super) fn id(row: &PgRow, index: usize, what: &dyn Display) -> Result<ExecutionId, StoreError> {
    column::<Uuid>(row, index, what).map(ExecutionId::from_uuid)
}

/// As [`id`], for a column that may be null.
pub(super) fn optional_id(
    row: &PgRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<ExecutionId>, StoreError> {
    Ok(column::<Option<Uuid>>(row, index, what)?.map(ExecutionId::from_uuid))
}

/// A column that holds the ids that a function gives.
pub(super) fn ids(row: &PgRow, index: usize, what: &dyn Display) -> Result<Vec<ExecutionId>, StoreError> {
    let ids: Vec<Uuid> = column(row, index, what)?;
    Ok(ids.into_iter().map(ExecutionId::from_uuid).collect())
}

/// A column that holds an instant.
pub(super) fn instant(row: &PgRow, index: usize, what: &dyn Display) -> Result<Timestamp, StoreError> {
    column(row, index, what).map(Timestamp::from_millis)
}

/// A column that holds a count.
pub(super) fn count<T: TryFrom<i64>>(row: &PgRow, index: usize, what: &dyn Display) -> Result<T, StoreError> {
    let number: i64 = column(row, index, what)?;
    T::try_from(number).map_err(|_| corrupt(what, format_args!("column {index} holds {number}")))
}

fn optional_count(row: &PgRow, index: usize, what: &dyn Display) -> Result<Option<u32>, StoreError> {
    let number: Option<i64> = column(row, index, what)?;
    number.map(|_| count(row, index, what)).transpose()
}

/// An execution out of `id, version, state, context, output`.
pub(super) fn execution(row: &PgRow) -> Result<Execution, StoreError> {
    let id = id(row, 0, &"a row of fm_executions")?;
    let what = format!("fm_executions {id}");
    let mut execution: Execution = parsed(row, 2, &what)?;
    execution.context = parsed(row, 3, &what)?;
    let output: Option<&str> = column(row, 4, &what)?;
    execution.output = match output {
        Some(output) => Some(serde_json::from_str(output).map_err(|error| corrupt(&what, error))?),
        None => None,
    };
    let version: u64 = count(row, 1, &what)?;
    if execution.id() != id || execution.version != version {
        return Err(corrupt(what, "its state is of another execution or version"));
    }
    Ok(execution)
}

/// A list entry, in the order of the columns of `executions_list_*`.
pub(super) fn summary(row: &PgRow) -> Result<ExecutionSummary, StoreError> {
    let id = id(row, 0, &"a row of fm_executions")?;
    let what = format!("fm_executions {id}");
    Ok(ExecutionSummary {
        id,
        flow_id: column(row, 1, &what)?,
        flow_version: column(row, 2, &what)?,
        status: status(row, 3, &what)?,
        current_step_id: column(row, 4, &what)?,
        waiting_reason: column(row, 5, &what)?,
        error_code: column(row, 6, &what)?,
        parent_execution_id: optional_id(row, 7, &what)?,
        labels: parsed(row, 8, &what)?,
        created_at: instant(row, 9, &what)?,
        updated_at: instant(row, 10, &what)?,
    })
}

/// A column that holds a status.
pub(super) fn status(row: &PgRow, index: usize, what: &dyn Display) -> Result<Status, StoreError> {
    let text: &str = column(row, index, what)?;
    Status::parse(text).ok_or_else(|| corrupt(what, format_args!("unknown status `{text}`")))
}

/// The counters of a fan-out, in the order of the columns of `joins_*`.
pub(super) fn join(row: &PgRow) -> Result<JoinState, StoreError> {
    let parent = id(row, 0, &"a row of fm_joins")?;
    let what = format!("fm_joins {parent}");
    Ok(JoinState {
        parent,
        join: count(row, 1, &what)?,
        total: count(row, 2, &what)?,
        max_live: count(row, 3, &what)?,
        spawned: count(row, 4, &what)?,
        succeeded: count(row, 5, &what)?,
        failed: count(row, 6, &what)?,
        closing: column(row, 7, &what)?,
        stop_at_failed: optional_count(row, 8, &what)?,
        stop_at_succeeded: optional_count(row, 9, &what)?,
        cost: cost(row, 10, &what)?,
    })
}

/// Three columns from `first` on that hold a cost.
pub(super) fn cost(row: &PgRow, first: usize, what: &dyn Display) -> Result<Cost, StoreError> {
    Ok(Cost {
        usd: column(row, first, what)?,
        tokens: count(row, first + 1, what)?,
        attempts: count(row, first + 2, what)?,
    })
}

/// An event, in the order of the columns of `events_*`.
pub(super) fn event(row: &PgRow) -> Result<PublishedEvent, StoreError> {
    let id: String = column(row, 0, &"a row of fm_events")?;
    let what = format!("fm_events {id}");
    Ok(PublishedEvent {
        id,
        name: column(row, 1, &what)?,
        data: parsed(row, 2, &what)?,
        source: optional_id(row, 3, &what)?,
        at: instant(row, 4, &what)?,
        attributes: optional_parsed(row, 6, &what)?,
    })
}

/// A definition, in the order of the columns of `definitions_get`.
pub(super) fn definition(row: &PgRow) -> Result<FlowRow, StoreError> {
    let hash: String = column(row, 0, &"a row of fm_definitions")?;
    let what = format!("fm_definitions {hash}");
    Ok(FlowRow {
        hash: FlowHash::from_hex(hash),
        id: column(row, 1, &what)?,
        version: column(row, 2, &what)?,
        status: column(row, 3, &what)?,
        definition: Arc::new(parsed(row, 4, &what)?),
    })
}

/// A published version and its status, in the order of the columns of `flows_*`.
pub(super) fn flow(row: &PgRow) -> Result<(FlowReference, String), StoreError> {
    let what = "a row of fm_flows";
    let hash: String = column(row, 2, &what)?;
    let reference = FlowReference {
        id: column(row, 0, &what)?,
        version: column(row, 1, &what)?,
        hash: FlowHash::from_hex(hash),
    };
    Ok((reference, column(row, 3, &what)?))
}
