//! Rows on their way out of a database, whichever it is. Nothing panics: what cannot be understood is corrupt, and named.

use std::fmt::Display;
use std::sync::Arc;

use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{Execution, FlowReference, Status};
use flowmonkey_core::ids::{ExecutionId, FlowHash, TaskId};
use flowmonkey_core::time::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Postgres, Row, Sqlite, Type};
use uuid::Uuid;

use super::StoreError;
use super::access::{ApiKey, AuditEntry, AuditRow, scopes_of};
use super::events::{Delivery, DeliveryStatus, DeliveryTry, Webhook};
use super::jobs::{JobRow, status_of};
use super::model::{ExecutionSummary, FlowRow, JoinState, PublishedEvent, PublishedFlow, TableDefinition};
use super::progress::{LogRow, ProgressRow, level};
use super::tenants::owner;

/// What a column of either database can hold.
pub(super) trait Column<'r>:
    Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite>
{
}

impl<'r, T> Column<'r> for T where T: Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite>
{}

/// A row of either database.
pub(super) trait RecordRow {
    /// The value of a column.
    fn get<'r, T: Column<'r>>(&'r self, index: usize) -> sqlx::Result<T>;
}

impl RecordRow for PgRow {
    fn get<'r, T: Column<'r>>(&'r self, index: usize) -> sqlx::Result<T> {
        self.try_get(index)
    }
}

impl RecordRow for SqliteRow {
    fn get<'r, T: Column<'r>>(&'r self, index: usize) -> sqlx::Result<T> {
        self.try_get(index)
    }
}

/// A row that cannot be understood.
pub(super) fn corrupt(what: impl Display, reason: impl Display) -> StoreError {
    StoreError::Corrupt { what: what.to_string(), reason: reason.to_string() }
}

/// A column of a row of `what`.
pub(super) fn column<'r, T: Column<'r>>(
    row: &'r impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<T, StoreError> {
    row.get(index).map_err(|error| corrupt(what, error))
}

/// A column that holds JSON.
pub(super) fn parsed<T: DeserializeOwned>(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<T, StoreError> {
    let text: &str = column(row, index, what)?;
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

/// As [`parsed`], for a column that may be null.
pub(super) fn optional_parsed<T: DeserializeOwned>(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<T>, StoreError> {
    let text: Option<&str> = column(row, index, what)?;
    text.map(|text| serde_json::from_str(text).map_err(|error| corrupt(what, error))).transpose()
}

/// A column that holds an execution's id.
pub(super) fn id(row: &impl RecordRow, index: usize, what: &dyn Display) -> Result<ExecutionId, StoreError> {
    column(row, index, what).map(ExecutionId::from_uuid)
}

/// As [`id`], for a column that may be null.
pub(super) fn optional_id(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<ExecutionId>, StoreError> {
    let id: Option<Uuid> = column(row, index, what)?;
    Ok(id.map(ExecutionId::from_uuid))
}

/// A column that holds an instant.
pub(super) fn instant(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<Timestamp, StoreError> {
    column(row, index, what).map(Timestamp::from_millis)
}

/// As [`instant`], for a column that may be null.
pub(super) fn optional_instant(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<Timestamp>, StoreError> {
    let millis: Option<i64> = column(row, index, what)?;
    Ok(millis.map(Timestamp::from_millis))
}

/// A column that holds a count.
pub(super) fn count<T: TryFrom<i64>>(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<T, StoreError> {
    let number: i64 = column(row, index, what)?;
    T::try_from(number).map_err(|_| corrupt(what, format_args!("column {index} holds {number}")))
}

/// As [`count`], for a column that may be null.
pub(super) fn optional_count<T: TryFrom<i64>>(
    row: &impl RecordRow,
    index: usize,
    what: &dyn Display,
) -> Result<Option<T>, StoreError> {
    let number: Option<i64> = column(row, index, what)?;
    number.map(|_| count(row, index, what)).transpose()
}

/// An execution out of `id, version, state, context, output`.
pub(super) fn execution(row: &impl RecordRow) -> Result<Execution, StoreError> {
    let id = id(row, 0, &"a row of fm_executions")?;
    let what = format!("fm_executions {id}");
    let mut execution: Execution = parsed(row, 2, &what)?;
    execution.context = parsed(row, 3, &what)?;
    execution.output = optional_parsed(row, 4, &what)?;
    let version: u64 = count(row, 1, &what)?;
    if execution.id() != id || execution.version != version {
        return Err(corrupt(what, "its state is of another execution or version"));
    }
    Ok(execution)
}

/// A list entry, in the order of the columns of `executions_list_*`.
pub(super) fn summary(row: &impl RecordRow) -> Result<ExecutionSummary, StoreError> {
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
pub(super) fn status(row: &impl RecordRow, index: usize, what: &dyn Display) -> Result<Status, StoreError> {
    let text: &str = column(row, index, what)?;
    Status::parse(text).ok_or_else(|| corrupt(what, format_args!("unknown status `{text}`")))
}

/// The counters of a fan-out, in the order of the columns of `joins_*`.
pub(super) fn join(row: &impl RecordRow) -> Result<JoinState, StoreError> {
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
pub(super) fn cost(row: &impl RecordRow, first: usize, what: &dyn Display) -> Result<Cost, StoreError> {
    Ok(Cost {
        usd: column(row, first, what)?,
        tokens: count(row, first + 1, what)?,
        attempts: count(row, first + 2, what)?,
    })
}

/// An event, in the order of the columns of `events_*`.
pub(super) fn event(row: &impl RecordRow) -> Result<PublishedEvent, StoreError> {
    let id: String = column(row, 0, &"a row of fm_events")?;
    let what = format!("fm_events {id}");
    Ok(PublishedEvent {
        id,
        name: column(row, 1, &what)?,
        data: parsed(row, 2, &what)?,
        source: optional_id(row, 3, &what)?,
        at: instant(row, 4, &what)?,
        attributes: optional_parsed(row, 6, &what)?,
        tenant: owner(column(row, 7, &what)?),
    })
}

/// A definition, in the order of the columns of `definitions_get`.
pub(super) fn definition(row: &impl RecordRow) -> Result<FlowRow, StoreError> {
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

/// A published version, in the order of the columns of `flows_list`.
pub(super) fn published_flow(row: &impl RecordRow) -> Result<PublishedFlow, StoreError> {
    let (flow, _status) = self::flow(row)?;
    Ok(PublishedFlow { tenant_id: owner(column(row, 4, &"a row of fm_flows")?), flow })
}

/// A table, in the order of the columns of `tables_list`.
pub(super) fn table(row: &impl RecordRow) -> Result<TableDefinition, StoreError> {
    let id: String = column(row, 0, &"fm_tables")?;
    let what = format!("fm_tables {id}");
    Ok(TableDefinition { columns: parsed(row, 1, &what)?, tenant: owner(column(row, 2, &what)?), id })
}

/// A published version and its status, in the order of the columns of `flows_*`.
pub(super) fn flow(row: &impl RecordRow) -> Result<(FlowReference, String), StoreError> {
    let what = "a row of fm_flows";
    let hash: String = column(row, 2, &what)?;
    let reference = FlowReference {
        id: column(row, 0, &what)?,
        version: column(row, 1, &what)?,
        hash: FlowHash::from_hex(hash),
    };
    Ok((reference, column(row, 3, &what)?))
}

/// A webhook, in the order of the columns of `webhooks_list`.
pub(super) fn webhook(row: &impl RecordRow) -> Result<Webhook, StoreError> {
    let id: String = column(row, 0, &"a row of fm_webhooks")?;
    let what = format!("fm_webhooks {id}");
    Ok(Webhook {
        id,
        url: column(row, 1, &what)?,
        secret: column(row, 2, &what)?,
        patterns: parsed(row, 3, &what)?,
        description: column(row, 4, &what)?,
        active: column(row, 5, &what)?,
        deactivated: column(row, 6, &what)?,
        failing_since: optional_instant(row, 7, &what)?,
        created_at: instant(row, 8, &what)?,
        tenant: owner(column(row, 9, &what)?),
    })
}

/// A key, in the order of the columns of `api_keys_*`.
pub(super) fn api_key(row: &impl RecordRow) -> Result<ApiKey, StoreError> {
    let id: String = column(row, 0, &"a row of fm_api_keys")?;
    let what = format!("fm_api_keys {id}");
    let scopes: &str = column(row, 3, &what)?;
    Ok(ApiKey {
        scopes: scopes_of(scopes)?,
        id,
        name: column(row, 1, &what)?,
        hash: column(row, 2, &what)?,
        tenant: column(row, 4, &what)?,
        created_at: instant(row, 5, &what)?,
        expires_at: optional_instant(row, 6, &what)?,
        revoked_at: optional_instant(row, 7, &what)?,
        last_used_at: optional_instant(row, 8, &what)?,
    })
}

/// An entry of the audit, in the order of the columns of `audit_*`.
pub(super) fn audit(row: &impl RecordRow) -> Result<AuditRow, StoreError> {
    let sequence: i64 = column(row, 0, &"a row of fm_audit")?;
    let what = format!("fm_audit {sequence}");
    let place: Option<i64> = column(row, 10, &what)?;
    let hash: Option<String> = column(row, 11, &what)?;
    Ok(AuditRow {
        sequence,
        entry: AuditEntry {
            id: column(row, 1, &what)?,
            at: instant(row, 2, &what)?,
            actor: column(row, 3, &what)?,
            tenant: column(row, 4, &what)?,
            method: column(row, 5, &what)?,
            route: column(row, 6, &what)?,
            target: column(row, 7, &what)?,
            status: count(row, 8, &what)?,
            request_id: column(row, 9, &what)?,
        },
        seal: place.zip(hash),
    })
}

/// A delivery, in the order of the columns of `deliveries_*`.
pub(super) fn delivery(row: &impl RecordRow) -> Result<Delivery, StoreError> {
    let webhook: String = column(row, 0, &"a row of fm_webhook_deliveries")?;
    let event: String = column(row, 1, &"a row of fm_webhook_deliveries")?;
    let what = format!("fm_webhook_deliveries {webhook} {event}");
    let status: &str = column(row, 3, &what)?;
    let status =
        DeliveryStatus::parse(status).ok_or_else(|| corrupt(&what, format_args!("status {status}")))?;
    let last = match optional_instant(row, 7, &what)? {
        None => None,
        Some(at) => {
            let answered: Option<i64> = column(row, 8, &what)?;
            Some(DeliveryTry {
                at,
                status: answered.and_then(|status| u16::try_from(status).ok()),
                error: column(row, 9, &what)?,
                duration_ms: count(row, 10, &what)?,
            })
        }
    };
    Ok(Delivery {
        name: column(row, 2, &what)?,
        attempts: count(row, 4, &what)?,
        next_at: instant(row, 5, &what)?,
        created_at: instant(row, 6, &what)?,
        webhook,
        event,
        status,
        last,
    })
}

/// A job, in the order of the columns of `jobs_*`.
pub(super) fn job(row: &impl RecordRow) -> Result<JobRow, StoreError> {
    let table = "fm_jobs";
    let task = TaskId { execution: id(row, 0, &table)?, number: count(row, 1, &table)? };
    let what = format!("fm_jobs {task}");
    let status: String = column(row, 3, &what)?;
    Ok(JobRow {
        task,
        attempt: count(row, 2, &what)?,
        status: status_of(&status).ok_or_else(|| corrupt(&what, format!("the status `{status}`")))?,
        step_id: column(row, 4, &what)?,
        handler_type: column(row, 5, &what)?,
        worker: column(row, 6, &what)?,
        created_at: instant(row, 7, &what)?,
        claimed_at: optional_instant(row, 8, &what)?,
        started_at: optional_instant(row, 9, &what)?,
        completed_at: optional_instant(row, 10, &what)?,
        progress_percent: column(row, 11, &what)?,
        progress_message: column(row, 12, &what)?,
        last_heartbeat_at: optional_instant(row, 13, &what)?,
        checkpoint: column(row, 14, &what)?,
        timeout_ms: optional_count(row, 15, &what)?,
        max_retries: optional_count(row, 16, &what)?,
        retry_count: count(row, 17, &what)?,
        error: optional_parsed(row, 18, &what)?,
    })
}

/// Progress of a task of `execution`, in the order of the columns of `progress_*`.
pub(super) fn progress(row: &impl RecordRow, execution: ExecutionId) -> Result<ProgressRow, StoreError> {
    let what = format!("fm_progress {execution}");
    Ok(ProgressRow {
        task: TaskId { execution, number: count(row, 0, &what)? },
        at: instant(row, 1, &what)?,
        attempt: count(row, 2, &what)?,
        step: column(row, 3, &what)?,
        progress: parsed(row, 4, &what)?,
    })
}

/// A log line of a task of `execution`, in the order of the columns of `task_logs_*`.
pub(super) fn log_line(row: &impl RecordRow, execution: ExecutionId) -> Result<LogRow, StoreError> {
    let what = format!("fm_task_logs {execution}");
    let word: &str = column(row, 5, &what)?;
    Ok(LogRow {
        task: TaskId { execution, number: count(row, 0, &what)? },
        attempt: count(row, 1, &what)?,
        line: count(row, 2, &what)?,
        at: instant(row, 3, &what)?,
        step: column(row, 4, &what)?,
        level: level(word).ok_or_else(|| corrupt(&what, format_args!("unknown level `{word}`")))?,
        message: column(row, 6, &what)?,
    })
}
