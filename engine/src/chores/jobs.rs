//! Jobs: puts right the rows of jobs whose executions have moved on. An engine that dies between a commit and what follows
//! leaves such rows, and a paused job that is cancelled or runs out of its time is closed here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::ExecutionId;

use super::HasMore;
use crate::config::{JOBS_PAGE, JOBS_WALK_MAX};
use crate::engine::{Engine, EngineError};

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TendedJobs {
    /// Open jobs that were compared with their executions.
    pub looked_at: usize,
    /// Of them, those that were put right.
    pub repaired: usize,
    /// Of them, those whose executions are gone.
    pub forgotten: usize,
}

impl HasMore for TendedJobs {
    fn has_more(&self) -> bool {
        false
    }
}

/// Compares some open jobs with their executions; the next tick goes on behind them, and then begins anew.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<TendedJobs, EngineError> {
    let mut tended = TendedJobs::default();
    let mut after = *engine.jobs_walked.lock().unwrap_or_else(PoisonError::into_inner);
    while tended.looked_at < JOBS_WALK_MAX {
        let page = engine.store.open_jobs(after, JOBS_PAGE).await?;
        after = page.last().map(|row| row.task);
        if page.is_empty() {
            break;
        }
        let is_last = page.len() < JOBS_PAGE;
        tended.looked_at += page.len();
        let ids: BTreeSet<ExecutionId> = page.iter().map(|row| row.task.execution).collect();
        let ids: Vec<ExecutionId> = ids.into_iter().collect();
        let loaded = engine.store.load(&ids).await?;
        let executions: BTreeMap<ExecutionId, Execution> =
            loaded.into_iter().map(|execution| (execution.id(), execution)).collect();
        let mut changes = Vec::new();
        let mut gone = BTreeSet::new();
        for row in &page {
            match executions.get(&row.task.execution) {
                Some(execution) => changes.extend(engine.repaired_job(execution, row).await?),
                None => {
                    gone.insert(row.task.execution);
                    tended.forgotten += 1;
                }
            }
        }
        tended.repaired += changes.len();
        if !changes.is_empty() {
            engine.store.note_jobs(&changes).await?;
        }
        if !gone.is_empty() {
            // One that is there and cannot be read stays: the statement looks itself.
            let gone: Vec<ExecutionId> = gone.into_iter().collect();
            engine.store.forget_jobs(&gone).await?;
        }
        if is_last {
            after = None;
            break;
        }
    }
    *engine.jobs_walked.lock().unwrap_or_else(PoisonError::into_inner) = after;
    Ok(tended)
}
