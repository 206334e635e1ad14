//! What people hold back: tasks of paused pools and flows, and starts of archived versions.
//!
//! Architecture invariant: a pause acts where tasks become ready, never in a decision. A task that is held back is out in
//! the record and in no queue; when its pause is lifted, it is delivered like one that a queue has lost. The record keeps the
//! pauses; each engine looks at them now and then, so that it knows of others' a second or two late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use flowmonkey_core::execution::command::{Command, TaskAttempt};
use flowmonkey_plumbing::queue::Dispatched;

use crate::apply::CommandOutcome;
use crate::config::RECONCILE_BATCH_MAX;
use crate::engine::{Engine, EngineError};
use crate::store::{ArchivedFlow, Pause, PauseKind, TaskOut};
use crate::wire::dispatched;

/// Looks after a new pause in which ready tasks are taken out of all queues: other engines may make tasks ready until they
/// know of it, too.
const LOOKS_AFTER_PAUSE: u32 = 3;

/// What is held back, as this engine knows it.
#[derive(Default)]
pub(crate) struct Controls {
    /// Whether anything is paused: nearly always it is not, and nothing else is asked.
    any_paused: AtomicBool,
    held: RwLock<Arc<Held>>,
    /// Looks that are left after a new pause. Held while a look goes on: there is one at a time.
    looks_left: tokio::sync::Mutex<u32>,
    /// What the last look has found lifted and could not deliver yet.
    lifted: Mutex<Held>,
}

/// What is held back.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pools: BTreeMap<String, Pause>,
    /// By tenant and id.
    flows: BTreeMap<(Option<String>, String), Pause>,
    archived: BTreeSet<ArchivedFlow>,
}

impl Held {
    fn new(pauses: Vec<Pause>, archived: Vec<ArchivedFlow>) -> Self {
        let mut held = Self { archived: archived.into_iter().collect(), ..Self::default() };
        for pause in pauses {
            match pause.kind {
                PauseKind::Pool => drop(held.pools.insert(pause.name.clone(), pause)),
                PauseKind::Flow => {
                    drop(held.flows.insert((pause.tenant.clone(), pause.name.clone()), pause));
                }
            }
        }
        held
    }

    /// The pause that holds back tasks of this pool and of this tenant's flow.
    pub(crate) fn pause(&self, pool: &str, tenant: Option<&str>, flow: &str) -> Option<&Pause> {
        self.pools.get(pool).or_else(|| self.of_flow(tenant, flow))
    }

    /// The pause that holds back a task that is out.
    fn of(&self, out: &TaskOut) -> Option<&Pause> {
        self.pause(&out.pool, out.tenant.as_deref(), &out.flow_id)
    }

    /// Pools that are paused.
    pub(crate) fn paused_pools(&self) -> impl Iterator<Item = &str> {
        self.pools.keys().map(String::as_str)
    }

    /// The pause of a pool as a whole.
    pub(crate) fn of_pool(&self, pool: &str) -> Option<&Pause> {
        self.pools.get(pool)
    }

    /// The pause of a flow.
    pub(crate) fn of_flow(&self, tenant: Option<&str>, flow: &str) -> Option<&Pause> {
        if self.flows.is_empty() {
            return None;
        }
        self.flows.get(&(tenant.map(ToOwned::to_owned), flow.to_owned()))
    }

    fn has_pauses(&self) -> bool {
        !(self.pools.is_empty() && self.flows.is_empty())
    }

    /// Those pauses that `other` has not.
    fn without(&self, other: &Self) -> Self {
        fn missing<K: Ord + Clone>(
            mine: &BTreeMap<K, Pause>,
            theirs: &BTreeMap<K, Pause>,
        ) -> BTreeMap<K, Pause> {
            let only_mine = mine.iter().filter(|(name, _)| !theirs.contains_key(*name));
            only_mine.map(|(name, pause)| (name.clone(), pause.clone())).collect()
        }
        Self {
            pools: missing(&self.pools, &other.pools),
            flows: missing(&self.flows, &other.flows),
            archived: BTreeSet::new(),
        }
    }
}

impl Controls {
    /// Whether anything is paused.
    pub(crate) fn any_paused(&self) -> bool {
        self.any_paused.load(Ordering::Relaxed)
    }

    /// What is held back now.
    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a task that is out is held back.
    pub(crate) fn holds(&self, out: &TaskOut) -> bool {
        self.any_paused() && self.held().of(out).is_some()
    }

    /// Whether executions of this version do not start.
    pub(crate) fn is_archived(&self, tenant: Option<&str>, id: &str, version: &str) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        !held.archived.is_empty()
            && held.archived.contains(&ArchivedFlow {
                tenant: tenant.map(ToOwned::to_owned),
                id: id.to_owned(),
                version: version.to_owned(),
            })
    }

    /// Knows what the record says from here on; what was held back before.
    fn replace(&self, now: Held) -> Arc<Held> {
        let has_pauses = now.has_pauses();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *held, Arc::new(now));
        self.any_paused.store(has_pauses, Ordering::Relaxed);
        before
    }
}

/// What came of a look at what is held back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Tasks that were taken out of queues.
    pub(crate) taken_back: usize,
    /// Tasks that became ready again, as their pause was lifted.
    pub(crate) delivered: usize,
}

impl Engine {
    /// Reads what is held back, takes ready tasks that are out of the queues, and makes those ready whose pauses were
    /// lifted.
    ///
    /// # Errors
    /// When record or queue fail. What was lifted is delivered with the next look then.
    pub(crate) async fn look_at_controls(&self) -> Result<Looked, EngineError> {
        let mut looks_left = self.controls.looks_left.lock().await;
        let now = Held::new(self.store.pauses().await?, self.store.archived_flows().await?);
        let before = self.controls.replace(now.clone());
        if now.without(&before).has_pauses() {
            *looks_left = LOOKS_AFTER_PAUSE;
        }
        let lifted = {
            let mut lifted = self.controls.lifted.lock().unwrap_or_else(PoisonError::into_inner);
            let more = before.without(&now);
            lifted.pools.extend(more.pools);
            lifted.flows.extend(more.flows);
            // Paused again before it was delivered.
            *lifted = lifted.without(&now);
            lifted.clone()
        };
        let mut looked = Looked::default();
        if now.has_pauses() && (*looks_left > 0 || self.is_anything_ready(&now).await?) {
            looked.taken_back = self.take_back_held(&now).await?;
            *looks_left = looks_left.saturating_sub(1);
        }
        if lifted.has_pauses() {
            looked.delivered = self.deliver_lifted(&lifted, &now).await?;
            let mut kept = self.controls.lifted.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = kept.without(&lifted);
        }
        Ok(looked)
    }

    /// Reads what is held back, before this engine works.
    pub(crate) async fn read_controls(&self) -> Result<(), EngineError> {
        let held = Held::new(self.store.pauses().await?, self.store.archived_flows().await?);
        self.controls.replace(held);
        Ok(())
    }

    /// Whether something is ready in a paused pool.
    async fn is_anything_ready(&self, held: &Held) -> Result<bool, EngineError> {
        if held.pools.is_empty() {
            return Ok(false);
        }
        let depths = self.queue.depths().await?;
        Ok(depths
            .iter()
            .any(|(pool, depth)| held.pools.contains_key(pool) && depth.high + depth.normal + depth.low > 0))
    }

    /// Takes the ready ones of the tasks that are held back out of the queues. What a worker has in hand stays with it.
    async fn take_back_held(&self, held: &Held) -> Result<usize, EngineError> {
        let mut taken = 0;
        let mut last = None;
        let until = self.now();
        loop {
            let page = self.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
            let Some(end) = page.last() else { return Ok(taken) };
            last = Some(end.task.execution);
            let deliveries: Vec<Dispatched> = page
                .iter()
                .filter(|out| held.of(out).is_some())
                .map(|out| dispatched(out.task, out.attempt, &out.pool))
                .collect();
            if !deliveries.is_empty() {
                taken += self.queue.take_back(&deliveries).await?.len();
            }
        }
    }

    /// Delivers what is in no queue, as it was held back by what is `lifted`.
    async fn deliver_lifted(&self, lifted: &Held, held: &Held) -> Result<usize, EngineError> {
        let mut delivered = 0;
        let mut last = None;
        let until = self.now();
        loop {
            let page = self.store.tasks_out(last, until, RECONCILE_BATCH_MAX).await?;
            let Some(end) = page.last() else { return Ok(delivered) };
            last = Some(end.task.execution);
            let free: Vec<&TaskOut> =
                page.iter().filter(|out| lifted.of(out).is_some() && held.of(out).is_none()).collect();
            if !free.is_empty() {
                delivered += self.deliver_absent(&free).await?;
            }
        }
    }

    /// Delivers those of `tasks` that are in no queue. Those of a queue that was emptied are left to the reconciler, which
    /// knows when they are missing for certain.
    async fn deliver_absent(&self, tasks: &[&TaskOut]) -> Result<usize, EngineError> {
        self.pools.note(tasks.iter().map(|out| out.pool.as_str()));
        self.compare_pools().await?;
        let deliveries: Vec<Dispatched> =
            tasks.iter().map(|out| dispatched(out.task, out.attempt, &out.pool)).collect();
        let present = self.queue.present(&deliveries).await?;
        let absent =
            tasks.iter().zip(present).filter(|(out, present)| !present && self.pools.is_settled(&out.pool));
        let commands: Vec<_> = absent
            .map(|(out, _)| {
                let attempt = TaskAttempt { task: out.task.number, attempt: out.attempt };
                (out.task.execution, Command::Republish(attempt))
            })
            .collect();
        if commands.is_empty() {
            return Ok(0);
        }
        let outcomes = self.apply(commands).await?;
        Ok(outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count())
    }

    /// Of tasks whose workers were told to stop, those that no worker has, as a pause holds them back.
    pub(crate) async fn held_back(&self, asked: &[Dispatched]) -> Vec<Dispatched> {
        if !self.controls.any_paused() || asked.is_empty() {
            return Vec::new();
        }
        match self.queue.present(asked).await {
            Ok(present) => asked
                .iter()
                .zip(present)
                .filter(|(one, present)| !present && self.pools.is_settled(&one.pool))
                .map(|(one, _)| one.clone())
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "whether tasks are held back is not known");
                Vec::new()
            }
        }
    }
}
