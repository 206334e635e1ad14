//! FlowMonkey's operations on JSON values. They cannot fail on data: what does not fit is passed over, as there.

use std::cmp::Ordering;

use flowmonkey_worker::Failure;
use serde_json::{Map, Number, Value};

use crate::config::{ConfigError, Fields, at_path};
use crate::schema::{Field, anything, object_of, optional, required, text, words};

/// One operation with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// Keeps these keys of an object.
    Pick(Vec<String>),
    /// Drops these keys of an object.
    Omit(Vec<String>),
    /// New key to the path its value is at; applied to an object, or to each item of an array.
    Map(Vec<(String, String)>),
    /// Keeps the items of an array, or the fields of an object, that meet the condition.
    Filter(Condition),
    /// Folds an array into one value.
    Reduce { accumulator: Accumulator, path: String },
    /// Merges the objects at the paths, later keys win; no paths: the items of an array.
    Merge(Vec<String>),
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    path: String,
    comparison: Comparison,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Contains,
    Exists,
    In,
}

/// How an array is folded into one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accumulator {
    Sum,
    Average,
    Count,
    Min,
    Max,
    Concat,
    First,
    Last,
}

#[derive(Clone, Copy)]
pub(super) enum Name {
    Pick,
    Omit,
    Map,
    Filter,
    Reduce,
    Merge,
}

pub(super) const OPERATIONS: [(&str, Name); 6] = [
    ("pick", Name::Pick),
    ("omit", Name::Omit),
    ("map", Name::Map),
    ("filter", Name::Filter),
    ("reduce", Name::Reduce),
    ("merge", Name::Merge),
];

const COMPARISONS: [(&str, Comparison); 10] = [
    ("eq", Comparison::Equal),
    ("ne", Comparison::Unequal),
    ("neq", Comparison::Unequal),
    ("gt", Comparison::Greater),
    ("gte", Comparison::GreaterOrEqual),
    ("lt", Comparison::Less),
    ("lte", Comparison::LessOrEqual),
    ("contains", Comparison::Contains),
    ("exists", Comparison::Exists),
    ("in", Comparison::In),
];

pub(super) const ACCUMULATORS: [(&str, Accumulator); 8] = [
    ("sum", Accumulator::Sum),
    ("avg", Accumulator::Average),
    ("count", Accumulator::Count),
    ("min", Accumulator::Min),
    ("max", Accumulator::Max),
    ("concat", Accumulator::Concat),
    ("first", Accumulator::First),
    ("last", Accumulator::Last),
];

/// The fields of a condition.
const CONDITION_FIELDS: [Field; 3] = [
    optional("path", text, "The dotted path of the value. Default: the item itself."),
    required("op", || words(&COMPARISONS), "eq, ne, gt, gte, lt, lte, contains, in or exists."),
    optional("value", anything, "What the value is compared to."),
];

pub(super) fn condition_schema() -> Value {
    object_of(&CONDITION_FIELDS)
}

impl Operation {
    /// The operation that `config.operation` names; none when there is no such field.
    pub(crate) fn parse(fields: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(name) = fields.choice("operation", &OPERATIONS)? else { return Ok(None) };
        let keys = || fields.texts("keys")?.ok_or_else(|| fields.error("keys", "is required"));
        Ok(Some(match name {
            Name::Pick => Self::Pick(keys()?),
            Name::Omit => Self::Omit(keys()?),
            Name::Map => Self::Map(mapping(fields)?),
            Name::Filter => Self::Filter(Condition::parse(fields)?),
            Name::Reduce => Self::Reduce {
                accumulator: fields
                    .choice("accumulator", &ACCUMULATORS)?
                    .ok_or_else(|| fields.error("accumulator", "is required"))?,
                path: fields.text("path")?.unwrap_or_default().into(),
            },
            Name::Merge => Self::Merge(fields.texts("sources")?.unwrap_or_default()),
        }))
    }

    /// Carries out the operation.
    pub(crate) fn apply(&self, input: &Value) -> Result<Value, Failure> {
        Ok(match (self, input) {
            (Self::Pick(keys), Value::Object(fields)) => {
                keys.iter().filter_map(|key| Some((key.clone(), fields.get(key)?.clone()))).collect()
            }
            (Self::Omit(keys), Value::Object(fields)) => {
                let kept = fields.iter().filter(|(key, _)| !keys.contains(key));
                kept.map(|(key, value)| (key.clone(), value.clone())).collect()
            }
            (Self::Pick(_) | Self::Omit(_), Value::Array(items)) => {
                items.iter().map(|item| self.apply(item)).collect::<Result<_, _>>()?
            }
            (Self::Map(mapping), Value::Object(_)) => mapping
                .iter()
                .filter_map(|(key, path)| Some((key.clone(), at_path(input, path)?.clone())))
                .collect(),
            (Self::Map(_), Value::Array(items)) => {
                items.iter().map(|item| self.apply(item)).collect::<Result<_, _>>()?
            }
            (Self::Filter(condition), Value::Array(items)) => {
                items.iter().filter(|item| condition.holds(item)).cloned().collect()
            }
            (Self::Filter(condition), Value::Object(fields)) => {
                let kept = fields.iter().filter(|(_, value)| condition.holds(value));
                kept.map(|(key, value)| (key.clone(), value.clone())).collect()
            }
            (Self::Reduce { accumulator, path }, Value::Array(items)) => {
                accumulator.fold(items.iter().filter_map(|item| at_path(item, path)))?
            }
            (Self::Merge(sources), _) => merge(input, sources),
            // As FlowMonkey: an input of another kind comes out as it went in.
            (
                Self::Pick(_) | Self::Omit(_) | Self::Map(_) | Self::Filter(_) | Self::Reduce { .. },
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_),
            ) => input.clone(),
        })
    }
}

fn mapping(fields: &Fields<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mapping = fields.object("mapping")?.ok_or_else(|| fields.error("mapping", "is required"))?;
    let entry = |(key, path): (&String, &Value)| {
        let path =
            path.as_str().ok_or_else(|| fields.error(&format!("mapping.{key}"), "must be a dotted path"))?;
        Ok((key.clone(), path.replace("{{", "").replace("}}", "").trim().to_owned()))
    };
    mapping.iter().map(entry).collect()
}

impl Condition {
    fn parse(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let condition =
            fields.object("condition")?.ok_or_else(|| fields.error("condition", "is required"))?;
        let condition = Fields::nested("condition.", condition);
        Ok(Self {
            path: condition.text("path")?.unwrap_or_default().into(),
            comparison: condition
                .choice("op", &COMPARISONS)?
                .ok_or_else(|| condition.error("op", "is required"))?,
            value: condition.value("value").cloned().unwrap_or_default(),
        })
    }

    fn holds(&self, value: &Value) -> bool {
        let actual = at_path(value, &self.path).unwrap_or(&Value::Null);
        let order = || order(actual, &self.value);
        match self.comparison {
            Comparison::Equal => equal(actual, &self.value),
            Comparison::Unequal => !equal(actual, &self.value),
            Comparison::Greater => order() == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
            Comparison::Less => order() == Some(Ordering::Less),
            Comparison::LessOrEqual => order().is_some_and(Ordering::is_le),
            Comparison::Contains => contains(actual, &self.value),
            Comparison::Exists => actual.is_null() == (self.value == Value::Bool(false)),
            Comparison::In => contains(&self.value, actual),
        }
    }
}

/// Numbers are equal by value, so that `1` equals `1.0`.
fn equal(left: &Value, right: &Value) -> bool {
    left == right || (left.is_number() && order(left, right) == Some(Ordering::Equal))
}

fn contains(whole: &Value, part: &Value) -> bool {
    match whole {
        Value::String(text) => part.as_str().is_some_and(|part| text.contains(part)),
        Value::Array(items) => items.iter().any(|item| equal(item, part)),
        Value::Object(fields) => part.as_str().is_some_and(|key| fields.contains_key(key)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Only numbers and texts have an order, each among its kind.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            (Some(_) | None, Some(_) | None) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_),
        ) => None,
    }
}

impl Accumulator {
    fn fold<'a>(self, values: impl Iterator<Item = &'a Value>) -> Result<Value, Failure> {
        let mut values = values.filter(|value| !value.is_null());
        Ok(match self {
            Self::Sum => sum(values)?.0,
            Self::Average => match sum(values)? {
                (_, 0) => Value::Null,
                #[expect(clippy::cast_precision_loss, reason = "no array has 2^53 items")]
                (total, count) => float(total.as_f64().unwrap_or(0.0) / count as f64)?,
            },
            Self::Count => values.count().into(),
            Self::Min => extreme(values, Ordering::Less),
            Self::Max => extreme(values, Ordering::Greater),
            Self::Concat => concat(values),
            Self::First => values.next().cloned().unwrap_or_default(),
            Self::Last => values.last().cloned().unwrap_or_default(),
        })
    }
}

/// The sum and the count; exact while all are whole and fit.
fn sum<'a>(values: impl Iterator<Item = &'a Value>) -> Result<(Value, usize), Failure> {
    let (mut whole, mut exact, mut total, mut count) = (0_i64, true, 0.0, 0);
    for value in values {
        let number = value.as_f64().ok_or_else(|| {
            super::error(format!("cannot add {}: only numbers have a sum", crate::config::kind(value)))
        })?;
        match value.as_i64().and_then(|value| whole.checked_add(value)) {
            Some(sum) => whole = sum,
            None => exact = false,
        }
        total += number;
        count += 1;
    }
    Ok((if exact { whole.into() } else { float(total)? }, count))
}

fn float(number: f64) -> Result<Value, Failure> {
    Number::from_f64(number)
        .map(Value::Number)
        .ok_or_else(|| super::error("the sum is too large for a number"))
}

fn extreme<'a>(values: impl Iterator<Item = &'a Value>, wanted: Ordering) -> Value {
    let best = values.reduce(|best, value| if order(value, best) == Some(wanted) { value } else { best });
    best.cloned().unwrap_or_default()
}

/// Arrays are joined into one array; texts, when nothing else is there, into one text.
fn concat<'a>(values: impl Iterator<Item = &'a Value>) -> Value {
    let values: Vec<&Value> = values.collect();
    let texts: Option<String> = values.iter().map(|value| value.as_str()).collect();
    match texts {
        Some(text) if !values.is_empty() => text.into(),
        Some(_) | None => values
            .into_iter()
            .flat_map(|value| match value {
                Value::Array(items) => items.clone(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    vec![value.clone()]
                }
            })
            .collect(),
    }
}

fn merge(input: &Value, sources: &[String]) -> Value {
    let parts: Vec<&Value> = match input {
        Value::Array(items) if sources.is_empty() => items.iter().collect(),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => sources.iter().filter_map(|path| at_path(input, path)).collect(),
    };
    if parts.is_empty() {
        return input.clone();
    }
    let fields = parts.into_iter().filter_map(Value::as_object).flatten();
    Value::Object(fields.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply(config: Value, input: Value) -> Value {
        Operation::parse(&Fields::new(&config).unwrap()).unwrap().unwrap().apply(&input).unwrap()
    }

    #[test]
    fn operations_give_what_they_say() {
        let people = json!([{ "n": "a", "age": 3 }, { "n": "b", "age": 5.0 }, { "n": "c" }]);
        let cases = [
            (
                json!({ "operation": "pick", "keys": ["a", "x"] }),
                json!({ "a": 1, "b": 2 }),
                json!({ "a": 1 }),
            ),
            (json!({ "operation": "omit", "keys": ["a"] }), json!({ "a": 1, "b": 2 }), json!({ "b": 2 })),
            (
                json!({ "operation": "map", "mapping": { "x": "{{a.b}}", "y": "no" } }),
                json!({ "a": { "b": 1 } }),
                json!({ "x": 1 }),
            ),
            (json!({ "operation": "pick", "keys": ["a"] }), json!("text"), json!("text")),
            (
                json!({ "operation": "filter", "condition": { "path": "age", "op": "gte", "value": 5 } }),
                people.clone(),
                json!([{ "n": "b", "age": 5.0 }]),
            ),
            (
                json!({ "operation": "filter", "condition": { "path": "age", "op": "exists" } }),
                people.clone(),
                json!([{ "n": "a", "age": 3 }, { "n": "b", "age": 5.0 }]),
            ),
            (
                json!({ "operation": "filter", "condition": { "path": "age", "op": "eq", "value": 5 } }),
                people.clone(),
                json!([{ "n": "b", "age": 5.0 }]),
            ),
            (
                json!({ "operation": "filter", "condition": { "path": "n", "op": "in", "value": ["c"] } }),
                people.clone(),
                json!([{ "n": "c" }]),
            ),
            (
                json!({ "operation": "reduce", "accumulator": "sum", "path": "age" }),
                people.clone(),
                json!(8.0),
            ),
            (json!({ "operation": "reduce", "accumulator": "sum" }), json!([1, 2]), json!(3)),
            (json!({ "operation": "reduce", "accumulator": "avg" }), json!([1, 2]), json!(1.5)),
            (json!({ "operation": "reduce", "accumulator": "count" }), people.clone(), json!(3)),
            (json!({ "operation": "reduce", "accumulator": "min", "path": "age" }), people.clone(), json!(3)),
            (json!({ "operation": "reduce", "accumulator": "max", "path": "n" }), people, json!("c")),
            (
                json!({ "operation": "reduce", "accumulator": "concat" }),
                json!([[1], [2, 3], 4]),
                json!([1, 2, 3, 4]),
            ),
            (json!({ "operation": "reduce", "accumulator": "concat" }), json!(["a", "b"]), json!("ab")),
            (json!({ "operation": "reduce", "accumulator": "max" }), json!([]), json!(null)),
            (
                json!({ "operation": "merge" }),
                json!([{ "a": 1 }, { "a": 2, "b": 3 }]),
                json!({ "a": 2, "b": 3 }),
            ),
            (
                json!({ "operation": "merge", "sources": ["x", "y.z"] }),
                json!({ "x": { "a": 1 }, "y": { "z": { "b": 2 } } }),
                json!({ "a": 1, "b": 2 }),
            ),
        ];
        for (config, input, output) in cases {
            assert_eq!(apply(config.clone(), input), output, "{config}");
        }
    }

    #[test]
    fn a_sum_of_texts_is_refused() {
        let config = json!({ "operation": "reduce", "accumulator": "sum" });
        let operation = Operation::parse(&Fields::new(&config).unwrap()).unwrap().unwrap();
        assert_eq!(operation.apply(&json!(["1"])).unwrap_err().error.code, "TRANSFORM_ERROR");
    }
}
