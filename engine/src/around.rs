//! What decisions on an execution need beside the execution itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use flowmonkey_core::execution::{Execution, FlowReference, World};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::FlowHash;

use crate::datasets::Datasets;
use crate::engine::Engine;
use crate::flows::{LoadedFlow, SubFlows};
use crate::store::StoreError;

/// One execution in a round: everything its decisions need.
pub(crate) struct Loaded {
    pub(crate) execution: Arc<Execution>,
    pub(crate) flow: Arc<LoadedFlow>,
    other_flows: HashMap<FlowHash, Arc<Flow>>,
    outer: Option<Arc<Snapshot>>,
    pub(crate) sub_flows: HashMap<(String, Option<String>), FlowReference>,
    pub(crate) datasets: Datasets,
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
        let sub_flows = known.resolve_all(&*self.store, &flow, &execution).await?;
        Ok(Loaded { execution, flow, other_flows, outer, sub_flows, datasets: Datasets::default() })
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
            resume_url: &|step, visit| self.resume_url(id, step, visit),
        })
    }
}
