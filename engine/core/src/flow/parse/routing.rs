//! Reads the steps that choose a target: `conditional`, `switch`, `branch`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::fields::{self, Field, Shape, optional, required};
use super::orchestrated::old;
use super::reader::{Object, Reader, suggest};
use super::step::Surroundings;
use crate::flow::condition::{Condition, Operator};
use crate::flow::definition::{Branch, Case, CaseCondition, Cases, DefaultTarget, StepId, StepKind, Switch};

/// FlowMonkey's operators, for hints and the JSON Schema.
const OPERATORS: &[&str] = &[
    "eq",
    "neq",
    "gt",
    "gte",
    "lt",
    "lte",
    "in",
    "nin",
    "contains",
    "startsWith",
    "endsWith",
    "exists",
    "notExists",
    "matches",
];

const DEFAULT: Field = optional(
    "default",
    fields::target,
    "The step when nothing holds; null: the end. Without `default` the step then fails with `NO_MATCH`.",
);

const CEL_CASE: Shape = Shape {
    fields: &[
        required("when", fields::expression, "CEL over `context` and `input`."),
        optional("target", fields::target, "The step when it holds. Null or missing: the end."),
    ],
    strict: true,
};

const CONDITION: Shape = old(&[
    required("path", fields::text, "Dotted path in the step's input."),
    required("op", || json!({ "enum": OPERATORS, "type": "string" }), "The operator."),
    optional("value", fields::anything, "What the operator compares with."),
    optional("target", fields::target, "The step when it holds. Null or missing: the end."),
]);

fn cel_cases_schema() -> Value {
    json!({ "type": "array", "minItems": 1, "items": fields::schema_of(&CEL_CASE) })
}

pub(super) const CONDITIONAL: Shape = old(&[
    optional(
        "conditions",
        || json!({ "type": "array", "minItems": 1, "items": fields::schema_of(&CONDITION) }),
        "Operators over paths of the step's input; the first that holds wins. Either this or `cases`.",
    ),
    optional("cases", cel_cases_schema, "CEL cases; the first that holds wins."),
    DEFAULT,
]);

pub(super) fn read_conditional(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    _: &str,
) -> Option<StepKind> {
    let default = read_default(object, surroundings.steps);
    let cases = match (object.get("conditions"), object.get("cases")) {
        (Some(conditions), None) => {
            let conditions = not_empty(&conditions)?;
            all(conditions.iter().map(|reader| read_condition(reader, surroundings.steps)))
        }
        (None, Some(cases)) => read_cel_cases(&cases, surroundings.steps),
        (Some(_), Some(_)) => {
            let hint = Some("keep one of the two".to_owned());
            object.reader().error("contradiction", "has both `conditions` and `cases`", hint);
            None
        }
        (None, None) => {
            let hint =
                Some("add `conditions` (path, op, value, target) or `cases` (when, target)".to_owned());
            object.reader().error("missing", "has no `conditions`: Required", hint);
            None
        }
    };
    Some(StepKind::Conditional(Cases { cases: cases?, default: default? }))
}

fn read_condition<'a>(reader: &Reader<'a>, steps: &BTreeSet<&'a str>) -> Option<Case> {
    let object = reader.shaped(&CONDITION)?;
    let path = object.get("path").and_then(|reader| reader.path());
    let operator = object.get("op").and_then(|reader| {
        let name = reader.text()?;
        let operator = Operator::parse(name);
        if operator.is_none() {
            let hint = suggest(name, OPERATORS.iter().copied())
                .unwrap_or_else(|| format!("known are {}", OPERATORS.join(", ")));
            reader.error("unknown-operator", &format!("names the unknown operator \"{name}\""), Some(hint));
        }
        operator
    });
    let target = read_target(&object, "target", steps);
    let value = object.map().get("value").cloned();
    let condition = Condition::new(path?, operator?, value)
        .map_err(|error| {
            let place = object.get_or_null("value").unwrap_or_else(|| reader.clone());
            place.error("bad-condition", &format!("cannot be used: {error}"), None);
        })
        .ok()?;
    Some(Case { condition: CaseCondition::Operator(condition), target: target? })
}

fn read_cel_cases<'a>(reader: &Reader<'a>, steps: &BTreeSet<&'a str>) -> Option<Vec<Case>> {
    let cases = not_empty(reader)?;
    all(cases.iter().map(|reader| {
        let object = reader.shaped(&CEL_CASE)?;
        let when = object.get("when").and_then(|reader| reader.expression());
        let target = read_target(&object, "target", steps);
        Some(Case { condition: CaseCondition::When(when?), target: target? })
    }))
}

pub(super) const SWITCH: Shape = old(&[
    optional("path", fields::text, "Dotted path of a value in the step's input. Not with CEL cases."),
    required(
        "cases",
        || {
            json!({ "anyOf": [
                { "type": "object", "additionalProperties": { "type": ["string", "null"] } },
                cel_cases_schema(),
            ] })
        },
        "With `path`: the value's text to the step. Without: a list of CEL cases.",
    ),
    DEFAULT,
]);

pub(super) fn read_switch(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    _: &str,
) -> Option<StepKind> {
    let default = read_default(object, surroundings.steps);
    let path = object.get("path");
    let cases = object.get("cases")?;
    if cases.value().is_array() {
        if let Some(path) = path {
            let hint = "leave `path` out, or give `cases` as an object from text to step".to_owned();
            path.error("contradiction", "cannot stand beside CEL cases", Some(hint));
            return None;
        }
        let cases = read_cel_cases(&cases, surroundings.steps);
        return Some(StepKind::Switch(Switch::Cases(Cases { cases: cases?, default: default? })));
    }
    if path.is_none() {
        let hint = Some("add `path`, or give `cases` as a list of `when` and `target`".to_owned());
        object.reader().error("missing", "has no `path`: Required", hint);
    }
    let path = path.and_then(|reader| reader.path());
    let targets: Option<Vec<(String, Option<StepId>)>> = all(cases
        .object()?
        .entries()
        .map(|(text, reader)| Some((text.to_owned(), reader.target(surroundings.steps)?))));
    let cases: BTreeMap<_, _> = targets?.into_iter().collect();
    Some(StepKind::Switch(Switch::Value { path: path?, cases, default: default? }))
}

const BRANCH_CONDITION: Shape = old(&[
    required("path", fields::text, "Dotted path in the context."),
    optional("eq", fields::anything, "The wanted value. Default null."),
    required("goto", fields::name, "The step when the value is equal."),
]);

pub(super) const BRANCH: Shape = old(&[
    required(
        "conditions",
        || json!({ "type": "array", "items": fields::schema_of(&BRANCH_CONDITION) }),
        "The first whose value is equal wins.",
    ),
    DEFAULT,
]);

pub(super) fn read_branch(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    _: &str,
) -> Option<StepKind> {
    let default = read_default(object, surroundings.steps);
    let conditions = object.get("conditions").and_then(|reader| {
        let items = reader.list()?;
        all(items.iter().map(|reader| {
            let object = reader.shaped(&BRANCH_CONDITION)?;
            let path = object.get("path").and_then(|reader| reader.path());
            let target = object.get("goto").and_then(|reader| reader.step(surroundings.steps));
            Some((path?, object.map().get("eq").cloned().unwrap_or_default(), target?))
        }))
    });
    Some(StepKind::Branch(Branch { conditions: conditions?, default: default? }))
}

fn read_default<'a>(object: &Object<'a>, steps: &BTreeSet<&'a str>) -> Option<DefaultTarget> {
    match object.get_or_null("default") {
        None => Some(DefaultTarget::NoMatch),
        Some(reader) => reader.target(steps).map(DefaultTarget::Target),
    }
}

fn read_target<'a>(object: &Object<'a>, key: &str, steps: &BTreeSet<&'a str>) -> Option<Option<StepId>> {
    object.get(key).map_or(Some(None), |reader| reader.target(steps))
}

fn not_empty<'a>(reader: &Reader<'a>) -> Option<Vec<Reader<'a>>> {
    let items = reader.list()?;
    if items.is_empty() {
        reader.error("empty", "is empty: Required", Some("add at least one entry".to_owned()));
        return None;
    }
    Some(items)
}

/// All of them, or none: each is read, so that each reports what is wrong with it.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let items: Vec<Option<T>> = items.collect();
    items.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_operator_exists() {
        for name in OPERATORS {
            assert!(Operator::parse(name).is_some(), "{name}");
        }
    }
}
