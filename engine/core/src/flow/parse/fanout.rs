//! Reads the steps with bodies: `parallel`, `map`, `loop`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::checks;
use super::fields::{self, Field, Shape, optional, required};
use super::reader::{Object, Reader};
use super::step::{STEP_FIELDS, Surroundings, read, read_graph, read_step, refuse_vault_in};
use crate::flow::definition::{
    Graph, JoinRule, LoopCondition, LoopStep, MapStep, OnItemError, Parallel, StepKind,
};
use crate::limits::{BODY_DEPTH_MAX, LOOP_ITERATIONS_DEFAULT};

/// Keys of a child's context that the engine sets itself.
const CHILD_KEYS: &[&str] = &["index", "parent"];

const JOIN_N: Shape = Shape { fields: &[required("n", fields::count, "How many successes.")], strict: true };

const TOLERATE: Shape = Shape {
    fields: &[required("tolerate", || json!({ "type": "integer", "minimum": 0 }), "How many failures.")],
    strict: true,
};

const JOIN: Field = optional(
    "join",
    || {
        json!({ "anyOf": [
            { "enum": ["all", "any", "settled"] },
            fields::schema_of(&JOIN_N),
        ] })
    },
    "When it has enough: `all` (default), `any`, `{ n: N }` successes, or `settled`.",
);

const ON_ITEM_ERROR: Field = optional(
    "onItemError",
    || {
        json!({ "anyOf": [
            { "enum": ["fail-fast", "continue"] },
            fields::schema_of(&TOLERATE),
        ] })
    },
    "What a failed child means with the join rule `all`: `fail-fast` (default), `continue`, `{ tolerate: N }`.",
);

/// The fields of a body that is a graph.
pub(crate) const BODY: Shape = Shape {
    fields: &[
        required("initialStepId", fields::name, "The first step."),
        required("steps", steps_schema, "The steps by id."),
        optional("output", fields::selector, "The result. Default: the output of the last step."),
    ],
    strict: true,
};

pub(super) fn steps_schema() -> Value {
    json!({ "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/step" } })
}

fn body_schema() -> Value {
    json!({ "$ref": "#/$defs/body" })
}

pub(super) const PARALLEL: Shape = Shape {
    fields: &[
        required(
            "branches",
            || json!({ "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/body" } }),
            "Name to body: a step, or `initialStepId` and `steps`.",
        ),
        JOIN,
        ON_ITEM_ERROR,
    ],
    strict: true,
};

pub(super) fn read_parallel(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    path: &str,
) -> Option<StepKind> {
    let join = read(object, "join", read_join);
    let on_item_error = read_on_item_error(object);
    let map = object.get("branches")?.object()?;
    if map.map().is_empty() {
        map.reader().error("empty", "is empty: Required", Some("add at least one branch".to_owned()));
        return None;
    }
    let mut branches = Vec::with_capacity(map.map().len());
    for (name, reader) in map.entries() {
        if name.is_empty() {
            reader.error("empty", "has an empty key: Required", Some("give the branch a name".to_owned()));
            continue;
        }
        if let Some(body) = read_body(&reader, surroundings.depth, name, &format!("{path}{name}/")) {
            branches.push((name.to_owned(), Arc::new(body)));
        }
    }
    if let Some(Some(JoinRule::N(wanted))) = join
        && wanted as usize > map.map().len()
        && let Some(reader) = object.get("join")
    {
        let text = format!("wants {wanted} successes, but there are {} branches", map.map().len());
        reader.error("out-of-range", &text, Some("lower `n`, or join `all`".to_owned()));
    }
    if branches.len() != map.map().len() {
        return None;
    }
    Some(StepKind::Parallel(Parallel {
        branches,
        join: join?.unwrap_or_default(),
        on_item_error: on_item_error?,
    }))
}

pub(super) const MAP: Shape = Shape {
    fields: &[
        required("items", fields::selector, "Gives the list."),
        optional("as", fields::name, "The key of the item in the child's context. Default `item`."),
        optional("maxConcurrency", fields::count, "Children alive at a time. Default: the engine's limit."),
        required("body", body_schema, "What each child runs: a step, or `initialStepId` and `steps`."),
        JOIN,
        ON_ITEM_ERROR,
    ],
    strict: true,
};

pub(super) fn read_map(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    path: &str,
) -> Option<StepKind> {
    let items = object.get("items").and_then(|reader| reader.selector());
    let item_key = read(object, "as", |reader| {
        let name = reader.name()?;
        if CHILD_KEYS.contains(&name) {
            let hint = Some("choose another name".to_owned());
            reader.error("reserved", &format!("is \"{name}\", which the engine sets itself"), hint);
            return None;
        }
        Some(name.to_owned())
    });
    let max_concurrency = read(object, "maxConcurrency", |reader| reader.whole_u32(1, u32::MAX));
    let join = read(object, "join", read_join);
    let on_item_error = read_on_item_error(object);
    let body =
        object.get("body").and_then(|reader| read_body(&reader, surroundings.depth, surroundings.id, path));
    Some(StepKind::Map(MapStep {
        items: items?,
        item_key: item_key?.unwrap_or_else(|| "item".to_owned()),
        max_concurrency: max_concurrency?,
        body: Arc::new(body?),
        join: join?.unwrap_or_default(),
        on_item_error: on_item_error?,
    }))
}

pub(super) const LOOP: Shape = Shape {
    fields: &[
        optional(
            "while",
            fields::expression,
            "CEL over `context` and `iteration`, before each iteration: goes on while true.",
        ),
        optional(
            "until",
            fields::expression,
            "CEL, after each iteration: goes on until true. Exactly one of the two.",
        ),
        optional(
            "maxIterations",
            fields::count,
            "Iterations after which the step fails with `MAX_ITERATIONS`. Default 1000.",
        ),
        required("body", body_schema, "What each iteration runs: a step, or `initialStepId` and `steps`."),
    ],
    strict: true,
};

pub(super) fn read_loop(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    path: &str,
) -> Option<StepKind> {
    let condition = match (object.get("while"), object.get("until")) {
        (Some(reader), None) => reader.expression().map(LoopCondition::While),
        (None, Some(reader)) => reader.expression().map(LoopCondition::Until),
        (Some(_), Some(_)) => {
            let hint = Some("keep one of the two".to_owned());
            object.reader().error("contradiction", "has both `while` and `until`", hint);
            None
        }
        (None, None) => {
            let hint = Some("add `while` or `until`, a CEL expression".to_owned());
            object.reader().error("missing", "has neither `while` nor `until`: Required", hint);
            None
        }
    };
    let max_iterations = read(object, "maxIterations", |reader| reader.whole_u32(1, u32::MAX));
    let body =
        object.get("body").and_then(|reader| read_body(&reader, surroundings.depth, surroundings.id, path));
    Some(StepKind::Loop(LoopStep {
        condition: condition?,
        max_iterations: max_iterations?.unwrap_or(LOOP_ITERATIONS_DEFAULT),
        body: Arc::new(body?),
    }))
}

/// Reads a body: one step (named by its `id`, or else `default_id`), or a graph. `depth` counts the bodies around it.
fn read_body<'a>(reader: &Reader<'a>, depth: usize, default_id: &'a str, path: &str) -> Option<Graph> {
    let depth = depth + 1;
    if depth > BODY_DEPTH_MAX {
        let hint =
            Some("move the inner part into a flow of its own, and run it by a `sub-flow` step".to_owned());
        reader.error("too-complex", &format!("is nested in more than {BODY_DEPTH_MAX} bodies"), hint);
        return None;
    }
    let object = reader.object()?;
    if object.map().contains_key("steps") || object.map().contains_key("initialStepId") {
        let object = reader.shaped(&BODY)?;
        let output = read(&object, "output", Reader::selector);
        if let Some(output) = object.get("output") {
            refuse_vault_in(&output);
        }
        let graph = read_graph(&object, path, depth, &[])?;
        return Some(Graph { output: output?, ..graph });
    }
    let id = match object.get("id") {
        Some(id) => id.name()?,
        None => default_id,
    };
    let reader = reader.named(&format!("step `{path}{id}`"));
    let object = reader.shaped(&STEP_FIELDS)?;
    let output = read(&object, "output", Reader::selector);
    let steps = BTreeSet::from([id]);
    let step = read_step(&object, Surroundings { id, steps: &steps, depth }, &format!("{path}{id}/"));
    let step = Arc::new(step?);
    let graph = Graph {
        initial: Arc::clone(&step.id),
        order: vec![Arc::clone(&step.id)],
        steps: [(Arc::clone(&step.id), step)].into(),
        output: output?,
    };
    checks::check_cycles(&graph, |_| reader.clone());
    Some(graph)
}

fn read_join(reader: &Reader<'_>) -> Option<JoinRule> {
    if reader.value().is_object() {
        let object = reader.shaped(&JOIN_N)?;
        return object.get("n")?.whole_u32(1, u32::MAX).map(JoinRule::N);
    }
    if !reader.value().is_string() {
        reader.expected("`all`, `any`, `settled` or `{ n: N }`");
        return None;
    }
    reader.word(&[("all", JoinRule::All), ("any", JoinRule::Any), ("settled", JoinRule::Settled)])
}

fn read_on_item_error(object: &Object<'_>) -> Option<OnItemError> {
    let Some(reader) = object.get("onItemError") else { return Some(OnItemError::default()) };
    if let Some(join) = object.get("join")
        && join.value() != "all"
    {
        let hint = Some("leave it out, or join `all`".to_owned());
        reader.warning("no-effect", "has an effect only with the join rule `all`", hint);
    }
    if reader.value().is_object() {
        let object = reader.shaped(&TOLERATE)?;
        return object.get("tolerate")?.whole_u32(0, u32::MAX).map(OnItemError::Tolerate);
    }
    if !reader.value().is_string() {
        reader.expected("`fail-fast`, `continue` or `{ tolerate: N }`");
        return None;
    }
    reader.word(&[("fail-fast", OnItemError::FailFast), ("continue", OnItemError::Continue)])
}
