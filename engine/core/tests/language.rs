//! Properties of the language: nothing panics on any input, and sizes are exact.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::borrow::Cow;

use flowmonkey_core::context::{self, ContextSize};
use flowmonkey_core::flow::condition::{Condition, Operator};
use flowmonkey_core::flow::expression::{BROKE_OFF, Expression};
use flowmonkey_core::flow::js;
use flowmonkey_core::flow::schema::Schema;
use flowmonkey_core::flow::scope::{ExecutionFacts, Scope};
use flowmonkey_core::flow::selector::{Path, Selector, Template};
use flowmonkey_core::limits::ContextLimits;
use flowmonkey_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Levels of a value deeper than any parser gives, yet shallow enough for serde_json to drop it.
const DEEP: usize = 2_000;

fn with_scope<T>(context: &Map<String, Value>, run: impl FnOnce(&Scope<'_>) -> T) -> T {
    let execution =
        ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
    let input = Value::Object(context.clone());
    run(&Scope {
        context,
        outer: None,
        error: None,
        resume: None,
        resume_url: None,
        input: Some(&input),
        iteration: Some(1),
        event: None,
        datasets: None,
        item_key: None,
        execution: &execution,
    })
}

fn numbers() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1000_i32..1000).prop_map(|n| Value::from(f64::from(n) / 8.0)),
    ]
}

/// Keys that collide often, and texts that mean something to templates and paths.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("0".to_owned()),
        Just("length".to_owned()),
        Just("__proto__".to_owned()),
        "[$\\{}a-c.:\\-]{0,12}",
        any::<String>(),
    ]
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        numbers(),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            objects_of(inner).prop_map(Value::from),
        ]
    })
}

fn objects_of(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((texts(), values), 0..6).prop_map(|entries| entries.into_iter().collect())
}

fn contexts() -> impl Strategy<Value = Map<String, Value>> {
    objects_of(json_values())
}

fn paths() -> impl Strategy<Value = Path> {
    prop::collection::vec(
        prop_oneof!["[ab01]", Just("length".to_owned()), Just("__proto__".to_owned())],
        1..4,
    )
    .prop_map(|segments| Path::parse(&segments.join(".")).unwrap())
}

/// Texts made of what CEL is made of, so that many of them parse.
fn expressions() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "context",
        "input",
        ".a",
        ".b",
        "[0]",
        "['a']",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        ">=",
        " in ",
        "1",
        "0",
        "9223372036854775807",
        "2u",
        "1.5",
        "1e400",
        "'x'",
        "b'\\xff'",
        "r'\\'",
        "'''",
        "\"",
        "\\",
        "true",
        "null",
        "size(",
        "int(",
        "uint(",
        "double(",
        "string(",
        "bytes(",
        "type(",
        "dyn(",
        "duration(",
        "timestamp(",
        "has(",
        ".map(x,",
        ".filter(x,",
        ".all(x,",
        ".exists(x,",
        ".exists_one(x,",
        "x",
        ".matches(",
        ".contains(",
        ".startsWith(",
        ".getFullYear(",
        "'1s'",
        "'2000-01-01T00:00:00Z'",
        "'('",
        "{1: 2}",
        "//",
        "\n",
        "?.a",
        "[?0]",
        "`a`",
        "@result",
        "é",
    ]);
    prop_oneof![
        4 => prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat()),
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn sizes_equal_the_length_of_the_text(value in json_values()) {
        prop_assert_eq!(context::json_size(&value), serde_json::to_string(&value).unwrap().len());
    }

    #[test]
    fn paths_never_panic(text in texts(), value in json_values()) {
        if let Ok(path) = Path::parse(&text) {
            prop_assert_eq!(path.as_str(), &text);
            let found = path.get(&value);
            if let Ok(Some(found)) = path.read_in_objects(&value, None) {
                prop_assert_eq!(Some(found), path.get(&value), "what conditions find, selectors find");
            }
            if let Value::Object(map) = &value {
                prop_assert_eq!(path.get_in_map(map), found);
            }
        } else {
            prop_assert!(text.is_empty() || text.split('.').any(str::is_empty));
        }
    }

    #[test]
    fn templates_never_panic_and_static_ones_are_what_they_say(source in json_values(), context in contexts()) {
        if let Ok(template) = Template::parse(&source) {
            let filled = with_scope(&context, |scope| template.resolve(scope)).unwrap();
            prop_assert_eq!(template.is_static(), template.paths().is_empty());
            if template.is_static() {
                prop_assert_eq!(filled, Some(source));
            }
        }
    }

    #[test]
    fn selectors_read_only_what_they_need(source in json_values(), context in contexts()) {
        if let Ok(template) = Template::parse(&source) {
            let selector = Selector::Template(template);
            let needs = selector.needs();
            let mut narrow = context.clone();
            narrow.retain(|key, _| needs.contains(key));
            let whole = with_scope(&context, |scope| selector.resolve(scope));
            prop_assert_eq!(with_scope(&narrow, |scope| selector.resolve(scope)), whole);
        }
    }

    #[test]
    fn expressions_never_panic_and_are_repeatable(source in expressions(), context in contexts()) {
        let parsed = Expression::parse(&source);
        prop_assert!(parsed.as_ref().err().is_none_or(|error| error.message != BROKE_OFF));
        if let Ok(expression) = parsed {
            let first = with_scope(&context, |scope| expression.eval(scope));
            prop_assert!(first.as_ref().err().is_none_or(|error| error.message != BROKE_OFF));
            prop_assert_eq!(with_scope(&context, |scope| expression.eval(scope)), first.clone());
            let needs = expression.needs();
            let mut narrow = context.clone();
            narrow.retain(|key, _| needs.contains(key));
            // `input` is the context in these tests, so that it would differ.
            if !source.contains("input") {
                prop_assert_eq!(with_scope(&narrow, |scope| expression.eval(scope)), first);
            }
        }
    }

    #[test]
    fn schemas_never_panic(source in json_values(), keyword in "(type|items|required|pattern|enum|not|\\$ref|allOf|minimum|properties|format)", value in json_values()) {
        for source in [source.clone(), json!({keyword: source})] {
            if let Ok(schema) = Schema::compile(&source)
                && let Err(violations) = schema.check(&value)
            {
                prop_assert!(!violations.is_empty());
            }
        }
    }

    #[test]
    fn conditions_never_panic(path in paths(), operator in prop::sample::select(&Operator::ALL[..]), value in prop::option::of(json_values()), input in prop::option::of(json_values())) {
        if let Ok(condition) = Condition::new(path, operator, value)
            && let (Operator::Exists, Ok(exists)) = (operator, condition.holds(input.as_ref(), None))
        {
            let absent = Condition::new(condition.path, Operator::NotExists, None).unwrap();
            prop_assert_eq!(absent.holds(input.as_ref(), None), Ok(!exists));
        }
    }

    #[test]
    fn numbers_read_back_from_their_text(number in numbers()) {
        let text = js::to_text(Some(&number));
        let same = js::compare(Some(&Value::String(text.clone())), Some(&number));
        prop_assert_eq!(same, if number.is_null() { js::compare(Some(&json!("null")), Some(&number)) } else { Some(std::cmp::Ordering::Equal) }, "{}", text);
    }

    #[test]
    fn order_and_equality_agree(left in json_values(), right in json_values()) {
        let order = js::compare(Some(&left), Some(&right));
        prop_assert_eq!(js::compare(Some(&right), Some(&left)), order.map(std::cmp::Ordering::reverse));
        if js::strict_equals(&left, &right) {
            prop_assert_eq!(order, Some(std::cmp::Ordering::Equal));
        }
    }

    #[test]
    fn writes_carry_the_exact_size(start in contexts(), writes in prop::collection::vec((paths(), prop::option::of(json_values())), 0..12)) {
        let limits = ContextLimits::default();
        let mut context = start;
        let mut size = ContextSize::of(&context);
        for (path, value) in writes {
            let before = context.clone();
            match value {
                Some(value) => match context::set_path(&mut context, &path, value.clone(), &limits, size) {
                    Ok(after) => {
                        size = after;
                        let written = path.get_in_map(&context).map(Cow::into_owned);
                        prop_assert_eq!(written, Some(value));
                    }
                    Err(error) => {
                        prop_assert_eq!(error.code(), "CONTEXT_PATH_BLOCKED");
                        prop_assert_eq!(&context, &before);
                    }
                },
                None => {
                    let (removed, after) = context::remove_path(&mut context, &path, size);
                    size = after;
                    prop_assert_eq!(removed.is_none(), context == before);
                }
            }
            prop_assert_eq!(size, ContextSize::of(&context));
        }
    }

    #[test]
    fn merges_carry_the_exact_size(start in contexts(), patch in contexts()) {
        let mut context = start.clone();
        let size = ContextSize::of(&context);
        let after = context::merge(&mut context, patch.clone(), &ContextLimits::default(), size).unwrap();
        prop_assert_eq!(after, ContextSize::of(&context));
        for (key, value) in &context {
            prop_assert_eq!(patch.get(key).or_else(|| start.get(key)), Some(value));
        }
        prop_assert!(context::check_whole(&context, &ContextLimits::default()).is_ok());
    }
}

#[test]
fn very_deep_values_do_not_overflow_the_stack() {
    let lists = (0..DEEP).fold(json!([]), |inner, _| Value::Array(vec![inner]));
    let objects =
        (0..DEEP).fold(json!({}), |inner, _| Value::Object(Map::from_iter([("a".to_owned(), inner)])));
    for value in [&lists, &objects] {
        assert_eq!(context::depth(value), DEEP + 1);
        assert!(Schema::compile(value).is_err());
        assert!(Template::parse(value).is_err());
    }
    assert_eq!(context::json_size(&lists), 2 * (DEEP + 1));
    assert_eq!(context::json_size(&objects), 6 * DEEP + 2);
    assert_eq!(js::to_text(Some(&lists)), "");

    let context = Map::from_iter([("deep".to_owned(), lists)]);
    let expression = Expression::parse("context.deep").unwrap();
    let error = with_scope(&context, |scope| expression.eval(scope)).unwrap_err();
    assert!(error.message.contains("nested deeper"), "{error}");
}

#[test]
fn schemas_that_refer_to_themselves_end() {
    for source in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"not": {"$ref": "#"}}),
        json!({"if": {"$ref": "#"}, "then": false}),
        json!({"$dynamicAnchor": "node", "$dynamicRef": "#node"}),
    ] {
        if let Ok(schema) = Schema::compile(&source) {
            let first = schema.check(&json!({"a": [1]}));
            assert_eq!(schema.check(&json!({"a": [1]})), first, "{source}");
        }
    }
}
