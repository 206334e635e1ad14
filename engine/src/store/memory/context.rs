//! Staged changes of contexts.

use async_trait::async_trait;
use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::TaskId;

use super::{MemoryRows, MemoryStore};
use crate::store::context::{ContextPatch, ContextStore, Staged};
use crate::store::{StoreError, encode};

#[async_trait]
impl ContextStore for MemoryStore {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        let rows = self.rows();
        Ok(rows
            .executions
            .get(&task.execution)
            .filter(|one| has_out(one, task, attempt))
            .map(|one| one.version))
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        let ContextPatch { task, attempt, sequence, changes } = patch;
        let text = encode::json(changes)?;
        let mut rows = self.rows();
        if !rows.executions.get(&task.execution).is_some_and(|one| has_out(one, *task, *attempt)) {
            return Ok(Staged::Stale);
        }
        if let Some(known) = rows.patches.get(&(*task, *attempt, *sequence)) {
            return Ok(if encode::json(&known.changes)? == text { Staged::Stored } else { Staged::Taken });
        }
        rows.patches
            .retain(|(known, of, _), _| known.execution != task.execution || (known, of) == (task, attempt));
        let mut bytes = text.len() as u64;
        for known in
            rows.patches.range((*task, *attempt, 0)..=(*task, *attempt, u32::MAX)).map(|(_, known)| known)
        {
            bytes = bytes.saturating_add(encode::json(&known.changes)?.len() as u64);
        }
        if bytes > bytes_max {
            return Ok(Staged::Full);
        }
        rows.patches.insert((*task, *attempt, *sequence), patch.clone());
        Ok(Staged::Stored)
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        let rows = self.rows();
        let wanted =
            rows.patches.iter().filter(|((task, attempt, _), _)| attempts.contains(&(*task, *attempt)));
        Ok(wanted.map(|(_, patch)| patch.clone()).collect())
    }

    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError> {
        self.rows().patches.retain(|(task, attempt, _), _| !attempts.contains(&(*task, *attempt)));
        Ok(())
    }
}

impl MemoryRows {
    /// Deletes patches of attempts that are over, at most `max`; says how many.
    pub(super) fn prune_patches(&mut self, max: usize) -> usize {
        let executions = &self.executions;
        let mut gone = 0;
        self.patches.retain(|(task, attempt, _), _| {
            let is_over = !executions.get(&task.execution).is_some_and(|one| has_out(one, *task, *attempt));
            let goes = is_over && gone < max;
            gone += usize::from(goes);
            !goes
        });
        gone
    }
}

fn has_out(execution: &Execution, task: TaskId, attempt: u32) -> bool {
    execution.task().is_some_and(|out| out.run.task == task.number && out.run.attempt == attempt)
}
