//! What keeps the record in shape: retention, partitions, turns, generations.

use std::sync::atomic::Ordering;

use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::{PostgresStore, sql};
use crate::store::StoreError;
use crate::store::encode::{integer, text};
use crate::store::model::Retention;
use crate::store::rows;

/// Weeks beyond this one whose history has a partition already. What comes later goes to the default partition.
const WEEKS_AHEAD: i32 = 4;

impl PostgresStore {
    /// Makes the partitions of the weeks to come.
    pub(super) async fn prepare_history(&self) -> Result<(), StoreError> {
        self.read(query(sql::HISTORY_PREPARE).bind(WEEKS_AHEAD)).await.map(drop)
    }

    /// Deletes what has passed its retention.
    pub(super) async fn prune_rows(&self, retention: &Retention, max: usize) -> Result<usize, StoreError> {
        if max == 0 {
            return Ok(0);
        }
        // The calls that follow one that found more than it may delete need no new partitions.
        if !self.shared.pruning.load(Ordering::Relaxed) {
            self.prepare_history().await?;
        }
        let row = self
            .read_one(
                query(sql::EXECUTIONS_PRUNE)
                    .bind(retention.executions_before.as_millis())
                    .bind(integer(max as u64)),
            )
            .await?;
        let pruned: i64 = row.map_or(Ok(0), |row| rows::column(&row, 0, &"fm_prune"))?;
        let mut gone = usize::try_from(pruned).unwrap_or(0);
        for (statement, before) in [
            (sql::EVENTS_PRUNE, retention.events_before),
            (sql::DELIVERIES_PRUNE, retention.events_before),
            (sql::CHECKPOINTS_PRUNE, retention.checkpoints_before),
            (sql::IDEMPOTENCY_PRUNE, retention.keys_before),
            (sql::PROGRESS_PRUNE, retention.progress_before),
            (sql::TASK_LOGS_PRUNE, retention.logs_before),
            (sql::PROGRESS_FORGET, retention.executions_before),
            (sql::TASK_LOGS_FORGET, retention.executions_before),
        ] {
            let left = max.saturating_sub(gone);
            if left > 0 {
                let pruned =
                    self.write(query(statement).bind(before.as_millis()).bind(integer(left as u64))).await?;
                gone += usize::try_from(pruned).unwrap_or(usize::MAX);
            }
        }
        let left = max.saturating_sub(gone);
        if left > 0 {
            let before = retention.executions_before.as_millis();
            let pruned = self.write(query(sql::JOBS_PRUNE).bind(before).bind(integer(left as u64))).await?;
            gone += usize::try_from(pruned).unwrap_or(usize::MAX);
        }
        if gone < max {
            gone += self.prune_patches(max - gone).await?;
        }
        let more = gone >= max;
        self.shared.pruning.store(more, Ordering::Relaxed);
        if !more {
            let retire = query(sql::HISTORY_RETIRE)
                .bind(retention.executions_before.as_millis())
                .bind(integer(max as u64));
            self.read(retire).await?;
        }
        Ok(gone)
    }

    /// Takes or keeps a turn.
    pub(super) async fn turn(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let take = query(sql::TURNS_TAKE)
            .bind(text(name))
            .bind(text(holder))
            .bind(until.as_millis())
            .bind(now.as_millis());
        self.write(take).await.map(|taken| taken > 0)
    }

    /// Notes the server of a pool; gives the pool's generation.
    pub(super) async fn generation(&self, pool: &str, server_id: &str) -> Result<u64, StoreError> {
        let what = format!("fm_pools {pool}");
        // Nearly always it is known, and nothing has to be written.
        for statement in [sql::POOLS_GET, sql::POOLS_NOTE] {
            if let Some(row) = self.read_one(query(statement).bind(text(pool)).bind(text(server_id))).await? {
                return rows::count(&row, 0, &what);
            }
        }
        Err(rows::corrupt(what, "it cannot be noted"))
    }
}
