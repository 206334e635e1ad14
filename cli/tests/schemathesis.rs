//! Schemathesis asks a real server what its OpenAPI document says may be asked, and much that it says may not: no answer is a
//! server error, and none is one that the document does not have.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{Bench, Running, http, wait_for};

/// Names the program, where it is not in the folder that `scripts/test.sh` makes.
const PROGRAM: &str = "FLOWMONKEY_SCHEMATHESIS";
/// The folder that `scripts/test.sh` makes.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/schemathesis");
/// What has to hold for every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance";
/// Operations whose answers do not end: they have tests of their own.
const ENDLESS: [&str; 3] = ["openWebSocket", "streamAll", "streamExecution"];
/// Cases of one operation in the phase that draws them.
const EXAMPLES: &str = "10";
/// The same cases each time.
const SEED: &str = "20260731";
/// Seconds for one answer.
const ANSWER_SECONDS: &str = "30";
/// How often an id that exists is asked for, instead of any text.
const KNOWN: f64 = 0.7;
/// Executions of each flow: what is told to one must not be the end of all.
const OF_EACH: usize = 4;

fn program() -> PathBuf {
    let program =
        std::env::var_os(PROGRAM).map_or_else(|| PathBuf::from(FOLDER).join("bin/st"), PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing, the tester of the HTTP API. Run scripts/schemathesis.sh, or name one by {PROGRAM}",
        program.display()
    );
    program
}

fn dev(bench: &Bench) -> (Running, String) {
    let running = bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let base = bench.address("data", &running);
    wait_for("readiness", || (http(&base, "GET", "/readyz", "").0 == 200).then_some(()));
    (running, base)
}

fn made(base: &str, method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = http(base, method, path, &body.to_string());
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// One step of each kind that an execution may stand still at, and some that end.
fn steps() -> Value {
    json!({
        "quick": { "type": "echo", "input": { "type": "full" }, "outputKey": "echo" },
        "failing": { "type": "fail", "config": { "code": "LATE", "message": "too late" } },
        "signalled": { "type": "wait-signal", "outputKey": "signal" },
        "approved": { "type": "approval", "config": { "signal": "answer" }, "outputKey": "answer" },
        "late": { "type": "delay", "config": { "days": 30 } },
        "heard": { "type": "wait-event", "config": { "event": "parcel.arrived" } },
        // Nothing listens there, and nobody may ask there.
        "stuck": { "type": "http", "config": { "url": "http://127.0.0.1:1/" }, "onExhausted": "incident" },
    })
}

/// What the server holds, by what the variables of paths stand for.
fn fill(base: &str) -> BTreeMap<&'static str, Vec<String>> {
    let mut flows = Vec::new();
    let mut executions = Vec::new();
    for (id, step) in steps().as_object().unwrap() {
        for version in ["1.0.0", "1.1.0"] {
            let flow =
                json!({ "id": id, "version": version, "initialStepId": "only", "steps": { "only": step } });
            made(base, "POST", "/v1/flows", &flow);
        }
        for number in 0..OF_EACH {
            let start = json!({ "flowId": id, "input": { "number": number }, "labels": { "number": number.to_string() } });
            executions.push(text(&made(base, "POST", "/v1/executions", &start)["id"]));
        }
        flows.push(id.clone());
    }
    let tasks = wait_for("parked tasks", || {
        let (_, page) = http(base, "GET", "/v1/failed-tasks", "");
        let items = page["items"].as_array()?;
        (items.len() == OF_EACH).then(|| items.iter().map(|item| text(&item["taskId"])).collect())
    });
    let hook = json!({ "url": "https://receiver.example/", "events": ["*"], "active": false });
    let webhooks = (0..OF_EACH).map(|_| text(&made(base, "POST", "/v1/webhooks", &hook)["id"]));
    let key = json!({ "name": "looks on", "scopes": ["viewer"] });
    let keys = (0..OF_EACH).map(|_| text(&made(base, "POST", "/v1/keys", &key)["id"]));
    let table = json!({ "columns": [{ "id": "name", "type": "string" }] });
    made(base, "PUT", "/v1/tables/people", &table);
    made(base, "POST", "/v1/queues/http-request:pause", &json!({ "reason": "a test" }));
    made(base, "POST", "/v1/events", &json!({ "name": "rain", "data": { "mm": 3 } }));
    BTreeMap::from([
        ("flows", flows),
        ("executions", executions),
        ("tasks", tasks),
        ("webhooks", webhooks.collect()),
        ("keys", keys.collect()),
        ("tables", vec!["people".to_owned()]),
        ("pools", vec!["http-request".to_owned(), "eu/none".to_owned()]),
    ])
}

/// Settings that make the tester ask for what is there.
fn settings(known: &BTreeMap<&'static str, Vec<String>>) -> String {
    // Answers that wait would wait for long.
    let mut settings = "[parameters]\n\"query.wait\" = 0\n\"query.follow\" = false\n".to_owned();
    for (parameter, of) in [("query.execution", "executions"), ("query.parent", "executions")] {
        writeln!(settings, "\"{parameter}\" = {{ dictionary = \"{of}\", probability = {KNOWN} }}").unwrap();
    }
    for (name, values) in known {
        // A list of texts is the same in TOML and in JSON.
        writeln!(settings, "[dictionaries.{name}]\nvalues = {}", json!(values)).unwrap();
    }
    for (path, variable, of) in [
        ("flows", "id", "flows"),
        ("executions", "id", "executions"),
        ("tasks", "id", "tasks"),
        ("failed-tasks", "taskId", "tasks"),
        ("webhooks", "id", "webhooks"),
        ("keys", "id", "keys"),
        ("tables", "id", "tables"),
        ("queues", "pool", "pools"),
    ] {
        writeln!(
            settings,
            "[[operations]]\ninclude-path-regex = \"^/v1/{path}/\"\n\
             parameters = {{ \"path.{variable}\" = {{ dictionary = \"{of}\", probability = {KNOWN} }} }}"
        )
        .unwrap();
    }
    settings
}

/// The tester, told where the document and the server are.
fn tester(bench: &Bench, settings: &Path, document: &Path, base: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("--config-file").arg(settings).arg("run").arg(document);
    command.args(["--url", base, "--checks", CHECKS]);
    command.args(["--seed", SEED, "--generation-database", "none", "--request-timeout", ANSWER_SECONDS]);
    command.args(["--continue-on-failure", "--no-color", "--warnings", "off"]);
    command.env("HOME", bench.dir.path());
    bench.prepare(command)
}

/// How many operations it asked.
fn tested(report: &str) -> usize {
    let line = report.lines().find_map(|line| line.trim().strip_prefix("Tested:"));
    line.unwrap_or_else(|| panic!("no summary in {report}")).trim().parse().unwrap()
}

#[test]
fn no_request_is_answered_by_what_the_document_does_not_have() {
    let bench = Bench::new();
    let (dev, base) = dev(&bench);
    let settings = bench.file("schemathesis.toml", &settings(&fill(&base)));
    let (_, document) = http(&base, "GET", "/v1/openapi.json", "");
    let items = document["paths"].as_object().unwrap().values();
    let operations: usize = items.map(|item| item.as_object().unwrap().len()).sum();
    // From a file: it would leave out the operation that it got the document from.
    let document = bench.file("document.json", &document.to_string());
    let mut command = tester(&bench, &settings, &document, &base);
    command.args(["--max-examples", EXAMPLES]);
    for id in ENDLESS {
        command.args(["--exclude-operation-id", id]);
    }
    let output = command.output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{errors}\nThe server said:\n{}", dev.said());
    assert_eq!(tested(&report), operations - ENDLESS.len(), "{report}");
    // It is still there, and well.
    assert_eq!(http(&base, "GET", "/readyz", "").0, 200);
    dev.signal("TERM");
    dev.end().expect(0);
}

/// That the tester finds what is wrong: of a document without an answer that there is.
#[test]
fn an_answer_that_is_missing_in_the_document_is_found() {
    let bench = Bench::new();
    let (_dev, base) = dev(&bench);
    let settings = bench.file("schemathesis.toml", "");
    let (_, mut document) = http(&base, "GET", "/v1/openapi.json", "");
    let operation = &mut document["paths"]["/v1/tasks/{id}"]["get"]["responses"];
    assert!(operation.as_object_mut().unwrap().remove("404").is_some());
    let document = bench.file("document.json", &document.to_string());
    let mut command = tester(&bench, &settings, &document, &base);
    let output =
        command.args(["--include-operation-id", "getTask", "--phases", "coverage"]).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("GET /v1/tasks/{id}") && report.contains("Undocumented status code"), "{report}");
}
