//! `flowmonkey run`, embedded.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use serde_json::{Value, json};
use support::{Bench, FAILING, HELLO, MONTH, SIGNAL, names};

#[test]
fn a_flow_runs_to_its_end_and_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let done =
        bench.run(&["run", "hello.yaml", "--input", r#"{"name":"Ada"}"#, "--output", "json"]).expect(0);
    let record = done.json();
    assert_eq!(record["status"], "completed");
    assert_eq!(record["flowId"], "hello");
    assert_eq!(record["flowVersion"], "1.0.0");
    assert_eq!(record["output"], json!({ "text": "Hello Ada" }));
    assert_eq!(record["context"], json!({ "name": "Ada", "greeting": { "text": "Hello Ada" } }));
    assert_eq!(record["error"], Value::Null);
    assert_eq!(record["stepCount"], 1);
    let entry = &record["history"][0];
    assert_eq!(
        (&entry["stepId"], &entry["outcome"], &entry["attempt"]),
        (&json!("greet"), &json!("success"), &json!(1))
    );
    assert_eq!(done.stderr, "");
    assert_eq!(names(bench.dir.path()), ["hello.yaml"]);
}

#[test]
fn the_table_is_for_people() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let done = bench.run(&["run", "hello.yaml", "--input", r#"{"name":"Ada"}"#]).expect(0);
    for part in ["hello@1.0.0", "completed", "STEP", "greet", "Hello Ada"] {
        assert!(done.stdout.contains(part), "{part} in {}", done.stdout);
    }
}

#[test]
fn stock_handlers_work_in_the_same_process() {
    let bench = Bench::new();
    let flow = "\
id: sums
version: 1.0.0
initialStepId: add
steps:
  add: { type: transform, input: { type: full }, config: { jq: '.a + 1' }, outputKey: sum, transitions: { onSuccess: null } }
";
    bench.file("sums.yaml", flow);
    let done = bench.run(&["run", "sums.yaml", "--input", r#"{"a":1}"#, "--output", "json"]).expect(0);
    let record = done.json();
    assert_eq!(record["context"]["sum"], 2);
    assert!(record["history"][0]["workerId"].as_str().unwrap().starts_with("embedded-"));
}

#[test]
fn handlers_in_python_are_child_processes() {
    let bench = Bench::new();
    let handler = "\
import json, sys
task = json.loads(sys.stdin.readline())
output = {'greeting': 'Hello ' + task['params']['input']['name']}
print(json.dumps({'type': 'result', 'id': task['id'], 'outcome': 'success', 'output': output}))
";
    bench.file("handlers/greet.py", handler);
    bench.file("handlers/greet.yaml", "type: greet\ncommand: [python3, greet.py]\n");
    let flow = "\
id: greeting
version: 1.0.0
initialStepId: greet
steps:
  greet: { type: greet, input: { type: keys, keys: [name] }, outputKey: said, transitions: { onSuccess: null } }
";
    bench.file("greeting.yaml", flow);
    let input = r#"{"name":"Ada"}"#;
    let args = ["run", "greeting.yaml", "--handlers", "handlers/greet.yaml", "-i", input, "-o", "json"];
    assert_eq!(bench.run(&args).expect(0).json()["context"]["said"]["greeting"], "Hello Ada");
    bench.file("handlers/greet.yaml", "type: greet\ncommand: [python3, greet.py]\ncolour: red\n");
    let refused = bench.run(&args).expect(2);
    assert!(refused.stderr.contains("colour"), "{}", refused.stderr);
}

#[test]
fn what_is_not_allowed_fails_the_step() {
    let bench = Bench::new();
    let flow = "\
id: shell
version: 1.0.0
initialStepId: go
steps:
  go: { type: command, config: { command: [printf, hello] }, outputKey: out, transitions: { onSuccess: null } }
";
    bench.file("shell.yaml", flow);
    let refused = bench.run(&["run", "shell.yaml", "--output", "json"]).expect(1);
    assert_eq!(refused.json()["error"]["code"], "COMMAND_FORBIDDEN");
    let allowed =
        bench.run(&["run", "shell.yaml", "--output", "json", "--allow-command", "printf"]).expect(0);
    assert!(allowed.json()["context"]["out"].to_string().contains("hello"));
}

#[test]
fn an_unknown_handler_fails_at_once() {
    let bench = Bench::new();
    let flow = "id: odd\nversion: 1.0.0\ninitialStepId: a\nsteps:\n  a: { type: no-such-thing, transitions: { onSuccess: null } }\n";
    bench.file("odd.yaml", flow);
    let done = bench.run(&["run", "odd.yaml", "--output", "json"]).expect(1);
    assert_eq!(done.json()["error"]["code"], "HANDLER_NOT_FOUND");
}

#[test]
fn a_failed_execution_exits_with_1_and_keeps_its_record() {
    let bench = Bench::new();
    bench.file("failing.yaml", FAILING);
    let done = bench.run(&["run", "failing.yaml", "--output", "json"]).expect(1);
    let record = done.json();
    assert_eq!(record["status"], "failed");
    assert_eq!((&record["error"]["code"], &record["error"]["stepId"]), (&json!("LATE"), &json!("late")));
    let (_, kept) = done.stderr.trim().rsplit_once("kept in ").unwrap();
    let list = bench.run(&["execution", "list", "--data-dir", kept, "--output", "json"]).expect(0).json();
    assert_eq!(list["items"][0]["id"], record["id"]);
    assert_eq!(list["items"][0]["errorCode"], "LATE");
}

#[test]
fn an_invalid_flow_exits_with_2_and_names_every_place() {
    let bench = Bench::new();
    bench.file(
        "bad.yaml",
        "id: bad\nversion: one\nsteps:\n  a: { type: set, transitions: { onSuccess: b } }\n",
    );
    let done = bench.run(&["run", "bad.yaml"]).expect(2);
    assert_eq!(done.stdout, "");
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains(": error: ")).collect();
    assert!(lines.len() >= 2, "{}", done.stderr);
    for line in lines {
        let mut parts = line.splitn(4, ':');
        assert_eq!(parts.next(), Some("bad.yaml"));
        for place in parts.take(2) {
            assert!(place.parse::<u32>().unwrap() > 0, "{line}");
        }
    }
    assert_eq!(names(bench.dir.path()), ["bad.yaml"]);
}

#[test]
fn input_comes_as_text_file_or_standard_input() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    bench.file("ada.json", r#"{"name":"Ada"}"#);
    let said = |done: support::Done| done.expect(0).json()["output"]["text"].clone();
    assert_eq!(said(bench.run(&["run", "hello.yaml", "-i", "@ada.json", "-o", "json"])), "Hello Ada");
    let piped = bench.run_with_stdin(&["run", "hello.yaml", "-i", "-", "-o", "json"], br#"{"name":"Bob"}"#);
    assert_eq!(said(piped), "Hello Bob");
    let flow = bench.run_with_stdin(&["run", "-", "-i", r#"{"name":"Eve"}"#, "-o", "json"], HELLO.as_bytes());
    assert_eq!(said(flow), "Hello Eve");
}

#[test]
fn wrong_input_exits_with_2_and_one_sentence() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    for (args, said) in [
        (&["run", "hello.yaml", "--input", "{name"][..], "is not JSON"),
        (&["run", "hello.yaml", "--input", "[1]"], "must be a JSON object"),
        (&["run", "hello.yaml", "--input", "@missing.json"], "missing.json: there is no such file"),
        (&["run", "missing.yaml"], "missing.yaml: there is no such file"),
        (&["run", "hello.yaml", "--flow", "bye"], "holds no flow `bye`; it has hello"),
        (&["run", "-", "--input", "-"], "not both"),
        (&["run", "hello.yaml", "--files", "missing"], "--files missing"),
        (&["run", "hello.yaml", "--allow-net", "moon"], "--allow-net moon"),
    ] {
        let done = bench.run(args).expect(2);
        assert!(done.stderr.contains(said), "{args:?}: {}", done.stderr);
        assert_eq!((done.stdout.as_str(), done.stderr.lines().count()), ("", 1), "{args:?}");
    }
}

#[test]
fn huge_input_is_refused_with_a_sentence() {
    const HUNDRED_MEGABYTES: usize = 100 * 1024 * 1024;
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let huge = vec![b' '; HUNDRED_MEGABYTES];
    let done = bench.run_with_stdin(&["run", "hello.yaml", "--input", "-"], &huge).expect(2);
    assert!(done.stderr.contains("standard input has more than the"), "{}", done.stderr);
}

#[test]
fn a_month_passes_at_once_in_virtual_time() {
    const MONTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;
    let bench = Bench::new();
    bench.file("reminder.yaml", MONTH);
    let record = bench.run(&["run", "reminder.yaml", "--skip-time", "-o", "json"]).expect(0).json();
    let at = |step: usize| {
        let text = record["history"][step]["startedAt"].as_str().unwrap();
        flowmonkey_core::time::Timestamp::parse_rfc3339(text).unwrap().as_millis()
    };
    assert!(at(1) - at(0) >= MONTH_MS, "{record}");
    assert_eq!(record["context"]["reminded"], true);
}

#[test]
fn a_signal_without_a_limit_is_not_skipped() {
    let bench = Bench::new();
    bench.file("paying.yaml", &SIGNAL.replace("steps:", "timeouts: { executionMs: 86400000 }\nsteps:"));
    let done = bench.run(&["run", "paying.yaml", "--skip-time", "-o", "json"]).expect(3);
    assert_eq!(done.json()["status"], "waiting");
}

#[test]
fn a_signal_with_a_limit_is_skipped_when_nothing_else_moves() {
    let bench = Bench::new();
    let flow = SIGNAL.replace("type: wait-signal,", "type: wait-signal, config: { timeoutMs: 86400000 },");
    bench.file("paying.yaml", &flow);
    let record = bench.run(&["run", "paying.yaml", "--skip-time", "-o", "json"]).expect(1).json();
    assert_eq!(record["error"]["code"], "WAIT_TIMEOUT");
}

#[test]
fn an_execution_that_only_waits_for_a_signal_exits_with_3() {
    let bench = Bench::new();
    bench.file("paying.yaml", SIGNAL);
    let done = bench.run(&["run", "paying.yaml", "-o", "json"]).expect(3);
    assert_eq!(done.json()["status"], "waiting");
    assert!(done.stderr.contains("signal paid"), "{}", done.stderr);
}

#[test]
fn sub_flows_come_from_the_same_file_and_abandoned_ones_are_waited_for() {
    let bench = Bench::new();
    let flows = "\
id: parent
version: 1.0.0
initialStepId: kick
steps:
  kick: { type: sub-flow, config: { flowId: child, waitForCompletion: false, onParentClose: abandon }, transitions: { onSuccess: null } }
---
id: child
version: 1.0.0
initialStepId: pause
steps:
  pause: { type: delay, config: { ms: 300 }, transitions: { onSuccess: null } }
";
    bench.file("family.yaml", flows);
    let shown = bench.run(&["flow", "validate", "family.yaml"]);
    assert_eq!(shown.code, 0, "{}{}", shown.stdout, shown.stderr);
    bench.run(&["run", "family.yaml", "--data-dir", "data"]).expect(0);
    let list = "/v1/executions?children=true";
    let dev = bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let (_, page) = support::http(&bench.address("data", &dev), "GET", list, "");
    let statuses: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["completed", "completed"]);
    drop(dev);
}

#[test]
fn an_interrupt_cancels_and_cleans_up() {
    let bench = Bench::new();
    bench.file("reminder.yaml", MONTH);
    let run = bench.start(&["run", "reminder.yaml", "--data-dir", "data", "-o", "json"]);
    let base = bench.address("data", &run);
    support::wait_for("the execution", || {
        let (_, page) = support::http(&base, "GET", "/v1/executions", "");
        (page["items"][0]["status"] == "waiting").then_some(())
    });
    run.signal("INT");
    let done = run.end().expect(1);
    let record = done.json();
    assert_eq!(record["status"], "cancelled");
    assert_eq!(record["cancellation"]["reason"], "interrupted");
}

#[test]
fn what_is_refused_leaves_nothing_behind() {
    let bench = Bench::new();
    let flow = HELLO.replacen("version: 1.0.0\n", "version: 1.0.0\ninputSchema: { required: [name] }\n", 1);
    assert!(flow.contains("inputSchema"), "{flow}");
    bench.file("hello.yaml", &flow);
    let refused = bench.run(&["run", "hello.yaml", "--input", "{}"]).expect(2);
    assert!(refused.stderr.contains("name") && !refused.stderr.contains("kept in"), "{}", refused.stderr);
}

#[test]
fn a_run_that_takes_long_says_once_how_to_look_at_it() {
    let bench = Bench::new();
    bench.file("reminder.yaml", MONTH);
    let run = bench.start(&["run", "reminder.yaml", "--data-dir", "data"]);
    run.wait_for_line(" goes on; see: flowmonkey execution explain ex_");
    assert!(run.said().contains("--data-dir data"), "{}", run.said());
    run.signal("INT");
    let done = run.end().expect(1);
    assert_eq!(done.stderr.matches(" goes on; see: ").count(), 1, "{}", done.stderr);
}

#[test]
fn a_server_that_goes_away_keeps_what_it_has_begun() {
    let bench = Bench::new();
    bench.file("reminder.yaml", MONTH);
    let dev = bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let base = bench.address("data", &dev);
    let run = bench.start(&["run", "reminder.yaml", "--server", &base]);
    run.wait_for_line("started ex_");
    drop(dev);
    let done = run.end().expect(4);
    let look = done.stderr.trim().lines().last().unwrap_or_default().to_owned();
    assert!(done.stderr.contains(" is not lost: it goes on there"), "{}", done.stderr);
    assert!(look.contains("execution show ex_") && look.ends_with(&format!("--server {base}")), "{look}");
}
