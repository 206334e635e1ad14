//! What decisions on an execution need beside the execution itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use flowmonkey_core::execution::state::Undoable;
use flowmonkey_core::execution::{Execution, FlowReference, World};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::FlowHash;

use crate::datasets::Datasets;
use crate::engine::Engine;
use crate::flows::{LoadedFlow, SubFlows};
use crate::stacks::Stacks;
use crate::store::StoreError;

/// One execution in a round: everything its decisions need.
pub(crate) struct Loaded {
    pub(crate) execution: Arc<Execution>,
    pub(crate) flow: Arc<LoadedFlow>,
    other_flows: HashMap<FlowHash, Arc<Flow>>,
    outer: Option<Arc<Snapshot>>,
    pub(crate) sub_flows: HashMap<(String, Option<String>), FlowReference>,
    datasets: Datasets,
    stacks: Stacks,
}

impl Loaded {
    /// Reads what the last decision asked for in vain; false when that was nothing, and the decision counts.
    pub(crate) async fn fetch(&mut self, engine: &Engine) -> Result<bool, StoreError> {
        // What a decision asks for after it has missed something, it may ask for by mistake.
        let wanted = self.stacks.missed();
        if self.datasets.fetch(engine, self.execution.identity.root).await? {
            return Ok(true);
        }
        let Some(stacks) = wanted else { return Ok(false) };
        let page = engine.stack_page(stacks).await?;
        for visit in page.entries().filter_map(Undoable::visit) {
            let hash = &visit.flow.hash;
            if *hash != self.execution.identity.flow.hash && !self.other_flows.contains_key(hash) {
                let other = engine.flows.get(&*engine.store, hash).await?;
                self.other_flows.insert(hash.clone(), other.flow.clone());
            }
        }
        self.stacks.know(stacks, page);
        Ok(true)
    }

    /// Lets go of what was read for a decision that is made.
    pub(crate) fn let_go(&mut self) {
        self.datasets = Datasets::default();
        self.stacks = Stacks::default();
    }
}

impl Engine {
    /// Everything that decisions on `execution` need.
    pub(crate) async fn load_around(
        &self,
        execution: Arc<Execution>,
        known: &mut SubFlows,
    ) -> Result<Loaded, StoreError> {
        let flow = self.flows.get(&*self.store, &execution.identity.flow.hash).await?;
        let mut other_flows = HashMap::new();
        let hashes: BTreeSet<FlowHash> = execution.flows_needed().cloned().collect();
        for hash in hashes {
            let other = self.flows.get(&*self.store, &hash).await?;
            other_flows.insert(hash, other.flow.clone());
        }
        let outer = self.outer(&execution).await?;
        let sub_flows = known.resolve_all(&self.flows, &*self.store, &flow, &execution).await?;
        Ok(Loaded {
            execution,
            flow,
            other_flows,
            outer,
            sub_flows,
            datasets: Datasets::default(),
            stacks: Stacks::default(),
        })
    }

    /// Gives the world as `around` shows it to `see`.
    pub(crate) fn with_world<T>(&self, around: &Loaded, see: impl FnOnce(&World<'_>) -> T) -> T {
        let id = around.execution.id();
        see(&World {
            flow: &around.flow.flow,
            flows: &|hash| around.other_flows.get(hash).cloned(),
            outer: around.outer.as_deref(),
            limits: &self.config.limits,
            flow_exists: &|flow, version| {
                around.sub_flows.contains_key(&(flow.to_owned(), version.map(ToOwned::to_owned)))
            },
            handlers: &*self.handlers,
            datasets: &|reference| around.datasets.get(reference),
            stacks: &|stacks| around.stacks.get(stacks),
            resume_url: &|step, visit| self.resume_url(id, step, visit),
        })
    }
}
