//! Lists and counts of executions: one statement for each index that can answer.

use async_trait::async_trait;
use flowmonkey_core::execution::Status;
use flowmonkey_core::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite};

use super::{SqliteStore, encode, sql};
use crate::store::StoreError;
use crate::store::encode::text;
use crate::store::model::{ExecutionFilter, ListPage};
use crate::store::rows;
use crate::store::search::{COUNT_MAX, Count, Phase, Search, SearchStore};

impl SqliteStore {
    pub(super) async fn list_page(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        let Some(search) = filter.search(true).filter(|_| filter.max > 0) else {
            return Ok(ListPage::default());
        };
        let (statement, ended) = statement(filter, search.phase);
        // One more than asked for tells whether there is a next page.
        let wanted = encode::integer(filter.max as u64).saturating_add(1);
        let mut found = self.read(bound(sqlx::query(statement), &search, filter, wanted, ended)?).await?;
        let more = found.len() > filter.max;
        found.truncate(filter.max);
        // The cursor comes from the last row even if that row is left out of the page.
        let next = match found.last() {
            Some(last) if more => Some(rows::id(last, 0, &"a row of fm_executions")?),
            Some(_) | None => None,
        };
        Ok(ListPage { items: self.sound(&found, rows::summary), next })
    }
}

#[async_trait]
impl SearchStore for SqliteStore {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        let Some(search) = filter.search(false) else { return Ok(Count::of(0)) };
        let (statement, ended) = statement(filter, search.phase);
        // All of it is text of ours.
        let counting = AssertSqlSafe(format!("SELECT count(*) FROM (\n{statement})"));
        let wanted = encode::integer(COUNT_MAX).saturating_add(1);
        let found = self.read(bound(sqlx::query(counting), &search, filter, wanted, ended)?).await?;
        let count = found.first().map(|row| rows::count(row, 0, &"a count of fm_executions"));
        count.unwrap_or(Ok(0)).map(Count::of)
    }
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

fn bound(
    query: Statement,
    search: &Search,
    filter: &ExecutionFilter,
    limit: i64,
    ended: Option<Status>,
) -> Result<Statement, StoreError> {
    let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let statuses = (!statuses.is_empty()).then(|| encode::json(&statuses)).transpose()?;
    let labels = (!filter.labels.is_empty()).then(|| encode::labels(&filter.labels)).transpose()?;
    let millis = |at: Option<Timestamp>| at.map(|at| at.as_millis());
    let query = query
        .bind(search.ids.low())
        .bind(search.ids.high())
        .bind(statuses)
        .bind(filter.flow_id.as_deref().map(text))
        .bind(filter.flow_version.as_deref().map(text))
        .bind(labels)
        .bind(filter.tenant.as_deref().map(text))
        .bind(millis(filter.created.from))
        .bind(millis(filter.created.until))
        // One that has ended did so when it last changed.
        .bind(millis(search.updated.from))
        .bind(millis(search.updated.until))
        .bind(filter.error_code.as_deref().map(text))
        .bind(filter.current_step.as_deref().map(text))
        .bind(filter.waiting_reason.as_deref().map(text))
        .bind(filter.parent.map(encode::blob))
        .bind(filter.include_children || filter.parent.is_some())
        .bind(limit);
    Ok(match ended {
        Some(status) => query.bind(status.as_str()),
        None => query,
    })
}

/// The statement that reads the fewest rows, and the status that it wants on its own.
fn statement(filter: &ExecutionFilter, phase: Phase) -> (&'static str, Option<Status>) {
    // Statuses and reasons tell the phase, too; only the end has to be looked for.
    if filter.parent.is_some() && filter.ended.is_open() {
        return (sql::EXECUTIONS_LIST_CHILDREN, None);
    }
    match (phase, filter.statuses.as_slice()) {
        (Phase::Live, _) => return (sql::EXECUTIONS_LIST_LIVE, None),
        (Phase::Ended, _) if filter.current_step.is_some() => return (sql::EXECUTIONS_LIST_STEP, None),
        (Phase::Ended, [status]) => return (sql::EXECUTIONS_LIST_ENDED, Some(*status)),
        (Phase::Ended, _) => return (sql::EXECUTIONS_LIST_ENDED_ANY, None),
        (Phase::Any, _) => {}
    }
    if filter.error_code.is_some() {
        (sql::EXECUTIONS_LIST_ERROR, None)
    } else if filter.flow_id.is_some() {
        (sql::EXECUTIONS_LIST_FLOW, None)
    } else if filter.tenant.is_some() {
        (sql::EXECUTIONS_LIST_TENANT, None)
    } else if filter.include_children {
        (sql::EXECUTIONS_LIST_ALL, None)
    } else {
        (sql::EXECUTIONS_LIST_ROOTS, None)
    }
}
