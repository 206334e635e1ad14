//! Schemathesis asks real servers what their OpenAPI document says may be asked, and much that it says may not: no answer is a
//! server error, and none is one that the document does not have.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{Claim, TaskQueue};
use flowmonkey_test_support::PostgresOptions;
use serde_json::{Value, json};
use servers::{Servers, good_redis};
use support::{Bench, Running, http, http_as, wait_for};

/// Names the program, where it is not in the folder that `scripts/test.sh` makes.
const PROGRAM: &str = "FLOWMONKEY_SCHEMATHESIS";
/// The folder that `scripts/test.sh` makes.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/schemathesis");
/// What has to hold for every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance";
/// What has to hold as well where keys are asked for.
const REJECTION: &str = "negative_data_rejection";
/// The operation that is told what is wrong with its body, and does not refuse it.
const TELLS: &str = "validateFlows";
/// The operations that ask for the token of a task, whatever key is shown.
const OF_TASKS: &str = "plumbing";
/// Operations whose answers do not end: they have tests of their own.
const ENDLESS: [&str; 3] = ["openWebSocket", "streamAll", "streamExecution"];
/// Cases of one operation in the phase that draws them.
const EXAMPLES: &str = "5";
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

/// A server, and the key that it asks for; an empty one is none.
struct Asked {
    base: String,
    key: String,
}

impl Asked {
    fn made(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = http_as(&self.base, &self.key, method, path, &body.to_string());
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
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
fn fill(asked: &Asked) -> BTreeMap<&'static str, Vec<String>> {
    let mut flows = Vec::new();
    let mut executions = Vec::new();
    for (id, step) in steps().as_object().unwrap() {
        for version in ["1.0.0", "1.1.0"] {
            let flow =
                json!({ "id": id, "version": version, "initialStepId": "only", "steps": { "only": step } });
            asked.made("POST", "/v1/flows", &flow);
        }
        for number in 0..OF_EACH {
            let start = json!({ "flowId": id, "input": { "number": number }, "labels": { "number": number.to_string() } });
            executions.push(text(&asked.made("POST", "/v1/executions", &start)["id"]));
        }
        flows.push(id.clone());
    }
    let tasks = wait_for("parked tasks", || {
        let (_, page) = http_as(&asked.base, &asked.key, "GET", "/v1/failed-tasks", "");
        let items = page["items"].as_array()?;
        (items.len() == OF_EACH).then(|| items.iter().map(|item| text(&item["taskId"])).collect())
    });
    let hook = json!({ "url": "https://receiver.example/", "events": ["*"], "active": false });
    let webhooks = (0..OF_EACH).map(|_| text(&asked.made("POST", "/v1/webhooks", &hook)["id"]));
    let key = json!({ "name": "looks on", "scopes": ["viewer"] });
    let keys = (0..OF_EACH).map(|_| text(&asked.made("POST", "/v1/keys", &key)["id"]));
    let table = json!({ "columns": [{ "id": "name", "type": "string" }] });
    asked.made("PUT", "/v1/tables/people", &table);
    asked.made("POST", "/v1/queues/http-request:pause", &json!({ "reason": "a test" }));
    asked.made("POST", "/v1/events", &json!({ "name": "rain", "data": { "mm": 3 } }));
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

/// The tester, told where the document and the server are, and what has to hold.
fn tester(bench: &Bench, settings: &Path, document: &Path, base: &str, checks: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("--config-file").arg(settings).arg("run").arg(document);
    command.args(["--url", base, "--checks", checks, "--max-examples", EXAMPLES]);
    command.args(["--seed", SEED, "--generation-database", "none", "--request-timeout", ANSWER_SECONDS]);
    command.args(["--continue-on-failure", "--no-color", "--warnings", "off"]);
    for id in ENDLESS {
        command.args(["--exclude-operation-id", id]);
    }
    command.env("HOME", bench.dir.path());
    bench.prepare(command)
}

/// The document of a server, as a file: from the server, the tester would leave out the operation that gave it.
fn document(bench: &Bench, base: &str) -> (Value, PathBuf) {
    let (status, document) = http(base, "GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    let file = bench.file("document.json", &document.to_string());
    (document, file)
}

/// How many operations of the document are not in `left_out`, which are ids and tags.
fn count(document: &Value, left_out: &[&str]) -> usize {
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    let is_in = |operation: &&Value| {
        let names = [&operation["operationId"], &operation["tags"][0]];
        !names.iter().any(|name| left_out.iter().any(|out| **name == *out))
    };
    operations.filter(is_in).count()
}

/// Lets it ask, and checks that it found nothing and left nothing out.
fn ask(mut tester: Command, operations: usize, server: &Running) {
    let output = tester.output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{errors}\nThe server said:\n{}", server.said());
    let line = report.lines().find_map(|line| line.trim().strip_prefix("Tested:"));
    let tested: usize = line.unwrap_or_else(|| panic!("no summary in {report}")).trim().parse().unwrap();
    assert_eq!(tested, operations, "{report}");
}

#[test]
fn no_request_is_answered_by_what_the_document_does_not_have() {
    let bench = Bench::new();
    let (dev, base) = dev(&bench);
    let asked = Asked { base: base.clone(), key: String::new() };
    let settings = bench.file("schemathesis.toml", &settings(&fill(&asked)));
    let (described, document) = document(&bench, &base);
    ask(tester(&bench, &settings, &document, &base, CHECKS), count(&described, &ENDLESS), &dev);
    // It is still there, and well.
    assert_eq!(http(&base, "GET", "/readyz", "").0, 200);
    dev.signal("TERM");
    dev.end().expect(0);
}

/// With Postgres, Redis, a worker and a key; what is not in order is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_refuses_what_the_document_says_is_wrong() {
    let servers = Servers::with(PostgresOptions::default(), good_redis()).await;
    let bench = &servers.bench;
    let create = ["key", "create", "--name", "me", "--scope", "admin", "--database", &servers.database.url()];
    let key = bench.run(&create).expect(0).stdout.trim().to_owned();
    let (engine, base) = servers.guarded_engine(&[]);
    let _worker = servers.worker(&base, &[]);
    let asked = Asked { base: base.clone(), key };
    let settings = bench.file("schemathesis.toml", &settings(&fill(&asked)));
    let (described, document) = document(bench, &base);
    let mut tester = tester(bench, &settings, &document, &base, &format!("{CHECKS},{REJECTION}"));
    tester.args([
        "--exclude-tag",
        OF_TASKS,
        "--exclude-operation-id",
        TELLS,
        "--header",
        &format!("Authorization: Bearer {}", asked.key),
    ]);
    let left_out: Vec<&str> = ENDLESS.into_iter().chain([OF_TASKS, TELLS]).collect();
    ask(tester, count(&described, &left_out), &engine);
}

/// What a worker asks for the task in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_answered_by_what_the_document_has() {
    let servers = Servers::with(PostgresOptions::default(), good_redis()).await;
    let bench = &servers.bench;
    let (engine, base) = servers.engine(&[]);
    let queue = RedisQueue::connect(RedisOptions::new(servers.redis.url())).await.unwrap();
    let pools = ["http-request".to_owned()];
    // Longer than the test goes on.
    let step = json!({
        "type": "http", "config": { "url": "https://receiver.example/" }, "input": { "type": "full" },
        "timeoutMs": 900_000, "heartbeatTimeoutMs": 900_000,
    });
    let flow =
        json!({ "id": "asks", "version": "1.0.0", "initialStepId": "only", "steps": { "only": step } });
    let asked = Asked { base: base.clone(), key: String::new() };
    asked.made("POST", "/v1/executions", &json!({ "definition": flow, "input": { "some": { "thing": 1 } } }));
    let task = loop {
        let claim = Claim { pool: pools[0].clone(), worker: "asks".into(), max: 1, low_first: false };
        if let Some(claimed) = queue.claim(claim).await.unwrap().pop() {
            break claimed.task;
        }
        queue.wait_for_tasks(&pools, Duration::from_secs(1)).await;
    };
    let asked = Asked { base: base.clone(), key: task.token.unwrap().as_str().to_owned() };
    let heartbeat = json!({ "workerId": "asks", "status": "running" });
    asked.made("POST", &format!("/v1/plumbing/tasks/{}/heartbeat", task.task_id), &heartbeat);
    let settings = format!(
        "[dictionaries.tasks]\nvalues = [\"{}\"]\n[[operations]]\ninclude-tag = \"{OF_TASKS}\"\n\
         parameters = {{ \"path.task\" = {{ dictionary = \"tasks\", probability = {KNOWN} }} }}\n",
        task.task_id
    );
    let settings = bench.file("schemathesis.toml", &settings);
    let (described, document) = document(bench, &base);
    let mut tester = tester(bench, &settings, &document, &base, CHECKS);
    tester.args(["--include-tag", OF_TASKS, "--header", &format!("Authorization: Bearer {}", asked.key)]);
    ask(tester, count(&described, &[]) - count(&described, &[OF_TASKS]), &engine);
}

/// That the tester finds what is wrong: of a document without an answer that there is.
#[test]
fn an_answer_that_is_missing_in_the_document_is_found() {
    let bench = Bench::new();
    let (_dev, base) = dev(&bench);
    let settings = bench.file("schemathesis.toml", "");
    let (mut described, _) = document(&bench, &base);
    let answers = &mut described["paths"]["/v1/tasks/{id}"]["get"]["responses"];
    assert!(answers.as_object_mut().unwrap().remove("404").is_some());
    let document = bench.file("wrong.json", &described.to_string());
    let mut tester = tester(&bench, &settings, &document, &base, CHECKS);
    let output = tester.args(["--include-operation-id", "getTask", "--phases", "coverage"]).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("GET /v1/tasks/{id}") && report.contains("Undocumented status code"), "{report}");
}
