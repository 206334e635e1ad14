//! What an engine knows of handlers whose workers are other processes: what they announced; and which tasks its own
//! process group runs.
//!
//! Tasks that run in process go through the same queues, in pools of their own (`embedded/HANDLER`): they are leased,
//! fenced and found again like all others, and any engine's embedded worker may run them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use flowmonkey_core::execution::Handlers;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::manifest::Mode;
use flowmonkey_plumbing::queue::WorkerPresence;

use crate::config::UnknownHandler;

/// Put before handler types to name the pools of embedded workers.
pub const EMBEDDED_POOLS: &str = "embedded/";

/// Looks at the workers without one that serves a pool, after which what waits there is moved. Looks are 3 s apart, and a
/// worker that the queue has forgotten is back within 10 s: a backlog is not to move because of a rollout.
const ABANDONED_LOOKS: u32 = 5;

/// Handlers that an engine's own process group runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InProcess {
    /// Of a hundred executions, the tasks of so many go to the queue's own workers; by handler type. Those that are not
    /// listed: all of them.
    pub to_queue_percent: BTreeMap<String, u8>,
    /// Handler types whose tasks run in process while no other worker is there for them.
    pub fall_back: BTreeSet<String>,
}

/// Handlers by what workers announced.
#[derive(Debug)]
pub struct AnnouncedHandlers {
    unknown: UnknownHandler,
    in_process: InProcess,
    announced: RwLock<Announced>,
    /// Whether any of them is stateful.
    any_stateful: AtomicBool,
}

#[derive(Debug, Default)]
struct Announced {
    /// Handler types that were announced at some time.
    known: BTreeMap<String, KnownHandler>,
    /// Pools that a worker serves now.
    served: BTreeSet<String>,
    /// For handler types that fall back: in how many looks in a row no worker served them.
    unserved_looks: BTreeMap<String, u32>,
    /// Whether anything has been heard of workers yet.
    heard: bool,
}

#[derive(Clone, Copy, Debug)]
struct KnownHandler {
    /// Milliseconds: the limit of an attempt.
    limit_ms: Option<u64>,
    stateful: bool,
}

impl AnnouncedHandlers {
    /// Nothing is known at first.
    #[must_use]
    pub fn new(unknown: UnknownHandler, in_process: InProcess) -> Self {
        Self { unknown, in_process, announced: RwLock::default(), any_stateful: AtomicBool::new(false) }
    }

    /// Learns of the workers that are there now.
    pub fn learn(&self, workers: &[WorkerPresence]) {
        let mut announced = self.announced.write().unwrap_or_else(PoisonError::into_inner);
        announced.heard = true;
        announced.served.clear();
        for worker in workers {
            for manifest in &worker.manifests {
                let stateful = manifest.mode == Mode::Stateful;
                let known = KnownHandler { limit_ms: manifest.limit_ms(), stateful };
                announced.known.insert(manifest.handler_type.clone(), known);
                if stateful {
                    self.any_stateful.store(true, Ordering::Relaxed);
                }
            }
            if !worker.draining {
                announced.served.extend(worker.pools.iter().cloned());
            }
        }
        for handler_type in &self.in_process.fall_back {
            let is_served = announced.served.contains(handler_type);
            let looks = announced.unserved_looks.entry(handler_type.clone()).or_default();
            *looks = if is_served { 0 } else { looks.saturating_add(1) };
        }
    }

    /// Pools whose tasks run in process because no worker has been there for them for a while: what is ready there waits
    /// for nobody.
    #[must_use]
    pub fn abandoned(&self) -> BTreeSet<String> {
        let announced = self.announced.read().unwrap_or_else(PoisonError::into_inner);
        let unserved = announced.unserved_looks.iter().filter(|(_, looks)| **looks >= ABANDONED_LOOKS);
        unserved.map(|(handler_type, _)| handler_type.clone()).collect()
    }

    fn runs_in_process(&self, handler_type: &str, execution: ExecutionId) -> bool {
        if let Some(percent) = self.in_process.to_queue_percent.get(handler_type) {
            // The random bits of the id: an execution keeps its side as the percentage grows.
            let lot = execution.as_uuid().as_u128() % 100;
            if lot >= u128::from(*percent) {
                return true;
            }
        }
        if !self.in_process.fall_back.contains(handler_type) {
            return false;
        }
        let announced = self.announced.read().unwrap_or_else(PoisonError::into_inner);
        announced.heard && !announced.served.contains(handler_type)
    }
}

impl Handlers for AnnouncedHandlers {
    fn accepts(&self, handler_type: &str) -> bool {
        match self.unknown {
            UnknownHandler::Wait => true,
            UnknownHandler::Fail => {
                let announced = self.announced.read().unwrap_or_else(PoisonError::into_inner);
                !announced.heard || announced.known.contains_key(handler_type)
            }
        }
    }

    fn timeout_ms(&self, handler_type: &str) -> Option<u64> {
        let announced = self.announced.read().unwrap_or_else(PoisonError::into_inner);
        announced.known.get(handler_type)?.limit_ms
    }

    fn is_stateful(&self, handler_type: &str) -> bool {
        let announced = self.announced.read().unwrap_or_else(PoisonError::into_inner);
        announced.known.get(handler_type).is_some_and(|known| known.stateful)
    }

    fn any_stateful(&self) -> bool {
        self.any_stateful.load(Ordering::Relaxed)
    }

    fn route(&self, handler_type: &str, execution: ExecutionId) -> Option<Arc<str>> {
        self.runs_in_process(handler_type, execution).then(|| EMBEDDED_POOLS.into())
    }
}

#[cfg(test)]
mod tests {
    use flowmonkey_plumbing::manifest::Manifest;
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> ExecutionId {
        ExecutionId::from_uuid(Uuid::from_u128(number))
    }

    fn worker(handler_type: &str, draining: bool) -> WorkerPresence {
        WorkerPresence {
            pools: vec![handler_type.into()],
            draining,
            manifests: vec![Manifest {
                handler_type: handler_type.into(),
                timeout_ms: Some(7),
                ..Manifest::default()
            }],
            ..WorkerPresence::default()
        }
    }

    #[test]
    fn a_share_of_the_executions_goes_to_the_queue_and_stays_there() {
        let share = |percent| {
            let to_queue_percent = BTreeMap::from([("http-request".to_owned(), percent)]);
            let in_process = InProcess { to_queue_percent, ..InProcess::default() };
            let handlers = AnnouncedHandlers::new(UnknownHandler::Wait, in_process);
            let queued = (0..1000).filter(|one| handlers.route("http-request", id(*one)).is_none());
            queued.collect::<BTreeSet<u128>>()
        };
        let shares = [0, 10, 50, 100].map(share);
        assert_eq!(shares.each_ref().map(BTreeSet::len), [0, 100, 500, 1000]);
        assert!(shares.is_sorted_by(|fewer, more| fewer.is_subset(more)));
        let handlers = AnnouncedHandlers::new(UnknownHandler::Wait, InProcess::default());
        assert_eq!(handlers.route("http-request", id(1)), None);
    }

    #[test]
    fn tasks_fall_back_only_while_nobody_else_is_there() {
        let fall_back = BTreeSet::from(["transform".to_owned()]);
        let in_process = InProcess { fall_back, ..InProcess::default() };
        let handlers = AnnouncedHandlers::new(UnknownHandler::Wait, in_process);
        let route = |handler_type| handlers.route(handler_type, id(1)).is_some();
        assert!(!route("transform"), "nothing has been heard yet");
        handlers.learn(&[]);
        assert!(route("transform"));
        assert!(!route("email"));
        handlers.learn(&[worker("transform", false)]);
        assert!(!route("transform"));
        handlers.learn(&[worker("transform", true)]);
        assert!(route("transform"));
    }

    #[test]
    fn a_pool_is_abandoned_when_nobody_has_served_it_for_some_looks() {
        let fall_back = BTreeSet::from(["transform".to_owned()]);
        let in_process = InProcess { fall_back, ..InProcess::default() };
        let handlers = AnnouncedHandlers::new(UnknownHandler::Wait, in_process);
        for _ in 1..ABANDONED_LOOKS {
            handlers.learn(&[worker("email", false)]);
        }
        assert!(handlers.abandoned().is_empty());
        handlers.learn(&[]);
        assert_eq!(handlers.abandoned(), BTreeSet::from(["transform".to_owned()]));
        handlers.learn(&[worker("transform", false)]);
        assert!(handlers.abandoned().is_empty());
        handlers.learn(&[]);
        assert!(handlers.abandoned().is_empty(), "it is counted anew");
    }

    #[test]
    fn handlers_are_known_once_they_were_announced() {
        let handlers = AnnouncedHandlers::new(UnknownHandler::Fail, InProcess::default());
        assert!(handlers.accepts("email"), "before anything was heard nothing is unknown");
        handlers.learn(&[worker("email", false)]);
        handlers.learn(&[]);
        assert!(handlers.accepts("email"));
        assert_eq!(handlers.timeout_ms("email"), Some(7));
        assert!(!handlers.accepts("other"));
    }
}
