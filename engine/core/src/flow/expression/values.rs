//! Values between JSON and CEL. Only what an expression reads is converted, as contexts are large.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::types::{CelList, CelMap, CelMapKey};
use cel::common::value::Val;
use cel::objects::{Key, Map as PlainMap};
use cel::{Context, ExecutionError};
use serde_json::{Map, Number, Value, json};

use super::super::dataset::DatasetTooLarge;
use super::super::scope::{ERROR_KEY, RESUME_KEY, Scope};
use super::analysis::{Keys, Reads};
use super::pending::{Known, Pending, Standing};
use crate::limits::DATASET_BYTES_MAX;

/// Nesting of a value that an expression reads or gives.
pub const VALUE_DEPTH_MAX: usize = 128;

/// A value cannot be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unconvertible {
    #[error("a value is nested deeper than {VALUE_DEPTH_MAX}")]
    TooDeep,
    #[error("the value of the expression ({0}) is not JSON")]
    NotJson(&'static str),
    #[error(transparent)]
    Dataset(#[from] DatasetTooLarge),
}

/// Adds the variables that are read and exist in this scope; says whether there are references to datasets in them that
/// nothing has looked at yet.
pub(super) fn declare_variables(
    target: &mut Context<'_, '_>,
    scope: &Scope<'_>,
    reads: &Reads,
    known: &Known,
) -> Result<bool, Unconvertible> {
    let known = scope.datasets.is_some().then_some(known);
    let mut conversion = Conversion { known, copied: 0, pending: false };
    let mut declare = |name: &str, value: &Value| -> Result<(), Unconvertible> {
        target.add_variable_as_val(name, conversion.convert(value, VALUE_DEPTH_MAX)?.into_val()?);
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
    for (root, value) in [("item", scope.item()), ("index", scope.key("index"))] {
        if let (Some(_), Some(value)) = (reads.keys(root), value) {
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
    Ok(conversion.pending)
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

/// Turns JSON into values of CEL.
struct Conversion<'k> {
    /// None: references are data like any other.
    known: Option<&'k Known>,
    /// Bytes of the datasets that stand in the values, each as often as it stands there.
    copied: usize,
    /// Whether there is a reference that nothing has looked at yet.
    pending: bool,
}

enum Converted {
    Plain(cel::Value),
    /// With a pending reference somewhere in it, for which the library's own values have no form.
    Mixed(Box<dyn Val>),
}

impl Converted {
    fn into_val(self) -> Result<Box<dyn Val>, Unconvertible> {
        match self {
            Self::Plain(value) => value.try_into().map_err(|_| Unconvertible::NotJson("a type")),
            Self::Mixed(value) => Ok(value),
        }
    }
}

impl Conversion<'_> {
    fn convert(&mut self, value: &Value, room: usize) -> Result<Converted, Unconvertible> {
        let room = room.checked_sub(1).ok_or(Unconvertible::TooDeep)?;
        Ok(Converted::Plain(match value {
            Value::Null => cel::Value::Null,
            Value::Bool(truth) => cel::Value::Bool(*truth),
            Value::Number(number) => number_to_cel(number),
            Value::String(text) => cel::Value::String(Arc::new(text.clone())),
            Value::Array(items) => return self.list(items, room),
            Value::Object(map) => match self.known.map_or(Standing::Data, |known| known.standing(value)) {
                Standing::Data => return self.map(map, room),
                Standing::Rows(rows, bytes) => {
                    // Rows may hold references to themselves: what a handler returns is not ours.
                    self.copied = self.copied.saturating_add(bytes);
                    if self.copied > DATASET_BYTES_MAX {
                        return Err(DatasetTooLarge.into());
                    }
                    return self.convert(&rows, room);
                }
                Standing::Pending(pending) => {
                    self.pending = true;
                    return Ok(Converted::Mixed(Box::new(pending)));
                }
            },
        }))
    }

    fn list(&mut self, items: &[Value], room: usize) -> Result<Converted, Unconvertible> {
        let items: Vec<Converted> =
            items.iter().map(|item| self.convert(item, room)).collect::<Result<_, _>>()?;
        if items.iter().any(|item| matches!(item, Converted::Mixed(_))) {
            let items: Result<Vec<_>, _> = items.into_iter().map(Converted::into_val).collect();
            return Ok(Converted::Mixed(Box::new(CelList::from(items?))));
        }
        let plain = items.into_iter().filter_map(|item| match item {
            Converted::Plain(item) => Some(item),
            Converted::Mixed(_) => None,
        });
        Ok(Converted::Plain(cel::Value::List(Arc::new(plain.collect()))))
    }

    fn map(&mut self, map: &Map<String, Value>, room: usize) -> Result<Converted, Unconvertible> {
        let entries: Vec<(&String, Converted)> = map
            .iter()
            .map(|(key, value)| Ok((key, self.convert(value, room)?)))
            .collect::<Result<_, Unconvertible>>()?;
        if entries.iter().any(|(_, value)| matches!(value, Converted::Mixed(_))) {
            let entries: Result<HashMap<CelMapKey<'_>, Box<dyn Val>>, Unconvertible> = entries
                .into_iter()
                .map(|(key, value)| Ok((CelMapKey::from(key.clone()), value.into_val()?)))
                .collect();
            return Ok(Converted::Mixed(Box::new(CelMap::from(entries?))));
        }
        let plain = entries.into_iter().filter_map(|(key, value)| match value {
            Converted::Plain(value) => Some((Key::String(Arc::new(key.clone())), value)),
            Converted::Mixed(_) => None,
        });
        Ok(Converted::Plain(cel::Value::Map(PlainMap { map: Arc::new(plain.collect()) })))
    }
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

/// The JSON of an expression's value; keys sorted, as CEL's maps have no order. References that were only passed on are
/// references still.
pub(super) fn to_json(value: &dyn Val) -> Result<Value, Unconvertible> {
    val_to_json(value, VALUE_DEPTH_MAX)
}

fn val_to_json(value: &dyn Val, room: usize) -> Result<Value, Unconvertible> {
    let below = room.checked_sub(1).ok_or(Unconvertible::TooDeep)?;
    if let Some(pending) = value.downcast_ref::<Pending>() {
        return Ok(pending.value().clone());
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return list.inner().iter().map(|item| val_to_json(&**item, below)).collect();
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        let mut entries: Vec<_> =
            map.inner().iter().map(|(key, value)| (Key::from(key.clone()).to_string(), value)).collect();
        entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let entries: Result<Map<_, _>, Unconvertible> =
            entries.into_iter().map(|(key, value)| Ok((key, val_to_json(&**value, below)?))).collect();
        return Ok(Value::Object(entries?));
    }
    let value =
        cel::Value::try_from(value).map_err(|_| Unconvertible::NotJson("a type, function or message"))?;
    scalar_to_json(value)
}

fn scalar_to_json(value: cel::Value) -> Result<Value, Unconvertible> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(truth) => Value::Bool(truth),
        cel::Value::Int(integer) => integer.into(),
        cel::Value::UInt(integer) => integer.into(),
        cel::Value::Float(float) => {
            Value::Number(Number::from_f64(float).ok_or(Unconvertible::NotJson("NaN or infinite"))?)
        }
        cel::Value::String(text) => Value::String(Arc::unwrap_or_clone(text)),
        cel::Value::Timestamp(instant) => Value::String(instant.to_rfc3339()),
        cel::Value::Bytes(_) => return Err(Unconvertible::NotJson("bytes")),
        cel::Value::Duration(_) => return Err(Unconvertible::NotJson("a duration")),
        cel::Value::List(_)
        | cel::Value::Map(_)
        | cel::Value::Function(..)
        | cel::Value::Opaque(_)
        | cel::Value::Struct(_) => {
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
