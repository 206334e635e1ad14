//! Rows on their way into the database: JSON objects, gathered into one array per statement.

use flowmonkey_core::execution::{Execution, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde::Serialize;
use uuid::fmt::Simple;

use crate::store::StoreError;
pub(super) use crate::store::encode::{integer, json, labels, text};
use crate::store::model::{JoinState, PublishedEvent};
use crate::store::tally::JoinKey;
use crate::store::tenants;

/// The hexadecimal form that the statements read with `unhex`.
pub(super) fn hex(id: ExecutionId) -> Simple {
    id.as_uuid().simple()
}

/// The 16 bytes that are compared with a column.
pub(super) fn blob(id: ExecutionId) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

/// One parameter out of many rows that are JSON already; none without rows.
pub(super) fn some_rows<'a>(rows: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut array = String::new();
    for row in rows {
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(row);
    }
    if array.is_empty() {
        return None;
    }
    array.push(']');
    Some(array)
}

/// As [`some_rows`].
pub(super) fn some(rows: &[String]) -> Option<String> {
    some_rows(rows.iter().map(String::as_str))
}

/// One parameter out of many ids.
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a ExecutionId>) -> Result<String, StoreError> {
    json(&ids.into_iter().map(|id| hex(*id)).collect::<Vec<_>>())
}

/// An execution's row, as the statements name its columns.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionRow {
    id: Simple,
    expected: u64,
    version: u64,
    status: &'static str,
    step: String,
    reason: Option<String>,
    error: Option<String>,
    updated: Timestamp,
    ended: Option<Timestamp>,
    out: bool,
    task: Option<u32>,
    attempt: Option<u32>,
    scheduled: Option<Timestamp>,
    state: String,
    context: String,
    output: Option<String>,
    #[serde(flatten)]
    fixed: Option<FixedColumns>,
}

/// The columns that never change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FixedColumns {
    parent: Option<Simple>,
    join: Option<u32>,
    index: Option<u32>,
    abandon: bool,
    root: Simple,
    created: Timestamp,
    flow: String,
    flow_version: String,
    tenant: Option<String>,
    labels: String,
}

/// The row of `execution`. Its context and output have columns of their own.
pub(super) fn execution(execution: &Execution, expected: Option<u64>) -> Result<String, StoreError> {
    let identity = &execution.identity;
    let task = execution.task();
    json(&ExecutionRow {
        id: hex(execution.id()),
        expected: expected.unwrap_or_default(),
        version: execution.version,
        status: execution.status().as_str(),
        step: text(&execution.cursor),
        reason: execution.waiting_reason().as_deref().map(text),
        error: execution.error().map(|error| text(&error.code)),
        updated: execution.updated_at,
        ended: execution.is_terminal().then_some(execution.updated_at),
        out: task.is_some(),
        task: task.map(|task| task.run.task),
        attempt: task.map(|task| task.run.attempt),
        scheduled: task.map(|task| task.scheduled_at),
        state: json(&execution.stored())?,
        context: json(&execution.context)?,
        output: execution.output.as_ref().map(json).transpose()?,
        fixed: expected
            .is_none()
            .then(|| -> Result<_, StoreError> {
                Ok(FixedColumns {
                    parent: identity.parent.map(|link| hex(link.execution)),
                    join: identity.parent.map(|link| link.join),
                    index: identity.parent.map(|link| link.index),
                    abandon: identity.parent.is_some_and(|link| link.abandon),
                    root: hex(identity.root),
                    created: identity.created_at,
                    flow: text(&identity.flow.id),
                    flow_version: text(&identity.flow.version),
                    tenant: identity.tenant_id.as_deref().map(text),
                    labels: labels(&identity.labels)?,
                })
            })
            .transpose()?,
    })
}

#[derive(Serialize)]
struct HistoryRow {
    id: Simple,
    first: u64,
    at: Timestamp,
    events: String,
}

/// History rows: one for each decision, that is for each run of events of one instant.
pub(super) fn history(id: ExecutionId, events: &[RecordedEvent]) -> Result<Vec<String>, StoreError> {
    let decisions = events.chunk_by(|left, right| left.at == right.at);
    decisions
        .filter_map(|decision| decision.first().map(|first| (first, decision)))
        .map(|(first, decision)| {
            let events = json(&decision.iter().map(|recorded| &recorded.event).collect::<Vec<_>>())?;
            json(&HistoryRow { id: hex(id), first: first.sequence, at: first.at, events })
        })
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinRow {
    parent: Simple,
    join: u32,
    total: u32,
    max_live: u32,
    spawned: u32,
    succeeded: u32,
    failed: u32,
    closing: bool,
    stop_at_failed: Option<u32>,
    stop_at_succeeded: Option<u32>,
    usd: f64,
    tokens: u64,
    attempts: u64,
}

/// The counters of fan-outs.
pub(super) fn joins(states: &[JoinState]) -> Result<String, StoreError> {
    let row = |state: &JoinState| JoinRow {
        parent: hex(state.parent),
        join: state.join,
        total: state.total,
        max_live: state.max_live,
        spawned: state.spawned,
        succeeded: state.succeeded,
        failed: state.failed,
        closing: state.closing,
        stop_at_failed: state.stop_at_failed,
        stop_at_succeeded: state.stop_at_succeeded,
        usd: state.cost.usd,
        tokens: state.cost.tokens,
        attempts: state.cost.attempts,
    };
    json(&states.iter().map(row).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct JoinName {
    parent: Simple,
    join: u32,
}

/// Names of fan-outs.
pub(super) fn join_keys<'a>(keys: impl IntoIterator<Item = &'a JoinKey>) -> Result<String, StoreError> {
    json(
        &keys
            .into_iter()
            .map(|(parent, join)| JoinName { parent: hex(*parent), join: *join })
            .collect::<Vec<_>>(),
    )
}

#[derive(Serialize)]
struct EventRow {
    id: String,
    name: String,
    source: Option<Simple>,
    at: Timestamp,
    data: String,
    attributes: Option<String>,
    tenant: String,
}

/// Events as one parameter.
pub(super) fn event_rows(events: &[PublishedEvent]) -> Result<String, StoreError> {
    let row = |event: &PublishedEvent| {
        Ok(EventRow {
            id: text(&event.id),
            name: text(&event.name),
            source: event.source.map(hex),
            at: event.at,
            data: json(&event.data)?,
            attributes: event.attributes.as_ref().map(json).transpose()?,
            tenant: text(tenants::column(event.tenant.as_deref())),
        })
    };
    json(&events.iter().map(row).collect::<Result<Vec<_>, StoreError>>()?)
}
