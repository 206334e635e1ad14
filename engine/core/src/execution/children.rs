//! Making the children of a fan-out from what the record keeps of it, without the parent.

use serde_json::{Map, Value};

use super::create::{Creation, Origin, StartRequest, create};
use super::decision::{ChildStart, Inherited, JoinKind, JoinSpec, SubFlowStart};
use super::error::StartError;
use super::state::ParentLink;
use crate::flow::definition::Flow;
use crate::ids::ExecutionId;
use crate::limits::{ContextLimits, Limits};
use crate::time::Timestamp;

/// Key of a child's place in its context.
const INDEX_KEY: &str = "index";
/// Key of the iterations done, in the context of a loop's child.
pub(super) const ITERATION_KEY: &str = "iteration";

/// The child with number `index` of `join`. `flow` is the parent's flow, or for a sub-flow the flow to run.
///
/// # Errors
/// [`StartError`] when a sub-flow does not start on its input.
pub fn child(
    join: &JoinSpec,
    index: u32,
    flow: &Flow,
    limits: &Limits,
    now: Timestamp,
) -> Result<Creation, StartError> {
    let id = join.parent.child(join.join, index, now);
    let parent = ParentLink { execution: join.parent, join: join.join, index, abandon: false };
    let mut graph = join.inherited.graph.clone();
    let mut context = Map::new();
    match &join.kind {
        JoinKind::SubFlow(start) => {
            return create(sub_flow_request(id, parent, start, &join.inherited), flow, limits, now);
        }
        JoinKind::Map { item_key } => {
            graph.push(join.step.to_string());
            context.insert(item_key.clone(), join.items.get(index as usize).cloned().unwrap_or(Value::Null));
            context.insert(INDEX_KEY.into(), index.into());
        }
        JoinKind::Parallel { branches } => {
            graph.push(join.step.to_string());
            graph.push(branches.get(index as usize).cloned().unwrap_or_default());
        }
        JoinKind::Loop { iteration } => {
            graph.push(join.step.to_string());
            context.insert(ITERATION_KEY.into(), (*iteration).into());
        }
    }
    let inherited = &join.inherited;
    let request = StartRequest {
        tenant_id: inherited.tenant_id.clone(),
        force: true,
        origin: Origin::Child {
            parent,
            root: inherited.root,
            depth: inherited.depth.saturating_add(1),
            graph,
            budgeted: inherited.budgeted,
        },
        bundle: inherited.bundle.clone(),
        traceparent: inherited.traceparent.clone(),
        ..StartRequest::new(id, Value::Object(context))
    };
    // An item was accepted as part of its parent's data: the limits of the context hold for what the child writes.
    let roomy = Limits { context: ContextLimits::UNLIMITED, ..*limits };
    create(request, flow, &roomy, now)
}

/// A fire-and-forget child.
///
/// # Errors
/// [`StartError`] when the flow does not start on its input.
pub fn detached(
    start: &ChildStart,
    flow: &Flow,
    limits: &Limits,
    now: Timestamp,
) -> Result<Creation, StartError> {
    create(sub_flow_request(start.id, start.parent, &start.start, &start.inherited), flow, limits, now)
}

fn sub_flow_request(
    id: ExecutionId,
    parent: ParentLink,
    start: &SubFlowStart,
    inherited: &Inherited,
) -> StartRequest {
    StartRequest {
        // A tenant's executions have only children of their own tenant.
        tenant_id: inherited.tenant_id.clone().or_else(|| start.tenant_id.clone()),
        metadata: start.metadata.clone(),
        origin: Origin::Child {
            parent,
            root: inherited.root,
            depth: inherited.depth.saturating_add(1),
            graph: Vec::new(),
            budgeted: inherited.budgeted,
        },
        bundle: inherited.bundle.clone(),
        traceparent: inherited.traceparent.clone(),
        ..StartRequest::new(id, Value::Object(start.context.clone()))
    }
}
