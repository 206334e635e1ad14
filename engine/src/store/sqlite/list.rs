//! Lists of executions: one statement for each index that can answer.

use flowmonkey_core::execution::Status;

use super::{SqliteStore, encode, sql};
use crate::store::StoreError;
use crate::store::model::{ExecutionFilter, ListPage};
use crate::store::rows;

impl SqliteStore {
    pub(super) async fn list_page(&self, filter: &ExecutionFilter) -> Result<ListPage, StoreError> {
        if filter.max == 0 {
            return Ok(ListPage::default());
        }
        let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
        let statuses = (!statuses.is_empty()).then(|| encode::json(&statuses)).transpose()?;
        let labels = (!filter.labels.is_empty()).then(|| encode::labels(&filter.labels)).transpose()?;
        let (statement, ended) = statement(filter);
        let mut query = sqlx::query(statement)
            .bind(filter.before.map(encode::blob))
            .bind(statuses)
            .bind(filter.flow_id.clone())
            .bind(labels)
            .bind(filter.include_children || filter.parent.is_some())
            .bind(filter.parent.map(encode::blob))
            // One more than asked for tells whether there is a next page.
            .bind(encode::integer(filter.max as u64).saturating_add(1));
        if let Some(status) = ended {
            query = query.bind(status.as_str());
        }
        let mut found = self.read(query).await?;
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

/// The statement that reads the fewest rows, and the status that it wants on its own.
fn statement(filter: &ExecutionFilter) -> (&'static str, Option<Status>) {
    if filter.parent.is_some() {
        return (sql::EXECUTIONS_LIST_CHILDREN, None);
    }
    match *filter.statuses.as_slice() {
        [status] if status.is_terminal() => return (sql::EXECUTIONS_LIST_ENDED, Some(status)),
        ref statuses if !statuses.is_empty() && statuses.iter().all(|status| !status.is_terminal()) => {
            return (sql::EXECUTIONS_LIST_LIVE, None);
        }
        _ => {}
    }
    if filter.flow_id.is_some() {
        (sql::EXECUTIONS_LIST_FLOW, None)
    } else if filter.include_children {
        (sql::EXECUTIONS_LIST_ALL, None)
    } else {
        (sql::EXECUTIONS_LIST_ROOTS, None)
    }
}
