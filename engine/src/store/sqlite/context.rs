//! Staged changes of contexts.

use async_trait::async_trait;
use flowmonkey_core::ids::TaskId;
use sqlx::{Connection, query};

use super::encode::{blob, hex, integer, json};
use super::{SqliteStore, sql};
use crate::store::StoreError;
use crate::store::context::{ContextPatch, ContextStore, Staged};
use crate::store::rows;

#[async_trait]
impl ContextStore for SqliteStore {
    async fn task_version(&self, task: TaskId, attempt: u32) -> Result<Option<u64>, StoreError> {
        let statement =
            query(sql::EXECUTIONS_TASK_VERSION).bind(blob(task.execution)).bind(task.number).bind(attempt);
        let row = self.read_one(statement).await?;
        row.map(|row| rows::count(&row, 0, &format_args!("fm_executions {}", task.execution))).transpose()
    }

    async fn stage_patch(&self, patch: &ContextPatch, bytes_max: u64) -> Result<Staged, StoreError> {
        let ContextPatch { task, attempt, sequence, changes } = patch;
        let text = json(changes)?;
        let bytes = integer(text.len() as u64);
        let of_attempt =
            |statement| query(statement).bind(blob(task.execution)).bind(task.number).bind(*attempt);
        let fail = |error| self.classify(error);
        let mut writer = self.writer.lend().await.map_err(fail)?;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        let fence =
            of_attempt(sql::CHECKPOINTS_FENCE).fetch_optional(&mut *transaction).await.map_err(fail)?;
        let staged = if fence.is_none() {
            Staged::Stale
        } else {
            let known = of_attempt(sql::CONTEXT_PATCHES_KNOWN).bind(*sequence).bind(text.clone());
            let known = known.fetch_optional(&mut *transaction).await.map_err(fail)?;
            match known {
                Some(row) if rows::column::<bool>(&row, 0, &"fm_context_patches")? => Staged::Stored,
                Some(_) => Staged::Taken,
                None => {
                    let retire = of_attempt(sql::CONTEXT_PATCHES_RETIRE);
                    retire.execute(&mut *transaction).await.map_err(fail)?;
                    let stage = of_attempt(sql::CONTEXT_PATCHES_STAGE)
                        .bind(*sequence)
                        .bind(text)
                        .bind(bytes)
                        .bind(integer(bytes_max));
                    let stored = stage.execute(&mut *transaction).await.map_err(fail)?;
                    if stored.rows_affected() > 0 { Staged::Stored } else { Staged::Full }
                }
            }
        };
        transaction.commit().await.map_err(fail)?;
        writer.give_back();
        Ok(staged)
    }

    async fn staged_patches(&self, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
        if attempts.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.read(query(sql::CONTEXT_PATCHES_READ).bind(wanted(attempts)?)).await?;
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
        self.write(query(sql::CONTEXT_PATCHES_FORGET).bind(wanted(attempts)?)).await.map(drop)
    }
}

impl SqliteStore {
    /// Deletes patches of attempts that are over, at most `max`; says how many.
    pub(super) async fn prune_patches(&self, max: usize) -> Result<usize, StoreError> {
        let pruned = self.write(query(sql::CONTEXT_PATCHES_PRUNE).bind(integer(max as u64))).await?;
        Ok(usize::try_from(pruned).unwrap_or(usize::MAX))
    }
}

/// Attempts as one parameter.
fn wanted(attempts: &[(TaskId, u32)]) -> Result<String, StoreError> {
    let rows = attempts.iter().map(|(task, attempt)| (hex(task.execution), task.number, *attempt));
    json(&rows.collect::<Vec<_>>())
}
