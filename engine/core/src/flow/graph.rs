//! A flow as a diagram, in the text form that Mermaid draws.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::definition::{DefaultTarget, Flow, Graph, LoopCondition, Step, StepId, StepKind, Switch};

/// Longest label, in characters.
const LABEL_CHARS_MAX: usize = 60;

/// Draws a flow as a Mermaid flowchart: bodies are subgraphs; success is a line, failure a dotted line, the way on after a
/// wait a thick line, and the targets of routing steps are labelled lines.
#[must_use]
pub fn mermaid(flow: &Flow) -> String {
    let mut drawing = Drawing { text: "flowchart TD\n".to_owned(), nodes: 0 };
    let ids = drawing.graph(&flow.graph, 1);
    let clean_up = [("cancelled", &flow.on_cancel), ("failed", &flow.on_failure)];
    for (name, target) in clean_up {
        if let Some(node) = target.as_ref().and_then(|target| ids.get(target)) {
            let entry = drawing.name();
            drawing.line(1, &format!("{entry}(({name}))"));
            drawing.line(1, &format!("{entry} -.-> {node}"));
        }
    }
    drawing.text
}

struct Drawing {
    text: String,
    nodes: usize,
}

impl Drawing {
    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a String cannot fail.
        writeln!(self.text, "{:indent$}{text}", "", indent = depth * 2).unwrap_or_default();
    }

    /// A name of our own for each node: ids of steps may hold anything, and are unique within their graph only.
    fn name(&mut self) -> String {
        self.nodes += 1;
        format!("n{}", self.nodes)
    }

    fn graph(&mut self, graph: &Graph, depth: usize) -> BTreeMap<StepId, String> {
        let mut ids = BTreeMap::new();
        for id in &graph.order {
            ids.insert(Arc::clone(id), self.name());
        }
        let start = self.name();
        self.line(depth, &format!("{start}(( ))"));
        if let Some(initial) = ids.get(&graph.initial) {
            self.line(depth, &format!("{start} --> {initial}"));
        }
        let end = self.name();
        let mut ends = false;
        let steps: Vec<(&String, &Arc<Step>)> =
            graph.order.iter().filter_map(|id| Some((ids.get(id)?, graph.steps.get(id)?))).collect();
        for (node, step) in &steps {
            self.node(node, step, depth);
        }
        for (node, step) in &steps {
            for edge in edges(step) {
                let target = match edge.target {
                    Some(target) => ids.get(target).unwrap_or(&end),
                    None => &end,
                };
                ends |= target == &end;
                let arrow = edge.kind.arrow();
                let label = edge.case.or_else(|| edge.kind.label().map(str::to_owned));
                let label = label.map_or_else(String::new, |label| format!("|\"{}\"|", escape(&label)));
                self.line(depth, &format!("{node} {arrow}{label} {target}"));
            }
        }
        if ends {
            self.line(depth, &format!("{end}(((end)))"));
        }
        ids
    }

    fn node(&mut self, node: &str, step: &Step, depth: usize) {
        let title = step.name.as_deref().unwrap_or(&step.id);
        let label = format!("{}<br/><small>{}</small>", escape(title), escape(&step.type_name));
        match &step.kind {
            StepKind::Parallel(parallel) => {
                self.line(depth, &format!("subgraph {node} [\"{label}\"]"));
                for (name, body) in &parallel.branches {
                    let branch = self.name();
                    self.line(depth + 1, &format!("subgraph {branch} [\"{}\"]", escape(name)));
                    self.graph(body, depth + 2);
                    self.line(depth + 1, "end");
                }
                self.line(depth, "end");
            }
            StepKind::Map(map) => self.body(node, &label, &map.body, depth),
            StepKind::Loop(config) => {
                let word = match &config.condition {
                    LoopCondition::While(_) => "while",
                    LoopCondition::Until(_) => "until",
                };
                self.body(node, &format!("{label} {word}"), &config.body, depth);
            }
            StepKind::Conditional(_) | StepKind::Switch(_) | StepKind::Branch(_) => {
                self.line(depth, &format!("{node}{{\"{label}\"}}"));
            }
            StepKind::Delay(_) | StepKind::WaitSignal(_) | StepKind::WaitEvent(_) | StepKind::Approval(_) => {
                self.line(depth, &format!("{node}([\"{label}\"])"));
            }
            StepKind::Task(_)
            | StepKind::SubFlow(_)
            | StepKind::Emit(_)
            | StepKind::Set(_)
            | StepKind::Echo
            | StepKind::Fail(_)
            | StepKind::Succeed => self.line(depth, &format!("{node}[\"{label}\"]")),
        }
    }

    fn body(&mut self, node: &str, label: &str, body: &Graph, depth: usize) {
        self.line(depth, &format!("subgraph {node} [\"{label}\"]"));
        self.graph(body, depth + 1);
        self.line(depth, "end");
    }
}

/// A way from a step to another of its graph.
pub(super) struct Edge<'a> {
    pub(super) kind: EdgeKind,
    /// The case of a step that chooses.
    pub(super) case: Option<String>,
    /// None: the end of the graph.
    pub(super) target: Option<&'a StepId>,
}

/// When the cursor goes which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeKind {
    /// After success.
    Success,
    /// When the step has chosen so.
    Case,
    /// After a wait.
    Resume,
    /// After a failure.
    Failure,
    /// To undo the step.
    Compensation,
}

impl EdgeKind {
    const fn arrow(self) -> &'static str {
        match self {
            Self::Success | Self::Case => "-->",
            Self::Failure | Self::Compensation => "-.->",
            Self::Resume => "==>",
        }
    }

    const fn label(self) -> Option<&'static str> {
        match self {
            Self::Success | Self::Case => None,
            Self::Resume => Some("resume"),
            Self::Failure => Some("failure"),
            Self::Compensation => Some("undone by"),
        }
    }
}

pub(super) fn edges(step: &Step) -> Vec<Edge<'_>> {
    let mut edges = Vec::new();
    let mut case =
        |label: String, target| edges.push(Edge { kind: EdgeKind::Case, case: Some(label), target });
    let mut routes = true;
    match &step.kind {
        StepKind::Conditional(cases) | StepKind::Switch(Switch::Cases(cases)) => {
            for (index, each) in cases.cases.iter().enumerate() {
                case(format!("case {}", index + 1), each.target.as_ref());
            }
            if let DefaultTarget::Target(target) = &cases.default {
                case("default".to_owned(), target.as_ref());
            }
        }
        StepKind::Switch(Switch::Value { cases, default, .. }) => {
            for (text, target) in cases {
                case(text.clone(), target.as_ref());
            }
            if let DefaultTarget::Target(target) = default {
                case("default".to_owned(), target.as_ref());
            }
        }
        StepKind::Branch(branch) => {
            for (path, value, target) in &branch.conditions {
                case(format!("{} = {value}", path.as_str()), Some(target));
            }
            if let DefaultTarget::Target(target) = &branch.default {
                case("default".to_owned(), target.as_ref());
            }
        }
        StepKind::Fail(_) | StepKind::Succeed => {}
        StepKind::Task(_)
        | StepKind::Delay(_)
        | StepKind::WaitSignal(_)
        | StepKind::WaitEvent(_)
        | StepKind::Approval(_)
        | StepKind::Parallel(_)
        | StepKind::Map(_)
        | StepKind::Loop(_)
        | StepKind::SubFlow(_)
        | StepKind::Emit(_)
        | StepKind::Set(_)
        | StepKind::Echo => routes = false,
    }
    let transitions = &step.transitions;
    if !routes && transitions.on_resume.is_none() || transitions.on_success.is_some() {
        edges.push(Edge { kind: EdgeKind::Success, case: None, target: transitions.on_success.as_ref() });
    }
    if let Some(target) = &transitions.on_resume {
        edges.push(Edge { kind: EdgeKind::Resume, case: None, target: Some(target) });
    }
    if let Some(target) = &transitions.on_failure {
        edges.push(Edge { kind: EdgeKind::Failure, case: None, target: Some(target) });
    }
    if let Some(target) = &step.compensate_with {
        edges.push(Edge { kind: EdgeKind::Compensation, case: None, target: Some(target) });
    }
    edges
}

/// Text for a quoted label: Mermaid reads entities (`#34;`) there, and would read markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (count, char) in text.chars().enumerate() {
        if count == LABEL_CHARS_MAX {
            escaped.push('…');
            break;
        }
        if char.is_control() {
            escaped.push(' ');
        } else if char.is_alphanumeric() || " -_.,:/=()".contains(char) || !char.is_ascii() {
            escaped.push(char);
        } else {
            write!(escaped, "#{};", u32::from(char)).unwrap_or_default();
        }
    }
    escaped
}
