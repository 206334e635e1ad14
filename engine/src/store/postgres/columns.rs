//! Rows on their way into the database: each column of a batch is one array.

use flowmonkey_core::execution::{Execution, RecordedEvent};
use flowmonkey_core::ids::ExecutionId;
use sqlx::postgres::{PgArguments, PgHasArrayType};
use sqlx::query::Query;
use sqlx::{Encode, Postgres, Type};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::encode::{integer, json, labels, text};

/// A statement whose parameters may be borrowed.
pub(super) type Borrowing<'q> = Query<'q, Postgres, PgArguments>;

/// Binds one column of `rows`.
pub(super) fn column<'q, R, T>(
    query: Borrowing<'q>,
    rows: &[&'q R],
    value: impl Fn(&'q R) -> T,
) -> Borrowing<'q>
where
    T: Encode<'q, Postgres> + Type<Postgres> + PgHasArrayType + 'q,
{
    query.bind(rows.iter().map(|row| value(row)).collect::<Vec<T>>())
}

/// An id as it is stored.
pub(super) fn key(id: &ExecutionId) -> Uuid {
    id.as_uuid()
}

/// An execution's row.
pub(super) struct ExecutionRow {
    pub(super) id: Uuid,
    version: i64,
    status: &'static str,
    step: String,
    reason: Option<String>,
    error: Option<String>,
    updated: i64,
    ended: Option<i64>,
    task: Option<TaskColumns>,
    state: String,
    context: String,
    output: Option<String>,
}

impl ExecutionRow {
    /// About as many bytes as it takes in a statement: its texts, and what its other columns take.
    pub(super) fn bytes(&self) -> usize {
        const OTHERS: usize = 512;
        self.state.len() + self.context.len() + self.output.as_ref().map_or(0, String::len) + OTHERS
    }
}

/// The task that is out.
struct TaskColumns {
    number: i64,
    attempt: i64,
    pool: String,
    scheduled: i64,
}

/// The columns that never change.
pub(super) struct FixedColumns {
    parent: Option<Uuid>,
    join: Option<i64>,
    index: Option<i64>,
    abandon: bool,
    root: Uuid,
    created: i64,
    flow: String,
    flow_version: String,
    tenant: Option<String>,
    labels: String,
}

/// One decision's events.
pub(super) struct HistoryRow {
    pub(super) execution: Uuid,
    first: i64,
    at: i64,
    events: String,
}

impl HistoryRow {
    /// As [`ExecutionRow::bytes`].
    pub(super) fn bytes(&self) -> usize {
        const OTHERS: usize = 48;
        self.events.len() + OTHERS
    }
}

/// The row of `execution`. Its context and output have columns of their own.
pub(super) fn execution(execution: &Execution) -> Result<ExecutionRow, StoreError> {
    Ok(ExecutionRow {
        id: execution.id().as_uuid(),
        version: integer(execution.version),
        status: execution.status().as_str(),
        step: text(&execution.cursor),
        reason: execution.waiting_reason().as_deref().map(text),
        error: execution.error().map(|error| text(&error.code)),
        updated: execution.updated_at.as_millis(),
        ended: execution.is_terminal().then_some(execution.updated_at.as_millis()),
        task: execution.task().map(|task| TaskColumns {
            number: task.run.task.into(),
            attempt: task.run.attempt.into(),
            pool: text(&task.pool),
            scheduled: task.scheduled_at.as_millis(),
        }),
        state: json(&execution.stored())?,
        context: json(&execution.context)?,
        output: execution.output.as_ref().map(json).transpose()?,
    })
}

/// The columns of a new execution that never change.
pub(super) fn fixed(execution: &Execution) -> Result<FixedColumns, StoreError> {
    let identity = &execution.identity;
    Ok(FixedColumns {
        parent: identity.parent.map(|link| link.execution.as_uuid()),
        join: identity.parent.map(|link| link.join.into()),
        index: identity.parent.map(|link| link.index.into()),
        abandon: identity.parent.is_some_and(|link| link.abandon),
        root: identity.root.as_uuid(),
        created: identity.created_at.as_millis(),
        flow: text(&identity.flow.id),
        flow_version: text(&identity.flow.version),
        tenant: identity.tenant_id.as_deref().map(text),
        labels: labels(&identity.labels)?,
    })
}

/// History rows: one for each decision, that is for each run of events of one instant.
pub(super) fn history(id: ExecutionId, events: &[RecordedEvent]) -> Result<Vec<HistoryRow>, StoreError> {
    let decisions = events.chunk_by(|left, right| left.at == right.at);
    decisions
        .filter_map(|decision| decision.first().map(|first| (first, decision)))
        .map(|(first, decision)| {
            let events = json(&decision.iter().map(|recorded| &recorded.event).collect::<Vec<_>>())?;
            let at = first.at.as_millis();
            Ok(HistoryRow { execution: id.as_uuid(), first: integer(first.sequence), at, events })
        })
        .collect()
}

/// What belongs to executions and is written with them.
#[derive(Default)]
pub(super) struct Following<'q> {
    pub(super) history: Vec<&'q HistoryRow>,
    /// Next wakes that have changed.
    pub(super) wakes: Vec<(Uuid, Option<i64>)>,
    /// Awaited events that have changed.
    pub(super) awaits: Vec<(Uuid, Option<&'q str>)>,
}

/// Changes executions. The rows have to be in the order of their ids, each once.
pub(super) fn step<'q>(
    query: Borrowing<'q>,
    rows: &[&'q ExecutionRow],
    expected: Vec<i64>,
    following: Following<'q>,
) -> Borrowing<'q> {
    let query = column(query, rows, |row| row.id).bind(expected);
    follow(changing(query, rows), following)
}

/// Stores new executions. Each id once.
pub(super) fn start<'q>(
    query: Borrowing<'q>,
    rows: &[&'q ExecutionRow],
    fixed: &[&'q FixedColumns],
    following: Following<'q>,
) -> Borrowing<'q> {
    let query = changing(column(query, rows, |row| row.id), rows);
    let query = column(query, fixed, |row| row.parent);
    let query = column(query, fixed, |row| row.join);
    let query = column(query, fixed, |row| row.index);
    let query = column(query, fixed, |row| row.abandon);
    let query = column(query, fixed, |row| row.root);
    let query = column(query, fixed, |row| row.created);
    let query = column(query, fixed, |row| row.flow.as_str());
    let query = column(query, fixed, |row| row.flow_version.as_str());
    let query = column(query, fixed, |row| row.tenant.as_deref());
    let query = column(query, fixed, |row| row.labels.as_str());
    follow(query, following)
}

/// The columns that change.
fn changing<'q>(query: Borrowing<'q>, rows: &[&'q ExecutionRow]) -> Borrowing<'q> {
    let query = column(query, rows, |row| row.version);
    let query = column(query, rows, |row| row.status);
    let query = column(query, rows, |row| row.step.as_str());
    let query = column(query, rows, |row| row.reason.as_deref());
    let query = column(query, rows, |row| row.error.as_deref());
    let query = column(query, rows, |row| row.updated);
    let query = column(query, rows, |row| row.ended);
    let query = column(query, rows, |row| row.task.as_ref().map(|task| task.number));
    let query = column(query, rows, |row| row.task.as_ref().map(|task| task.attempt));
    let query = column(query, rows, |row| row.task.as_ref().map(|task| task.pool.as_str()));
    let query = column(query, rows, |row| row.task.as_ref().map(|task| task.scheduled));
    let query = column(query, rows, |row| row.state.as_str());
    let query = column(query, rows, |row| row.context.as_str());
    column(query, rows, |row| row.output.as_deref())
}

fn follow<'q>(query: Borrowing<'q>, following: Following<'q>) -> Borrowing<'q> {
    let Following { history, wakes, awaits } = following;
    let query = column(query, &history, |row| row.execution);
    let query = column(query, &history, |row| row.first);
    let query = column(query, &history, |row| row.at);
    let query = column(query, &history, |row| row.events.as_str());
    let (wake_ids, dues): (Vec<Uuid>, Vec<Option<i64>>) = wakes.into_iter().unzip();
    let (await_ids, names): (Vec<Uuid>, Vec<Option<&str>>) = awaits.into_iter().unzip();
    query.bind(wake_ids).bind(dues).bind(await_ids).bind(names)
}
