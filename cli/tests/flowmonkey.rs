//! FlowMonkey's own tests and examples, through the real program. A name such as `engine_03` is the number of their test in
//! `engine.test.ts`, `retry_05` that in `retry-and-handlers.test.ts`. `docs/flowmonkey-compat.md` says where the others are.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use serde_json::{Value, json};
use support::{Dev, Run, call, example, history};

const CORE: &str = "flowmonkey/core.json";
const RETRY: &str = "flowmonkey/retry.yaml";
const ROUTING: &str = "flowmonkey/routing.yaml";
const SUB_FLOWS: &str = "flowmonkey/sub-flows.yaml";
const HANDLERS: &str = "flowmonkey/handlers/handlers.yaml";
const OVERRIDE: &str = "flowmonkey/handlers/override.yaml";

fn core(flow: &str, input: &Value) -> Run {
    Run::of(CORE).flow(flow).input(input)
}

fn millis(entry: &Value, key: &str) -> i64 {
    // Within one day; the tests take seconds.
    let text = entry[key].as_str().unwrap();
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    ((part(11, 13) * 60 + part(14, 16)) * 60 + part(17, 19)) * 1000 + part(20, 23)
}

#[test]
fn engine_01_02_40_simple_completes_with_its_history_and_version() {
    let record = core("simple", &json!({ "message": "hello" })).ends("completed");
    assert_eq!(record["context"], json!({ "message": "hello", "echoed": "hello", "result": "HELLO" }));
    assert_eq!(record["stepCount"], 2);
    assert_eq!(history(&record), [("echo", "success"), ("transform", "success")]);
    assert_eq!(record["flowVersion"], "1.0.0");
}

fn branch(kind: &str, result: &str) {
    let record = core("branch", &json!({ "type": kind })).ends("completed");
    assert_eq!(record["context"]["result"], result);
    assert_eq!(record["stepCount"], 2);
}

#[test]
fn engine_03_branch_a() {
    branch("a", "handled-a");
}

#[test]
fn engine_04_branch_b() {
    branch("b", "handled-b");
}

#[test]
fn engine_05_branch_default() {
    branch("x", "handled-default");
}

#[test]
fn engine_06_32_wait_runs_to_its_end() {
    let record = core("wait", &json!({ "message": "hi" })).args(&["--skip-time"]).ends("completed");
    assert_eq!(record["context"], json!({ "message": "hi", "started": "hi", "result": "done" }));
    assert_eq!(history(&record), [("start", "success"), ("wait", "wait"), ("finish", "success")]);
    // And without skipping: it really waits.
    let record = core("wait", &json!({ "message": "hi" })).ends("completed");
    let entries = record["history"].as_array().unwrap();
    assert!(millis(&entries[2], "startedAt") - millis(&entries[1], "completedAt") >= 1000);
}

#[test]
fn engine_07_08_10_38_45_a_waiting_execution_is_seen_and_cancelled() {
    let run = core("long-wait", &json!({}));
    let started = run.starts(|record| record["status"] == "waiting");
    let record = started.ask("show", &[]);
    assert_eq!(record["id"], started.id.as_str());
    assert_eq!(record["context"]["status"], "started");
    assert_eq!(record["currentStepId"], "wait", "a waiting execution is at the step that waits");
    let begun = millis(&record["history"][1], "completedAt");
    assert_eq!(record["history"][1]["outcome"], "wait");
    assert!(record["wakeAt"].is_string());
    assert_eq!(millis(&record, "wakeAt") - begun, 60_000);
    started.ask("cancel", &["--reason", "no longer needed"]);
    let record = started.ends("cancelled");
    assert_eq!(record["cancellation"]["source"], "user");
    assert_eq!(record["cancellation"]["reason"], "no longer needed");
    assert!(record["error"].is_null());
}

#[test]
fn engine_09_error_recovers() {
    let record = core("error", &json!({})).ends("completed");
    assert_eq!(record["context"]["result"], "recovered");
    assert_eq!(history(&record), [("fail", "failure"), ("recover", "success")]);
    assert_eq!(record["history"][0]["error"]["code"], "BOOM");
}

#[test]
fn engine_12_41_42_43_what_has_ended_moves_no_more() {
    for (run, status) in [
        (core("simple", &json!({ "message": "hello" })), "completed"),
        (Run::of(RETRY).flow("lone"), "failed"),
    ] {
        let record = run.ends(status);
        let id = record["id"].as_str().unwrap();
        let refused = call(&["execution", "cancel", id, "--data-dir", run.data_dir(), "--output", "json"]);
        assert_ne!(refused.code, 0, "{}", refused.stdout);
        let after = call(&["execution", "show", id, "--data-dir", run.data_dir(), "--output", "json"]).json();
        assert_eq!((&after["status"], &after["version"]), (&record["status"], &record["version"]));
    }
}

#[test]
fn engine_19_infinite_ends_in_max_steps() {
    let record = core("infinite", &json!({})).ends("failed");
    assert_eq!(record["error"]["code"], "MAX_STEPS");
    assert_eq!(record["stepCount"], 1000, "the default of limits.maxSteps");
}

#[test]
fn engine_20_an_unknown_flow_is_refused() {
    let ended = core("non-existent", &json!({})).ended();
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("non-existent"), "{}", ended.stderr);
}

#[test]
fn engine_21_an_unknown_handler_fails_at_once() {
    let record = Run::of(RETRY).flow("unknown-handler").ends("failed");
    assert_eq!(record["error"]["code"], "HANDLER_NOT_FOUND");
}

fn refused(flow: &Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flow.json");
    std::fs::write(&file, flow.to_string()).unwrap();
    let ended = call(&["flow", "validate", file.to_str().unwrap()]);
    assert_eq!(ended.code, 2, "{}", ended.stdout);
    format!("{}{}", ended.stdout, ended.stderr)
}

#[test]
fn engine_22_a_flow_without_steps_is_refused() {
    let said = refused(&json!({ "id": "empty", "version": "1.0.0", "initialStepId": "x", "steps": {} }));
    assert!(said.contains("at least one step") || said.contains("At least one step"), "{said}");
}

#[test]
fn engine_23_registry_03_04_13_bad_references_are_refused_by_name() {
    let step = json!({ "id": "a", "type": "echo", "config": {}, "input": { "type": "full" }, "transitions": { "onSuccess": "nowhere" } });
    let said = refused(
        &json!({ "id": "bad", "version": "1.0.0", "initialStepId": "start", "steps": { "a": step, "b": { "id": "c", "type": "echo" } } }),
    );
    for name in ["\"nowhere\"", "\"start\"", "\"c\""] {
        assert!(said.contains(name), "{name} in {said}");
    }
}

#[test]
fn engine_33_a_lone_failing_step_fails_the_execution() {
    let record = Run::of(RETRY).flow("lone").ends("failed");
    assert_eq!(
        (&record["error"]["code"], &record["error"]["stepId"]),
        (&json!("TEST_ERROR"), &json!("call"))
    );
}

#[test]
fn engine_44_an_unknown_execution_is_not_found() {
    let run = core("simple", &json!({ "message": "hello" }));
    run.ends("completed");
    let id = "ex_00000000000070008000000000000000";
    let ended = call(&["execution", "show", id, "--data-dir", run.data_dir()]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("not found"), "{}", ended.stderr);
}

#[test]
fn retry_01_06_two_failures_then_success() {
    let record = Run::of(RETRY).flow("twice-then-success").handlers(HANDLERS).ends("completed");
    assert_eq!(record["context"]["result"], json!({ "attempts": 3 }));
    assert_eq!(history(&record), [("call", "failure"), ("call", "failure"), ("call", "success")]);
    let attempts: Vec<_> =
        record["history"].as_array().unwrap().iter().map(|entry| entry["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 2, 3]);
}

#[test]
fn retry_02_the_fallback_follows_the_last_retry() {
    let record = Run::of(RETRY).flow("fallback").ends("completed");
    assert_eq!(record["context"]["result"], "fallback");
    assert_eq!(
        history(&record),
        [("call", "failure"), ("call", "failure"), ("call", "failure"), ("fallback", "success")]
    );
}

#[test]
fn retry_03_without_a_fallback_the_last_retry_fails_the_execution() {
    let record = Run::of(RETRY).flow("exhausted").ends("failed");
    assert_eq!(record["error"]["message"], "it broke");
    assert_eq!(history(&record), [("call", "failure"), ("call", "failure")]);
}

#[test]
fn retry_05_a_code_that_is_not_listed_is_not_retried() {
    let record = Run::of(RETRY).flow("permanent").ends("failed");
    assert_eq!(history(&record), [("call", "failure")]);
    assert_eq!(record["error"]["code"], "PERMANENT");
}

fn routed(flow: &str, input: &Value, result: &str) {
    let record = Run::of(ROUTING).flow(flow).input(input).ends("completed");
    assert_eq!(record["context"]["result"], result);
    assert_eq!(record["stepCount"], 2);
}

#[test]
fn retry_07_08_conditional_by_score() {
    routed("score", &json!({ "score": 90 }), "approved");
    routed("score", &json!({ "score": 50 }), "rejected");
}

#[test]
fn retry_09_10_conditional_without_a_match() {
    routed("with-default", &json!({ "score": 50 }), "fallback");
    let record = Run::of(ROUTING).flow("no-default").input(&json!({ "score": 50 })).ends("failed");
    assert_eq!(record["error"]["code"], "NO_MATCH");
}

#[test]
fn retry_11_12_13_conditional_nested_path_exists_and_in() {
    routed("operators", &json!({ "user": { "role": "admin" } }), "admin");
    routed("operators", &json!({ "email": "a@example.com" }), "reachable");
    routed("operators", &json!({ "status": "pending" }), "open");
    routed("operators", &json!({ "status": "closed" }), "none");
}

#[test]
fn retry_14_15_16_17_switch() {
    routed("action", &json!({ "action": "create" }), "created");
    routed("action", &json!({ "action": "delete" }), "deleted");
    routed("action", &json!({ "action": "archive" }), "unknown");
    routed("action", &json!({ "action": 404 }), "missing");
}

#[test]
fn retry_18_21_a_sub_flow_is_waited_for_and_knows_its_parent() {
    let run = Run::of(SUB_FLOWS).flow("parent-waits");
    let record = run.ends("completed");
    let child = &record["context"]["childResult"];
    assert_eq!(child["status"], "completed");
    assert_eq!(child["flowId"], "child");
    assert_eq!(child["context"], json!({ "n": 42, "x": 42 }));
    let id = child["childExecutionId"].as_str().unwrap();
    let child = call(&["execution", "show", id, "--data-dir", run.data_dir(), "--output", "json"]).json();
    assert_eq!(child["parentExecutionId"], record["id"]);
}

/// The status of the child that a parent did not wait for.
fn forgotten(flow: &str) -> String {
    let run = Run::of(SUB_FLOWS).flow(flow);
    let record = run.ends("completed");
    let child = &record["context"]["childResult"];
    assert_eq!((&child["mode"], &child["flowId"]), (&json!("fire-and-forget"), &json!("child")));
    let id = child["childExecutionId"].as_str().unwrap();
    let child = call(&["execution", "show", id, "--data-dir", run.data_dir(), "--output", "json"]).json();
    child["status"].as_str().unwrap().to_owned()
}

#[test]
fn retry_19_a_sub_flow_is_started_and_forgotten() {
    // Whether the child ends before its parent does is nobody's promise; afterwards it has ended either way.
    let status = forgotten("parent-forgets");
    assert!(["completed", "cancelled"].contains(&status.as_str()), "{status}");
}

#[test]
fn a_child_that_is_left_to_itself_goes_on_after_its_parent() {
    assert_eq!(forgotten("parent-abandons"), "completed");
}

#[test]
fn retry_20_a_failed_sub_flow_fails_its_parent() {
    let record = Run::of(SUB_FLOWS).flow("parent-of-failing").ends("failed");
    assert_eq!(record["error"]["code"], "CHILD_FAILED");
    assert_eq!(record["error"]["details"]["code"], "CHILD_BROKE");
}

#[test]
fn example_01_basic() {
    let record = Run::of("flowmonkey/01-basic.json")
        .handlers(HANDLERS)
        .input(&json!({ "name": "FlowMonkey" }))
        .ends("completed");
    let expected = json!({
        "name": "FlowMonkey", "greetResult": { "greeting": "Hello, FlowMonkey!" }, "result": "HELLO, FLOWMONKEY!",
    });
    assert_eq!(record["context"], expected);
    assert_eq!(history(&record), [("greet", "success"), ("shout", "success")]);
}

#[test]
fn example_02_engine_34_35_36_selectors() {
    let user = json!({ "name": "Alice", "email": "alice@example.com" });
    let record = Run::of("flowmonkey/02-selectors.json")
        .input(&json!({ "user": user, "score": 95 }))
        .ends("completed");
    let context = &record["context"];
    assert_eq!(context["from_key"], user);
    assert_eq!(context["from_keys"], json!({ "user": user, "score": 95 }));
    assert_eq!(context["from_path"], "alice@example.com");
    assert_eq!(context["from_template"], "Alice scored 95");
    let full: Vec<_> = context["from_full"].as_object().unwrap().keys().collect();
    assert_eq!(full, ["user", "score", "from_key", "from_keys", "from_path", "from_template"]);
    assert_eq!(context["from_static"], json!({ "msg": "I am a static value" }));
    assert_eq!(record["stepCount"], 6);
}

#[test]
fn example_04_retry_04_back_offs_double() {
    let record = Run::of("flowmonkey/04-retry.json").handlers(HANDLERS).ends("completed");
    assert_eq!(record["context"]["response"], json!({ "data": "API response", "attemptsTaken": 4 }));
    assert_eq!(record["stepCount"], 4);
    assert_eq!(
        history(&record),
        [("call", "failure"), ("call", "failure"), ("call", "failure"), ("call", "success")]
    );
    let entries = record["history"].as_array().unwrap();
    for (index, back_off) in [100, 200, 400].into_iter().enumerate() {
        let pause = millis(&entries[index + 1], "startedAt") - millis(&entries[index], "completedAt");
        assert!(pause >= back_off, "{pause} ms after attempt {}", index + 1);
    }
}

#[test]
fn example_08_events_with_a_handler_in_place_of_a_stock_one() {
    let record = Run::of("flowmonkey/08-events.json")
        .handlers(HANDLERS)
        .handlers(OVERRIDE)
        .input(&json!({ "url": "https://api.example.com" }))
        .ends("completed");
    assert_eq!(record["stepCount"], 2);
    let (fetched, result) = (&record["context"]["fetched"], &record["context"]["result"]);
    assert_eq!(fetched["data"], "https://api.example.com");
    assert_eq!(result, &json!({ "transformed": true, "original": fetched }));
    assert_eq!(history(&record), [("fetch", "success"), ("transform", "success")]);
}

#[test]
fn example_09_pipes_fill_the_table() {
    let dev = Dev::with_flows("flowmonkey/09-pipes.json", &["order-pipeline"], HANDLERS);
    let orders = [
        ("ORD-001", 3, 29.99, 89.97),
        ("ORD-002", 1, 149.99, 149.99),
        ("ORD-003", 10, 4.99, 49.900_000_000_000_006),
    ];
    for (id, quantity, price, _) in orders {
        let input = json!({ "id": id, "qty": quantity, "price": price });
        let (status, started) =
            dev.call("POST", "/v1/executions", Some(&json!({ "flowId": "order-pipeline", "input": input })));
        assert_eq!(status, 202, "{started}");
        dev.ends(started["id"].as_str().unwrap(), "completed");
    }
    let rows = call(&["table", "rows", "orders-table", "--server", &dev.url, "--output", "json"]).json();
    let rows = rows["items"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for ((id, _, _, total), row) in orders.into_iter().zip(rows) {
        let row = &row["row"];
        assert_eq!(
            (row["order_id"].as_str(), row["total"].as_f64(), row["status"].as_str()),
            (Some(id), Some(total), Some("confirmed"))
        );
        assert!(!row["processed_at"].is_null());
    }
}

#[test]
fn example_11_engine_14_15_16_18_27_idempotency() {
    let dev = Dev::with_flows("flowmonkey/11-idempotency.json", &["process-payment", "refund"], HANDLERS);
    let start = |flow: &str, key: &str, amount: u32, window: u64| {
        let body = json!({
            "flowId": flow, "input": { "amount": amount, "currency": "EUR" },
            "idempotencyKey": key, "idempotencyWindowMs": window, "metadata": { "from": "test" },
        });
        dev.call("POST", "/v1/executions", Some(&body))
    };
    let (status, first) = start("process-payment", "payment-abc-123", 100, 60_000);
    assert_eq!((status, &first["created"]), (202, &json!(true)));
    let id = first["id"].as_str().unwrap();
    let record = dev.ends(id, "completed");
    assert_eq!(record["idempotencyKey"], "payment-abc-123");
    assert_eq!(record["metadata"], json!({ "from": "test" }));
    assert_eq!(record["context"]["payment"]["charged"], true);

    let (status, again) = start("process-payment", "payment-abc-123", 999, 60_000);
    assert_eq!((status, &again["created"], &again["id"]), (200, &json!(false), &first["id"]));
    assert_eq!(again["inputDiffers"], true);
    let record = dev.call("GET", &format!("/v1/executions/{id}"), None).1;
    assert_eq!(record["context"]["amount"], 100, "the first context is kept");

    let (_, other) = start("process-payment", "payment-xyz-456", 100, 60_000);
    assert_eq!(other["created"], true);
    let (_, refund) = start("refund", "payment-abc-123", 100, 60_000);
    assert_eq!(refund["created"], true, "keys belong to one flow");
    assert_ne!(refund["id"], first["id"]);

    // A window that is over is no hit.
    let (_, brief) = start("process-payment", "brief", 100, 1);
    dev.ends(brief["id"].as_str().unwrap(), "completed");
    assert_eq!(start("process-payment", "brief", 100, 1).1["created"], true);
}

#[test]
fn every_flow_of_these_examples_is_valid() {
    for file in [CORE, RETRY, ROUTING, SUB_FLOWS] {
        let ended = call(&["flow", "validate", example(file).to_str().unwrap()]);
        assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    }
}

/// The sources of all tests, in one text.
fn sources(directory: &std::path::Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != ".git") {
                sources(&path, text);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_page_on_compatibility_names_exists() {
    let root = example("..");
    let page = std::fs::read_to_string(root.join("docs/flowmonkey-compat.md")).unwrap();
    let mut text = String::new();
    sources(&root, &mut text);
    let is_test = |name: &&str| {
        name.matches('_').count() >= 2
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 60, "only {} names were found", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
