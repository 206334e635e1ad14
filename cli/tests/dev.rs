//! `flowmonkey dev`, and commands on data directories with and without an owner.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use serde_json::{Value, json};
use support::{Bench, HELLO, MONTH, Running, SIGNAL, http, names, wait_for};

fn dev(bench: &Bench, more: &[&str]) -> (Running, String) {
    let args = ["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    let running = bench.start(&[&args[..], more].concat());
    let base = bench.address("data", &running);
    wait_for("readiness", || (http(&base, "GET", "/readyz", "").0 == 200).then_some(()));
    (running, base)
}

fn start(base: &str, body: &Value) -> String {
    let (status, started) = http(base, "POST", "/v1/executions", &body.to_string());
    assert_eq!(status, 202, "{started}");
    started["id"].as_str().unwrap().to_owned()
}

fn wait_for_status(base: &str, id: &str, status: &str) -> Value {
    wait_for(status, || {
        let (_, record) = http(base, "GET", &format!("/v1/executions/{id}"), "");
        (record["status"] == status).then_some(record)
    })
}

#[test]
fn flows_are_published_started_and_cancelled_over_http() {
    let bench = Bench::new();
    let (dev, base) = dev(&bench, &[]);
    let flow = json!({
        "id": "reminder", "version": "1.0.0", "initialStepId": "pause",
        "steps": { "pause": { "type": "delay", "config": { "days": 30 }, "transitions": { "onSuccess": null } } }
    });
    assert_eq!(http(&base, "POST", "/v1/flows", &flow.to_string()).0, 201);
    assert_eq!(http(&base, "POST", "/v1/flows", &flow.to_string()).0, 200);
    let id = start(&base, &json!({ "flowId": "reminder" }));
    wait_for_status(&base, &id, "waiting");
    let (status, _) = http(&base, "POST", &format!("/v1/executions/{id}:cancel"), r#"{"reason":"enough"}"#);
    assert_eq!(status, 200);
    let record = wait_for_status(&base, &id, "cancelled");
    assert_eq!(record["cancellation"]["reason"], "enough");
    dev.signal("TERM");
    dev.end().expect(0);
    assert_eq!(names(&bench.path("data")), ["flowmonkey.db", "lock", "objects"]);
}

#[test]
fn flow_files_are_published_at_start_and_when_they_change() {
    let bench = Bench::new();
    bench.file("flows/hello.yaml", HELLO);
    bench.file("flows/bad.yaml", "id: bad\n");
    bench.file("flows/odd.yaml", "id: odd\nversion: 1.0.0\ninitialStepId: a\nsteps:\n  a: { type: no-such-thing, transitions: { onSuccess: null } }\n");
    let (dev, base) = dev(&bench, &["--flows", "flows"]);
    dev.wait_for_line("published hello@1.0.0");
    dev.wait_for_line("bad.yaml:1:");
    dev.wait_for_line("no handler `no-such-thing`");
    let id = start(&base, &json!({ "flowId": "hello", "input": { "name": "Ada" } }));
    assert_eq!(wait_for_status(&base, &id, "completed")["output"]["text"], "Hello Ada");
    bench.file("flows/hello.yaml", &HELLO.replace("1.0.0", "1.1.0"));
    dev.wait_for_line("published hello@1.1.0");
    let (_, latest) = http(&base, "GET", "/v1/flows/hello", "");
    assert_eq!(latest["version"], "1.1.0");
}

#[test]
fn what_was_unfinished_goes_on() {
    let bench = Bench::new();
    bench.file("paying.yaml", SIGNAL);
    let waiting = bench.run(&["run", "paying.yaml", "--data-dir", "data", "-o", "json"]).expect(3).json();
    let id = waiting["id"].as_str().unwrap();
    let (first, _) = dev(&bench, &[]);
    // Killed, not stopped: what it leaves behind must not hold up the next.
    first.signal("KILL");
    assert_eq!(first.end().code, -1);
    let (_dev, base) = dev(&bench, &[]);
    let told = http(&base, "POST", &format!("/v1/executions/{id}:signal"), r#"{"name":"paid","data":7}"#);
    assert_eq!(told.0, 200, "{}", told.1);
    assert_eq!(wait_for_status(&base, id, "completed")["context"]["payment"], 7);
}

#[test]
fn a_data_directory_has_one_owner() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let (dev, base) = dev(&bench, &[]);
    for args in [
        &["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"][..],
        &["run", "hello.yaml", "--data-dir", "data"],
        &["restore", "hello.yaml", "data"],
    ] {
        let refused = bench.run(args);
        if args[0] == "restore" {
            // It is no backup, which is found out first.
            assert_ne!(refused.code, 0);
            continue;
        }
        let refused = refused.expect(2);
        assert!(refused.stderr.contains(&format!("process {}", dev.child.id())), "{}", refused.stderr);
        assert!(refused.stderr.contains(&base), "{}", refused.stderr);
        let names_the_way = refused.stderr.contains(&format!("--server {base}"));
        assert_eq!(names_the_way, args[0] == "run", "{}", refused.stderr);
    }
    let run =
        bench.run(&["run", "hello.yaml", "--server", &base, "--input", r#"{"name":"Ada"}"#, "-o", "json"]);
    assert_eq!(run.expect(0).json()["output"]["text"], "Hello Ada");
}

/// The same commands, whoever has the directory.
fn act_on(bench: &Bench) {
    let run = |args: &[&str]| bench.run(&[args, &["--data-dir", "data", "-o", "json"]].concat());
    let list = run(&["execution", "list", "--status", "waiting"]).expect(0).json();
    let ids: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    let [first, second] = ids.as_slice() else { panic!("{list}") };
    assert_eq!(run(&["execution", "show", first]).expect(0).json()["waitingReason"], "signal paid");
    let why = run(&["execution", "explain", first]).expect(0).json();
    assert_eq!(why["liveCause"]["kind"], "signal");
    let told = bench.run(&["execution", "explain", first, "--data-dir", "data"]).expect(0).stdout;
    let next = format!("  flowmonkey execution signal {first} paid --data '{{}}' --data-dir data\n");
    assert!(told.ends_with(&next), "{told}");
    let early = run(&["execution", "signal", first, "piad"]).expect(0);
    assert!(early.stderr.contains("kept: nothing waits for `piad` now"), "{}", early.stderr);
    run(&["execution", "pause", first, "--reason", "lunch"]).expect(0);
    assert_eq!(run(&["execution", "show", first]).expect(0).json()["status"], "paused");
    run(&["execution", "resume", first]).expect(0);
    let taken = run(&["execution", "signal", first, "paid", "--data", r#"{"amount":3}"#]).expect(0);
    assert!(!taken.stderr.contains("kept"), "{}", taken.stderr);
    let record = run(&["execution", "show", first]).expect(0).json();
    assert_eq!(
        (&record["status"], &record["context"]["payment"]["amount"]),
        (&json!("completed"), &json!(3))
    );
    run(&["execution", "cancel", second, "--reason", "enough"]).expect(0);
    assert_eq!(run(&["execution", "show", second]).expect(0).json()["status"], "cancelled");
    // It has ended: nothing more can be told to it.
    run(&["execution", "cancel", second]).expect(1);
    assert_eq!(run(&["execution", "history", first]).expect(0).json()[0]["stepId"], "paid");
    let again = run(&["execution", "rerun", first, "--from", "paid"]).expect(0).json();
    assert_eq!(again["rerunOf"], **first);
    let unknown = run(&["execution", "show", "ex_00000000000000000000000000000000"]).expect(2);
    assert!(unknown.stderr.contains("not found"), "{}", unknown.stderr);
    let misspelt = run(&["execution", "show", "ex_0000"]).expect(2);
    assert!(misspelt.stderr.contains("`ex_0000` is no execution id"), "{}", misspelt.stderr);
    let published = run(&["flow", "publish", "paying.yaml"]).expect(0).json();
    assert_eq!(published["items"][0]["outcome"], "published");
    assert_eq!(run(&["flow", "list"]).expect(0).json()["items"][0]["id"], "paying");
    assert_eq!(
        run(&["execution", "count", "--by-status"]).expect(0).json()["counts"]["completed"]["count"],
        1
    );
    assert_eq!(run(&["event", "publish", "dawn", "--event-id", "e1"]).expect(0).json()["created"], true);
    assert_eq!(run(&["event", "list"]).expect(0).json()["items"][0]["type"], "dawn");
    for look in [["failed", "list"], ["queue", "list"], ["worker", "list"]] {
        assert!(run(&look).expect(0).json()["items"].is_array());
    }
    let watched = run(&["execution", "watch", first]).expect(0).stdout;
    assert!(watched.lines().last().unwrap().contains(r#""type":"execution.completed""#), "{watched}");
    run(&["table", "define", r#"{"id":"orders","columns":[{"id":"total","type":"number"}]}"#]).expect(0);
    assert_eq!(run(&["table", "list"]).expect(0).json()["items"][0]["id"], "orders");
    assert_eq!(run(&["table", "rows", "orders"]).expect(0).json()["items"], json!([]));
    let unknown = run(&["table", "rows", "ordres"]).expect(2);
    assert!(unknown.stderr.contains("no table `ordres` with rows; defined are orders"), "{}", unknown.stderr);
}

fn two_that_wait(bench: &Bench) {
    bench.file("paying.yaml", SIGNAL);
    for _ in 0..2 {
        bench.run(&["run", "paying.yaml", "--data-dir", "data"]).expect(3);
    }
}

#[test]
fn commands_open_the_directory_when_nobody_owns_it() {
    let bench = Bench::new();
    two_that_wait(&bench);
    act_on(&bench);
}

#[test]
fn commands_ask_the_owner_when_there_is_one() {
    let bench = Bench::new();
    two_that_wait(&bench);
    let (_dev, _) = dev(&bench, &[]);
    act_on(&bench);
}

#[test]
fn a_directory_without_a_record_is_not_made_by_looking() {
    let bench = Bench::new();
    let done = bench.run(&["execution", "list"]).expect(2);
    assert!(done.stderr.contains(".flowmonkey holds no record"), "{}", done.stderr);
    assert_eq!(names(bench.dir.path()), [""; 0]);
}

#[test]
fn a_backup_is_taken_while_it_runs_and_restored_elsewhere() {
    let bench = Bench::new();
    bench.file("reminder.yaml", MONTH);
    let (dev, base) = dev(&bench, &["--flows", "."]);
    let id = start(&base, &json!({ "flowId": "reminder" }));
    wait_for_status(&base, &id, "waiting");
    bench.run(&["backup", "data", "copy.db"]).expect(0);
    bench.run(&["backup", "data", "copy.db"]).expect(2);
    drop(dev);
    bench.run(&["restore", "copy.db", "other"]).expect(0);
    bench.run(&["restore", "copy.db", "other"]).expect(2);
    let list = bench.run(&["execution", "list", "--data-dir", "other", "-o", "json"]).expect(0).json();
    assert_eq!(list["items"][0]["id"], id);
    bench.file("broken.db", "this is no database at all, but long enough to be one");
    let refused = bench.run(&["restore", "broken.db", "third"]).expect(2);
    assert!(refused.stderr.contains("broken.db is not a backup"), "{}", refused.stderr);
    assert!(!bench.path("third").exists());
}

#[test]
fn doctor_finds_what_is_well_and_what_is_not() {
    let bench = Bench::new();
    two_that_wait(&bench);
    let well = bench.run(&["doctor", "--data-dir", "data", "-o", "json"]).expect(0).json();
    assert_eq!(well["healthy"], true, "{well}");
    std::fs::write(bench.path("data/flowmonkey.db"), "not a database, whatever its name may say about it")
        .unwrap();
    let ill = bench.run(&["doctor", "--data-dir", "data", "-o", "json"]).expect(1).json();
    let record = ill["checks"].as_array().unwrap().iter().find(|check| check["check"] == "record").unwrap();
    assert_eq!(record["state"], "error", "{ill}");
}
