//! Values between JSON and CEL. Only what an expression reads is converted, as contexts are large.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map as CelMap};
use cel::{Context, ExecutionError};
use serde_json::{Map, Number, Value, json};

use super::super::scope::{ERROR_KEY, RESUME_KEY, Scope};
use super::analysis::{Keys, Reads};

/// Nesting of a value that an expression reads or gives.
pub const VALUE_DEPTH_MAX: usize = 128;

/// A value cannot be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unconvertible {
    #[error("a value is nested deeper than {VALUE_DEPTH_MAX}")]
    TooDeep,
    #[error("the value of the expression ({0}) is not JSON")]
    NotJson(&'static str),
}

/// Adds the variables that are read and exist in this scope.
pub(super) fn declare_variables(
    target: &mut Context<'_, '_>,
    scope: &Scope<'_>,
    reads: &Reads,
) -> Result<(), Unconvertible> {
    let mut declare = |name: &str, value: &Value| -> Result<(), Unconvertible> {
        target.add_variable_from_value(name, to_cel(value)?);
        Ok(())
    };
    if let Some(keys) = reads.keys("context") {
        declare("context", &Value::Object(context_keys(scope, keys)))?;
    }
    if let (Some(keys), Some(outer)) = (reads.keys("parent"), scope.outer) {
        let parent = match keys {
            Keys::All => outer.visible(),
            Keys::Named(names) => {
                select(names, |name| scope.parent_key(name).map(|value| value.into_owned()))
            }
        };
        declare("parent", &Value::Object(parent))?;
    }
    for root in ["item", "index"] {
        if let (Some(_), Some(value)) = (reads.keys(root), scope.key(root)) {
            declare(root, &value)?;
        }
    }
    for (name, value) in [("input", scope.input), ("event", scope.event)] {
        if let (Some(_), Some(value)) = (reads.keys(name), value) {
            declare(name, value)?;
        }
    }
    if let (Some(_), Some(iteration)) = (reads.keys("iteration"), scope.iteration) {
        declare("iteration", &iteration.into())?;
    }
    if reads.keys("execution").is_some() {
        let facts = scope.execution;
        let started_at = facts.started_at.to_rfc3339();
        declare(
            "execution",
            &json!({"id": facts.id, "flowId": facts.flow_id, "startedAt": started_at, "run": facts.run}),
        )?;
    }
    Ok(())
}

fn context_keys(scope: &Scope<'_>, keys: &Keys) -> Map<String, Value> {
    match keys {
        Keys::All => {
            let mut all = scope.visible();
            for key in [ERROR_KEY, RESUME_KEY] {
                if let Some(value) = scope.key(key) {
                    all.insert(key.to_owned(), value.into_owned());
                }
            }
            all
        }
        Keys::Named(names) => select(names, |name| scope.key(name).map(|value| value.into_owned())),
    }
}

fn select<'n>(
    names: impl IntoIterator<Item = &'n String>,
    find: impl Fn(&str) -> Option<Value>,
) -> Map<String, Value> {
    names.into_iter().filter_map(|name| Some((name.clone(), find(name)?))).collect()
}

fn to_cel(value: &Value) -> Result<cel::Value, Unconvertible> {
    to_cel_at(value, VALUE_DEPTH_MAX)
}

fn to_cel_at(value: &Value, room: usize) -> Result<cel::Value, Unconvertible> {
    let room = room.checked_sub(1).ok_or(Unconvertible::TooDeep)?;
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(truth) => cel::Value::Bool(*truth),
        Value::Number(number) => number_to_cel(number),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| to_cel_at(item, room)).collect();
            cel::Value::List(Arc::new(items?))
        }
        Value::Object(map) => {
            let map: Result<HashMap<_, _>, _> = map
                .iter()
                .map(|(key, value)| Ok((Key::String(Arc::new(key.clone())), to_cel_at(value, room)?)))
                .collect();
            cel::Value::Map(CelMap { map: Arc::new(map?) })
        }
    })
}

/// Integers become `int`, those that do not fit `uint`; the rest `double`.
fn number_to_cel(number: &Number) -> cel::Value {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(integer), _, _) => cel::Value::Int(integer),
        (None, Some(integer), _) => cel::Value::UInt(integer),
        (None, None, Some(float)) => cel::Value::Float(float),
        (None, None, None) => cel::Value::Null,
    }
}

/// The JSON of an expression's value; keys sorted, as CEL's maps have no order.
pub(super) fn to_json(value: &cel::Value) -> Result<Value, Unconvertible> {
    to_json_at(value, VALUE_DEPTH_MAX)
}

fn to_json_at(value: &cel::Value, room: usize) -> Result<Value, Unconvertible> {
    let room = room.checked_sub(1).ok_or(Unconvertible::TooDeep)?;
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(truth) => Value::Bool(*truth),
        cel::Value::Int(integer) => (*integer).into(),
        cel::Value::UInt(integer) => (*integer).into(),
        cel::Value::Float(float) => {
            Value::Number(Number::from_f64(*float).ok_or(Unconvertible::NotJson("NaN or infinite"))?)
        }
        cel::Value::String(text) => Value::String(text.as_str().to_owned()),
        cel::Value::Timestamp(instant) => Value::String(instant.to_rfc3339()),
        cel::Value::List(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| to_json_at(item, room)).collect();
            Value::Array(items?)
        }
        cel::Value::Map(map) => {
            let mut entries: Vec<_> = map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
            entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
            let entries: Result<Map<_, _>, _> =
                entries.into_iter().map(|(key, value)| Ok((key, to_json_at(value, room)?))).collect();
            Value::Object(entries?)
        }
        cel::Value::Bytes(_) => return Err(Unconvertible::NotJson("bytes")),
        cel::Value::Duration(_) => return Err(Unconvertible::NotJson("a duration")),
        cel::Value::Function(..) | cel::Value::Opaque(_) | cel::Value::Struct(_) => {
            return Err(Unconvertible::NotJson("a type, function or message"));
        }
    })
}

/// Why an evaluation failed. Values are not shown: they may be large or secret, and maps print in any order.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is open; what is left, and what comes, is about operands"
)]
pub(super) fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no key `{}`", super::quoted(key)),
        ExecutionError::UndeclaredReference(name) => {
            format!("there is no variable or function `{}` here", super::quoted(name))
        }
        ExecutionError::NoSuchOverload(overload) => super::quoted(&overload.to_string()),
        ExecutionError::FunctionError { function, message } => {
            super::quoted(&format!("{function}: {message}"))
        }
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("a function takes {expected} arguments, not {actual}")
        }
        ExecutionError::UnexpectedType { got, want } => format!("{want} is needed, this is {got}"),
        ExecutionError::ValuesNotComparable(..) => "the values cannot be compared".into(),
        ExecutionError::UnsupportedKeyType(_) => "a key must be a text, an integer or a boolean".into(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(operator, ..) => format!("`{operator}` overflows"),
        ExecutionError::IndexOutOfBounds(_) => "the index is outside the list".into(),
        ExecutionError::DuplicateKey(_) => "a key is repeated".into(),
        ExecutionError::UnsupportedIndex(..) => "the value has no element of that index".into(),
        _ => "the operands do not fit".into(),
    }
}

/// What a JSON value is, for messages.
pub(super) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
