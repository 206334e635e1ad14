//! FlowMonkey's own tests of its engine, retries and sub-flows, as far as they are about what an execution does. The names
//! carry its test numbers. The flows are its flows, unchanged.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "test code")]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use flowmonkey_core::execution::command::{Command, ReportedOutcome};
use flowmonkey_core::execution::event::{AttemptOutcome, Event};
use flowmonkey_core::execution::state::{CancelSource, Phase};
use flowmonkey_core::execution::{Rejection, StartRequest, Status, create};
use flowmonkey_core::limits::Limits;
use serde_json::{Value, json};
use support::{Bench, failure, success};

const FLOWS: &str = include_str!("support/flowmonkey.json");

fn bench() -> Bench {
    let mut bench = Bench::new(FLOWS);
    bench.on("transform", |draft| {
        success(json!(draft.input.as_ref().unwrap().as_str().unwrap().to_uppercase()))
    });
    bench
}

fn context_of(flow: &str, context: Value) -> (Status, Value, u32) {
    let mut bench = bench();
    let id = bench.start_flow(flow, context);
    bench.run_to_end();
    (bench.status(id), bench.context(id), bench.get(id).step_count)
}

#[test]
fn engine_01_simple_and_31_its_ticks() {
    let (status, context, steps) = context_of("simple", json!({"message": "hello"}));
    assert_eq!((status, steps), (Status::Completed, 2));
    assert_eq!((&context["echoed"], &context["result"]), (&json!("hello"), &json!("HELLO")));

    let mut bench = Bench::new(FLOWS);
    let id = bench.created("simple", json!({"message": "x"}));
    assert_eq!(bench.status(id), Status::Pending);
    bench.must(id, Command::Begin);
    assert_eq!(bench.status(id), Status::WaitingForWorker);
    bench.answer(id, success(json!("X")));
    assert_eq!(bench.status(id), Status::Completed);
}

#[test]
fn engine_02_history() {
    let mut bench = bench();
    let id = bench.start_flow("simple", json!({"message": "hello"}));
    let steps: Vec<_> =
        bench.attempts(id).iter().map(|ended| (ended.step_id.to_string(), ended.outcome)).collect();
    assert_eq!(
        steps,
        [("echo".to_owned(), AttemptOutcome::Success), ("transform".to_owned(), AttemptOutcome::Success)]
    );
}

#[test]
fn engine_03_branch_a_04_b_05_default() {
    for (kind, wanted) in [("a", "handled-a"), ("b", "handled-b"), ("x", "handled-default")] {
        let (status, context, _) = context_of("branch", json!({"type": kind}));
        assert_eq!((status, &context["result"]), (Status::Completed, &json!(wanted)));
    }
}

#[test]
fn engine_06_wait_07_its_wake_08_since_when_and_32_ticks() {
    let mut bench = bench();
    let id = bench.start_flow("wait", json!({"message": "hi"}));
    assert_eq!(bench.status(id), Status::Waiting);
    assert_eq!(bench.get(id).next_wake(), Some(bench.now.plus(1000)));
    bench.pass(999);
    assert_eq!(bench.status(id), Status::Waiting);
    bench.pass(1);
    assert_eq!(bench.status(id), Status::Completed);
    assert_eq!(bench.context(id), json!({"message": "hi", "started": "hi", "result": "done"}));
}

#[test]
fn engine_09_error_is_recovered() {
    let (status, context, _) = context_of("error", json!({}));
    assert_eq!((status, &context["result"]), (Status::Completed, &json!("recovered")));
}

#[test]
fn engine_10_cancel_11_with_a_reason_12_not_after_the_end_13_no_step_moves_it() {
    let mut bench = bench();
    let id = bench.start_flow("long-wait", json!({}));
    let command = Command::Cancel { source: CancelSource::User, reason: Some("legacy reason".into()) };
    bench.must(id, command.clone());
    let Phase::Cancelled { cancellation } = bench.get(id).phase.clone() else { panic!() };
    assert_eq!(
        (cancellation.source, cancellation.reason.as_deref()),
        (CancelSource::User, Some("legacy reason"))
    );
    assert_eq!(bench.command(id, command.clone()), Err(Rejection::Finished(Status::Cancelled)));

    let done = bench.start_flow("error", json!({}));
    assert_eq!(bench.command(done, command), Err(Rejection::Finished(Status::Completed)));
    assert!(bench.get(done).error().is_none());

    let busy = bench.start_flow("simple", json!({"message": "x"}));
    bench.run_to_end();
    assert_eq!(bench.status(busy), Status::Completed);
    bench.off("transform");
    let busy = bench.start_flow("simple", json!({"message": "x"}));
    bench.cancel(busy).unwrap();
    assert_eq!(bench.status(busy), Status::Cancelling);
    assert_eq!(bench.command(busy, Command::Wake), Err(Rejection::NothingDue));
    bench.run_to_end();
    assert_eq!(bench.status(busy), Status::Cancelled);
}

#[test]
fn engine_17_idempotency_key_and_18_its_window() {
    let mut bench = bench();
    let flow = bench.flow("simple", None).unwrap();
    let expiry = |window| {
        let request = StartRequest {
            idempotency_key: Some("k".into()),
            idempotency_window_ms: window,
            ..StartRequest::new(bench.next_id(), json!({}))
        };
        let creation = create(request, &flow, &Limits::default(), support::BEGINNING).unwrap();
        assert_eq!(creation.execution.identity.idempotency_key.as_deref(), Some("k"));
        let (key, until) = creation.idempotency.unwrap();
        (key, until.since(support::BEGINNING))
    };
    let mut expiry = expiry;
    assert_eq!(expiry(Some(1000)), ("k".into(), 1000));
    assert_eq!(expiry(None), ("k".into(), 24 * 3_600_000));
    assert_eq!(expiry(Some(u64::MAX)), ("k".into(), 7 * 24 * 3_600_000));
}

#[test]
fn engine_19_infinite_flow_ends_by_max_steps() {
    let mut bench = bench();
    bench.limits.max_steps = 10;
    let id = bench.start_flow("infinite", json!({}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "MAX_STEPS"));
    assert_eq!(bench.get(id).step_count, 10);
    assert_eq!(bench.get(id).error().unwrap().message, "Exceeded 10 steps");
}

#[test]
fn engine_21_unknown_handler() {
    let mut bench = bench();
    bench.known_types = Some(Default::default());
    let id = bench.start_flow("simple", json!({"message": "x"}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "HANDLER_NOT_FOUND"));
    assert_eq!(bench.get(id).error().unwrap().message, "Handler \"transform\" not found");
}

#[test]
fn engine_24_id_25_tenant_27_metadata_28_timeouts_40_version() {
    let mut bench = bench();
    let flow = bench.flow("wait", None).unwrap();
    let id = bench.next_id();
    let request = StartRequest {
        tenant_id: Some("acme".into()),
        metadata: Some(json!({"a": [1]})),
        execution_timeout_ms: Some(500),
        wait_timeout_ms: Some(7),
        ..StartRequest::new(id, json!({}))
    };
    let creation = create(request, &flow, &bench.limits, bench.now).unwrap();
    assert_eq!(bench.admit(creation), id);
    let identity = &bench.get(id).identity;
    assert_eq!(identity.id, id);
    assert_eq!(identity.tenant_id.as_deref(), Some("acme"));
    assert_eq!(identity.metadata, Some(json!({"a": [1]})));
    assert_eq!(identity.wait_timeout_ms, Some(7));
    assert_eq!(identity.flow.version, "1.0.0");
    bench.must(id, Command::Begin);
    bench.run_to_end();
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "EXECUTION_TIMEOUT"));
}

#[test]
fn engine_29_cancel_reaches_two_children() {
    let mut bench = Bench::new(
        r#"{"id":"p","version":"1.0.0","initialStepId":"m","steps":{"m":{"type":"map","config":{
            "items":{"type":"static","value":[1,2]},"body":{"type":"delay","config":{"ms":60000}}}}}}"#,
    );
    let id = bench.start(json!({}));
    bench.cancel(id).unwrap();
    assert_eq!(bench.status(id), Status::Cancelled);
    let children = bench.children(id);
    assert_eq!(children.len(), 2);
    for child in children {
        let Phase::Cancelled { cancellation } = &bench.get(child).phase else { panic!() };
        assert_eq!(cancellation.source, CancelSource::Parent);
    }
}

fn one_step(step: Value) -> Bench {
    let text = json!({"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": {
        "s": step,
        "ok": {"type": "set", "config": {"value": "ok"}, "outputKey": "went"},
        "other": {"type": "set", "config": {"value": "other"}, "outputKey": "went"},
        "fallback": {"type": "set", "config": {"value": "fallback"}, "outputKey": "went"},
    }});
    Bench::new(&text.to_string())
}

#[test]
fn engine_33_lone_failure() {
    let mut bench = one_step(json!({"type": "bad", "config": {}}));
    bench.on("bad", |_| failure("TEST_ERROR"));
    let id = bench.start(json!({}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "TEST_ERROR"));
    assert_eq!(bench.get(id).error().unwrap().step_id.as_deref(), Some("s"));
    assert_eq!(bench.now, support::BEGINNING, "nothing is waited for");
}

#[test]
fn engine_34_key_35_full_36_static() {
    for (selector, wanted) in [
        (json!({"type": "key", "key": "a"}), json!(1)),
        (json!({"type": "full"}), json!({"a": 1, "b": 2})),
        (json!({"type": "static", "value": "v"}), json!("v")),
    ] {
        let mut bench =
            one_step(json!({"type": "echo", "config": {}, "input": selector, "outputKey": "out"}));
        let id = bench.start(json!({"a": 1, "b": 2}));
        assert_eq!(bench.context(id)["out"], wanted);
    }
}

#[test]
fn engine_37_38_39_events() {
    let mut bench = bench();
    let id = bench.start_flow("simple", json!({"message": "x"}));
    let kinds: Vec<String> = bench
        .events(id)
        .map(|event| serde_json::to_value(event).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.first().map(String::as_str), Some("created"));
    assert_eq!(kinds.last().map(String::as_str), Some("completed"));
    assert_eq!(kinds.iter().filter(|kind| *kind == "entered").count(), 2);
    assert_eq!(kinds.iter().filter(|kind| *kind == "attemptEnded").count(), 2);
    let id = bench.start_flow("wait", json!({"message": "x"}));
    assert!(bench.events(id).any(|event| matches!(event, Event::WaitBegan(_))));
    let mut bench = one_step(json!({"type": "fail", "config": {}}));
    let id = bench.start(json!({}));
    assert!(bench.events(id).any(|event| matches!(event, Event::Failed)));
}

#[test]
fn engine_41_42_43_ended_ones_stay() {
    let mut bench = bench();
    let completed = bench.start_flow("error", json!({}));
    bench.limits.max_steps = 3;
    let failed = bench.start_flow("infinite", json!({}));
    bench.limits.max_steps = 1000;
    let cancelled = bench.start_flow("long-wait", json!({}));
    bench.cancel(cancelled).unwrap();
    for (id, status) in
        [(completed, Status::Completed), (failed, Status::Failed), (cancelled, Status::Cancelled)]
    {
        for command in [Command::Begin, Command::Wake, Command::Unpause, Command::JoinDecided { join: 1 }] {
            assert_eq!(bench.command(id, command), Err(Rejection::Finished(status)));
        }
    }
}

/// Fails with `code` `times` times, then succeeds with the number of attempts.
fn flaky(
    code: &'static str,
    times: u32,
) -> impl FnMut(&flowmonkey_core::execution::TaskDraft) -> ReportedOutcome {
    let made = Rc::new(Cell::new(0));
    move |_| {
        made.set(made.get() + 1);
        if made.get() <= times { failure(code) } else { success(json!({"attempts": made.get()})) }
    }
}

#[test]
fn retry_01_to_06() {
    let step = |retry: Value, fallback: bool| {
        json!({"type": "flaky", "config": {}, "outputKey": "out", "retry": retry,
            "transitions": {"onSuccess": null, "onFailure": if fallback { json!("fallback") } else { json!(null) }}})
    };
    for (retry, times, fallback, status, backoffs) in [
        (json!({"maxAttempts": 3, "backoffMs": 0}), 2, false, Status::Completed, vec![0, 0]),
        (json!({"maxAttempts": 2, "backoffMs": 0}), u32::MAX, true, Status::Completed, vec![0, 0]),
        (json!({"maxAttempts": 1, "backoffMs": 0}), u32::MAX, false, Status::Failed, vec![0]),
        (json!({"maxAttempts": 3, "backoffMs": 100}), 1, false, Status::Completed, vec![100]),
        (
            json!({"maxAttempts": 3, "backoffMs": 0, "retryOn": ["OTHER"]}),
            u32::MAX,
            false,
            Status::Failed,
            vec![],
        ),
    ] {
        let mut bench = one_step(step(retry, fallback));
        bench.on("flaky", flaky("PERMANENT", times));
        let id = bench.start(json!({}));
        bench.run_to_end();
        assert_eq!((bench.status(id), bench.backoffs(id)), (status, backoffs));
        match (status, fallback) {
            (Status::Completed, true) => assert_eq!(bench.context(id)["went"], "fallback"),
            (Status::Completed, false) => {
                assert_eq!(bench.context(id)["out"], json!({"attempts": times + 1}))
            }
            _ => assert_eq!(bench.code(id), "PERMANENT"),
        }
    }
}

fn routed(step_type: &str, config: Value, input: Value, context: Value) -> (Status, String) {
    let mut bench = one_step(json!({"type": step_type, "config": config, "input": input, "transitions": {}}));
    let id = bench.start(context);
    let went = bench.context(id)["went"].as_str().unwrap_or("-").to_owned();
    (bench.status(id), went)
}

#[test]
fn conditional_07_to_13() {
    let full = json!({"type": "full"});
    let case = |path: &str, op: &str, value: Value, target: &str| json!({"path": path, "op": op, "value": value, "target": target});
    let scores = json!({"conditions": [case("score", "gte", json!(80), "ok"), case("score", "lt", json!(80), "other")]});
    let defaulted = json!({"conditions": [case("x", "eq", json!(1), "ok")], "default": "fallback"});
    let without = json!({"conditions": [case("x", "eq", json!(1), "ok")]});
    for (config, context, wanted) in [
        (scores.clone(), json!({"score": 90}), (Status::Completed, "ok")),
        (scores, json!({"score": 50}), (Status::Completed, "other")),
        (defaulted, json!({}), (Status::Completed, "fallback")),
        (without, json!({}), (Status::Failed, "-")),
        (
            json!({"conditions": [case("user.role", "eq", json!("admin"), "ok")]}),
            json!({"user": {"role": "admin"}}),
            (Status::Completed, "ok"),
        ),
        (
            json!({"conditions": [{"path": "email", "op": "exists", "target": "ok"}]}),
            json!({"email": "a@b"}),
            (Status::Completed, "ok"),
        ),
        (
            json!({"conditions": [case("status", "in", json!(["active", "pending"]), "ok")]}),
            json!({"status": "pending"}),
            (Status::Completed, "ok"),
        ),
    ] {
        let (status, went) = routed("conditional", config, full.clone(), context);
        assert_eq!((status, went.as_str()), wanted);
    }
}

#[test]
fn switch_14_to_17() {
    let config = |path: &str| json!({"path": path, "cases": {"create": "ok", "delete": "other", "404": "ok"}, "default": "fallback"});
    for (context, wanted) in [
        (json!({"v": "create"}), "ok"),
        (json!({"v": "delete"}), "other"),
        (json!({"v": "archive"}), "fallback"),
        (json!({"v": 404}), "ok"),
    ] {
        let (status, went) = routed("switch", config("v"), json!({"type": "full"}), context);
        assert_eq!((status, went.as_str()), (Status::Completed, wanted));
    }
}

fn parent_and_child(wait: bool, child: &str) -> Bench {
    Bench::new(&format!(
        r#"[{{"id":"parent","version":"1.0.0","initialStepId":"s","steps":{{"s":{{"type":"sub-flow","config":
            {{"flowId":"child","waitForCompletion":{wait}}},"outputKey":"childResult"}}}}}},
           {{"id":"child","version":"1.0.0","initialStepId":"c","steps":{{"c":{child}}}}}]"#
    ))
}

#[test]
fn sub_flow_18_to_21_and_engine_26_parent() {
    let set = r#"{"type":"set","config":{"value":42},"outputKey":"x"}"#;
    let mut bench = parent_and_child(true, set);
    let id = bench.start(json!({}));
    let result = bench.context(id)["childResult"].clone();
    assert_eq!((bench.status(id), &result["status"]), (Status::Completed, &json!("completed")));
    assert_eq!((&result["context"]["x"], &result["flowId"]), (&json!(42), &json!("child")));
    let child = bench.children(id)[0];
    assert_eq!(bench.get(child).identity.parent.unwrap().execution, id);
    assert_eq!(result["childExecutionId"], json!(child));

    let mut bench = parent_and_child(false, set);
    let id = bench.start(json!({}));
    let result = bench.context(id)["childResult"].clone();
    assert_eq!((bench.status(id), &result["mode"]), (Status::Completed, &json!("fire-and-forget")));
    let child = bench.children(id)[0];
    assert_eq!((bench.status(child), &result["childExecutionId"]), (Status::Completed, &json!(child)));

    let mut bench = parent_and_child(true, r#"{"type":"fail","config":{}}"#);
    let id = bench.start(json!({}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "CHILD_FAILED"));
}

#[test]
fn example_02_selectors() {
    let steps = [
        ("step-key", json!({"type": "key", "key": "user"}), "from_key"),
        ("step-keys", json!({"type": "keys", "keys": ["user", "score"]}), "from_keys"),
        ("step-path", json!({"type": "path", "path": "user.email"}), "from_path"),
        (
            "step-template",
            json!({"type": "template", "template": "${user.name} scored ${score}"}),
            "from_template",
        ),
        ("step-full", json!({"type": "full"}), "from_full"),
        ("step-static", json!({"type": "static", "value": {"msg": "I am a static value"}}), "from_static"),
    ];
    let mut map = serde_json::Map::new();
    for (place, (id, input, key)) in steps.iter().enumerate() {
        let next = steps.get(place + 1).map(|(next, ..)| *next);
        map.insert(
            (*id).into(),
            json!({"id": id, "type": "echo", "config": {}, "input": input, "outputKey": key,
            "transitions": {"onSuccess": next}}),
        );
    }
    let flow = json!({"id": "input-demo", "version": "1.0.0", "initialStepId": "step-key", "steps": map});
    let mut bench = Bench::new(&flow.to_string());
    let user = json!({"name": "Alice", "email": "alice@example.com"});
    let id = bench.start(json!({"user": user, "score": 95}));
    let context = bench.context(id);
    assert_eq!(context["from_key"], user);
    assert_eq!(context["from_keys"], json!({"user": user, "score": 95}));
    assert_eq!(context["from_path"], "alice@example.com");
    assert_eq!(context["from_template"], "Alice scored 95");
    let full: Vec<_> = context["from_full"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(full, ["user", "score", "from_key", "from_keys", "from_path", "from_template"]);
    assert_eq!(context["from_static"], json!({"msg": "I am a static value"}));
}

#[test]
fn example_04_retry() {
    let mut bench = one_step(
        json!({"type": "flaky-api", "config": {}, "input": {"type": "static", "value": {}},
        "outputKey": "response", "transitions": {"onSuccess": null, "onFailure": null},
        "retry": {"maxAttempts": 5, "backoffMs": 100, "backoffMultiplier": 2, "maxBackoffMs": 2000, "retryOn": ["TRANSIENT"]}}),
    );
    bench.on("flaky-api", flaky("TRANSIENT", 3));
    let id = bench.start(json!({}));
    bench.run_to_end();
    assert_eq!((bench.status(id), bench.get(id).step_count), (Status::Completed, 4));
    assert_eq!(bench.backoffs(id), [100, 200, 400]);
    assert_eq!(bench.context(id)["response"], json!({"attempts": 4}));
    let outcomes: Vec<_> = bench.attempts(id).iter().map(|ended| ended.outcome).collect();
    assert_eq!(outcomes[..3], [AttemptOutcome::Failure; 3]);
    assert_eq!(outcomes[3], AttemptOutcome::Success);
}

#[test]
fn example_09_pipes() {
    let mut bench = Bench::new(
        r#"{"id":"order-pipeline","version":"1.0.0","initialStepId":"process","steps":{
        "process":{"id":"process","type":"process-order","config":{},"input":{"type":"full"},"outputKey":"result","transitions":{"onSuccess":null}}},
        "pipes":[{"id":"pipe-orders","stepId":"process","on":"success","tableId":"orders-table","mappings":[
        {"sourcePath":"orderId","columnId":"order_id"},{"sourcePath":"total","columnId":"total"},{"sourcePath":"missing","columnId":"none"}],
        "staticValues":{"source":"api"}},
        {"id":"failures","stepId":"process","on":"failure","tableId":"f","mappings":[]}]}"#,
    );
    bench.on("process-order", |draft| {
        let input = draft.input.as_ref().unwrap();
        success(json!({"orderId": input["id"], "total": input["qty"].as_f64().unwrap() * input["price"].as_f64().unwrap()}))
    });
    for (order, qty, price) in [("ORD-001", 3, 29.99), ("ORD-002", 1, 149.99), ("ORD-003", 10, 4.99)] {
        let id = bench.start(json!({"id": order, "qty": qty, "price": price}));
        assert_eq!(bench.status(id), Status::Completed);
    }
    let rows: Vec<_> = bench.rows.iter().map(|row| Value::Object(row.row.clone())).collect();
    assert_eq!(
        rows,
        [
            json!({"order_id": "ORD-001", "total": 3.0 * 29.99, "source": "api"}),
            json!({"order_id": "ORD-002", "total": 149.99, "source": "api"}),
            json!({"order_id": "ORD-003", "total": 10.0 * 4.99, "source": "api"}),
        ]
    );
    assert!(bench.rows.iter().all(|row| row.pipe.as_deref() == Some("pipe-orders")));
}
