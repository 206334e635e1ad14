use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::scope::{ExecutionFacts, Scope, Snapshot};
use super::super::selector::Needs;
use super::{BROKE_OFF, Expression, NESTING_MAX};
use crate::limits::EXPRESSION_BYTES_MAX;
use crate::time::Timestamp;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// Evaluates in a scope in which every variable exists.
fn eval(source: &str) -> Result<Value, String> {
    let facts =
        ExecutionFacts { id: "ex_1".into(), flow_id: "order", started_at: Timestamp::from_millis(0), run: 2 };
    let context = object(json!({
        "checks": {"fraud": {"score": 0.9}}, "item": {"sku": "a"}, "index": 4, "dotted.key": 1, "own": 1, "min": i64::MIN,
        "max": i64::MAX, "big": u64::MAX, "map": {"z": 1, "a": 2, "m": 3}, "zero": 0, "none": null,
    }));
    let outer = Snapshot { context: object(json!({"own": 0, "outer": 5})), outer: None };
    let (input, event, error) = (json!({"n": 1}), json!({"name": "paid", "data": [1]}), json!({"code": "X"}));
    let scope = Scope {
        context: &context,
        outer: Some(&outer),
        error: Some(&error),
        resume: None,
        resume_url: None,
        input: Some(&input),
        iteration: Some(3),
        event: Some(&event),
        datasets: None,
        item_key: None,
        execution: &facts,
    };
    let expression = Expression::parse(source).map_err(|error| error.message)?;
    expression.eval(&scope).map_err(|error| error.message)
}

#[test]
fn variables_are_those_of_the_scope() {
    for (source, wanted) in [
        ("context.checks.fraud.score > 0.8", json!(true)),
        ("context['dotted.key']", json!(1)),
        ("context.own", json!(1)),
        ("context.outer + parent.outer", json!(10)),
        ("parent.own", json!(0)),
        ("has(context.missing)", json!(false)),
        ("has(context.outer)", json!(true)),
        ("'outer' in context && 'missing' in context", json!(false)),
        ("context._error.code", json!("X")),
        ("size(context) > 5", json!(true)),
        ("item.sku + string(index)", json!("a4")),
        ("input.n + iteration", json!(4)),
        ("event.name == 'paid' && event.data[0] == 1", json!(true)),
        (
            "execution",
            json!({"flowId": "order", "id": "ex_1", "run": 2, "startedAt": "1970-01-01T00:00:00.000Z"}),
        ),
        ("context.big", json!(u64::MAX)),
        ("[1, 2, 3].filter(x, x > 1).map(x, x * 2)", json!([4, 6])),
        ("context.none == null", json!(true)),
        ("{'b': 1, 'a': context.zero}", json!({"a": 0, "b": 1})),
        ("timestamp(execution.startedAt) < timestamp('2000-01-01T00:00:00Z')", json!(true)),
        ("'abc'.matches('^a.c$')", json!(true)),
    ] {
        assert_eq!(eval(source), Ok(wanted), "{source}");
    }
}

#[test]
fn maps_are_iterated_in_the_order_of_their_keys() {
    for _ in 0..20 {
        assert_eq!(eval("context.map.map(k, k)"), Ok(json!(["a", "m", "z"])));
        assert_eq!(eval("{'b': 1, 'a': 2, 'c': 3}.filter(k, k != 'a')"), Ok(json!(["b", "c"])));
    }
}

#[test]
fn objects_are_given_with_sorted_keys() {
    assert_eq!(eval("context.map").unwrap().to_string(), r#"{"a":2,"m":3,"z":1}"#);
}

#[test]
fn failures_say_what_is_wrong() {
    for (source, wanted) in [
        ("context.missing", "there is no key `missing`"),
        ("context.own / context.zero", "division by zero"),
        ("context.own + 'a'", "the operands do not fit"),
        ("timestamp('x')", "timestamp"),
        ("b'bytes'", "bytes"),
        ("0.0 / 0.0", "NaN"),
        ("own", "unknown variable `own`"),
        ("missing(1)", "missing"),
        ("context.map(x, y)", "unknown variable `y`"),
        ("Message{a: 1}", "messages of type `Message`"),
        ("1 +", "line 1"),
        ("", "line 1"),
    ] {
        let message = eval(source).unwrap_err();
        assert!(message.contains(wanted), "{source}: {message}");
    }
}

#[test]
fn nothing_impure_can_be_called() {
    for source in ["now()", "timestamp()", "rand()", "random()", "uuid()", "env('HOME')", "print('x')"] {
        assert!(eval(source).is_err(), "{source}");
    }
}

#[test]
fn arithmetic_at_the_edges_fails_instead_of_panicking() {
    for source in [
        "context.max + 1",
        "context.min - 1",
        "context.max * 2",
        "-context.min",
        "context.min / -1",
        "context.min % -1",
        "context.big + 1u",
        "0u - 1u",
        "1 % 0",
        "int(1e300)",
        "uint(-1.0)",
        "int('99999999999999999999')",
        "duration('9223372036854775807s') + duration('9223372036854775807s')",
        "timestamp('9999-12-31T23:59:59Z') + duration('1h')",
        "timestamp('0001-01-01T00:00:00Z') - duration('1h')",
        "timestamp('9999-12-31T23:59:59Z').getHours('+99:99')",
        "[1][9223372036854775807]",
        "[1][-1]",
        "'a'.matches('(')",
        "'a'.matches('(((a{1000}){1000}){1000})')",
    ] {
        let message = eval(source).expect_err(source);
        assert_ne!(message, BROKE_OFF, "{source}");
    }
}

#[test]
fn hostile_nesting_is_refused_before_it_is_parsed() {
    let many = |text: &str| text.repeat(2000);
    for source in [
        many("("),
        format!("{}1{}", many("("), many(")")),
        format!("{}1{}", many("["), many("]")),
        format!("{}true", many("!")),
        format!("{}1", many("-")),
        format!("1{}", many("+1")),
        format!("context{}", many(".a")),
        format!("context{}", many("[0]")),
        format!("1{}", many("==1")),
        format!("true{}", many("?1:1")),
        format!("1{}", many(" in 1")),
        format!("true{}", many("&&true")),
        format!("{}1", many("{1:")),
        format!("'{}", many("(")),
        format!("'\\q{}'", many("(")),
        format!("1 // comment\n{}", many("(")),
        format!("r'\\'{}", many("(")),
        format!("'''a''b'''{}", many("(")),
        "'".repeat(7),
        "🦀".into(),
        "`a`".into(),
        "@result".into(),
    ] {
        assert!(Expression::parse(&source).is_err(), "{:.40}", source);
    }
}

#[test]
fn limits_leave_room_for_what_people_write() {
    let list = format!("context.own in [{}]", vec!["'a(b'"; 1000].join(","));
    assert!(list.len() < EXPRESSION_BYTES_MAX);
    assert_eq!(eval(&list), Ok(json!(false)));
    let deepest = format!("1{}", "+1".repeat(usize::from(NESTING_MAX)));
    assert_eq!(eval(&deepest), Ok(json!(usize::from(NESTING_MAX) + 1)));
    let brackets = format!("{}1{}", "(".repeat(31), ")".repeat(31));
    assert_eq!(eval(&brackets), Ok(json!(1)));
    let lists = format!("size({}1{})", "[".repeat(30), "]".repeat(30));
    assert_eq!(eval(&lists), Ok(json!(1)));
    assert!(Expression::parse(&" ".repeat(EXPRESSION_BYTES_MAX + 1)).is_err());
}

#[test]
fn comprehensions_nest_three_deep() {
    let nested = |depth: usize| (0..depth).fold("1".to_owned(), |inner, _| format!("[1, 2].map(x, {inner})"));
    assert_eq!(eval(&nested(3)), Ok(json!([[[1, 1], [1, 1]], [[1, 1], [1, 1]]])));
    assert!(eval(&nested(4)).unwrap_err().contains("nested deeper than 3"));
}

#[test]
fn needs_are_the_keys_that_are_read() {
    let needs = |source: &str| Expression::parse(source).unwrap().needs();
    for (source, roots) in [
        ("context.a.b > context['c d'] && has(context.e.f)", &["a", "c d", "e"][..]),
        ("context.list.all(context, context > 1)", &["list"]),
        ("input.a == 1 && iteration < 3 && execution.run == 1", &[]),
        ("parent.a == item.b", &["item", "parent"]),
    ] {
        let wanted: BTreeSet<_> = roots.iter().map(|&root| root.to_owned()).collect();
        assert_eq!(needs(source), Needs::Roots(wanted), "{source}");
    }
    assert_eq!(needs("size(context)"), Needs::All);
    assert_eq!(needs("context[input.key]"), Needs::All);
}

#[test]
fn a_condition_must_be_a_boolean() {
    let facts =
        ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
    let context = Map::new();
    let scope = Scope {
        context: &context,
        outer: None,
        error: None,
        resume: None,
        resume_url: None,
        input: None,
        iteration: None,
        event: None,
        datasets: None,
        item_key: None,
        execution: &facts,
    };
    assert_eq!(Expression::parse("1 < 2").unwrap().holds(&scope), Ok(true));
    let error = Expression::parse("'true'").unwrap().holds(&scope).unwrap_err();
    assert_eq!(error.to_string(), "`'true'`: a condition must be true or false, this is a text");
    assert!(Expression::parse("item == 1").unwrap().holds(&scope).is_err(), "no item outside a map");
}

#[test]
fn comprehensions_have_a_budget() {
    let scope_of = |items: Value| object(json!({"items": items}));
    let facts =
        ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
    let run = |source: &str, context: &Map<String, Value>| {
        let scope = Scope {
            context,
            outer: None,
            error: None,
            resume: None,
            resume_url: None,
            input: None,
            iteration: None,
            event: None,
            datasets: None,
            item_key: None,
            execution: &facts,
        };
        Expression::parse(source).unwrap().eval(&scope).map_err(|error| error.message)
    };
    let numbers = scope_of((0..5000).collect());
    assert_eq!(run("size(context.items.filter(a, a % 2 == 0).map(a, {'a': a}))", &numbers), Ok(json!(2500)));
    let texts = scope_of(json!(vec!["x".repeat(60_000); 150]));
    for (source, context) in [
        ("context.items.map(a, context.items.map(b, context.items.map(c, 1)))", &numbers),
        ("context.items.all(a, context.items.all(b, a + b >= 0))", &numbers),
        ("context.items.map(a, context.items)", &texts),
        ("context.items.all(a, context.items == context.items)", &texts),
        ("context.items.map(a, context.items.map(b, a + b))", &texts),
        ("context.items.map(a, context.items.map(b, 'x'.matches('y')))", &texts),
    ] {
        let message = run(source, context).unwrap_err();
        assert!(message.contains("costs more than an evaluation may"), "{source}: {message}");
    }
}
