//! A handler that prints without end is ended, with a clear code and without filling the memory of the process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Bench, http, wait_for};

/// What the process may take at most: its own, and a few times what a task may print.
const MEMORY_BYTES_MAX: u64 = 400 << 20;
/// What the child prints, unless it is stopped.
const FLOOD_BYTES: u64 = 1 << 30;

/// The most memory that a process has had.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_child_that_prints_a_gigabyte_is_ended_and_the_memory_stays_bounded() {
    let bench = Bench::new();
    let flood = |filter: &str| format!("head -c {FLOOD_BYTES} /dev/zero | {filter}; echo told >> survived");
    // One line without end, lines that are no documents, lines of logs, and all of it on standard error.
    let floods = [
        ("line", flood("tr '\\0' x")),
        ("lines", flood("tr '\\0' x | fold -w 500")),
        ("logs", r#"exec yes '{"type":"log","message":"again and again and again"}'"#.to_owned()),
        ("errors", flood("tr '\\0' x >&2")),
    ];
    let handlers: Vec<Value> = floods
        .iter()
        .map(|(name, script)| json!({ "type": name, "version": "1.0.0", "command": ["sh", "-c", script] }))
        .collect();
    bench.file("handlers.json", &json!({ "handlers": handlers }).to_string());
    let running = bench.start(&[
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        "record",
        "--handlers",
        "handlers.json",
    ]);
    let url = bench.address("record", &running);
    wait_for("the server", || (http(&url, "GET", "/readyz", "").0 == 200).then_some(()));
    for (name, _) in &floods {
        let flow = json!({
            "id": name, "version": "1.0.0", "initialStepId": "flood",
            "steps": { "flood": { "type": name, "transitions": { "onSuccess": null } } },
        });
        assert_eq!(http(&url, "POST", "/v1/flows", &flow.to_string()).0, 201);
        let (status, answer) = http(&url, "POST", "/v1/executions", &json!({ "flowId": name }).to_string());
        assert_eq!(status, 202, "{answer}");
        let id = answer["id"].as_str().unwrap();
        let record = wait_for("the end", || {
            let (_, record) = http(&url, "GET", &format!("/v1/executions/{id}?wait=2"), "");
            ["completed", "failed"].contains(&record["status"].as_str()?).then_some(record)
        });
        assert_eq!(
            (&record["status"], &record["error"]["code"]),
            (&"failed".into(), &"LIMIT_EXCEEDED".into()),
            "{name}: {record}"
        );
        let peak = peak_bytes(running.child.id());
        assert!(peak < MEMORY_BYTES_MAX, "{name}: {peak} bytes");
    }
    assert!(!bench.path("survived").exists(), "the children were ended, not waited for");
}
