//! `command` with real processes.

use std::time::{Duration, Instant};

use flowmonkey_handlers::{CommandPolicy, Programs, StockPolicy};
use serde_json::{Value, json};

use crate::support::Bench;

/// Less than the sleeps of the programs, more than a busy machine needs.
const SOON: Duration = Duration::from_secs(20);

fn bench() -> Bench {
    Bench::new(StockPolicy { command: CommandPolicy { programs: Programs::Any }, ..StockPolicy::default() })
}

fn shell(script: &str) -> Value {
    json!({ "command": ["sh", "-c", script] })
}

fn shell_with(script: &str, field: &str, value: Value) -> Value {
    let mut config = shell(script);
    config[field] = value;
    config
}

#[tokio::test]
async fn a_program_gets_its_input_and_its_output_is_read() {
    let config = json!({ "command": ["cat"], "stdin": "json", "parse": "json" });
    let output = bench().run("command", config, json!({ "n": 1 })).await.unwrap();
    assert_eq!(output["stdout"], json!({ "input": { "n": 1 }, "context": { "rate": 2 } }));
    assert_eq!(output["exitCode"], 0);
    let output = bench()
        .run("command", shell_with("echo a; echo b; echo c >&2", "parse", json!("lines")), Value::Null)
        .await
        .unwrap();
    assert_eq!((&output["stdout"], &output["stderr"]), (&json!(["a", "b"]), &json!("c\n")));
}

#[tokio::test]
async fn a_large_input_that_nobody_reads_does_no_harm() {
    let config = json!({ "command": ["true"], "stdin": "json" });
    let output = bench().run("command", config, json!("x".repeat(1 << 20))).await.unwrap();
    assert_eq!(output["exitCode"], 0);
}

#[tokio::test]
async fn the_environment_is_clean_but_for_a_few() {
    let config = json!({ "command": ["env"], "parse": "lines", "env": { "MINE": 1 } });
    let output = bench().run("command", config, Value::Null).await.unwrap();
    let mut names: Vec<&str> = output["stdout"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line.as_str()?.split('=').next())
        .collect();
    names.retain(|name| !["PATH", "HOME", "LANG"].contains(name));
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "FLOWMONKEY_ATTEMPT",
            "FLOWMONKEY_EXECUTION_ID",
            "FLOWMONKEY_IDEMPOTENCY_KEY",
            "FLOWMONKEY_STEP_ID",
            "MINE"
        ]
    );
}

#[tokio::test]
async fn a_failure_has_the_exit_code_and_the_end_of_standard_error() {
    let failure = bench()
        .run("command", shell("echo first >&2; echo last >&2; exit 3"), Value::Null)
        .await
        .unwrap_err();
    assert_eq!(failure.error.code, "COMMAND_FAILED");
    assert_eq!(failure.error.message, "`sh` ended with exit code 3: last");
    assert_eq!(failure.error.details.unwrap(), json!({ "exitCode": 3, "stderr": "first\nlast\n" }));
    let output = bench()
        .run("command", shell_with("exit 3", "successCodes", json!([0, 3])), Value::Null)
        .await
        .unwrap();
    assert_eq!(output["exitCode"], 3);
    assert_eq!(
        bench().code("command", json!({ "command": ["/no/such/program"] }), Value::Null).await,
        "COMMAND_FAILED"
    );
    assert_eq!(
        bench().code("command", shell_with("echo '{'", "parse", json!("json")), Value::Null).await,
        "COMMAND_FAILED"
    );
}

#[tokio::test]
async fn time_and_output_have_limits_and_end_the_whole_group() {
    let started = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; sleep 600", mark.display());
    assert_eq!(
        bench().code("command", shell_with(&script, "timeoutMs", json!(500)), Value::Null).await,
        "TIMEOUT"
    );
    wait_for_end(&std::fs::read_to_string(mark).unwrap()).await;
    let failure = bench()
        .run("command", shell_with("yes", "maxOutputBytes", json!(1000)), Value::Null)
        .await
        .unwrap_err();
    assert_eq!(failure.error.message, "the output is over 1000 bytes");
    let failure = bench()
        .run("command", shell_with("head -c 2000 /dev/zero", "maxOutputBytes", json!(1000)), Value::Null)
        .await
        .unwrap_err();
    assert_eq!(failure.error.message, "the output is over 1000 bytes");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn a_process_left_in_the_background_neither_blocks_nor_survives() {
    let started = Instant::now();
    let output = bench().run("command", shell("sleep 600 & echo $!"), Value::Null).await.unwrap();
    wait_for_end(output["stdout"].as_str().unwrap()).await;
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn cancelling_ends_the_program() {
    let bench = bench();
    let task = bench.task("command", shell("sleep 600"), Value::Null);
    task.cancelled.cancel();
    let started = Instant::now();
    assert_eq!(bench.run_task(&task).await.unwrap_err().error.code, "ABORTED");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn only_listed_programs_run() {
    let none = Bench::new(StockPolicy::default());
    let failure = none.run("command", shell("true"), Value::Null).await.unwrap_err();
    assert_eq!(failure.error.code, "COMMAND_FORBIDDEN");
    let programs = Programs::Listed(vec!["true".into()]);
    let listed = Bench::new(StockPolicy { command: CommandPolicy { programs }, ..StockPolicy::default() });
    assert!(listed.run("command", json!({ "command": ["true"] }), Value::Null).await.is_ok());
    assert_eq!(
        listed.code("command", json!({ "command": ["/bin/true"] }), Value::Null).await,
        "COMMAND_FORBIDDEN"
    );
}

/// Waits until a process is gone, or is a zombie that its new parent has yet to collect.
async fn wait_for_end(pid: &str) {
    let status = format!("/proc/{}/stat", pid.trim());
    let deadline = Instant::now() + SOON;
    while let Ok(stat) = std::fs::read_to_string(&status) {
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} still runs");
        tokio::task::yield_now().await;
    }
}
