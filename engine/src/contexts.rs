//! Contexts that do not travel with their tasks: read from the record, and kept for the reads that follow.

use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::execution::{EncodeError, Execution, read_declared};
use flowmonkey_core::flow::selector::Path;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::around::Loaded;
use crate::engine::Engine;
use crate::flows::SubFlows;
use crate::store::StoreError;
use crate::weighed::WeighedCache;

/// Executions that are kept for further reads of their contexts.
const KEPT_MAX: usize = 256;
/// Bytes of such contexts. One is kept whatever it weighs.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Executions that are loaded for their contexts at the same time; others wait.
const LOADS_MAX: usize = 4;

/// Executions whose contexts were read lately.
pub(crate) struct Contexts {
    kept: Mutex<WeighedCache<ExecutionId, Arc<Execution>>>,
    loads: Semaphore,
}

impl Default for Contexts {
    fn default() -> Self {
        Self {
            kept: Mutex::new(WeighedCache::new(KEPT_MAX, KEPT_BYTES_MAX)),
            loads: Semaphore::new(LOADS_MAX),
        }
    }
}

impl Contexts {
    fn kept(&self, id: ExecutionId, version: u64) -> Option<Arc<Execution>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&id).filter(|execution| execution.version == version).cloned()
    }

    fn keep(&self, execution: &Arc<Execution>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(execution.id(), execution.clone(), execution.context_bytes);
    }
}

/// Why a context cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The attempt is not the one that is out.
    #[error("the attempt is not the one that is out")]
    Stale,
    /// What the step declared cannot be put together.
    #[error(transparent)]
    Declared(#[from] EncodeError),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// The execution that has `attempt` of `task` out. It is loaded when the copy in memory is another version than the
    /// record's, and then kept: a context is read several times.
    pub(crate) async fn with_task_out(
        &self,
        task: TaskId,
        attempt: u32,
    ) -> Result<Arc<Execution>, ReadError> {
        let version = self.store.task_version(task, attempt).await?.ok_or(ReadError::Stale)?;
        let known = || {
            let hot = self.peek_hot(task.execution).filter(|execution| execution.version == version);
            hot.or_else(|| self.contexts.kept(task.execution, version))
        };
        if let Some(execution) = known() {
            return Ok(execution);
        }
        // Nobody closes it; without a permit there is only less order.
        let _permit = self.contexts.loads.acquire().await;
        if let Some(execution) = known() {
            return Ok(execution);
        }
        let execution = self.store.load(&[task.execution]).await?.pop().map(Arc::new);
        let is_out = |execution: &Arc<Execution>| {
            execution.task().is_some_and(|out| out.run.task == task.number && out.run.attempt == attempt)
        };
        let execution = execution.filter(is_out).ok_or(ReadError::Stale)?;
        self.contexts.keep(&execution);
        Ok(execution)
    }

    /// What the step of a task declared of the context, as a whole or at `path`; none: nothing is there, or the step did not
    /// declare it.
    pub(crate) async fn read_context(
        &self,
        task: TaskId,
        attempt: u32,
        path: Option<&Path>,
    ) -> Result<Option<Value>, ReadError> {
        let execution = self.with_task_out(task, attempt).await?;
        let mut around: Loaded = self.load_around(execution, &mut SubFlows::default()).await?;
        loop {
            let value = self.with_world(&around, |world| read_declared(&around.execution, world, path));
            // What is read of datasets is known once it was tried; then it is read again.
            if !around.fetch(self).await? {
                return Ok(value?);
            }
        }
    }
}

impl Engine {
    /// What the worker of a task is given; none: the task is not out any more. Tokens and URLs are left out.
    pub(crate) async fn task_payload(
        &self,
        execution: Execution,
        task: u32,
    ) -> Result<Option<Value>, StoreError> {
        if execution.task().is_none_or(|out| out.run.task != task) {
            return Ok(None);
        }
        let mut around: Loaded = self.load_around(Arc::new(execution), &mut SubFlows::default()).await?;
        loop {
            let draft = self.with_world(&around, |world| {
                flowmonkey_core::execution::encode_task(&around.execution, world)
            });
            // What is read of datasets is known once it was tried; then it is read again.
            if around.fetch(self).await? {
                continue;
            }
            return Ok(draft.ok().map(|draft| {
                serde_json::json!({
                    "attempt": draft.attempt,
                    "handler": { "type": draft.handler_type, "version": draft.handler_version },
                    "pool": draft.pool,
                    "input": draft.input,
                    "context": draft.context,
                    "contextBytes": draft.context_bytes,
                    "config": draft.config,
                    "idempotencyKey": draft.idempotency_key,
                    "timeoutMs": draft.timeout_ms,
                })
            }));
        }
    }
}
