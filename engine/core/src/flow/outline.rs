//! A flow as nodes and edges, for those who draw it themselves.

use std::sync::Arc;

use serde::Serialize;

use super::definition::{Flow, Graph, Step, StepKind};
use super::graph::{EdgeKind, edges};
use super::pointer::escape;

/// A flow as nodes and edges.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    /// In the order of the document, what is within a step behind it.
    pub nodes: Vec<Node>,
    /// In the order of the steps that they leave.
    pub edges: Vec<Edge>,
    /// The first node of the clean-up after a cancel.
    pub on_cancel: Option<String>,
    /// The first node of the clean-up after a failure.
    pub on_failure: Option<String>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Unique in the flow: a JSON pointer of step ids and branch names, from the outside in (`/checks/stock/count`).
    pub id: String,
    /// The step's id in its graph.
    pub step_id: String,
    /// For display.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The type as written; for a task the handler type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it is.
    pub kind: NodeKind,
    /// The step whose body this one is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The branch of that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whether its graph begins here.
    pub initial: bool,
    /// Whether it may be skipped (`when`).
    pub conditional: bool,
    /// The flow that a `sub-flow` runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_flow: Option<SubFlowNode>,
}

/// What a step is, as far as a drawing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// A handler does it.
    Task,
    /// It waits: for time, a signal, an event or a person.
    Wait,
    /// It chooses where to go.
    Route,
    /// Its branches are done at once.
    Parallel,
    /// Its body is done for each item.
    Map,
    /// Its body is done again and again.
    Loop,
    /// Another flow does it.
    SubFlow,
    /// The engine does it at once.
    Engine,
    /// The execution ends here.
    End,
}

/// The flow that a `sub-flow` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubFlowNode {
    /// Its id.
    pub flow_id: String,
    /// Its version; none: the latest when the child starts.
    pub version: Option<String>,
    /// False: fire and forget.
    pub wait_for_completion: bool,
}

/// A way from a step to another of the same graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// The node that it leaves.
    pub from: String,
    /// The node that it leads to; none: the end of the graph.
    pub to: Option<String>,
    /// When it is taken.
    pub kind: EdgeKind,
    /// The case of a step that chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The nodes and edges of a flow.
#[must_use]
pub fn outline(flow: &Flow) -> Outline {
    let target = |step: &Option<Arc<str>>| step.as_ref().map(|step| pointer("", step));
    let mut outline = Outline {
        nodes: Vec::new(),
        edges: Vec::new(),
        on_cancel: target(&flow.on_cancel),
        on_failure: target(&flow.on_failure),
    };
    outline.graph(&flow.graph, "", None, None);
    outline
}

impl Outline {
    fn graph(&mut self, graph: &Graph, prefix: &str, parent: Option<&str>, branch: Option<&str>) {
        for id in &graph.order {
            let Some(step) = graph.steps.get(id) else { continue };
            let node = pointer(prefix, id);
            self.nodes.push(Node {
                id: node.clone(),
                step_id: id.to_string(),
                name: step.name.clone(),
                type_name: step.type_name.to_string(),
                kind: kind(step),
                parent: parent.map(str::to_owned),
                branch: branch.map(str::to_owned),
                initial: *id == graph.initial,
                conditional: step.when.is_some(),
                sub_flow: sub_flow(step),
            });
            self.edges.extend(edges(step).into_iter().map(|edge| Edge {
                from: node.clone(),
                to: edge.target.map(|target| pointer(prefix, target)),
                kind: edge.kind,
                label: edge.case,
            }));
            for (branch, body) in step.kind.bodies() {
                let within = branch.map_or_else(|| node.clone(), |branch| pointer(&node, branch));
                self.graph(body, &within, Some(&node), branch);
            }
        }
    }
}

fn pointer(prefix: &str, segment: &str) -> String {
    format!("{prefix}/{}", escape(segment))
}

fn kind(step: &Step) -> NodeKind {
    match &step.kind {
        StepKind::Task(_) => NodeKind::Task,
        StepKind::Delay(_) | StepKind::WaitSignal(_) | StepKind::WaitEvent(_) | StepKind::Approval(_) => {
            NodeKind::Wait
        }
        StepKind::Conditional(_) | StepKind::Switch(_) | StepKind::Branch(_) => NodeKind::Route,
        StepKind::Parallel(_) => NodeKind::Parallel,
        StepKind::Map(_) => NodeKind::Map,
        StepKind::Loop(_) => NodeKind::Loop,
        StepKind::SubFlow(_) => NodeKind::SubFlow,
        StepKind::Emit(_) | StepKind::Set(_) | StepKind::Echo => NodeKind::Engine,
        StepKind::Fail(_) | StepKind::Succeed => NodeKind::End,
    }
}

fn sub_flow(step: &Step) -> Option<SubFlowNode> {
    let StepKind::SubFlow(sub_flow) = &step.kind else { return None };
    Some(SubFlowNode {
        flow_id: sub_flow.flow_id.clone(),
        version: sub_flow.version.as_ref().map(ToString::to_string),
        wait_for_completion: sub_flow.wait_for_completion,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::flow::parse::parse_flow_value;

    fn drawn(steps: &Value) -> Outline {
        let first = steps.as_object().unwrap().keys().next().unwrap().clone();
        let flow = json!({ "id": "f", "version": "1.0.0", "initialStepId": first, "steps": steps });
        outline(&parse_flow_value(&flow).unwrap_or_else(|issues| panic!("{issues:?}")).0)
    }

    #[test]
    fn bodies_are_within_their_steps() {
        let body = |id: &str| json!({ "id": id, "type": "work" });
        let shown = drawn(&json!({
            "a/b": { "type": "parallel", "config": { "branches": { "one": body("do"), "two": body("do") } },
                "transitions": { "onSuccess": "each", "onFailure": "undo" } },
            "each": { "type": "map", "config": { "items": { "type": "path", "path": "items" }, "body": body("do") },
                "transitions": { "onSuccess": "sub" } },
            "sub": { "type": "sub-flow", "config": { "flowId": "other", "version": "2.0.0" } },
            "undo": { "type": "fail" },
        }));
        let ids: Vec<&str> = shown.nodes.iter().map(|node| &*node.id).collect();
        assert_eq!(ids, ["/a~1b", "/a~1b/one/do", "/a~1b/two/do", "/each", "/each/do", "/sub", "/undo"]);
        let within = &shown.nodes[2];
        assert_eq!(
            (within.parent.as_deref(), within.branch.as_deref(), within.initial, within.kind),
            (Some("/a~1b"), Some("two"), true, NodeKind::Task)
        );
        let sub_flow = shown.nodes[5].sub_flow.as_ref().unwrap();
        assert_eq!((&*sub_flow.flow_id, sub_flow.version.as_deref()), ("other", Some("2.0.0")));
        let edge = |from: &str, to: Option<&str>, kind| Edge {
            from: from.into(),
            to: to.map(Into::into),
            kind,
            label: None,
        };
        assert_eq!(
            shown.edges,
            [
                edge("/a~1b", Some("/each"), EdgeKind::Success),
                edge("/a~1b", Some("/undo"), EdgeKind::Failure),
                edge("/a~1b/one/do", None, EdgeKind::Success),
                edge("/a~1b/two/do", None, EdgeKind::Success),
                edge("/each", Some("/sub"), EdgeKind::Success),
                edge("/each/do", None, EdgeKind::Success),
                edge("/sub", None, EdgeKind::Success),
            ]
        );
    }

    #[test]
    fn cases_have_labels() {
        let shown = drawn(&json!({
            "which": { "type": "switch", "input": { "type": "full" },
                "config": { "path": "colour", "cases": { "red": "stop" }, "default": "go" } },
            "stop": { "type": "fail" },
            "go": { "type": "wait-signal", "transitions": { "onResume": "end" } },
            "end": { "type": "succeed" },
        }));
        let ways: Vec<(EdgeKind, Option<&str>, Option<&str>)> =
            shown.edges.iter().map(|edge| (edge.kind, edge.label.as_deref(), edge.to.as_deref())).collect();
        assert_eq!(
            ways,
            [
                (EdgeKind::Case, Some("red"), Some("/stop")),
                (EdgeKind::Case, Some("default"), Some("/go")),
                (EdgeKind::Resume, None, Some("/end")),
            ]
        );
    }
}
