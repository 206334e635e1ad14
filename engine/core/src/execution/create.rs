//! Creating executions: of a flow, of a body, of a rerun.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::encode;
use super::error::StartError;
use super::event::Event;
use super::labels;
use super::state::{Activity, Cost, Execution, FlowReference, Identity, Lineage, ParentLink, Phase};
use crate::context;
use crate::flow::definition::{Flow, FlowStatus, StepId};
use crate::flow::js;
use crate::flow::scope::{ExecutionFacts, Scope};
use crate::ids::ExecutionId;
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, IDEMPOTENCY_WINDOW_MAX_MS, IDEMPOTENCY_WINDOW_MS, Limits};
use crate::time::Timestamp;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The new execution's id.
    pub id: ExecutionId,
    /// The initial context: an object.
    pub context: Value,
    /// Its tenant.
    pub tenant_id: Option<String>,
    /// Free for the starter.
    pub metadata: Option<Value>,
    /// Searchable, beside those that the flow reads from the context.
    pub labels: BTreeMap<String, String>,
    /// The same key gives the same execution.
    pub idempotency_key: Option<String>,
    /// Milliseconds that the key is remembered.
    pub idempotency_window_ms: Option<u64>,
    /// Milliseconds: replaces the flow's `timeouts.executionMs`.
    pub execution_timeout_ms: Option<u64>,
    /// Milliseconds: replaces the flow's `timeouts.waitMs`.
    pub wait_timeout_ms: Option<u64>,
    /// Start drafts and archived flows too.
    pub force: bool,
    /// Where it comes from.
    pub origin: Origin,
    /// Other flows of the same document, which sub-flows resolve to first.
    pub bundle: Vec<FlowReference>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl StartRequest {
    /// A root with nothing but a context.
    #[must_use]
    pub fn new(id: ExecutionId, context: Value) -> Self {
        Self {
            id,
            context,
            tenant_id: None,
            metadata: None,
            labels: BTreeMap::new(),
            idempotency_key: None,
            idempotency_window_ms: None,
            execution_timeout_ms: None,
            wait_timeout_ms: None,
            force: false,
            origin: Origin::Root,
            bundle: Vec::new(),
            traceparent: None,
        }
    }
}

/// Where an execution comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// It was started by someone outside.
    Root,
    /// Another execution made it.
    Child {
        /// Which child of whom.
        parent: ParentLink,
        /// The root of the tree.
        root: ExecutionId,
        /// Executions above it.
        depth: u16,
        /// Path of the body; empty: a flow of its own.
        graph: Vec<String>,
        /// Whether spending is counted for the root's budget.
        budgeted: bool,
    },
    /// A rerun from a step of another execution.
    Rerun(Lineage),
}

/// A new execution, not yet stored and not yet begun.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its state; [`super::Command::Begin`](super::command::Command::Begin) takes the first step.
    pub execution: Execution,
    /// The first event of its history.
    pub event: Event,
    /// The idempotency key and the instant until which it is remembered.
    pub idempotency: Option<(String, Timestamp)>,
}

/// Creates an execution of `flow`.
///
/// # Errors
/// [`StartError`] when the flow does not start, or the input does not fit it or the limits.
pub fn create(
    request: StartRequest,
    flow: &Flow,
    limits: &Limits,
    now: Timestamp,
) -> Result<Creation, StartError> {
    let is_body = matches!(&request.origin, Origin::Child { graph, .. } if !graph.is_empty());
    let status = match flow.status {
        FlowStatus::Published => None,
        FlowStatus::Draft => Some("a draft"),
        FlowStatus::Archived => Some("archived"),
    };
    if let Some(status) = status.filter(|_| !request.force && !is_body) {
        return Err(StartError::NotPublished { flow: flow.id.clone(), status });
    }
    let context = object(request.context)?;
    let context_limits = encode::context_limits(flow, limits);
    context::check_whole(&context, &context_limits)
        .map_err(|error| StartError::ContextLimit { code: error.code(), message: error.to_string() })?;
    let context = Value::Object(context);
    if !is_body && let Some(schema) = &flow.input_schema {
        schema.check(&context).map_err(|violations| {
            StartError::InputInvalid(violations.iter().map(ToString::to_string).collect())
        })?;
    }
    let context_bytes = context::json_size(&context);
    let context = object(context)?;

    let mut labels = request.labels;
    if !is_body {
        labels::read(&mut labels, flow, &context)?;
    }
    let facts = ExecutionFacts { id: request.id.to_string(), flow_id: &flow.id, started_at: now, run: 1 };
    let idempotency = match (&request.origin, request.idempotency_key) {
        (Origin::Root, key) => idempotency(key, request.idempotency_window_ms, flow, &context, &facts, now)?,
        (Origin::Child { .. } | Origin::Rerun(_), _) => None,
    };

    let (parent, root, depth, graph, inherited_budget) = match &request.origin {
        Origin::Root | Origin::Rerun(_) => (None, request.id, 0, Vec::new(), false),
        Origin::Child { parent, root, depth, graph, budgeted } => {
            (Some(*parent), *root, *depth, graph.clone(), *budgeted)
        }
    };
    let own_graph = flow.graph_at(&graph).ok_or_else(|| StartError::StepNotFound(graph.join("/")))?;
    let (cursor, lineage): (StepId, _) = match request.origin {
        Origin::Root | Origin::Child { .. } => (own_graph.initial.clone(), None),
        Origin::Rerun(lineage) => match own_graph.steps.get_key_value(lineage.from_step.as_str()) {
            Some((step, _)) => (step.clone(), Some(lineage)),
            None => return Err(StartError::StepNotFound(lineage.from_step)),
        },
    };
    let deadline_ms =
        if is_body { None } else { request.execution_timeout_ms.or(flow.timeouts.execution_ms) };
    let identity = Identity {
        id: request.id,
        root,
        parent,
        depth,
        flow: FlowReference {
            id: flow.id.clone(),
            version: flow.version.to_string(),
            hash: flow.hash.clone(),
        },
        bundle: request.bundle,
        graph,
        tenant_id: request.tenant_id,
        metadata: request.metadata,
        labels,
        idempotency_key: idempotency.as_ref().map(|(key, _)| key.clone()),
        created_at: now,
        lineage,
        budgeted: inherited_budget || (root == request.id && flow.budget.is_limited()),
        wait_timeout_ms: request.wait_timeout_ms,
        traceparent: request.traceparent,
    };
    let execution = Execution {
        identity: Arc::new(identity),
        version: 0,
        events: 1,
        run: 1,
        updated_at: now,
        deadline: deadline_ms.map(|millis| now.plus(millis)),
        cursor,
        phase: Phase::Running,
        activity: Activity::Ready,
        pause: None,
        context,
        context_bytes,
        visits: BTreeMap::new(),
        step_count: 0,
        tasks: 0,
        joins: 0,
        compensations: Vec::new(),
        undoing: None,
        compensated: false,
        signals: Vec::new(),
        signal_ids: Vec::new(),
        last_error: None,
        resume_data: None,
        last_output: None,
        iteration: 0,
        has_errors: false,
        budget_warned: false,
        cost: Cost::default(),
        output: None,
    };
    let event = Event::Created { execution: Box::new(execution.clone()) };
    Ok(Creation { execution, event, idempotency })
}

fn object(value: Value) -> Result<Map<String, Value>, StartError> {
    Err(StartError::InputNotAnObject(match value {
        Value::Object(map) => return Ok(map),
        Value::Null => return Ok(Map::new()),
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
    }))
}

fn idempotency(
    key: Option<String>,
    window_ms: Option<u64>,
    flow: &Flow,
    context: &Map<String, Value>,
    facts: &ExecutionFacts<'_>,
    now: Timestamp,
) -> Result<Option<(String, Timestamp)>, StartError> {
    let rule = flow.idempotency.as_ref();
    let key = match (key, rule) {
        (Some(key), _) => Some(key),
        (None, Some(rule)) => {
            let scope = Scope {
                context,
                outer: None,
                error: None,
                resume: None,
                resume_url: None,
                input: None,
                iteration: None,
                event: None,
                // A root has no tree yet whose results it could name.
                datasets: None,
                item_key: None,
                execution: facts,
            };
            let value = rule
                .key
                .resolve(&scope)
                .map_err(|error| StartError::InvalidIdempotencyKey(error.to_string()))?;
            value.filter(|value| !value.is_null()).map(|value| js::to_text(Some(&value)))
        }
        (None, None) => None,
    };
    let Some(key) = key else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let reason = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes, not {}", key.len());
        return Err(StartError::InvalidIdempotencyKey(reason));
    }
    let window = window_ms.or(rule.and_then(|rule| rule.window_ms)).unwrap_or(IDEMPOTENCY_WINDOW_MS);
    Ok(Some((key, now.plus(window.min(IDEMPOTENCY_WINDOW_MAX_MS)))))
}
