use std::cell::Cell;

use serde_json::Map;

use super::*;
use crate::flow::condition::{Condition, Operator};
use crate::flow::expression::Expression;
use crate::flow::path::Path;
use crate::flow::scope::{ExecutionFacts, Scope, Snapshot};
use crate::flow::selector::{Selector, Template};
use crate::time::Timestamp;

fn reference(join: u32) -> DatasetReference {
    DatasetReference { execution: ExecutionId::from_uuid(uuid::Uuid::from_u128(1)), join, settled: false }
}

fn at(join: u32) -> Value {
    reference(join).to_value(3, 1000)
}

/// What the joins hold: 1 rows with a reference to 2 in the last, 2 texts, 3 too much, 4 nothing, 5 itself.
fn dataset(named: &DatasetReference) -> Dataset {
    let rows = match named.join {
        1 => json!([{"x": 7, "ok": false}, {"x": 8, "ok": true}, {"more": at(2)}]),
        2 => json!(["a", "b"]),
        3 => return Dataset::TooLarge,
        5 => json!([at(5), at(5)]),
        6 | 7 => return Dataset::Rows { rows: Arc::new(json!([1])), bytes: DATASET_BYTES_MAX / 2 + 1 },
        _ => return Dataset::Unknown,
    };
    let bytes = crate::context::json_size(&rows);
    Dataset::Rows { rows: Arc::new(rows), bytes }
}

struct Seen<T> {
    result: T,
    /// How many datasets were asked for.
    asked: u32,
}

fn see<T>(look: impl FnOnce(&Scope<'_>) -> T) -> Seen<T> {
    let context = json!({
        "results": at(1), "deep": {"list": [at(1)], "n": 5}, "large": at(3), "nothing": at(4), "cycle": at(5),
        "left": at(6), "right": at(7), "same": [{"x": 7, "ok": false}, {"x": 8, "ok": true}], "texts": ["a", "b"],
        "few": at(2),
    });
    let outer = Snapshot {
        context: json!({"results": 0, "outer": at(2)}).as_object().cloned().unwrap(),
        outer: None,
    };
    let facts =
        ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
    let asked = Cell::new(0);
    let find = |named: &DatasetReference| {
        asked.set(asked.get() + 1);
        dataset(named)
    };
    let datasets = DatasetReads::new(&find);
    let result = look(&Scope {
        context: context.as_object().unwrap_or(&Map::new()),
        outer: Some(&outer),
        error: None,
        resume: None,
        resume_url: None,
        input: Some(&json!({"given": at(1), "n": 1})),
        iteration: None,
        event: None,
        datasets: Some(&datasets),
        item_key: None,
        execution: &facts,
    });
    Seen { result, asked: asked.get() }
}

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

#[test]
fn paths_go_through_references() {
    for (rule, text, wanted, asked) in [
        ("an element", "results.0.x", Some(json!(7)), 1),
        ("the length", "results.length", Some(json!(3)), 1),
        ("past the end", "results.3", None, 1),
        ("not the reference's own keys", "results.count", None, 1),
        ("a whole reference stays one", "results", Some(at(1)), 0),
        ("what is beside it", "deep.n", Some(json!(5)), 0),
        ("a reference in a list", "deep.list.0.1.ok", Some(json!(true)), 1),
        ("a list of references", "deep.list.length", Some(json!(1)), 0),
        ("a reference within rows", "results.2.more.1", Some(json!("b")), 2),
        ("whole within rows", "results.2.more", Some(at(2)), 1),
        ("of the parent", "outer.0", Some(json!("a")), 1),
        ("by the name of the parent", "parent.outer.length", Some(json!(2)), 1),
        ("one to nothing is data", "nothing.count", Some(json!(3)), 1),
        ("one that holds itself", "cycle.0.1.0.1.length", Some(json!(2)), 5),
    ] {
        let seen = see(|scope| Selector::Path(path(text)).resolve(scope));
        assert_eq!((seen.result, seen.asked), (Ok(wanted), asked), "{rule}");
    }
    let long = format!("cycle{}", ".0".repeat(100_000));
    assert_eq!(see(|scope| Selector::Path(path(&long)).resolve(scope)).result, Ok(Some(at(5))));
}

#[test]
fn templates_go_through_references() {
    for (template, wanted) in [
        (json!("${results.0.x}"), json!(7)),
        (json!({"all": "${results}", "n": "${results.length}"}), json!({"all": at(1), "n": 3})),
        (json!("<${few}>"), json!("<a,b>")),
        (json!("<${results.1.x} ${results.9.x:-none}>"), json!("<8 none>")),
    ] {
        let template = Template::parse(&template).unwrap();
        assert_eq!(see(|scope| template.resolve(scope)).result, Ok(Some(wanted)), "{template:?}");
    }
}

#[test]
fn conditions_go_through_references() {
    for (text, operator, value, wanted) in [
        ("given.0.x", Operator::Eq, json!(7), true),
        ("given.length", Operator::Gte, json!(3), true),
        ("given.3", Operator::Exists, json!(null), false),
        ("given", Operator::Exists, json!(null), true),
        ("given", Operator::Eq, at(1), false),
    ] {
        let condition = Condition::new(path(text), operator, Some(value)).unwrap();
        assert_eq!(see(|scope| condition.holds(scope.input, scope.datasets)).result, Ok(wanted), "{text}");
    }
    let ordered = Condition::new(path("few"), Operator::Gt, Some(json!("a"))).unwrap();
    let seen = see(|scope| ordered.holds(Some(&Value::Object(scope.context.clone())), scope.datasets));
    assert_eq!(seen.result, Ok(true), "the text of an array is ordered");
}

#[test]
fn expressions_see_arrays_where_they_look() {
    for (source, wanted, asked) in [
        ("context.results[0].x", json!(7), 1),
        ("size(context.results)", json!(3), 1),
        ("context.results.size()", json!(3), 1),
        ("context.results.exists(r, has(r.ok) && r.ok)", json!(true), 1),
        ("context.results.filter(r, has(r.x)).map(r, r.x)", json!([7, 8]), 1),
        ("context.results[2].more[1]", json!("b"), 2),
        ("context.deep.list[0][1].x", json!(8), 1),
        ("'b' in context.few", json!(true), 1),
        ("context.few == ['a', 'b']", json!(true), 1),
        ("['a', 'b'] == context.few", json!(true), 1),
        ("context.texts == context.few", json!(true), 1),
        ("context.texts != context.few", json!(false), 1),
        ("context.few in [context.texts]", json!(true), 1),
        ("context.texts in [context.few]", json!(true), 1),
        ("{'a': context.texts} == {'a': context.few}", json!(true), 1),
        ("context.texts + context.few", json!(["a", "b", "a", "b"]), 1),
        ("type(context.few) == list", json!(true), 1),
        ("input.given[1].x", json!(8), 1),
        ("parent.outer[0]", json!("a"), 1),
        ("context.nothing.count", json!(3), 1),
        // What is not looked at is not read.
        ("context.deep.n", json!(5), 0),
        ("size(context.deep)", json!(2), 0),
        ("size(context) > 3 && 'results' in context && has(context.large)", json!(true), 0),
        ("context.deep.n == 5 || context.large[0] == 1", json!(true), 0),
        ("context.deep.n == 4 ? context.large : context.deep.n", json!(5), 0),
        ("input.n", json!(1), 0),
        // What is only passed on stays a reference.
        ("context.results", at(1), 0),
        ("{'all': context.results, 'list': [context.few]}", json!({"all": at(1), "list": [at(2)]}), 0),
        ("context.deep.list", json!([at(1)]), 0),
        ("context.results[2]", json!({"more": at(2)}), 1),
    ] {
        let expression = Expression::parse(source).unwrap();
        let seen = see(|scope| expression.eval(scope));
        assert_eq!(seen.result, Ok(wanted), "{source}");
        assert_eq!(seen.asked, asked, "{source}");
    }
    let failed = see(|scope| Expression::parse("context.results.x").unwrap().eval(scope)).result;
    assert!(failed.is_err(), "an array has no keys: {failed:?}");
}

#[test]
fn too_much_is_an_error_with_a_code_of_its_own() {
    for selector in [
        Selector::Path(path("large.0")),
        Selector::Template(Template::parse(&json!("<${large.0}>")).unwrap()),
        Selector::Template(Template::parse(&json!("${left.0} ${right.0}")).unwrap()),
        Selector::Expr(Expression::parse("context.large[0] == 1").unwrap()),
        Selector::Expr(Expression::parse("context.left[0] == context.right[0]").unwrap()),
    ] {
        let error = see(|scope| selector.resolve(scope)).result.unwrap_err();
        assert_eq!(error.code, "DATASET_TOO_LARGE", "{selector:?}");
        assert!(error.message.contains("16777216 bytes"), "{}", error.message);
    }
    let condition = Condition::new(path("large.0"), Operator::Eq, Some(json!(1))).unwrap();
    let seen = see(|scope| condition.holds(Some(&Value::Object(scope.context.clone())), scope.datasets));
    assert_eq!(seen.result.unwrap_err().to_string(), DatasetTooLarge.to_string());
}

#[test]
fn rows_that_hold_themselves_end_an_evaluation() {
    let seen = see(|scope| Expression::parse("context.cycle[0][1][0]").unwrap().eval(scope));
    let message = seen.result.unwrap_err().message;
    assert!(message.contains("nested deeper") || message.contains("bytes"), "{message}");
}
