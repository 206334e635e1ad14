//! Results that come past the queues: those that a worker kept while the queues were away.

use std::sync::Arc;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::queue::Dispatched;
use flowmonkey_plumbing::wire::ResultMessage;

use crate::apply::CommandError;
use crate::chores::{collector, patches};
use crate::engine::{Counters, Engine};
use crate::evidence::RefusedFor;
use crate::store::StoreError;
use crate::wire::{task_report, unreadable_report};

/// Why a result that came past the queues did not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpilledError {
    /// It cannot be understood; where the task is known, the attempt has failed with that.
    #[error("the result cannot be understood: {0}")]
    Invalid(String),
    /// It was refused, or could not be stored.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Engine {
    /// Applies a result whose sender has proved to be the task's worker, as if it had come through the queue.
    ///
    /// # Errors
    /// Why it did not count. After a failure of the record it may be sent again.
    pub(crate) async fn apply_spilled(
        &self,
        result: &ResultMessage,
        pool: String,
    ) -> Result<Arc<Execution>, SpilledError> {
        let delivery = result.delivery();
        let worker = &result.metrics.worker_id;
        let note = |reason, detail| collector::note(self, &delivery, worker.clone(), reason, detail);
        let (reported, invalid) = match task_report(result.clone()) {
            Ok(report) => (Some(report), None),
            Err(reason) => {
                Counters::add(&self.counters.results_invalid, 1);
                note(RefusedFor::Invalid, reason.clone());
                (unreadable_report(&delivery, &result.metrics, &reason), Some(reason))
            }
        };
        let Some((task, mut report)) = reported else {
            return Err(SpilledError::Invalid(invalid.unwrap_or_default()));
        };
        if !result.logs.is_empty() {
            self.keep_lines(std::iter::once(result)).await.map_err(CommandError::from)?;
        }
        let count = if invalid.is_none() { patches::patches_of(result) } else { 0 };
        let merged = if count > 0 {
            let reports = vec![(task, count, &mut report)];
            patches::merge(self, reports).await.map_err(|error| CommandError::Engine(error.into()))?
        } else {
            Vec::new()
        };
        let applied = self.command(task.execution, Command::Report(Box::new(report))).await;
        if applied.is_ok() && !merged.is_empty() {
            patches::forget(self, merged).await;
        }
        match &applied {
            Ok(_) => {}
            Err(CommandError::Rejected(rejection)) => {
                Counters::add(&self.counters.results_refused, 1);
                note(collector::refused_for(rejection), rejection.to_string());
            }
            Err(CommandError::Engine(_)) => return Ok(applied?),
        }
        // The record has judged: wherever the queue still has the delivery, it is over. When the queue is away, the lease
        // ends by itself, and the record refuses what follows from that.
        if let Err(error) =
            self.queue.drop_deliveries(&[Dispatched { pool, delivery: delivery.clone() }]).await
        {
            tracing::debug!(%error, task = result.task_id, "the delivery of a spilled result stays in its queue");
        }
        match invalid {
            Some(reason) if applied.is_ok() => Err(SpilledError::Invalid(reason)),
            Some(_) | None => Ok(applied?),
        }
    }

    /// Whether `attempt` is the one that the record has out. `trust_memory`: a copy that another engine may have moved on
    /// from will do for a yes, never for a no.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) async fn has_out(
        &self,
        task: TaskId,
        attempt: u32,
        trust_memory: bool,
    ) -> Result<bool, StoreError> {
        let is_out = |execution: &Execution| {
            execution.task().is_some_and(|out| out.run.task == task.number && out.run.attempt == attempt)
        };
        if trust_memory {
            // A task of another engine: whoever talks ten times a second is looked up once in a while.
            if self.peek_hot(task.execution).is_none() && self.talk.was_out(task, attempt, self.now()) {
                return Ok(true);
            }
            let found = self.hot(&[task.execution].into(), &[].into()).await?;
            match found.first() {
                Some((execution, _)) if is_out(execution) => {
                    self.talk.learn(execution, self.now());
                    return Ok(true);
                }
                Some((_, true)) | None => return Ok(false),
                // An old copy: the record knows better.
                Some((_, false)) => {}
            }
        }
        // Not the execution with its context, which may be large.
        Ok(self.store.task_version(task, attempt).await?.is_some())
    }
}
