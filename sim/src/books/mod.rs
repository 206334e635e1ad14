//! The books of the checkers: what was granted, handed in, asked and committed, written down where it happens. Nothing in
//! here asks the engine.

mod audit;
mod commit;
mod execution;
mod family;
mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::start::Started;
use flowmonkey_plumbing::queue::Dispatched;

use crate::sometimes::Sometimes;
use crate::workload::{self, StepTable};

pub use execution::{ExecutionBook, NONCE};
pub use family::JoinBook;
pub use leases::Leases;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it.
    pub checker: &'static str,
    /// What it found.
    pub what: String,
}

/// All books of one simulation.
pub struct Books {
    steps: Arc<StepTable>,
    sometimes: Arc<Sometimes>,
    /// Every execution that was committed.
    pub executions: BTreeMap<ExecutionId, ExecutionBook>,
    joins: BTreeMap<(ExecutionId, u32), JoinBook>,
    /// What workers were granted and handed in.
    pub leases: Leases,
    keys: BTreeMap<(String, String), (ExecutionId, Timestamp)>,
    /// The version of each flow that was published last.
    latest: BTreeMap<String, u64>,
    rows: BTreeSet<String>,
    cancelled: BTreeSet<ExecutionId>,
    violations: Vec<Violation>,
    /// Starts that were answered.
    pub started: u64,
    /// Commands that were accepted.
    pub accepted: u64,
}

impl Books {
    /// Empty books. What steps may do comes from the documents, not from the engine.
    #[must_use]
    pub fn new(steps: Arc<StepTable>, sometimes: Arc<Sometimes>) -> Self {
        Self {
            steps,
            sometimes,
            executions: BTreeMap::new(),
            joins: BTreeMap::new(),
            leases: Leases::default(),
            keys: BTreeMap::new(),
            latest: BTreeMap::new(),
            rows: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            violations: Vec::new(),
            started: 0,
            accepted: 0,
        }
    }

    /// Notes a broken promise.
    pub fn violate(&mut self, checker: &'static str, what: String) {
        self.violations.push(Violation { checker, what });
    }

    /// The first broken promise.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violations.first()
    }

    /// A version of a flow was published, and that was answered.
    pub fn published(&mut self, flow: &str, version: u64) {
        self.latest.insert(flow.to_owned(), version);
    }

    /// The version of a flow that was published last.
    #[must_use]
    pub fn latest(&self, flow: &str) -> u64 {
        self.latest.get(flow).copied().unwrap_or(0)
    }

    /// A client was answered that its start is stored, which it asked for after `least` was published.
    pub fn started_latest(&mut self, least: u64, started: &Started) {
        let Some(book) = self.executions.get(&started.id).filter(|_| started.created) else { return };
        let flow = &book.state.identity.flow;
        if workload::version_of(&flow.version) < least {
            let what = format!("{} is of {} {} after {least}", started.id, flow.id, flow.version);
            self.violate("latest", what);
        }
    }

    /// A client was answered that its start is stored.
    pub fn started(&mut self, flow: &str, key: Option<&str>, started: &Started) {
        self.started += 1;
        if !self.executions.contains_key(&started.id) {
            self.violate("starts", format!("{} was answered and is not stored", started.id));
        }
        if !started.created {
            self.sometimes.hit("duplicate start");
            let named = key.and_then(|key| self.keys.get(&(flow.to_owned(), key.to_owned())));
            if named.map(|(id, _)| *id) != Some(started.id) {
                let what = format!("{} was answered for the key {key:?}, which is {named:?}", started.id);
                self.violate("starts", what);
            }
        }
    }

    /// A client was answered that its cancellation is stored.
    pub fn cancel_accepted(&mut self, id: ExecutionId) {
        self.cancelled.insert(id);
    }

    /// An engine lets the queue forget results: each must have been stored, or be of an attempt that does not count.
    pub fn acknowledged(&mut self, deliveries: &[Dispatched]) {
        for Dispatched { delivery, .. } in deliveries {
            let Ok(task) = delivery.task_id.parse::<flowmonkey_core::ids::TaskId>() else { continue };
            let Some(book) = self.executions.get(&task.execution) else { continue };
            let state = &book.state;
            let counts = state
                .task()
                .is_some_and(|out| out.run.task == task.number && out.run.attempt == delivery.attempt);
            let held = state.pause.as_ref().is_some_and(|pause| pause.held.is_some());
            if counts && !held && self.leases.was_handed_in(delivery) {
                self.violate("results", format!("the result of {delivery} was dropped though it counts"));
            }
        }
    }
}
