//! Staged changes of contexts.

use async_trait::async_trait;
use flowmonkey_core::ids::TaskId;
use sqlx::query;

use super::columns::key;
use super::{PostgresStore, Statement, sql};
use crate::store::StoreError;
use crate::store::context::{ContextPatch, ContextStore, Staged};
use crate::store::encode::{integer, json};
use crate::store::rows;

/// A patch whose sequence somebody else stores at the same moment is known when it is asked for again.
const STAGE_TRIES: usize = 2;

#[async_trait]
impl ContextStore for PostgresStore {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        let statement = query(sql::EXECUTIONS_TASK_VERSION)
            .bind(key(&task.execution))
            .bind(i64::from(task.number))
            .bind(i64::from(attempt));
        let row = self.read_one(statement).await?;
        row.map(|row| rows::count(&row, 0, &format_args!("fm_executions {}", task.execution))).transpose()
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        let ContextPatch { task, attempt, sequence, changes } = patch;
        let text = json(changes)?;
        let what = format!("fm_context_patches {task}");
        for _ in 0..STAGE_TRIES {
            let statement = query(sql::CONTEXT_PATCHES_STAGE)
                .bind(key(&task.execution))
                .bind(i64::from(task.number))
                .bind(i64::from(*attempt))
                .bind(i64::from(*sequence))
                .bind(integer(text.len() as u64))
                .bind(text.clone())
                .bind(integer(bytes_max));
            let row = self.read_one(statement).await?.ok_or_else(|| rows::corrupt(&what, "no answer"))?;
            let (is_out, same): (bool, Option<bool>) =
                (rows::column(&row, 0, &what)?, rows::column(&row, 1, &what)?);
            let is_stored: bool = rows::column(&row, 2, &what)?;
            match (is_out, same) {
                (false, _) => return Ok(Staged::Stale),
                (true, Some(true)) => return Ok(Staged::Stored),
                (true, Some(false)) => return Ok(Staged::Taken),
                (true, None) if is_stored => return Ok(Staged::Stored),
                (true, None) => {}
            }
        }
        Ok(Staged::Full)
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        if attempts.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.read(bound(sql::CONTEXT_PATCHES_READ, attempts)).await?;
        let patch = |row: &_| {
            let what = "fm_context_patches";
            let task = TaskId { execution: rows::id(row, 0, &what)?, number: rows::count(row, 1, &what)? };
            let what = format!("{what} {task}");
            Ok(ContextPatch {
                task,
                attempt: rows::count(row, 2, &what)?,
                sequence: rows::count(row, 3, &what)?,
                changes: rows::parsed(row, 4, &what)?,
            })
        };
        found.iter().map(patch).collect()
    }

    async fn forget_patches(&self, attempts: &[(TaskId, u32)]) -> Result<(), StoreError> {
        if attempts.is_empty() {
            return Ok(());
        }
        self.write(bound(sql::CONTEXT_PATCHES_FORGET, attempts)).await.map(drop)
    }
}

impl PostgresStore {
    /// Deletes patches of attempts that are over, at most `max`; says how many.
    pub(super) async fn prune_patches(&self, max: usize) -> Result<usize, StoreError> {
        let pruned = self.write(query(sql::CONTEXT_PATCHES_PRUNE).bind(integer(max as u64))).await?;
        Ok(usize::try_from(pruned).unwrap_or(usize::MAX))
    }
}

fn bound(statement: &'static str, attempts: &[(TaskId, u32)]) -> Statement {
    let column = |number: fn(&(TaskId, u32)) -> u32| -> Vec<i64> {
        attempts.iter().map(|attempt| i64::from(number(attempt))).collect()
    };
    query(statement)
        .bind(attempts.iter().map(|(task, _)| key(&task.execution)).collect::<Vec<_>>())
        .bind(column(|(task, _)| task.number))
        .bind(column(|(_, attempt)| *attempt))
}
