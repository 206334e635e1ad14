//! Flow definitions, parsed once and kept while they are in use.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::execution::{Execution, FlowReference};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::definition::{FlowStatus, StepKind};
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_core::ids::FlowHash;
use lru::LruCache;

use crate::config::FLOWS_CACHED_MAX;
use crate::rounds::Rounds;
use crate::store::{FlowRow, FoundFlow, Store, StoreError};

/// A flow with what the shell needs to know of it beforehand.
#[derive(Debug)]
pub(crate) struct LoadedFlow {
    pub(crate) flow: Arc<Flow>,
    /// Flows that its sub-flow steps name, with exact versions where given.
    pub(crate) sub_flows: Vec<(String, Option<String>)>,
}

/// Parsed flows by hash, and lookups of published ones.
pub(crate) struct FlowCache {
    loaded: Mutex<LruCache<FlowHash, Arc<LoadedFlow>>>,
    lookups: Mutex<LruCache<FlowName, Arc<Lookup>>>,
    /// Exact versions that were found: what they mean never changes.
    known: Mutex<LruCache<FlowName, FlowReference>>,
    latest: Mutex<Latest>,
}

/// Tenant, id, and version if one is asked for.
type FlowName = (Option<String>, String, Option<String>);
type Lookup = Rounds<(), FoundFlow>;

/// Latest versions, all as of one generation of flows.
struct Latest {
    generation: u64,
    flows: LruCache<(Option<String>, String), FlowReference>,
}

impl Default for FlowCache {
    fn default() -> Self {
        const MAX: NonZeroUsize = NonZeroUsize::new(FLOWS_CACHED_MAX).unwrap();
        Self {
            loaded: Mutex::new(LruCache::new(MAX)),
            lookups: Mutex::new(LruCache::new(MAX)),
            known: Mutex::new(LruCache::new(MAX)),
            latest: Mutex::new(Latest { generation: 0, flows: LruCache::new(MAX) }),
        }
    }
}

impl Latest {
    fn begin(&mut self, generation: u64) {
        self.generation = generation;
        self.flows.clear();
    }
}

impl FlowCache {
    /// A published flow of `tenant`, or of none. The latest version is the one that the record has after this call began: those
    /// who ask for it at the same time share a look. An exact one is looked up until it is found.
    pub(crate) async fn find(
        &self,
        store: &dyn Store,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<Option<FlowReference>, StoreError> {
        let name = (tenant.map(str::to_owned), id.to_owned(), version.map(str::to_owned));
        let is_exact = version.is_some();
        if is_exact && let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&name)
        {
            return Ok(Some(known.clone()));
        }
        let found = self.look(store, &name).await?.flow;
        if is_exact && let Some(found) = &found {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).put(name, found.clone());
        }
        Ok(found)
    }

    /// The latest version of a flow as it was when somebody looked last, and the generation that this was in. It may be another by
    /// now: only for a start that names the generation ([`crate::store::Create::flows`]).
    pub(crate) fn latest_known(&self, tenant: Option<&str>, id: &str) -> Option<(FlowReference, u64)> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let flow = latest.flows.get(&(tenant.map(str::to_owned), id.to_owned()))?.clone();
        Some((flow, latest.generation))
    }

    /// As [`Self::find`], for the latest version. It is known from then on.
    pub(crate) async fn latest(
        &self,
        store: &dyn Store,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Option<FlowReference>, StoreError> {
        let name = (tenant.map(str::to_owned), id.to_owned(), None);
        let FoundFlow { flow, generation } = self.look(store, &name).await?;
        if let (Some(flow), Some(generation)) = (&flow, generation) {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            if generation > latest.generation {
                latest.begin(generation);
            }
            // An answer that was overtaken by a later one is not kept.
            if generation == latest.generation {
                latest.flows.put((name.0, name.1), flow.clone());
            }
        }
        Ok(flow)
    }

    /// Forgets what was known of a generation that is over.
    pub(crate) fn forget_latest(&self, generation: u64) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.generation == generation {
            latest.begin(0);
        }
    }

    async fn look(&self, store: &dyn Store, name: &FlowName) -> Result<FoundFlow, StoreError> {
        let lookup = {
            let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
            lookups.get_or_insert(name.clone(), Arc::default).clone()
        };
        let (tenant, id, version) = name;
        lookup.join((), async |_| store.find_flow(tenant.as_deref(), id, version.as_deref()).await).await
    }

    /// The flow that a sub-flow step names: of the same document first, then of the published ones of `tenant`, or of none.
    pub(crate) async fn resolve(
        &self,
        store: &dyn Store,
        tenant: Option<&str>,
        bundle: &[FlowReference],
        id: &str,
        version: Option<&str>,
    ) -> Result<Option<FlowReference>, StoreError> {
        match bundled(bundle, id, version) {
            Some(flow) => Ok(Some(flow.clone())),
            None => self.find(store, tenant, id, version).await,
        }
    }

    pub(crate) async fn get(
        &self,
        store: &dyn Store,
        hash: &FlowHash,
    ) -> Result<Arc<LoadedFlow>, StoreError> {
        if let Some(flow) = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(hash) {
            return Ok(flow.clone());
        }
        let corrupt =
            |reason: String| StoreError::Corrupt { what: format!("flow definition {hash}"), reason };
        let row = store.definition(hash).await?.ok_or_else(|| corrupt("it is missing".into()))?;
        let (flow, _warnings) = parse_flow_value(&row.definition)
            .map_err(|issues| corrupt(issues.first().map_or_else(String::new, ToString::to_string)))?;
        Ok(self.keep(flow))
    }

    pub(crate) fn keep(&self, flow: Arc<Flow>) -> Arc<LoadedFlow> {
        let mut sub_flows = Vec::new();
        flow.graph.each_step(&mut |step| {
            if let StepKind::SubFlow(sub_flow) = &step.kind {
                sub_flows
                    .push((sub_flow.flow_id.clone(), sub_flow.version.as_ref().map(ToString::to_string)));
            }
        });
        let hash = flow.hash.clone();
        let loaded = Arc::new(LoadedFlow { flow, sub_flows });
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).put(hash, loaded.clone());
        loaded
    }
}

/// The row of a parsed flow.
#[must_use]
pub(crate) fn flow_row(flow: &Flow) -> FlowRow {
    let status = match flow.status {
        FlowStatus::Draft => "draft",
        FlowStatus::Published => "published",
        FlowStatus::Archived => "archived",
    };
    FlowRow {
        id: flow.id.clone(),
        version: flow.version.to_string(),
        hash: flow.hash.clone(),
        status: status.into(),
        definition: flow.source.clone(),
    }
}

/// The flow that a sub-flow step names, if it is one of the same document.
fn bundled<'a>(bundle: &'a [FlowReference], id: &str, version: Option<&str>) -> Option<&'a FlowReference> {
    bundle
        .iter()
        .filter(|flow| flow.id == id && version.is_none_or(|version| flow.version == version))
        .max_by_key(|flow| semver_key(&flow.version))
}

fn semver_key(version: &str) -> Option<semver::Version> {
    semver::Version::parse(version).ok()
}

/// Published flows that sub-flow steps name, by tenant, looked up once for a batch of decisions.
#[derive(Default)]
pub(crate) struct SubFlows(HashMap<Option<String>, OfTenant>);

/// By id and version.
type OfTenant = HashMap<(String, Option<String>), Option<FlowReference>>;

impl SubFlows {
    /// The sub-flows of an execution's flow, resolved ahead of a decision.
    pub(crate) async fn resolve_all(
        &mut self,
        cache: &FlowCache,
        store: &dyn Store,
        loaded: &LoadedFlow,
        execution: &Execution,
    ) -> Result<HashMap<(String, Option<String>), FlowReference>, StoreError> {
        let mut found = HashMap::new();
        if loaded.sub_flows.is_empty() {
            return Ok(found);
        }
        let identity = &execution.identity;
        let known = self.0.entry(identity.tenant_id.clone()).or_default();
        for name in &loaded.sub_flows {
            let (id, version) = name;
            let flow = match bundled(&identity.bundle, id, version.as_deref()) {
                Some(flow) => Some(flow.clone()),
                None => match known.get(name) {
                    Some(flow) => flow.clone(),
                    None => {
                        let tenant = identity.tenant_id.as_deref();
                        let published = cache.find(store, tenant, id, version.as_deref()).await?;
                        known.insert(name.clone(), published.clone());
                        published
                    }
                },
            };
            if let Some(flow) = flow {
                found.insert(name.clone(), flow);
            }
        }
        Ok(found)
    }
}
