//! Progress of executions that wait for children.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_core::execution::{Activity, Execution};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::{Counter, Progress};

use crate::config::ROLLUPS_PER_FLUSH;
use crate::engine::Engine;
use crate::store::StoreError;
use crate::watch::Update;

/// The counter of a rolled-up progress.
const CHILDREN: &str = "children";

/// Progress as it is shown, and when it was reported.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownProgress {
    /// The step.
    pub step: Arc<str>,
    /// The progress.
    pub progress: Progress,
    /// When.
    pub at: Timestamp,
}

impl Engine {
    /// How far the step is that an execution is at: the latest that its task reported, or how many of its children have
    /// ended, with the progress of the others. Of these, one that waits for children of its own counts in the same way, some
    /// levels down. None: nothing is known.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn progress_of(&self, execution: &Execution) -> Result<Option<ShownProgress>, StoreError> {
        match &execution.activity {
            Activity::Task(out) => {
                let row = self.store.latest_progress(execution.task_id(out.run.task)).await?;
                Ok(row.filter(|row| row.attempt == out.run.attempt).map(|row| ShownProgress {
                    step: Arc::from(out.run.step.as_ref()),
                    progress: row.progress,
                    at: row.at,
                }))
            }
            Activity::Children(fan) => {
                let Some(join) = self.store.join_state(execution.id(), fan.join).await? else {
                    return Ok(None);
                };
                let live = self.store.live_children_done(execution.id(), fan.join).await?;
                let ended = f64::from(join.succeeded) + f64::from(join.failed);
                let total = f64::from(join.total);
                // A child that ended between the two reads counts in neither or in both.
                let percent = if total > 0.0 { (ended + live) / total * 100.0 } else { 100.0 };
                let children = Counter { value: ended, total: Some(total), unit: None };
                let progress = Progress {
                    percent,
                    counters: BTreeMap::from([(CHILDREN.to_owned(), children)]),
                    ..Progress::default()
                };
                let step = Arc::from(fan.run.step.as_ref());
                Ok(Some(ShownProgress { step, progress: progress.bounded(), at: self.now() }))
            }
            Activity::Ready
            | Activity::Backoff { .. }
            | Activity::Wait(_)
            | Activity::Incident(_)
            | Activity::Nothing => Ok(None),
        }
    }

    /// Tells the progress of executions whose children did something, where the rounded percentage has changed.
    pub(super) async fn tell_rollups(&self) -> Result<usize, StoreError> {
        let parents: Vec<ExecutionId> = {
            let mut state = self.talk.state();
            if !self.is_watched() {
                state.rollups.clear();
                return Ok(0);
            }
            let some: Vec<_> = state.rollups.iter().copied().take(ROLLUPS_PER_FLUSH).collect();
            for parent in &some {
                state.rollups.remove(parent);
            }
            some
        };
        let mut told = 0;
        for (parent, _) in self.hot(&parents.into_iter().collect(), &[].into()).await? {
            let Some(shown) = self.progress_of(&parent).await? else { continue };
            #[expect(clippy::cast_possible_truncation, reason = "0 to 100")]
            let percent = shown.progress.percent.round() as i64;
            let id = parent.id();
            {
                let mut state = self.talk.state();
                if state.rolled_up.put(id, percent) == Some(percent) {
                    continue;
                }
                if let Some(above) = parent.identity.parent {
                    state.note_parent(above.execution);
                }
            }
            let ShownProgress { step, progress, at } = shown;
            self.tell(Update::Progress { execution: id, task: None, step: Some(step), at, progress });
            told += 1;
        }
        Ok(told)
    }
}
