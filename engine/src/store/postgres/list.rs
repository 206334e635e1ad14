//! Lists and counts of executions.

use async_trait::async_trait;
use flowmonkey_core::ids::ExecutionId;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row, query};

use super::{PostgresStore, Statement, sql};
use crate::store::StoreError;
use crate::store::encode::{integer, labels, text};
use crate::store::model::{ExecutionFilter, ListPage};
use crate::store::rows;
use crate::store::search::{COUNT_MAX, Count, Part, Phase, Search, SearchStore, Span};

impl PostgresStore {
    pub(super) async fn list_page(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        let Some(search) = filter.search(true).filter(|_| filter.max > 0) else {
            return Ok(ListPage::default());
        };
        // One more than asked for tells whether there is a next page.
        let wanted = filter.max.saturating_add(1);
        let mut found: Vec<(ExecutionId, PgRow)> = Vec::new();
        for part in search.parts(filter) {
            let statement =
                bound(query(sql::EXECUTIONS_LIST), &search, filter, part, integer(wanted as u64))?;
            for row in self.read(statement).await? {
                found.push((rows::id(&row, 0, &"a row of fm_executions")?, row));
            }
        }
        found.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        // One that ended between two statements has been found by both.
        found.dedup_by_key(|(id, _)| *id);
        let more = found.len() > filter.max;
        found.truncate(filter.max);
        // The cursor comes from the last row even if that row is left out of the page.
        let next = found.last().map(|(id, _)| *id).filter(|_| more);
        let found: Vec<PgRow> = found.into_iter().map(|(_, row)| row).collect();
        Ok(ListPage { items: self.sound(&found, rows::summary), next })
    }

    /// How the database finds a page: the plan of each statement, carried out once, with what it read.
    ///
    /// # Errors
    /// As for a list.
    pub async fn list_plans(&self, filter: &ExecutionFilter) -> Result<Vec<String>, StoreError> {
        let Some(search) = filter.search(true) else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        for part in search.parts(filter) {
            // All of it is text of ours.
            let explain =
                AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {}", sql::EXECUTIONS_LIST));
            let wanted = integer(filter.max as u64).saturating_add(1);
            let lines = self.read(bound(query(explain), &search, filter, part, wanted)?).await?;
            let lines = lines.iter().map(|line| line.try_get::<String, _>(0));
            let lines = lines.collect::<Result<Vec<_>, _>>();
            plans.push(lines.map_err(|error| rows::corrupt("a plan", error))?.join("\n"));
        }
        Ok(plans)
    }
}

#[async_trait]
impl SearchStore for PostgresStore {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        let Some(search) = filter.search(false) else { return Ok(Count::of(0)) };
        let mut found: u64 = 0;
        for part in search.parts(filter) {
            let left = (COUNT_MAX + 1).saturating_sub(found);
            let statement = bound(query(sql::EXECUTIONS_COUNT_SOME), &search, filter, part, integer(left))?;
            if let Some(row) = self.read_one(statement).await? {
                found += rows::count::<u64>(&row, 0, &"a count of fm_executions")?;
            }
        }
        Ok(Count::of(found))
    }
}

/// A statement with the parameters of one part of a search.
fn bound(
    statement: Statement,
    search: &Search,
    filter: &ExecutionFilter,
    part: Part,
    limit: i64,
) -> Result<Statement, StoreError> {
    let (phase, changed, ended) = match part.phase {
        Phase::Any => (None, search.updated, Span::default()),
        Phase::Live => (Some("live"), search.updated, Span::default()),
        // It ended when it last changed, which an index knows.
        Phase::Ended => (Some("ended"), Span::default(), search.updated),
    };
    let (step, ended_step) = if part.phase == Phase::Ended {
        (None, Some(&filter.current_step))
    } else {
        (Some(&filter.current_step), None)
    };
    let step_text = |step: Option<&Option<String>>| step.and_then(|step| step.as_deref()).map(text);
    let statuses: Vec<&'static str> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let labels = (!filter.labels.is_empty()).then(|| labels(&filter.labels)).transpose()?;
    let millis = |at: Option<flowmonkey_core::time::Timestamp>| at.map(|at| at.as_millis());
    let query = statement
        // Without a name it is planned for these parameters each time.
        .persistent(false)
        .bind(part.ids.low())
        .bind(part.ids.high())
        .bind(phase)
        .bind((!statuses.is_empty()).then_some(statuses))
        .bind(filter.flow_id.as_deref().map(text))
        .bind(filter.flow_version.as_deref().map(text))
        .bind(labels)
        .bind(filter.tenant.as_deref().map(text))
        .bind(millis(filter.created.from))
        .bind(millis(filter.created.until))
        .bind(millis(changed.from))
        .bind(millis(changed.until))
        .bind(millis(ended.from))
        .bind(millis(ended.until))
        .bind(filter.error_code.as_deref().map(text))
        .bind(step_text(step))
        .bind(step_text(ended_step))
        .bind(filter.waiting_reason.as_deref().map(text))
        .bind(filter.parent.map(|id| id.as_uuid()))
        .bind(filter.include_children || filter.parent.is_some())
        .bind(part.astray.map(|ids| ids.low()))
        .bind(part.astray.map(|ids| ids.high()))
        .bind(limit);
    Ok(query)
}
