//! What waits to be told and stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;

use super::{State, count, millis};
use crate::config::{LIVE_PROGRESS_EVERY, TALK_ROWS_MAX};
use crate::engine::{Engine, EngineError};
use crate::store::{LogRow, ProgressRow, StoreError};

/// What a flush did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Rows of progress that were stored.
    pub progress: usize,
    /// Log lines that were stored.
    pub lines: usize,
    /// Executions with children that were told of.
    pub rollups: usize,
    /// Whether something is left that waits.
    pub more: bool,
}

/// What is taken out to be stored.
struct Taken {
    progress: Vec<ProgressRow>,
    lines: Vec<LogRow>,
}

impl Engine {
    /// Tells and stores what waits and is due; `whole`: due or not, as at the end.
    ///
    /// # Errors
    /// When the record fails; then it waits again.
    pub async fn flush_talk(&self, whole: bool) -> Result<Flushed, EngineError> {
        self.learn_steps().await?;
        let now = self.now();
        let taken = {
            let mut state = self.talk.state();
            state.tasks.sweep(now);
            self.tell_late(&mut state, now);
            state.take(now, millis(self.config.store_progress_every), whole)
        };
        let mut flushed =
            Flushed { progress: taken.progress.len(), lines: taken.lines.len(), ..Flushed::default() };
        let stored = self.store.put_progress(&taken.progress).await;
        self.talk.stored(&taken.progress, stored.is_ok());
        if let Err(error) = stored {
            // Neither is lost: the lines come after the progress next time.
            self.talk.state().put_back(taken.lines);
            return Err(error.into());
        }
        count(&self.talk.counters.progress_stored, flushed.progress);
        match self.store.put_log_lines(&taken.lines).await {
            Ok(()) => count(&self.talk.counters.lines_stored, flushed.lines),
            Err(error @ (StoreError::Unavailable { .. } | StoreError::Full { .. })) => {
                self.talk.state().put_back(taken.lines);
                return Err(error.into());
            }
            Err(
                error
                @ (StoreError::Corrupt { .. } | StoreError::Schema { .. } | StoreError::Internal { .. }),
            ) => {
                tracing::warn!(%error, lines = flushed.lines, "log lines are not kept");
                count(&self.talk.counters.lines_dropped, flushed.lines);
            }
        }
        flushed.rollups = self.tell_rollups().await?;
        flushed.more = self.talk.state().has_more();
        Ok(flushed)
    }

    /// Reads from the record which steps tasks are of that nobody here has in memory.
    async fn learn_steps(&self) -> Result<(), StoreError> {
        let unknown: BTreeSet<ExecutionId> = {
            let state = self.talk.state();
            let unknown =
                state.tasks.by_id.iter().filter(|(_, talking)| !talking.is_known() && talking.is_asked());
            unknown.map(|(task, _)| task.execution).take(TALK_ROWS_MAX).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let found = self.hot(&unknown, &[].into()).await?;
        let mut state = self.talk.state();
        for (task, talking) in &mut state.tasks.by_id {
            if !talking.is_known() && unknown.contains(&task.execution) {
                if let Some((execution, _)) = found.iter().find(|(one, _)| one.id() == task.execution) {
                    talking.learn(execution);
                }
                // What is not out any more will not be known later either.
                talking.step.get_or_insert_with(|| Arc::from(""));
            }
        }
        Ok(())
    }

    /// Tells what came too soon after what was told before.
    fn tell_late(&self, state: &mut State, now: Timestamp) {
        if !self.is_watched() {
            return;
        }
        for (task, talking) in &mut state.tasks.by_id {
            if talking.to_tell
                && now.since(talking.told_at) >= millis(LIVE_PROGRESS_EVERY)
                && let Some(update) = talking.tell(*task, now)
            {
                self.tell(update);
            }
        }
    }
}

impl super::tasks::Talking {
    /// Whether something of it is to be told or stored.
    const fn is_asked(&self) -> bool {
        self.to_store || self.to_tell || self.log_bytes > 0
    }
}

impl super::Talk {
    /// Notes what was stored; what was not waits again, unless there is something newer.
    fn stored(&self, rows: &[ProgressRow], done: bool) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut parents = BTreeSet::new();
        for row in rows {
            let Some(talking) = state.tasks.by_id.get_mut(&row.task) else { continue };
            if talking.attempt != row.attempt {
                continue;
            }
            if done {
                talking.stored = Some(row.progress.clone());
                parents.extend(talking.parent);
            } else {
                talking.to_store = true;
            }
        }
        for parent in parents {
            state.note_parent(parent);
        }
    }
}

impl State {
    fn take(&mut self, now: Timestamp, every_ms: u64, whole: bool) -> Taken {
        let mut progress = Vec::new();
        for (task, talking) in &mut self.tasks.by_id {
            if progress.len() >= TALK_ROWS_MAX {
                break;
            }
            if !talking.to_store || (!whole && now.since(talking.stored_at) < every_ms) {
                continue;
            }
            talking.to_store = false;
            let Some((at, latest)) = &talking.latest else { continue };
            if talking.stored.as_ref() == Some(latest) {
                continue;
            }
            talking.stored_at = now;
            let step = talking.step.as_deref().unwrap_or_default().to_owned();
            let (at, progress_now) = (*at, latest.clone());
            progress.push(ProgressRow {
                task: *task,
                attempt: talking.attempt,
                step,
                at,
                progress: progress_now,
            });
        }
        let count = self.lines.len().min(TALK_ROWS_MAX);
        let mut lines: Vec<LogRow> = self.lines.drain(..count).collect();
        self.line_bytes -= lines.iter().map(|line| line.message.len()).sum::<usize>();
        let steps: BTreeMap<TaskId, Arc<str>> = lines
            .iter()
            .filter(|line| line.step.is_empty())
            .filter_map(|line| Some((line.task, self.tasks.by_id.get(&line.task)?.step.clone()?)))
            .collect();
        for line in &mut lines {
            if let Some(step) = steps.get(&line.task).filter(|_| line.step.is_empty()) {
                line.step = step.to_string();
            }
        }
        Taken { progress, lines }
    }

    /// Lets lines wait again, before all others.
    fn put_back(&mut self, lines: Vec<LogRow>) {
        self.line_bytes += lines.iter().map(|line| line.message.len()).sum::<usize>();
        for line in lines.into_iter().rev() {
            self.lines.push_front(line);
        }
    }

    fn has_more(&self) -> bool {
        !self.lines.is_empty()
            || !self.rollups.is_empty()
            || self.tasks.by_id.values().any(|talking| talking.to_store)
    }
}
