//! Writes within limits: all of a write, or nothing.

use serde_json::{Map, Value};

use super::error::ContextError;
use super::size::{ContextSize, depth, entry_size, json_size, map_size};
use crate::flow::path::{Path, array_index};
use crate::limits::ContextLimits;

/// Writes `value` at `path`; objects missing on the way are made. Elements of arrays can be replaced, not added. Keys are
/// only data: `__proto__` is a key like any other.
///
/// `size` is the size of `context` before; the size after is returned. Checked in this order: the value's size, its
/// nesting (with the objects above it in the same top-level key), the way to it, the number of keys (for a new
/// top-level key), the total.
///
/// # Errors
/// A limit would be passed, or something that is no object is in the way. Nothing changed then.
pub fn set_path(
    context: &mut Map<String, Value>,
    path: &Path,
    value: Value,
    limits: &ContextLimits,
    size: ContextSize,
) -> Result<ContextSize, ContextError> {
    let value_size = check_value(path.as_str(), &value, path.segments().len() - 1, limits)?;
    let change = change_at(context, path, value_size)?;
    if change.new_root {
        check_keys(context.len() + 1, limits)?;
    }
    let total = check_total((size.0 + change.added).saturating_sub(change.removed), limits)?;
    write_at(context, path.segments(), value);
    Ok(total)
}

/// Removes what is at `path` and returns it with the size after. Later keys keep their order; later elements of an array
/// move up. `None` when nothing is there.
pub fn remove_path(
    context: &mut Map<String, Value>,
    path: &Path,
    size: ContextSize,
) -> (Option<Value>, ContextSize) {
    let Some((last, way)) = path.segments().split_last() else { return (None, size) };
    let (removed, own, was_only) = match way.split_first() {
        None => remove_key(context, last),
        Some((root, rest)) => {
            let start = context.get_mut(root.as_ref());
            match start
                .and_then(|start| rest.iter().try_fold(start, |here, segment| child_mut(here, segment)))
            {
                Some(Value::Object(map)) => remove_key(map, last),
                Some(Value::Array(items)) => match array_index(last).filter(|index| *index < items.len()) {
                    Some(index) => {
                        let removed = items.remove(index);
                        (Some(removed), 0, items.is_empty())
                    }
                    None => (None, 0, false),
                },
                Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {
                    (None, 0, false)
                }
            }
        }
    };
    let freed = removed.as_ref().map_or(0, |value| json_size(value) + own + usize::from(!was_only));
    (removed, ContextSize(size.0.saturating_sub(freed)))
}

/// Writes all top-level keys of `patch`, or none of them. New keys come last, in the patch's order.
///
/// # Errors
/// A limit would be passed: as [`set_path`], each value first, then the number of keys, then the total.
pub fn merge(
    context: &mut Map<String, Value>,
    patch: Map<String, Value>,
    limits: &ContextLimits,
    size: ContextSize,
) -> Result<ContextSize, ContextError> {
    let (mut added, mut removed, mut keys) = (0, 0, context.len());
    for (key, value) in &patch {
        added += check_value(key, value, 0, limits)?;
        match context.get(key) {
            Some(old) => removed += json_size(old),
            None => {
                added += entry_size(key) + usize::from(keys > 0);
                keys += 1;
            }
        }
    }
    if keys > context.len() {
        check_keys(keys, limits)?;
    }
    let total = check_total((size.0 + added).saturating_sub(removed), limits)?;
    context.extend(patch);
    Ok(total)
}

/// Checks a whole context, as an initial one: each value, then the number of keys, then the total.
///
/// # Errors
/// The first limit that is passed.
pub fn check_whole(context: &Map<String, Value>, limits: &ContextLimits) -> Result<(), ContextError> {
    for (key, value) in context {
        check_value(key, value, 0, limits)?;
    }
    check_keys(context.len(), limits)?;
    check_total(map_size(context), limits).map(drop)
}

fn check_value(
    path: &str,
    value: &Value,
    above: usize,
    limits: &ContextLimits,
) -> Result<usize, ContextError> {
    let size = json_size(value);
    if size > limits.max_value_size {
        return Err(ContextError::ValueTooLarge {
            path: path.into(),
            limit: limits.max_value_size,
            actual: size,
        });
    }
    let nesting = above + depth(value);
    if nesting > limits.max_depth {
        return Err(ContextError::Nesting { path: path.into(), limit: limits.max_depth, actual: nesting });
    }
    Ok(size)
}

const fn check_keys(keys: usize, limits: &ContextLimits) -> Result<(), ContextError> {
    if keys > limits.max_keys {
        return Err(ContextError::Keys { limit: limits.max_keys, actual: keys });
    }
    Ok(())
}

const fn check_total(total: usize, limits: &ContextLimits) -> Result<ContextSize, ContextError> {
    if total > limits.max_total_size {
        return Err(ContextError::Size { limit: limits.max_total_size, actual: total });
    }
    Ok(ContextSize(total))
}

/// What a write does to the size of the context.
struct Change {
    added: usize,
    removed: usize,
    new_root: bool,
}

/// Follows the path as far as it exists.
fn change_at(context: &Map<String, Value>, path: &Path, value_size: usize) -> Result<Change, ContextError> {
    let segments = path.segments();
    let blocked = |index: usize| ContextError::PathBlocked {
        path: path.to_string(),
        place: segments.get(..index).unwrap_or_default().join("."),
    };
    let mut map = context;
    let mut index = 0;
    while let Some(segment) = segments.get(index) {
        let Some(mut here) = map.get(segment.as_ref()) else {
            let below: usize = segments[index + 1..].iter().map(|key| entry_size(key) + 2).sum();
            let comma = usize::from(!map.is_empty());
            let added = value_size + entry_size(segment) + comma + below;
            return Ok(Change { added, removed: 0, new_root: index == 0 });
        };
        index += 1;
        while let (Value::Array(items), Some(segment)) = (here, segments.get(index)) {
            let element = array_index(segment).and_then(|element| items.get(element));
            here = element.ok_or_else(|| blocked(index))?;
            index += 1;
        }
        if index == segments.len() {
            return Ok(Change { added: value_size, removed: json_size(here), new_root: false });
        }
        map = here.as_object().ok_or_else(|| blocked(index))?;
    }
    Err(blocked(0))
}

/// Writes along a path that [`change_at`] found free.
fn write_at(context: &mut Map<String, Value>, segments: &[Box<str>], value: Value) {
    let Some((root, rest)) = segments.split_first() else { return };
    let Some((last, way)) = rest.split_last() else {
        context.insert(root.to_string(), value);
        return;
    };
    let empty = || Value::Object(Map::new());
    let mut here = context.entry(root.as_ref()).or_insert_with(empty);
    for segment in way {
        here = match here {
            Value::Object(map) => map.entry(segment.as_ref()).or_insert_with(empty),
            other
            @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                match child_mut(other, segment) {
                    Some(child) => child,
                    None => return,
                }
            }
        };
    }
    match here {
        Value::Object(map) => {
            map.insert(last.to_string(), value);
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            if let Some(place) = child_mut(other, last) {
                *place = value;
            }
        }
    }
}

fn child_mut<'v>(value: &'v mut Value, segment: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(items) => items.get_mut(array_index(segment)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The removed value, the bytes of its key and colon, and whether it was alone.
fn remove_key(map: &mut Map<String, Value>, key: &str) -> (Option<Value>, usize, bool) {
    let removed = map.shift_remove(key);
    (removed, entry_size(key), map.is_empty())
}
