//! `command` with programs that speak the child protocol.

use std::time::{Duration, Instant};

use flowmonkey_handlers::{CommandPolicy, Programs, StockPolicy};
use flowmonkey_plumbing::wire::{CheckpointReference, LogLevel};
use flowmonkey_worker::{Completion, Failure};
use serde_json::{Value, json};

use crate::support::Bench;

/// Less than the sleeps of the programs, more than a busy machine needs.
const SOON: Duration = Duration::from_secs(20);

/// Says all that the protocol has, about what it was told.
const TALKER: &str = r#"
import json, os, sys
task = json.loads(sys.stdin.readline())
params = task["params"]
def say(**line): print(json.dumps(line), flush=True)
say(type="log", id=task["id"], level="warn", message="hello")
say(type="progress", id=task["id"], percent=45, message="half")
say(type="checkpoint", id=task["id"], data={"page": 2})
print("not json at all", flush=True)
print("on the side", file=sys.stderr, flush=True)
say(type="news", id=task["id"])
say(type="result", id=task["id"], outcome="success", output={
    "type": task["type"], "input": params["input"], "context": params["context"], "before": params.get("checkpoint"),
    "attempt": os.environ["FLOWMONKEY_ATTEMPT"], "mine": os.environ["MINE"], "cwd": os.getcwd(),
})
"#;

fn bench() -> Bench {
    let command = CommandPolicy { programs: Programs::Listed(vec!["sh".into(), "python3".into()]) };
    Bench::new(StockPolicy { command, ..StockPolicy::default() })
}

fn shell(script: &str) -> Value {
    json!({ "protocol": "ndjson", "command": ["sh", "-c", script] })
}

async fn fails(config: Value) -> Failure {
    bench().run("command", config, Value::Null).await.unwrap_err()
}

#[tokio::test]
async fn a_program_that_speaks_the_protocol_says_all_that_a_handler_can_say() {
    let bench = bench();
    let config = json!({
        "protocol": "ndjson", "command": ["python3", "-c", TALKER], "env": { "MINE": 1 }, "cwd": "/",
    });
    let task = bench.task("command", config.clone(), json!({ "n": 1 }));
    let Completion::Success(Some(output)) = bench.run_task(&task).await.unwrap() else { panic!("a success") };
    let expected = json!({
        "type": "execute", "input": { "n": 1 }, "context": { "rate": 2 }, "before": null,
        "attempt": "1", "mine": "1", "cwd": "/",
    });
    assert_eq!(output, expected);
    assert_eq!(*bench.memory.progress.lock().unwrap(), ["half"]);
    assert_eq!(*bench.memory.saved.lock().unwrap(), [json!({ "page": 2 })]);
    let (_, logs) = task.take_rows_and_logs();
    let has = |level, part: &str| logs.iter().any(|line| line.level == level && line.message.contains(part));
    assert!(has(LogLevel::Warn, "hello") && has(LogLevel::Info, "on the side"), "{logs:?}");
    assert!(has(LogLevel::Info, "not json at all"), "{logs:?}");

    // The next attempt is given the checkpoint that its message names.
    let mut task = bench.task("command", config, Value::Null);
    task.message.attempt = 2;
    task.message.checkpoint =
        Some(CheckpointReference { id: "c".into(), saved_at: "2026-02-03T12:00:00Z".into(), size: 10 });
    let Completion::Success(Some(output)) = bench.run_task(&task).await.unwrap() else { panic!("a success") };
    assert_eq!((&output["before"]["data"], &output["attempt"]), (&json!({ "page": 2 }), &json!("2")));
}

#[tokio::test]
async fn failures_and_waits_of_the_program_are_those_of_the_step() {
    let failing = r#"read task; echo '{"type":"result","outcome":"failure","error":{"code":"NO_STOCK","message":"none left"}}'"#;
    let failure = fails(shell(failing)).await;
    assert_eq!((failure.error.code.as_str(), failure.error.message.as_str()), ("NO_STOCK", "none left"));
    let waiting = r#"read task; echo '{"type":"result","outcome":"wait","waitReason":"a parcel"}'"#;
    let bench = bench();
    let ended = bench.run_task(&bench.task("command", shell(waiting), Value::Null)).await.unwrap();
    assert!(
        matches!(&ended, Completion::Wait(wait) if wait.reason.as_deref() == Some("a parcel")),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_program_without_a_result_fails_with_its_exit_and_its_last_words() {
    let failure = fails(shell("echo garbage; echo 'no licence' >&2; exit 7")).await;
    assert_eq!(failure.error.code, "HANDLER_ERROR");
    let details = failure.error.details.unwrap();
    assert_eq!((&details["exitCode"], &details["stderr"]), (&json!(7), &json!(["no licence"])));
    assert!(failure.error.message.contains("no licence"), "{}", failure.error.message);
}

#[tokio::test]
async fn a_program_that_says_too_much_is_ended() {
    let mut config = shell("yes");
    config["maxOutputBytes"] = json!(1000);
    let failure = fails(config).await;
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("LIMIT_EXCEEDED", Some(false)));
    assert!(failure.error.message.contains("1000 bytes"), "{}", failure.error.message);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_told_to_stop_and_can_still_answer() {
    let begun = Instant::now();
    let mut config = shell("exec sleep 60");
    config["timeoutMs"] = json!(50);
    let failure = fails(config).await;
    assert_eq!(failure.error.code, "TIMEOUT", "{}", failure.error.message);
    let late = r#"trap 'echo "{\"type\":\"result\",\"outcome\":\"success\",\"output\":1}"; exit' TERM; echo; while :; do sleep 0.1; done"#;
    let mut config = shell(late);
    config["timeoutMs"] = json!(1000);
    assert_eq!(bench().run("command", config, Value::Null).await.unwrap(), json!(1));
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn only_listed_programs_are_run() {
    let failure = fails(json!({ "protocol": "ndjson", "command": ["cat"] })).await;
    assert_eq!(failure.error.code, "COMMAND_FORBIDDEN");
    let bench = Bench::new(StockPolicy {
        command: CommandPolicy { programs: Programs::Any },
        ..StockPolicy::default()
    });
    let config = json!({ "protocol": "ndjson", "command": ["no-such-program"] });
    assert_eq!(bench.code("command", config, Value::Null).await, "HANDLER_ERROR");
}
