//! The pruner: deletes what has passed its retention, a little at a time.

use std::time::Duration;

use flowmonkey_core::time::Timestamp;

use super::HasMore;
use crate::config::KEEP_OPERATIONS;
use crate::engine::{Engine, EngineError};
use crate::store::Retention;

/// Rows deleted in one tick.
const PRUNE_BATCH_MAX: usize = 1000;
/// Operations forgotten in one tick: each may have been about a million executions.
const FORGET_OPERATIONS_MAX: usize = 1;

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Rows that went.
    pub rows: usize,
    /// Operations that were forgotten, with what came of them.
    pub operations: usize,
}

impl HasMore for Pruned {
    fn has_more(&self) -> bool {
        self.rows >= PRUNE_BATCH_MAX || self.operations >= FORGET_OPERATIONS_MAX
    }
}

/// Deletes what has passed its retention.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Pruned, EngineError> {
    let now = engine.now();
    let before = |age: Duration| {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(now.as_millis().saturating_sub(age))
    };
    let config = engine.config();
    let retention = Retention {
        executions_before: before(config.keep_executions),
        events_before: before(config.keep_events),
        checkpoints_before: before(config.keep_checkpoints),
        keys_before: now,
        progress_before: before(config.keep_progress),
        logs_before: before(config.keep_logs),
    };
    let mut rows = engine.store.prune(&retention, PRUNE_BATCH_MAX).await?;
    for own in engine.store.flow_retentions().await? {
        rows += engine.store.prune_flow(&own, now, PRUNE_BATCH_MAX).await?;
    }
    let operations = engine.store.forget_operations(before(KEEP_OPERATIONS), FORGET_OPERATIONS_MAX).await?;
    Ok(Pruned { rows, operations })
}
