//! Searching maps: every execution is looked at.

use async_trait::async_trait;
use flowmonkey_core::execution::Execution;

use super::MemoryStore;
use crate::store::StoreError;
use crate::store::model::ExecutionFilter;
use crate::store::search::{COUNT_MAX, Count, IdPrefix, SearchStore};

#[async_trait]
impl SearchStore for MemoryStore {
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError> {
        let rows = self.rows();
        let found = rows.executions.values().filter(|execution| matches(filter, execution));
        let bound = usize::try_from(COUNT_MAX).unwrap_or(usize::MAX).saturating_add(1);
        Ok(Count::of(found.take(bound).count() as u64))
    }
}

/// Whether a filter finds an execution, whatever page it is on.
pub(super) fn matches(filter: &ExecutionFilter, execution: &Execution) -> bool {
    let identity = &execution.identity;
    let parent = identity.parent.map(|link| link.execution);
    let has_ended = execution.is_terminal();
    (filter.statuses.is_empty() || filter.statuses.contains(&execution.status()))
        && filter.flow_id.as_ref().is_none_or(|flow| *flow == identity.flow.id)
        && filter.flow_version.as_ref().is_none_or(|version| *version == identity.flow.version)
        && filter.labels.iter().all(|(key, value)| identity.labels.get(key) == Some(value))
        && filter.tenant.as_ref().is_none_or(|tenant| identity.tenant_id.as_ref() == Some(tenant))
        && filter.created.contains(identity.created_at)
        && filter.updated.contains(execution.updated_at)
        && (filter.ended.is_open() || (has_ended && filter.ended.contains(execution.updated_at)))
        && filter
            .error_code
            .as_ref()
            .is_none_or(|code| execution.error().is_some_and(|error| error.code == *code))
        && filter.current_step.as_ref().is_none_or(|step| *execution.cursor == **step)
        && filter.waiting_reason.as_ref().is_none_or(|wanted| {
            execution.waiting_reason().is_some_and(|reason| reason.starts_with(wanted.as_str()))
        })
        && filter.id_prefix.is_none_or(|prefix: IdPrefix| prefix.begins(execution.id()))
        && match filter.parent {
            Some(wanted) => parent == Some(wanted),
            None => filter.include_children || parent.is_none(),
        }
}
