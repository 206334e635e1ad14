//! The context of an execution: sizes, nesting, and writes within limits.
//!
//! A write costs what it writes and replaces, never the whole context: the size of the whole is carried along as a
//! [`ContextSize`].

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use crate::flow::path::{Path, array_index};
use crate::limits::ContextLimits;

/// Bytes of one whole context as JSON text. Belongs to one context: made by [`ContextSize::of`], then replaced by what
/// each write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextSize(usize);

impl ContextSize {
    /// Measures a whole context.
    #[must_use]
    pub fn of(context: &Map<String, Value>) -> Self {
        Self(map_size(context))
    }

    /// A size measured before, for a context read back from storage together with it.
    #[must_use]
    pub const fn from_bytes(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl Default for ContextSize {
    /// The empty context, `{}`.
    fn default() -> Self {
        Self(2)
    }
}

/// A write was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// `CONTEXT_VALUE_TOO_LARGE`
    #[error("the value of `{path}` has {actual} bytes, the limit is {limit}")]
    ValueTooLarge {
        /// Where it was to be written.
        path: String,
        /// [`ContextLimits::max_value_size`].
        limit: usize,
        /// Its size.
        actual: usize,
    },
    /// `CONTEXT_NESTING_LIMIT`
    #[error("the value of `{path}` would be nested {actual} deep, the limit is {limit}")]
    Nesting {
        /// Where it was to be written.
        path: String,
        /// [`ContextLimits::max_depth`].
        limit: usize,
        /// Its nesting, counted from its top-level key.
        actual: usize,
    },
    /// `CONTEXT_KEY_LIMIT`
    #[error("the context would have {actual} keys, the limit is {limit}")]
    Keys {
        /// [`ContextLimits::max_keys`].
        limit: usize,
        /// What it would have.
        actual: usize,
    },
    /// `CONTEXT_SIZE_LIMIT`
    #[error("the context would have {actual} bytes, the limit is {limit}")]
    Size {
        /// [`ContextLimits::max_total_size`].
        limit: usize,
        /// What it would have.
        actual: usize,
    },
    /// `CONTEXT_PATH_BLOCKED`
    #[error("`{path}` cannot be written: there is no object at `{place}`")]
    PathBlocked {
        /// Where it was to be written.
        path: String,
        /// The scalar, null or array in the way.
        place: String,
    },
}

impl ContextError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ValueTooLarge { .. } => "CONTEXT_VALUE_TOO_LARGE",
            Self::Nesting { .. } => "CONTEXT_NESTING_LIMIT",
            Self::Keys { .. } => "CONTEXT_KEY_LIMIT",
            Self::Size { .. } => "CONTEXT_SIZE_LIMIT",
            Self::PathBlocked { .. } => "CONTEXT_PATH_BLOCKED",
        }
    }

    /// The limit that was passed. `None` for a blocked path.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match self {
            Self::ValueTooLarge { limit, .. }
            | Self::Nesting { limit, .. }
            | Self::Keys { limit, .. }
            | Self::Size { limit, .. } => Some(*limit),
            Self::PathBlocked { .. } => None,
        }
    }

    /// What passed the limit. `None` for a blocked path.
    #[must_use]
    pub const fn actual(&self) -> Option<usize> {
        match self {
            Self::ValueTooLarge { actual, .. }
            | Self::Nesting { actual, .. }
            | Self::Keys { actual, .. }
            | Self::Size { actual, .. } => Some(*actual),
            Self::PathBlocked { .. } => None,
        }
    }
}

/// Bytes of `serde_json::to_string(value)`, without making the text. Not recursive.
#[must_use]
pub fn json_size(value: &Value) -> usize {
    let mut total = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        total += match value {
            Value::Null => "null".len(),
            Value::Bool(truth) => if *truth { "true" } else { "false" }.len(),
            Value::Number(number) => number_size(number),
            Value::String(text) => text_size(text),
            Value::Array(items) => {
                open.extend(items);
                brackets_and_commas(items.len())
            }
            Value::Object(map) => {
                open.extend(map.values());
                brackets_and_commas(map.len()) + map.keys().map(|key| text_size(key) + 1).sum::<usize>()
            }
        };
    }
    total
}

/// Nesting: a scalar has 0, `[]` and `{}` have 1, other containers one more than their deepest element. Not recursive.
#[must_use]
pub fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, level)) = open.pop() {
        let container = |child: &&Value| child.is_array() || child.is_object();
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
            Value::Array(items) => {
                open.extend(items.iter().filter(container).map(|child| (child, level + 1)))
            }
            Value::Object(map) => open.extend(map.values().filter(container).map(|child| (child, level + 1))),
        }
        deepest = deepest.max(level);
    }
    deepest
}

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

fn map_size(map: &Map<String, Value>) -> usize {
    let entries: usize = map.iter().map(|(key, value)| entry_size(key) + json_size(value)).sum();
    brackets_and_commas(map.len()) + entries
}

const fn brackets_and_commas(elements: usize) -> usize {
    2 + elements.saturating_sub(1)
}

/// A key with its quotes and colon.
fn entry_size(key: &str) -> usize {
    text_size(key) + 1
}

/// A text with its quotes and escapes, as serde_json writes it.
fn text_size(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => "\\u0000".len(),
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

fn number_size(number: &Number) -> usize {
    struct Counter(usize);
    impl std::fmt::Write for Counter {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let written = write!(counter, "{number}");
    debug_assert!(written.is_ok());
    counter.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NARROW: ContextLimits =
        ContextLimits { max_value_size: 100, max_total_size: 100, max_keys: 3, max_depth: 3 };

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn set(context: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), ContextError> {
        let size = ContextSize::of(context);
        let after = set_path(context, &Path::parse(path).unwrap(), value, &NARROW, size)?;
        assert_eq!(after, ContextSize::of(context), "running size after `{path}`");
        Ok(())
    }

    fn remove(context: &mut Map<String, Value>, path: &str) -> Option<Value> {
        let size = ContextSize::of(context);
        let (removed, after) = remove_path(context, &Path::parse(path).unwrap(), size);
        assert_eq!(after, ContextSize::of(context), "running size after removing `{path}`");
        removed
    }

    #[test]
    fn sizes_are_bytes_of_json_text() {
        for (rule, value, wanted) in [
            ("6.3 (1) text", json!("hello"), 7),
            ("6.3 (1) number", json!(123), 3),
            ("6.3 (1) true", json!(true), 4),
            ("6.3 (1) null", json!(null), 4),
            ("6.3 (2) object", json!({"name": "Zoé", "n": [1, {}]}), 26),
            ("6.3 (3) array", json!([1, "a\n\u{1}", 1.5, 1e300, []]), 29),
        ] {
            assert_eq!(json_size(&value), value.to_string().len(), "{rule}");
            assert_eq!(json_size(&value), wanted, "{rule}");
        }
    }

    #[test]
    fn depth_counts_containers() {
        for (rule, value, wanted) in [
            ("6.3 (4) text", json!("x"), 0),
            ("6.3 (4) number", json!(1), 0),
            ("6.3 (4) null", json!(null), 0),
            ("6.3 (5) {}", json!({}), 1),
            ("6.3 (5) flat", json!({"a": 1, "b": 2}), 1),
            ("6.3 (6) two", json!({"a": {"b": 1}}), 2),
            ("6.3 (6) three", json!({"a": {"b": {"c": 1}}}), 3),
            ("6.3 (7) []", json!([]), 1),
            ("6.3 (7) flat list", json!([1, 2, 3]), 1),
            ("6.3 (7) lists", json!([[1], [2]]), 2),
            ("6.3 (8) mixed", json!({"arr": [{"nested": 1}]}), 3),
        ] {
            assert_eq!(depth(&value), wanted, "{rule}");
        }
    }

    #[test]
    fn writes_keep_the_limits_of_section_6_3() {
        let mut context = Map::new();
        set(&mut context, "small", json!(1)).unwrap(); // (9)
        assert_eq!(context, object(json!({"small": 1})));

        let error = set(&mut context, "big", json!("x".repeat(200))).unwrap_err(); // (10)
        assert_eq!(
            (error.code(), error.limit(), error.actual()),
            ("CONTEXT_VALUE_TOO_LARGE", Some(100), Some(202))
        );
        let error = set(&mut context, "deep", json!({"a": {"b": {"c": {}}}})).unwrap_err(); // (11)
        assert_eq!(
            (error.code(), error.limit(), error.actual()),
            ("CONTEXT_NESTING_LIMIT", Some(3), Some(4))
        );
        let error = set(&mut context, "a.b.c.d", json!(1)).err();
        assert_eq!(error, None, "three objects around a scalar");
        let error = set(&mut context, "a.b.c.e", json!([])).unwrap_err();
        assert_eq!((error.code(), error.actual()), ("CONTEXT_NESTING_LIMIT", Some(4)));
        set(&mut context, "third", json!(3)).unwrap();
        let error = set(&mut context, "fourth", json!(4)).unwrap_err(); // (12)
        assert_eq!((error.code(), error.limit(), error.actual()), ("CONTEXT_KEY_LIMIT", Some(3), Some(4)));
        set(&mut context, "third", json!(33)).unwrap(); // (13)
        set(&mut context, "a.more", json!(1)).unwrap();
        assert_eq!(context, object(json!({"small": 1, "a": {"b": {"c": {"d": 1}}, "more": 1}, "third": 33})));
    }

    #[test]
    fn the_total_is_limited_and_removal_gives_bytes_back() {
        let mut context = Map::new();
        set(&mut context, "a", json!("x".repeat(40))).unwrap();
        let error = set(&mut context, "b", json!("x".repeat(80))).unwrap_err(); // (14)
        assert_eq!(
            (error.code(), error.limit(), error.actual()),
            ("CONTEXT_SIZE_LIMIT", Some(100), Some(135))
        );
        assert!(set(&mut context, "b", json!("x".repeat(50))).is_err());
        assert_eq!(remove(&mut context, "a"), Some(json!("x".repeat(40)))); // (15)
        set(&mut context, "b", json!("x".repeat(50))).unwrap();
    }

    #[test]
    fn default_limits_are_the_documented_ones() {
        let limits = ContextLimits::default(); // (16)
        assert_eq!(
            (limits.max_value_size, limits.max_total_size, limits.max_keys, limits.max_depth),
            (1_048_576, 10_485_760, 500, 15)
        );
    }

    #[test]
    fn something_that_is_no_object_blocks_the_path_and_nothing_changes() {
        let whole = object(json!({"n": 1, "none": null, "list": [{"a": 1}, [7]]}));
        for (path, place) in [
            ("n.x", "n"),
            ("none.x.y", "none"),
            ("list.x", "list"),
            ("list.2", "list"),
            ("list.0.a.b", "list.0.a"),
            ("list.1.1", "list.1"),
            ("list.00.a", "list"),
        ] {
            let mut context = whole.clone();
            let error = set(&mut context, path, json!(0)).unwrap_err();
            assert_eq!(error, ContextError::PathBlocked { path: path.into(), place: place.into() });
            assert_eq!((error.code(), error.limit(), error.actual()), ("CONTEXT_PATH_BLOCKED", None, None));
            assert_eq!(context, whole);
        }
    }

    #[test]
    fn elements_can_be_replaced_and_keys_are_only_data() {
        let mut context = object(json!({"list": [{"a": 1}, [7]]}));
        set(&mut context, "list.0.a", json!(2)).unwrap();
        set(&mut context, "list.1.0", json!("seven")).unwrap();
        set(&mut context, "list.0.b", json!(3)).unwrap();
        set(&mut context, "__proto__.polluted", json!(true)).unwrap();
        set(&mut context, "none", json!(null)).unwrap();
        assert_eq!(
            Value::Object(context).to_string(),
            r#"{"list":[{"a":2,"b":3},["seven"]],"__proto__":{"polluted":true},"none":null}"#
        );
    }

    #[test]
    fn removal_keeps_the_order_of_the_rest() {
        let mut context = object(json!({"a": 1, "b": {"x": 1}, "c": [1, 2, 3], "d": 4}));
        for (path, wanted) in [
            ("nothing", None),
            ("a.x", None),
            ("c.3", None),
            ("c.x", None),
            ("b.x", Some(json!(1))),
            ("c.1", Some(json!(2))),
            ("a", Some(json!(1))),
        ] {
            assert_eq!(remove(&mut context, path), wanted, "{path}");
        }
        assert_eq!(Value::Object(context).to_string(), r#"{"b":{},"c":[1,3],"d":4}"#);
    }

    #[test]
    fn merge_writes_all_or_nothing() {
        let mut context = object(json!({"a": 1, "b": 2}));
        let size = ContextSize::of(&context);
        let size = merge(&mut context, object(json!({"c": [3], "a": "one"})), &NARROW, size).unwrap();
        assert_eq!(size, ContextSize::of(&context));
        assert_eq!(Value::Object(context.clone()).to_string(), r#"{"a":"one","b":2,"c":[3]}"#);

        let before = context.clone();
        for (patch, code) in [
            (json!({"a": 0, "d": 4}), "CONTEXT_KEY_LIMIT"),
            (json!({"a": 0, "b": "x".repeat(99)}), "CONTEXT_VALUE_TOO_LARGE"),
            (json!({"a": 0, "b": [[[[]]]]}), "CONTEXT_NESTING_LIMIT"),
            (json!({"a": "x".repeat(60), "b": "x".repeat(60)}), "CONTEXT_SIZE_LIMIT"),
        ] {
            let error = merge(&mut context, object(patch), &NARROW, size).unwrap_err();
            assert_eq!(error.code(), code);
            assert_eq!(context, before);
        }
        let mut empty = Map::new();
        let size = merge(&mut empty, before.clone(), &NARROW, ContextSize::default()).unwrap();
        assert_eq!(size, ContextSize::of(&before));
    }

    #[test]
    fn whole_contexts_are_checked() {
        for (context, code) in [
            (json!({}), None),
            (json!({"a": [[[]]], "b": 1, "c": 2}), None),
            (json!({"a": "x".repeat(99)}), Some("CONTEXT_VALUE_TOO_LARGE")),
            (json!({"a": [[[[]]]]}), Some("CONTEXT_NESTING_LIMIT")),
            (json!({"a": 1, "b": 1, "c": 1, "d": 1}), Some("CONTEXT_KEY_LIMIT")),
            (json!({"a": "x".repeat(45), "b": "x".repeat(45)}), Some("CONTEXT_SIZE_LIMIT")),
        ] {
            let checked = check_whole(&object(context.clone()), &NARROW);
            assert_eq!(checked.err().map(|error| error.code()), code, "{context}");
        }
    }
}
