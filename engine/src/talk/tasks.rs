//! The tasks that talk, and when each was told and stored last.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::Progress;

use super::millis;
use crate::config::{TALKING_TASK_REST, TALKING_TASKS_MAX};
use crate::watch::Update;

/// For how long it is taken for granted that the record still has an attempt out. What is volatile may be wrong for so long.
const TRUSTED_MS: u64 = 2000;

/// A task that talks.
pub(super) struct Talking {
    pub(super) attempt: u32,
    /// None: not known yet.
    pub(super) step: Option<Arc<str>>,
    pub(super) parent: Option<ExecutionId>,
    pub(super) latest: Option<(Timestamp, Progress)>,
    pub(super) to_tell: bool,
    pub(super) to_store: bool,
    pub(super) told_at: Timestamp,
    pub(super) stored_at: Timestamp,
    /// What was stored last: the same again is no news.
    pub(super) stored: Option<Progress>,
    /// When the record was seen to have the attempt out.
    pub(super) verified_at: Option<Timestamp>,
    pub(super) log_bytes: usize,
    heard_at: Timestamp,
}

impl Talking {
    fn new(attempt: u32, now: Timestamp) -> Self {
        let never = Timestamp::from_millis(0);
        Self {
            attempt,
            step: None,
            parent: None,
            latest: None,
            to_tell: false,
            to_store: false,
            told_at: never,
            stored_at: never,
            stored: None,
            verified_at: None,
            log_bytes: 0,
            heard_at: now,
        }
    }

    pub(super) const fn is_known(&self) -> bool {
        self.step.is_some()
    }

    /// Learns the step and the parent, when `execution` has this attempt out.
    pub(super) fn learn(&mut self, execution: &Execution) {
        if let Some(out) = execution.task().filter(|out| out.run.attempt == self.attempt) {
            self.step = Some(Arc::from(out.run.step.as_ref()));
            self.parent = execution.identity.parent.map(|parent| parent.execution);
        }
    }

    /// What is to be told now.
    pub(super) fn tell(&mut self, task: TaskId, now: Timestamp) -> Option<Update> {
        let (at, progress) = self.latest.clone()?;
        self.to_tell = false;
        self.told_at = now;
        let (execution, step) = (task.execution, self.step.clone());
        Some(Update::Progress { execution, task: Some(task.number), step, at, progress })
    }
}

/// All tasks that talk.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) by_id: HashMap<TaskId, Talking>,
    /// When those that have gone quiet are looked for again.
    sweep_at: Timestamp,
}

impl Tasks {
    /// What is known of a task of which `attempt` talks; a later attempt begins anew. None: too many talk.
    pub(super) fn talking(&mut self, task: TaskId, attempt: u32, now: Timestamp) -> Option<&mut Talking> {
        if self.by_id.len() >= TALKING_TASKS_MAX && !self.by_id.contains_key(&task) {
            self.sweep(now);
            if self.by_id.len() >= TALKING_TASKS_MAX {
                return None;
            }
        }
        let talking = match self.by_id.entry(task) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Talking::new(attempt, now)),
        };
        if attempt > talking.attempt {
            *talking = Talking::new(attempt, now);
        }
        talking.heard_at = now;
        Some(talking)
    }

    /// Forgets tasks that have nothing left to be stored and have been quiet for long; looks at most once a second.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        const SWEEP_EVERY_MS: u64 = 1000;
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.plus(SWEEP_EVERY_MS);
        let rest = millis(TALKING_TASK_REST);
        self.by_id.retain(|_, talking| talking.to_store || now.since(talking.heard_at) < rest);
    }

    pub(super) fn was_out(&self, task: TaskId, attempt: u32, now: Timestamp) -> bool {
        self.by_id.get(&task).is_some_and(|talking| {
            talking.attempt == attempt
                && talking.verified_at.is_some_and(|at| at <= now && now.since(at) < TRUSTED_MS)
        })
    }
}
