//! What a graph as a whole says: steps that nothing leads to, and cycles that never let others go on.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Reader;
use crate::flow::definition::{DefaultTarget, Graph, Step, StepId, StepKind, Switch};

/// Warns about unreachable steps and cycles without progress. `steps` reads the graph's `steps`; `roots` are steps that
/// something outside the graph refers to.
pub(super) fn check(graph: &Graph, steps: &Reader<'_>, path: &str, roots: &[Option<StepId>]) {
    let reader_of = |id: &StepId| {
        let value = steps.value().get(&**id).unwrap_or(steps.value());
        steps.entry(id, value).named(&format!("step `{path}{id}`"))
    };
    for id in unreachable(graph, roots) {
        let hint = Some("lead a transition to it, or delete it".to_owned());
        reader_of(id).warning("unreachable", "is never reached", hint);
    }
    check_cycles(graph, reader_of);
}

/// Warns about cycles of steps that the engine does at once, none of which waits or is a task: they end in `MAX_STEPS`
/// unless one of them changes what a condition reads.
pub(super) fn check_cycles<'a>(graph: &Graph, reader_of: impl Fn(&StepId) -> Reader<'a>) {
    for cycle in cycles_without_progress(graph) {
        let Some(first) = cycle.first() else { continue };
        let names = cycle.iter().chain([first]).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" → ");
        let text = format!("is part of a cycle without progress: {names}");
        let hint =
            "none of these steps waits or is a task; without a way out the execution fails with MAX_STEPS";
        reader_of(first).warning("cycle", &text, Some(hint.to_owned()));
    }
}

/// Every step that may come after `step`, `compensateWith` left out.
pub(in crate::flow) fn successors(step: &Step) -> Vec<&StepId> {
    let mut next: Vec<&StepId> = Vec::new();
    next.extend(&step.transitions.on_success);
    next.extend(&step.transitions.on_failure);
    next.extend(&step.transitions.on_resume);
    match &step.kind {
        StepKind::Conditional(cases) | StepKind::Switch(Switch::Cases(cases)) => {
            next.extend(cases.cases.iter().filter_map(|case| case.target.as_ref()));
            next.extend(default_target(&cases.default));
        }
        StepKind::Switch(Switch::Value { cases, default, .. }) => {
            next.extend(cases.values().flatten());
            next.extend(default_target(default));
        }
        StepKind::Branch(branch) => {
            next.extend(branch.conditions.iter().map(|(_, _, target)| target));
            next.extend(default_target(&branch.default));
        }
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
        | StepKind::Echo
        | StepKind::Fail(_)
        | StepKind::Succeed => {}
    }
    next
}

const fn default_target(default: &DefaultTarget) -> Option<&StepId> {
    match default {
        DefaultTarget::Target(target) => target.as_ref(),
        DefaultTarget::NoMatch => None,
    }
}

/// Whether the engine does the step at once, so that a cycle of such steps makes no progress.
const fn is_immediate(kind: &StepKind) -> bool {
    match kind {
        StepKind::Conditional(_)
        | StepKind::Switch(_)
        | StepKind::Branch(_)
        | StepKind::Emit(_)
        | StepKind::Set(_)
        | StepKind::Echo
        | StepKind::Fail(_)
        | StepKind::Succeed => true,
        StepKind::Task(_)
        | StepKind::Delay(_)
        | StepKind::WaitSignal(_)
        | StepKind::WaitEvent(_)
        | StepKind::Approval(_)
        | StepKind::Parallel(_)
        | StepKind::Map(_)
        | StepKind::Loop(_)
        | StepKind::SubFlow(_) => false,
    }
}

fn unreachable<'g>(graph: &'g Graph, roots: &'g [Option<StepId>]) -> Vec<&'g StepId> {
    let mut reached: BTreeSet<&StepId> = BTreeSet::new();
    let mut open: Vec<&StepId> = vec![&graph.initial];
    open.extend(roots.iter().flatten());
    while let Some(id) = open.pop() {
        if let Some(step) = graph.steps.get(id)
            && reached.insert(id)
        {
            open.extend(successors(step));
            open.extend(&step.compensate_with);
        }
    }
    graph.order.iter().filter(|id| !reached.contains(id)).collect()
}

fn cycles_without_progress(graph: &Graph) -> Vec<Vec<&StepId>> {
    let mut next: BTreeMap<&StepId, BTreeSet<&StepId>> = BTreeMap::new();
    for (id, step) in &graph.steps {
        if is_immediate(&step.kind) {
            next.insert(id, successors(step).into_iter().collect());
        }
    }
    let mut cycles = Vec::new();
    loop {
        drop_dead_ends(&mut next);
        // The order of the document, so that the first step named is the one a reader meets first.
        let Some(start) = graph.order.iter().find(|id| next.contains_key(id)) else { return cycles };
        let mut seen: Vec<&StepId> = Vec::new();
        let mut visited = BTreeSet::new();
        let mut at = start;
        while visited.insert(at) {
            seen.push(at);
            let Some(follower) = next.get(at).and_then(|targets| targets.first()) else { break };
            at = follower;
        }
        let cycle = seen.split_off(seen.iter().position(|id| *id == at).unwrap_or(0));
        for id in &cycle {
            next.remove(id);
        }
        cycles.push(cycle);
    }
}

/// Removes steps from which no cycle can be entered; each of the rest has a follower among the rest.
fn drop_dead_ends<'g>(next: &mut BTreeMap<&'g StepId, BTreeSet<&'g StepId>>) {
    let mut before: BTreeMap<&StepId, Vec<&StepId>> = BTreeMap::new();
    let present: BTreeSet<&StepId> = next.keys().copied().collect();
    for (id, targets) in next.iter_mut() {
        targets.retain(|target| present.contains(target));
        for target in targets.iter() {
            before.entry(target).or_default().push(id);
        }
    }
    let mut dead: Vec<&StepId> =
        next.iter().filter(|(_, targets)| targets.is_empty()).map(|(id, _)| *id).collect();
    while let Some(id) = dead.pop() {
        next.remove(id);
        for earlier in before.get(id).into_iter().flatten() {
            if let Some(targets) = next.get_mut(earlier) {
                targets.remove(id);
                if targets.is_empty() {
                    dead.push(earlier);
                }
            }
        }
    }
}
