//! Fan-outs: their counters, what their children are made of, and the contexts that these see.

use std::sync::Arc;

use flowmonkey_core::execution::JoinSpec;
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::ExecutionId;
use sqlx::query;

use super::encode::blob;
use super::{SqliteStore, sql};
use crate::store::StoreError;
use crate::store::model::{Join, JoinState};
use crate::store::rows;

/// Fan-outs looked at with one statement.
const JOINS_PAGE: i64 = 500;
/// Snapshots behind one another: more than the depth limit allows.
const SNAPSHOT_LEVELS: i64 = 1000;

impl SqliteStore {
    pub(super) async fn read_join(&self, parent: ExecutionId, join: u32) -> Result<Option<Join>, StoreError> {
        let Some(state) = self.read_join_state(parent, join).await? else { return Ok(None) };
        let what = format!("fm_snapshots {parent} {join}");
        let missing = || rows::corrupt(&what, "it is missing");
        let row = self
            .read_one(query(sql::SNAPSHOTS_SPEC).bind(blob(parent)).bind(join))
            .await?
            .ok_or_else(missing)?;
        let mut spec: JoinSpec = rows::parsed(&row, 0, &what)?;
        spec.items = Arc::new(rows::parsed(&row, 1, &what)?);
        spec.snapshot = self.read_snapshot(parent, join).await?.ok_or_else(missing)?;
        Ok(Some(Join { state, spec: Arc::new(spec) }))
    }

    pub(super) async fn read_join_state(
        &self,
        parent: ExecutionId,
        join: u32,
    ) -> Result<Option<JoinState>, StoreError> {
        let row = self.read_one(query(sql::JOINS_GET).bind(blob(parent)).bind(join)).await?;
        row.as_ref().map(rows::join).transpose()
    }

    pub(super) async fn read_snapshot(
        &self,
        parent: ExecutionId,
        join: u32,
    ) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let statement = query(sql::SNAPSHOTS_CHAIN).bind(blob(parent)).bind(join).bind(SNAPSHOT_LEVELS);
        let found = self.read(statement).await?;
        let mut outer = None;
        for (index, row) in found.iter().enumerate().rev() {
            let what = format!("fm_snapshots {} behind {parent} {join}", rows::id(row, 0, &"fm_snapshots")?);
            let refers: bool = rows::column(row, 2, &what)?;
            if refers && index + 1 == found.len() {
                return Err(rows::corrupt(what, "the snapshot behind it is missing"));
            }
            outer = Some(Arc::new(Snapshot { context: rows::parsed(row, 3, &what)?, outer }));
        }
        Ok(outer)
    }

    pub(super) async fn read_joins_to_tend(
        &self,
        mut after: Option<(ExecutionId, u32)>,
        max: usize,
    ) -> Result<Vec<JoinState>, StoreError> {
        let mut tend = Vec::new();
        while tend.len() < max {
            let statement = query(sql::JOINS_PAGE)
                .bind(after.map(|(parent, _)| blob(parent)))
                .bind(after.map(|(_, join)| join))
                .bind(JOINS_PAGE);
            let page = self.read(statement).await?;
            let Some(last) = page.last() else { break };
            after = Some((rows::id(last, 0, &"fm_joins")?, rows::count(last, 1, &"fm_joins")?));
            tend.extend(self.sound(&page, rows::join).into_iter().filter(JoinState::needs_attention));
        }
        tend.truncate(max);
        Ok(tend)
    }
}
