//! `flowmonkey move`: executions in every state go on over Postgres and Redis, as if nothing had happened.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use flowmonkey_test_support::PostgresOptions;
use serde_json::{Value, json};
use servers::{Servers, ends, good_redis, start, text, until};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, PgConnection, SqliteConnection};
use support::{Bench, http, wait_for};
use uuid::Uuid;

/// A handler that waits for a file before it succeeds (`wait`), fails until the file is there (`fail`), or gives what it got.
const GATE: &str = r#"
import json, os, sys, time
GATE, LOG = os.environ["GATE"], os.environ["LOG"]
for line in sys.stdin:
    task = json.loads(line)
    if task.get("type") != "execute":
        continue
    given, params = task["params"].get("input") or {}, task["params"]
    with open(LOG, "a") as log:
        log.write(params["idempotencyKey"] + "\n")
    while given.get("mode") == "wait" and not os.path.exists(GATE):
        time.sleep(0.02)
    if given.get("mode") == "fail" and not os.path.exists(GATE):
        answer = {"outcome": "failure", "error": {"code": "CLOSED", "message": "the gate is closed", "retryable": False}}
    else:
        answer = {"outcome": "success", "output": given}
    print(json.dumps({"type": "result", "id": task["id"], **answer}), flush=True)
"#;

fn flow(id: &str, steps: &Value) -> Value {
    let first = steps.as_object().unwrap().keys().next().unwrap();
    json!({ "id": id, "version": "1.0.0", "initialStepId": first, "steps": steps })
}

/// A step of the handler above.
fn gate(mode: &str) -> Value {
    json!({ "type": "gate", "timeoutMs": 600_000, "outputKey": "gate",
        "input": { "type": "template", "template": { "mode": mode, "word": "${word}" } } })
}

/// One flow for each state that an execution can be found in.
fn flows() -> BTreeMap<&'static str, Value> {
    let mut incident = gate("fail");
    incident["onExhausted"] = json!("incident");
    let body = json!({ "type": "gate", "timeoutMs": 600_000,
        "input": { "type": "template", "template": { "mode": "${item}", "word": "${item}" } } });
    let rows = json!([{ "id": "p", "stepId": "a", "tableId": "words",
        "mappings": [{ "sourcePath": "word", "columnId": "word" }] }]);
    let mut with_rows = flow("rows", &json!({ "a": gate("give") }));
    with_rows["pipes"] = rows;
    let token = json!({ "type": "gate", "outputKey": "link",
        "input": { "type": "template", "template": { "mode": "give", "word": "${_resumeUrl.answer}" } },
        "transitions": { "onSuccess": "answer" } });
    let inner = flow("inner", &json!({ "a": gate("wait") }));
    BTreeMap::from([
        ("task", flow("task", &json!({ "a": gate("wait") }))),
        ("timer", flow("timer", &json!({ "a": { "type": "delay", "config": { "seconds": 3 } } }))),
        ("signal", flow("signal", &json!({ "a": { "type": "wait-signal", "outputKey": "said" } }))),
        (
            "event",
            flow(
                "event",
                &json!({ "a": { "type": "wait-event", "config": { "event": "arrived" }, "outputKey": "came" } }),
            ),
        ),
        ("paused", flow("paused", &json!({ "a": { "type": "wait-signal", "outputKey": "said" } }))),
        ("incident", flow("incident", &json!({ "a": incident }))),
        (
            "map",
            flow(
                "map",
                &json!({ "a": { "type": "map", "outputKey": "all",
                "config": { "items": { "type": "key", "key": "items" }, "maxConcurrency": 2, "body": body } } }),
            ),
        ),
        (
            "sub",
            json!([
                flow(
                    "outer",
                    &json!({ "a": { "type": "sub-flow", "config": { "flowId": "inner" },
                    "input": { "type": "full" }, "outputKey": "inner" } })
                ),
                inner
            ]),
        ),
        ("rows", with_rows),
        (
            "token",
            flow("token", &json!({ "a": token, "answer": { "type": "wait-signal", "outputKey": "said" } })),
        ),
    ])
}

fn is(status: &'static str) -> impl Fn(&Value) -> bool {
    move |record| record["status"] == status
}

fn post(url: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = http(url, "POST", path, &body.to_string());
    assert!(status < 300, "{path}: {status} {answer}");
    answer
}

/// Execution, first sequence, events: all of the history.
type History = Vec<(Uuid, i64, String)>;

async fn history_in_sqlite(path: &Path) -> History {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let query = "SELECT execution_id, first_sequence, events FROM fm_history ORDER BY 1, 2";
    sqlx::query_as(query).fetch_all(&mut connection).await.unwrap()
}

async fn history_in_postgres(url: &str) -> History {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let query = "SELECT execution_id, first_sequence, events FROM fm_history ORDER BY 1, 2";
    sqlx::query_as(query).fetch_all(&mut connection).await.unwrap()
}

fn log(bench: &Bench) -> Vec<String> {
    let text = std::fs::read_to_string(bench.path("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_in_every_state_go_on_in_postgres() {
    let servers = Servers::with(PostgresOptions::default(), good_redis()).await;
    let bench = &servers.bench;
    bench.file("gate.py", GATE);
    let manifest = json!({ "type": "gate", "version": "1.0.0", "command": ["python3", "gate.py"], "timeoutMs": 600_000,
        "env": { "GATE": bench.path("open"), "LOG": bench.path("log") } });
    let handlers = bench.file("handlers.json", &manifest.to_string());

    // An embedded engine, and executions in every state.
    let dev = bench.start(&[
        "dev",
        "--data-dir",
        "data",
        "--listen",
        "127.0.0.1:0",
        "--handlers",
        text(&handlers),
        "--concurrency",
        "16",
    ]);
    let url = bench.address("data", &dev);
    let table = json!({ "columns": [{ "id": "word", "type": "string" }] });
    let (status, defined) = http(&url, "PUT", "/v1/tables/words", &table.to_string());
    assert!(status < 300, "{defined}");
    let input = json!({ "word": "tab\tand \\ and ünï", "items": ["give", "wait", "wait", "give", "give"] });
    let mut ids = BTreeMap::new();
    for (name, definition) in flows() {
        let request =
            json!({ "definition": definition, "input": input, "idempotencyKey": format!("key of {name}") });
        ids.insert(name, post(&url, "/v1/executions", &request)["id"].as_str().unwrap().to_owned());
    }
    let waiting = is("waiting");
    for name in ["timer", "signal", "event", "paused", "map", "sub", "token"] {
        until(&url, &ids[name], name, |record| {
            waiting(record) && (name != "token" || record["currentStepId"] == "answer")
        });
    }
    until(&url, &ids["task"], "the task", is("waiting_for_worker"));
    until(&url, &ids["incident"], "the incident", is("incident"));
    let rows = ends(&url, &ids["rows"], "completed");
    post(&url, &format!("/v1/executions/{}:pause", ids["paused"]), &json!({ "reason": "for the move" }));
    let link = http(&url, "GET", &format!("/v1/executions/{}", ids["token"]), "").1;
    let link = link["context"]["link"]["word"].as_str().unwrap().to_owned();
    // The task, the child of the sub-flow, and two of the map stand at the gate.
    wait_for("the tasks to run", || (log(bench).len() >= 8).then_some(()));

    // Not while somebody uses it.
    let (from, to) = (format!("sqlite:{}", text(&bench.path("data"))), servers.database.url());
    let refused = bench.run(&["move", "--from", &from, "--to", &to]).expect(2);
    assert!(refused.stderr.contains("stop it first"), "{}", refused.stderr);
    dev.signal("KILL");
    dev.end();
    let seen = log(bench);

    let moved = bench.run(&["move", "--from", &from, "--to", &to, "--output", "json"]).expect(0);
    let kept = bench.path("data/flowmonkey.db.moved");
    assert!(moved.stderr.contains(text(&kept)), "{}", moved.stderr);
    assert!(!bench.path("data/flowmonkey.db").exists());
    let history = history_in_postgres(&to).await;
    assert_eq!(history, history_in_sqlite(&kept).await);
    assert_eq!(moved.json()["rows"]["fm_history"], history.len());
    assert_eq!(moved.json()["rows"]["fm_table_rows"], 1);

    // Twice is refused, and says so.
    let again = bench.run(&["move", "--from", &from, "--to", &to]).expect(2);
    assert!(again.stderr.contains("it has been moved"), "{}", again.stderr);
    let again = bench.run(&["move", "--from", &format!("sqlite:{}", text(&kept)), "--to", &to]).expect(2);
    assert!(again.stderr.contains("the target is not empty: fm_executions has"), "{}", again.stderr);

    // An engine and a worker go on with all of it.
    std::fs::write(bench.path("open"), "").unwrap();
    let (_engine, url) = servers.engine(&[]);
    let _worker = servers.worker(&url, &["--handlers", text(&handlers), "--handler", "gate"]);
    let of = |name: &str| format!("/v1/executions/{}", ids[name]);
    assert_eq!(http(&url, "GET", &of("paused"), "").1["status"], "paused");
    post(&url, &format!("{}:resume", of("paused")), &json!({}));
    for name in ["signal", "paused"] {
        post(&url, &format!("{}:signal", of(name)), &json!({ "name": "a", "data": { "by": name } }));
    }
    post(&url, "/v1/events", &json!({ "name": "arrived", "data": 7 }));
    post(&url, &format!("{}:retry", of("incident")), &json!({}));
    let token = link.rsplit('/').next().unwrap();
    post(&url, &format!("/v1/resume/{token}"), &json!({ "approved": true }));
    let ended: BTreeMap<&str, Value> =
        ids.iter().map(|(name, id)| (*name, ends(&url, id, "completed"))).collect();
    let context = |name: &str| &ended[name]["context"];
    for name in ["task", "incident"] {
        assert_eq!(context(name)["gate"]["word"], input["word"], "{name}");
    }
    assert_eq!(context("signal")["said"]["by"], "signal");
    assert_eq!(context("paused")["said"]["by"], "paused");
    assert_eq!(context("token")["said"]["approved"], true);
    assert!(context("event")["came"].to_string().contains('7'), "{}", context("event"));
    let words: Vec<&Value> =
        context("map")["all"].as_array().unwrap().iter().map(|item| &item["word"]).collect();
    assert_eq!(words, ["give", "wait", "wait", "give", "give"]);
    assert!(context("sub")["inner"].to_string().contains("ünï"), "{}", context("sub"));
    assert_eq!(ended["rows"], rows);

    // What was there is there, word by word; what ran then ran again under the same key; keys of starts still count.
    let after = history_in_postgres(&to).await;
    assert!(history.iter().all(|entry| after.contains(entry)));
    let since = log(bench).split_off(seen.len());
    let again: Vec<&String> = since.iter().filter(|key| seen.contains(key)).collect();
    assert!(again.len() >= 4, "{again:?}");
    let request = json!({ "definition": flows()["rows"], "input": input, "idempotencyKey": "key of rows" });
    let existing = post(&url, "/v1/executions", &request);
    assert_eq!((&existing["id"], &existing["created"]), (&json!(ids["rows"]), &json!(false)));

    // New rows follow the one that came.
    let request = json!({ "word": "new" });
    let id = start(&url, &flows()["rows"], &request);
    ends(&url, &id, "completed");
    let rows = http(&url, "GET", "/v1/tables/words/rows", "").1;
    assert_eq!(rows["items"].as_array().unwrap().len(), 2, "{rows:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_moved_and_stays() {
    let servers = Servers::with(PostgresOptions::default(), good_redis()).await;
    let (bench, to) = (&servers.bench, servers.database.url());
    bench.file("signal.yaml", support::SIGNAL);
    bench.run(&["run", "signal.yaml", "--data-dir", "data"]).expect(3);
    bench.run(&["backup", "data", "backup.db"]).expect(0);
    bench.run(&["move", "--from", "sqlite:backup.db", "--to", &to]).expect(0);
    assert!(bench.path("backup.db").is_file());
    assert_eq!(servers.number("SELECT count(*) FROM fm_executions WHERE status = 'waiting'").await, 1);
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let bench = Bench::new();
    bench.file("text", "no database");
    std::fs::create_dir(bench.path("empty")).unwrap();
    for (from, code) in [
        ("data", 2),
        ("sqlite:", 2),
        ("sqlite:missing", 2),
        ("sqlite:empty", 2),
        ("sqlite:missing/flowmonkey.db", 2),
        ("sqlite:text", 4),
    ] {
        let done = bench.run(&["move", "--from", from, "--to", "postgres://127.0.0.1:1/none"]);
        assert_eq!(done.code, code, "{from}: {}", done.stderr);
    }
}
