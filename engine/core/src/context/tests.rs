use serde_json::{Map, Value, json};

use super::*;
use crate::flow::path::Path;
use crate::limits::ContextLimits;

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
    assert_eq!((error.code(), error.limit(), error.actual()), ("CONTEXT_NESTING_LIMIT", Some(3), Some(4)));
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
    assert_eq!((error.code(), error.limit(), error.actual()), ("CONTEXT_SIZE_LIMIT", Some(100), Some(135)));
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
