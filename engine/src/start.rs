//! Publishing flows and starting executions.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_core::execution::rerun::context_at;
use flowmonkey_core::execution::state::Lineage;
use flowmonkey_core::execution::{Execution, FlowReference, Origin, Record, StartRequest, Status, create};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::{ExecutionId, FlowHash};
use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::ids::new_uuid;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::effects::Aftermath;
use crate::engine::{Engine, EngineError};
use crate::flows::{LoadedFlow, SubFlows, flow_row};
use crate::store::{Batch, Create, CreateOutcome, PublishOutcome, StoreError};
use crate::watch::Story;

/// Events that are read at a time.
const HISTORY_PAGE: usize = 10_000;

/// Which flow to start.
#[derive(Clone, Debug)]
pub enum StartFlow {
    /// A published one.
    Published {
        /// Its id.
        id: String,
        /// Exact version; none: the latest.
        version: Option<String>,
    },
    /// One that is given here, with the others of its document. It is kept by hash and not published.
    Inline {
        /// The flow.
        flow: Arc<Flow>,
        /// Others that its sub-flows may name.
        bundle: Vec<Arc<Flow>>,
    },
}

/// A start.
#[derive(Clone, Debug)]
pub struct Start {
    /// What to run.
    pub flow: StartFlow,
    /// The initial context: an object.
    pub input: Value,
    /// The id to use; none: a fresh one.
    pub id: Option<ExecutionId>,
    /// The same key gives the same execution.
    pub idempotency_key: Option<String>,
    /// Milliseconds that the key is remembered.
    pub idempotency_window_ms: Option<u64>,
    /// Searchable.
    pub labels: BTreeMap<String, String>,
    /// Free for the starter.
    pub metadata: Option<Value>,
    /// Its tenant: only flows of the same tenant, or of none, start.
    pub tenant_id: Option<String>,
    /// Milliseconds: replaces the flow's limit.
    pub execution_timeout_ms: Option<u64>,
    /// Milliseconds: replaces the flow's limit.
    pub wait_timeout_ms: Option<u64>,
    /// Start drafts and archived flows too.
    pub force: bool,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl Start {
    /// A start with nothing but a flow and an input.
    #[must_use]
    pub fn new(flow: StartFlow, input: Value) -> Self {
        Self {
            flow,
            input,
            id: None,
            idempotency_key: None,
            idempotency_window_ms: None,
            labels: BTreeMap::new(),
            metadata: None,
            tenant_id: None,
            execution_timeout_ms: None,
            wait_timeout_ms: None,
            force: false,
            traceparent: None,
        }
    }

    fn request(self, id: ExecutionId, bundle: Vec<FlowReference>) -> StartRequest {
        StartRequest {
            id,
            context: self.input,
            tenant_id: self.tenant_id,
            metadata: self.metadata,
            labels: self.labels,
            idempotency_key: self.idempotency_key,
            idempotency_window_ms: self.idempotency_window_ms,
            execution_timeout_ms: self.execution_timeout_ms,
            wait_timeout_ms: self.wait_timeout_ms,
            force: self.force,
            origin: Origin::Root,
            bundle,
            traceparent: self.traceparent,
        }
    }
}

/// A flow that starts, with the others of its document.
struct ToStart {
    flow: Arc<LoadedFlow>,
    bundle: Vec<FlowReference>,
    /// The generation of flows in which it was the latest version. None: it is what was asked for, whatever happened since.
    as_of: Option<u64>,
}

/// What came of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The execution.
    pub id: ExecutionId,
    /// Its status after the first decision.
    pub status: Status,
    /// False: the idempotency key named an execution that was there.
    pub created: bool,
    /// Whether that one was started with another input.
    pub input_differs: bool,
}

impl Engine {
    /// Publishes a version of a flow of no tenant.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn publish(&self, flow: &Arc<Flow>) -> Result<PublishOutcome, EngineError> {
        self.publish_of(None, flow).await
    }

    /// Publishes a version of a flow of `tenant`, or of none.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn publish_of(
        &self,
        tenant: Option<&str>,
        flow: &Arc<Flow>,
    ) -> Result<PublishOutcome, EngineError> {
        let outcome = self.store.publish(tenant, &flow_row(flow), self.now()).await?;
        self.flows.keep(flow.clone());
        Ok(outcome)
    }

    /// A published flow of `tenant`, or of none.
    ///
    /// # Errors
    /// When it does not exist, or the record fails.
    pub async fn flow(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<Arc<Flow>, EngineError> {
        let found = self.flows.find(&*self.store, tenant, id, version).await?;
        let reference = found.ok_or_else(|| EngineError::FlowNotFound(named(id, version)))?;
        Ok(self.flows.get(&*self.store, &reference.hash).await?.flow.clone())
    }

    /// The flow that an execution is pinned to.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn flow_by_hash(&self, hash: &FlowHash) -> Result<Arc<Flow>, EngineError> {
        Ok(self.flows.get(&*self.store, hash).await?.flow.clone())
    }

    /// Starts an execution. When this returns, it is stored: it will run, whatever happens to this process.
    ///
    /// # Errors
    /// When the flow does not exist or does not start on this input, or the record fails.
    pub async fn start(&self, start: Start) -> Result<Started, EngineError> {
        self.start_as(start, |_| ()).await.map(|(started, ())| started)
    }

    /// As [`Self::start`], for somebody who waits for the end: what this process commits of the execution is heard from the
    /// start on. None when the idempotency key names another execution, which is to be looked up.
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub async fn start_and_hear(
        &self,
        start: Start,
    ) -> Result<(Started, Option<oneshot::Receiver<Story>>), EngineError> {
        let (started, story) = self.start_as(start, |id| self.watchers.story_of(id)).await?;
        let story = started.created.then_some(story);
        Ok((started, story))
    }

    /// Starts an execution, once `before` has been told its id.
    async fn start_as<T>(
        &self,
        mut start: Start,
        before: impl FnOnce(ExecutionId) -> T,
    ) -> Result<(Started, T), EngineError> {
        let found = self.flow_to_start(&start, true).await?;
        let is_fresh = start.id.is_none();
        let id = start.id.unwrap_or_else(|| self.fresh_id());
        let told = before(id);
        let Some(generation) = found.as_of else {
            let request = start.request(id, found.bundle);
            return Ok((self.start_request(request, &found.flow, is_fresh).await?, told));
        };
        let input = std::mem::take(&mut start.input);
        // For another try: it is made for the hash anyway, and costs less than a copy.
        let text = input.to_string();
        let request = Start { input, ..start.clone() }.request(id, Vec::new());
        let first = self.start_as_of(request, hash_of(&text), &found.flow, Some(generation), is_fresh).await;
        let refused = match first {
            Ok(Some(started)) => return Ok((started, told)),
            Ok(None) => None,
            // A version that has been replaced may refuse what the latest one takes.
            Err(error @ EngineError::Start(_)) => Some(error),
            Err(error) => return Err(error),
        };
        let latest = self.flow_to_start(&start, false).await?;
        if let Some(error) = refused.filter(|_| latest.flow.flow.hash == found.flow.flow.hash) {
            return Err(error);
        }
        let unread = |error| StoreError::Internal { reason: format!("an input that was written: {error}") };
        start.input = serde_json::from_str(&text).map_err(unread)?;
        let request = start.request(id, latest.bundle);
        Ok((self.start_request(request, &latest.flow, is_fresh).await?, told))
    }

    /// Runs an ended execution again from a step, as a new execution. The context is as the original entered the step,
    /// unless `input` replaces it.
    ///
    /// # Errors
    /// When the execution or the step does not exist, the execution has not ended, or the record fails.
    pub async fn rerun(
        &self,
        of: ExecutionId,
        from_step: &str,
        input: Option<Value>,
    ) -> Result<Started, EngineError> {
        let original = self.execution(of).await?;
        if !original.is_terminal() {
            return Err(EngineError::NotEnded(of));
        }
        let flow = self.flows.get(&*self.store, &original.identity.flow.hash).await?;
        let context = match input {
            Some(input) => input,
            None => {
                let history = self.whole_history(of).await?;
                let context = context_at(&history, from_step);
                Value::Object(context.ok_or_else(|| {
                    EngineError::Start(flowmonkey_core::execution::StartError::StepNotFound(from_step.into()))
                })?)
            }
        };
        let identity = &original.identity;
        let request = StartRequest {
            tenant_id: identity.tenant_id.clone(),
            metadata: identity.metadata.clone(),
            labels: identity.labels.clone(),
            force: true,
            origin: Origin::Rerun(Lineage { rerun_of: of, from_step: from_step.into() }),
            bundle: identity.bundle.clone(),
            ..StartRequest::new(self.fresh_id(), context)
        };
        self.start_request(request, &flow, true).await
    }

    async fn start_request(
        &self,
        request: StartRequest,
        flow: &LoadedFlow,
        is_fresh: bool,
    ) -> Result<Started, EngineError> {
        let input_hash = hash_of(&request.context.to_string());
        let started = self.start_as_of(request, input_hash, flow, None, is_fresh).await?;
        let unasked = "the record refuses a start for its generation of flows, which it does not name";
        Ok(started.ok_or_else(|| StoreError::Internal { reason: unasked.into() })?)
    }

    /// Starts an execution, if `as_of` is given only in that generation of flows: none when it is over, and nothing is stored.
    async fn start_as_of(
        &self,
        request: StartRequest,
        input_hash: String,
        flow: &LoadedFlow,
        as_of: Option<u64>,
        is_fresh: bool,
    ) -> Result<Option<Started>, EngineError> {
        let _work = self.work();
        let now = self.now();
        let id = request.id;
        let creation = create(request, &flow.flow, &self.config.limits, now)?;
        let (mut create, effects) = self.begun(creation, &mut SubFlows::default()).await?;
        self.announce(None, &create.execution, &mut create.records);
        let publishes = create.records.iter().any(|record| matches!(record, Record::Publish(_)));
        let execution = create.execution.clone();
        let events = create.events.clone();
        let batch =
            Batch { now, creates: vec![Create { input_hash, flows: as_of, ..create }], ..Batch::default() };
        let committed = self.committer.commit(&*self.store, batch).await;
        let committed = committed.inspect_err(|error| self.doubt(error, [(&*execution, &*effects)]))?;
        crash::point("engine/start-stored");
        match committed.creates.first() {
            Some(CreateOutcome::Created) => {}
            // A commit whose answer was lost, made again: the execution that is there is this one.
            Some(CreateOutcome::Existing { id: existing, .. }) if *existing == id => {}
            Some(CreateOutcome::Existing { id, input_differs }) => {
                let status = self.execution(*id).await?.status();
                return Ok(Some(Started { id: *id, status, created: false, input_differs: *input_differs }));
            }
            Some(CreateOutcome::IdTaken) if is_fresh && self.is_stored(&execution).await? => {}
            Some(CreateOutcome::FlowsChanged) => {
                as_of.inspect(|generation| self.flows.forget_latest(*generation));
                return Ok(None);
            }
            Some(CreateOutcome::IdTaken | CreateOutcome::NotSpawned) | None => {
                return Err(EngineError::IdTaken(id));
            }
        }
        if publishes {
            self.event_bell.notify_one();
        }
        let mut aftermath = Aftermath::default();
        self.note_commit(&execution, events);
        aftermath.add_effects(self, &execution, effects, now);
        self.note_shared(&committed, &mut aftermath);
        // What follows is tried again if it fails now: the start itself is stored.
        if let Err(error) = self.settle(aftermath).await {
            tracing::warn!(%error, execution = %id, "what follows from a start is tried again");
        }
        Ok(Some(Started { id, status: execution.status(), created: true, input_differs: false }))
    }

    /// Whether the record has this very execution, which may have moved on meanwhile.
    async fn is_stored(&self, execution: &Execution) -> Result<bool, EngineError> {
        let stored = self.store.load(&[execution.id()]).await?.pop();
        Ok(stored.is_some_and(|stored| stored.identity == execution.identity))
    }

    /// The flow that a start names; the latest version without a look at the record, if `may_know` it from an earlier one.
    async fn flow_to_start(&self, start: &Start, may_know: bool) -> Result<ToStart, EngineError> {
        let Start { flow, force, tenant_id, .. } = start;
        let tenant = tenant_id.as_deref();
        let is_archived =
            |flow: &FlowReference| !force && self.controls.is_archived(tenant, &flow.id, &flow.version);
        match flow {
            StartFlow::Published { id, version } => {
                let known =
                    if may_know && version.is_none() { self.flows.latest_known(tenant, id) } else { None };
                if let Some((known, generation)) = known.filter(|(known, _)| !is_archived(known)) {
                    let flow = self.flows.get(&*self.store, &known.hash).await?;
                    return Ok(ToStart { flow, bundle: Vec::new(), as_of: Some(generation) });
                }
                let found = match version {
                    Some(version) => self.flows.find(&*self.store, tenant, id, Some(version)).await?,
                    None => self.flows.latest(&*self.store, tenant, id).await?,
                };
                let Some(found) = found else {
                    return Err(self.not_found(tenant, id, version.as_deref()).await?);
                };
                if is_archived(&found) {
                    return Err(archived(id));
                }
                let flow = self.flows.get(&*self.store, &found.hash).await?;
                Ok(ToStart { flow, bundle: Vec::new(), as_of: None })
            }
            StartFlow::Inline { flow, bundle } => {
                let mut references = Vec::with_capacity(bundle.len());
                for other in bundle {
                    self.store.put_definition(&flow_row(other)).await?;
                    self.flows.keep(other.clone());
                    references.push(FlowReference {
                        id: other.id.clone(),
                        version: other.version.to_string(),
                        hash: other.hash.clone(),
                    });
                }
                self.store.put_definition(&flow_row(flow)).await?;
                Ok(ToStart { flow: self.flows.keep(flow.clone()), bundle: references, as_of: None })
            }
        }
    }

    /// Why no version of a flow starts by this name.
    async fn not_found(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<EngineError, EngineError> {
        let versions = self.store.flow_versions(tenant, id).await?;
        let is_archived = version.is_none() && versions.iter().any(|(_, status)| status == "archived");
        Ok(if is_archived { archived(id) } else { EngineError::FlowNotFound(named(id, version)) })
    }

    fn fresh_id(&self) -> ExecutionId {
        ExecutionId::from_uuid(new_uuid(&*self.clock, &*self.entropy))
    }

    /// All events of an execution.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn whole_history(
        &self,
        id: ExecutionId,
    ) -> Result<Vec<flowmonkey_core::execution::RecordedEvent>, EngineError> {
        let mut history = Vec::new();
        loop {
            let after =
                history.last().map_or(0, |last: &flowmonkey_core::execution::RecordedEvent| last.sequence);
            let page = self.store.history(id, after, HISTORY_PAGE).await?;
            let is_last = page.len() < HISTORY_PAGE;
            history.extend(page);
            if is_last {
                return Ok(history);
            }
        }
    }
}

/// Tells a repeated start from another one under the same key.
fn hash_of(input: &str) -> String {
    FlowHash::of(input.as_bytes()).to_string()
}

fn archived(flow: &str) -> EngineError {
    let error =
        flowmonkey_core::execution::StartError::NotPublished { flow: flow.into(), status: "archived" };
    EngineError::Start(error)
}

fn named(id: &str, version: Option<&str>) -> String {
    version.map_or_else(|| id.to_owned(), |version| format!("{id}@{version}"))
}
