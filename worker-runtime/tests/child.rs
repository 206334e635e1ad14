//! Child processes behind the real worker: what they say, how they break, and that nothing of them stays.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![cfg(unix)]

#[expect(dead_code, reason = "handlers of closures are for the other tests")]
mod support;

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointApi, ContextApi, Heartbeat, HeartbeatAnswer, JobApi, Plumbing, PlumbingError,
    Progress, ProgressApi, TaskAccess,
};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::{
    CheckpointReference, ContextOperation, ContextUpdates, LogLevel, LogLine, Outcome, ResultMessage,
    TaskError, TaskMessage,
};
use flowmonkey_worker::{ChildHandler, Completion, Failure, Handler, Task, WorkerHandle};
use serde_json::{Value, json};
use support::{Memory, Probe, config, soon, start, task};
use tokio::sync::oneshot;

fn children() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children"))
}

/// A worker with one child handler of type `child`.
struct Bench {
    queue: Arc<Probe>,
    memory: Arc<Memory>,
    _worker: WorkerHandle,
}

impl Bench {
    fn new(command: &[&str]) -> Self {
        Self::with(command, &json!({}))
    }

    /// With further fields of the manifest.
    fn with(command: &[&str], fields: &Value) -> Self {
        let handler = Arc::new(ChildHandler::new(manifest(command, fields), children()).unwrap());
        let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
        let worker = start(config(), &queue, Arc::clone(&memory), [handler as Arc<_>]);
        Self { queue, memory, _worker: worker }
    }

    async fn run(&self, task: TaskMessage) -> ResultMessage {
        self.queue.queue.push(vec![task]).await.unwrap();
        self.queue.result().await
    }

    async fn fail(&self, task: TaskMessage) -> TaskError {
        let result = self.run(task).await;
        assert_eq!(result.outcome, Outcome::Failure, "{result:?}");
        result.error.unwrap()
    }
}

#[tokio::test]
async fn all_that_a_child_says_is_in_the_result() {
    let bench = Bench::new(&["python3", "greet.py"]);
    let result = bench.run(task("t", "child")).await;
    assert_eq!(
        (result.outcome, result.output),
        (Outcome::Success, Some(json!({ "id": "t" }))),
        "{:?}",
        result.error
    );
    assert_eq!((result.logs[0].level, result.logs[0].message.as_str()), (LogLevel::Warn, "hello"));
    assert_eq!(result.events[0].event, "greeting.sent");
    assert_eq!(result.cost.unwrap().tokens, 3);
    let set = ContextOperation::Set { path: "a.b".into(), value: json!(1) };
    assert_eq!(result.context_updates, Some(ContextUpdates::Operations(vec![set])));
    assert_eq!(bench.memory.progress.lock().unwrap()[0].percent, 45.0);
    assert_eq!(*bench.memory.checkpoint.lock().unwrap(), Some(json!({ "page": 2 })));
}

#[tokio::test]
async fn a_missing_program_is_a_terminal_failure_that_names_it() {
    let error = Bench::new(&["no-such-program"]).fail(task("t", "child")).await;
    assert_eq!((error.code.as_str(), error.retryable), ("HANDLER_ERROR", Some(false)));
    assert!(error.message.starts_with("cannot start `no-such-program`: "), "{}", error.message);
}

/// A pipe that children hold open: it tells when the first one is ready, and when the last one is gone.
struct Lifeline {
    path: PathBuf,
    ready: oneshot::Receiver<()>,
    gone: oneshot::Receiver<()>,
    _directory: tempfile::TempDir,
}

impl Lifeline {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (is_ready, ready) = oneshot::channel();
        let (is_gone, gone) = oneshot::channel();
        let pipe = path.clone();
        // A thread, not a task of the runtime: it must not keep a failed test from ending.
        std::thread::spawn(move || {
            let mut pipe = std::io::BufReader::new(std::fs::File::open(pipe).unwrap());
            pipe.read_line(&mut String::new()).unwrap();
            is_ready.send(()).ok();
            pipe.read_to_end(&mut Vec::new()).unwrap();
            is_gone.send(()).ok();
        });
        Self { path, ready, gone, _directory: directory }
    }

    /// A child that opens the pipe as 3, and then does `script`.
    fn child(&self, script: &str) -> [String; 3] {
        ["sh".into(), "-c".into(), format!("exec 3>'{}'; {script}", self.path.display())]
    }
}

fn manifest(command: &[impl AsRef<str>], fields: &Value) -> Manifest {
    let command: Vec<_> = command.iter().map(AsRef::as_ref).collect();
    let mut manifest = json!({ "type": "child", "version": "1.2.0", "command": command });
    manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(manifest).unwrap()
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_its_changes_are_dropped() {
    let script = r#"read task; echo '{"type":"result","outcome":"failure","error":{"code":"CARD_DECLINED","message":"no",
        "retryable":false,"details":{"n":1}},"retryAfterMs":5,"contextUpdates":{"a":1}}' | tr -d '\n'"#;
    let result = Bench::new(&["sh", "-c", script]).run(task("t", "child")).await;
    let error = result.error.unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str(), error.retryable),
        ("CARD_DECLINED", "no", Some(false))
    );
    assert_eq!((error.details, result.retry_after_ms), (Some(json!({ "n": 1 })), Some(5)));
    assert_eq!(result.context_updates, None);
}

#[tokio::test]
async fn what_is_no_message_is_a_log_line_and_what_is_for_others_is_ignored() {
    let script = r#"read task; echo hello; echo '[1,2]'; echo '{"no":"type"}'; echo '{broken'; printf '\377\n'; echo
        echo '{"type":"result","id":"other","outcome":"failure","error":{"code":"X"}}'
        echo '{"type":"progress","percent":"half"}'; echo 'to stderr' >&2
        echo '{"type":"result","id":"t","outcome":"success","output":null}'"#;
    let result = Bench::new(&["sh", "-c", script]).run(task("t", "child")).await;
    assert_eq!(
        (result.outcome, &result.output),
        (Outcome::Success, &Some(Value::Null)),
        "{:?}",
        result.error
    );
    let mut logs: Vec<_> = result.logs.iter().map(|line| line.message.as_str()).collect();
    // The two pipes have no common order.
    let stderr = logs.iter().position(|line| *line == "to stderr").unwrap();
    logs.remove(stderr);
    assert_eq!(logs[..5], ["hello", "[1,2]", r#"{"no":"type"}"#, "{broken", "\u{fffd}"]);
    assert!(logs[5].starts_with("a `progress` line of the child is not valid: `percent`"), "{}", logs[5]);
    assert_eq!(logs.len(), 6);
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_at_the_limit_with_all_it_started() {
    let lifeline = Lifeline::new();
    let bench = Bench::new(&lifeline.child("sleep 1000 & echo >&3; wait").each_ref().map(String::as_str));
    let mut short = task("t", "child");
    short.remaining_ms = 500;
    assert_eq!(bench.fail(short).await.code, "TIMEOUT");
    soon(lifeline.gone).await.unwrap();
}

/// Runs a child outside of a worker, and stops its task as soon as it is ready.
async fn stopped(
    lifeline: Lifeline,
    script: &str,
    plumbing: Arc<dyn Plumbing>,
) -> Result<Completion, Failure> {
    let manifest = manifest(&lifeline.child(script), &json!({ "limits": { "graceMs": 100 } }));
    let handler = ChildHandler::new(manifest, children()).unwrap();
    let task = Task::for_test(task("t", "child"), plumbing);
    let stop = async {
        lifeline.ready.await.unwrap();
        task.cancelled.cancel();
    };
    let (ended, ()) = soon(async { tokio::join!(handler.run(&task), stop) }).await;
    soon(lifeline.gone).await.unwrap();
    ended
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_after_the_grace() {
    let script = "trap '' TERM; echo >&3; while :; do sleep 1000; done";
    let failure = stopped(Lifeline::new(), script, Arc::new(Memory::default())).await.unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("CANCELLED", Some(false)));
}

#[tokio::test]
async fn a_child_that_is_told_to_stop_may_still_answer() {
    let script = r#"trap '' TERM; read task; echo >&3; read line
        printf '%s' "$line" | grep -q '"type":"cancel","id":"t"' &&
        echo '{"type":"checkpoint","data":9}'
        echo '{"type":"result","outcome":"success","output":"in time"}'"#;
    let memory = Arc::new(Memory::default());
    let ended = stopped(Lifeline::new(), script, Arc::clone(&memory) as Arc<_>).await;
    assert_eq!(ended, Ok(Completion::output(json!("in time"))));
    assert_eq!(*memory.checkpoint.lock().unwrap(), Some(json!(9)));
}

/// Plumbing of an attempt that another one has followed.
struct Stale;

#[async_trait::async_trait]
impl CheckpointApi for Stale {
    async fn save_checkpoint(&self, access: &TaskAccess, _: Value) -> Result<Checkpoint, PlumbingError> {
        let delivery = &access.delivery;
        Err(PlumbingError::Stale { task: delivery.task_id.clone(), attempt: delivery.attempt })
    }

    async fn load_checkpoint(&self, _: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        Ok(None)
    }

    async fn clear_checkpoint(&self, _: &TaskAccess) -> Result<(), PlumbingError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl JobApi for Stale {
    async fn heartbeat(
        &self,
        _access: &TaskAccess,
        _heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        Ok(HeartbeatAnswer::default())
    }
}

#[async_trait::async_trait]
impl ContextApi for Stale {
    async fn read_context(&self, _: &TaskAccess, _: Option<&str>) -> Result<Option<Value>, PlumbingError> {
        Ok(None)
    }

    async fn stage_context(
        &self,
        _: &TaskAccess,
        _: u32,
        _: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        Ok(())
    }
}

impl ProgressApi for Stale {
    fn started(&self, _: &TaskAccess, _: &str) {}

    fn progress(&self, _: &TaskAccess, _: Progress) {}

    fn log(&self, _: &TaskAccess, _: &LogLine) {}
}

#[tokio::test]
async fn a_child_whose_attempt_is_stale_is_stopped() {
    let lifeline = Lifeline::new();
    let script = r#"echo >&3; echo '{"type":"checkpoint","data":1}'; exec sleep 1000"#;
    let handler = ChildHandler::new(manifest(&lifeline.child(script), &json!({})), children()).unwrap();
    let task = Task::for_test(task("t", "child"), Arc::new(Stale));
    let failure = soon(handler.run(&task)).await.unwrap_err();
    assert_eq!(failure.error.code, "CANCELLED");
    soon(lifeline.gone).await.unwrap();
}

#[tokio::test]
async fn a_child_that_dies_by_a_signal_fails_with_it_and_its_last_words() {
    let error = Bench::new(&["sh", "-c", "echo last words >&2; kill -9 $$"]).fail(task("t", "child")).await;
    assert_eq!((error.code.as_str(), error.retryable), ("HANDLER_ERROR", None));
    assert!(
        error.message.contains("signal: 9") && error.message.ends_with("last words"),
        "{}",
        error.message
    );
    assert_eq!(error.details.unwrap()["signal"], 9);
}

#[tokio::test]
async fn a_child_without_a_result_fails_however_well_it_exits() {
    let error = Bench::new(&["sh", "-c", "exit 0"]).fail(task("t", "child")).await;
    assert_eq!(error.code, "HANDLER_ERROR");
    assert_eq!(error.message, "`sh` ended without a result, exit status: 0");
    let silent =
        Bench::with(&["sh", "-c", "exec >&-; exec sleep 1000"], &json!({ "limits": { "graceMs": 50 } }));
    let error = silent.fail(task("t", "child")).await;
    assert_eq!(error.message, "`sh` closed its standard output without a result");
}

#[tokio::test]
async fn a_child_that_never_stops_printing_is_stopped_at_the_limit() {
    for script in ["exec yes", "exec yes >&2"] {
        let bench = Bench::with(
            &["sh", "-c", script],
            &json!({ "limits": { "outputBytes": 1_000_000, "logLines": 3 } }),
        );
        let result = bench.run(task("t", "child")).await;
        let error = result.error.unwrap();
        assert_eq!((error.code.as_str(), error.retryable), ("LIMIT_EXCEEDED", Some(false)));
        assert!(
            error.message.contains("more than 1000000 bytes") && error.message.contains("limits.outputBytes")
        );
        assert_eq!(result.logs.len(), 4);
        assert!(result.logs[3].message.ends_with("more log lines were dropped"));
    }
}

#[tokio::test]
async fn a_line_without_an_end_is_stopped_at_the_limit() {
    let script = "head -c 1000000000 /dev/zero";
    let bench = Bench::with(&["sh", "-c", script], &json!({ "limits": { "lineBytes": 1_000_000 } }));
    let error = bench.fail(task("t", "child")).await;
    assert_eq!(error.code, "LIMIT_EXCEEDED");
    assert!(
        error.message.contains("line of more than 1000000 bytes (limits.lineBytes)"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_large_task_reaches_a_child_that_talks_before_it_reads() {
    let script = "head -c 300000 /dev/zero | tr '\\0' x; echo; read task; echo '{\"type\":\"result\",\"outcome\":\"success\",\
        \"output\":'${#task}'}'";
    let mut large = task("t", "child");
    large.input = Some(json!("y".repeat(2_000_000)));
    let output = Bench::new(&["sh", "-c", script]).run(large).await.output.unwrap();
    assert!(output.as_u64().unwrap() > 2_000_000, "{output}");
}

fn asked(id: &str, what: &str) -> TaskMessage {
    TaskMessage { input: Some(json!({ "do": what })), ..task(id, "child") }
}

#[tokio::test]
async fn a_child_is_reused_until_it_leaves_or_breaks() {
    let bench = Bench::with(&["python3", "loop.py"], &json!({ "reuse": true }));
    let first = bench.run(asked("a", "")).await.output.unwrap();
    assert_eq!(bench.run(asked("b", "leave")).await.output, Some(first.clone()));
    // Whether it was seen to leave before or after it got the next task: the task succeeds.
    let second = bench.run(asked("c", "")).await.output.unwrap();
    assert_ne!(second, first);
    // A child that breaks each time breaks the attempt as well.
    let error = bench.fail(asked("d", "break")).await;
    assert!(error.message.contains("asked to break"), "{}", error.message);
    assert_ne!(bench.run(asked("e", "")).await.output.unwrap(), second);
    let single = Bench::new(&["python3", "loop.py"]);
    let pids = [single.run(asked("a", "")).await.output, single.run(asked("b", "")).await.output];
    assert_ne!(pids[0], pids[1]);
}

#[tokio::test]
async fn a_child_inherits_nothing_that_is_not_named() {
    let fields =
        json!({ "env": { "COLOUR": "green" }, "inheritEnv": ["CARGO_PKG_NAME", "NOT_SET_ANYWHERE"] });
    let result = Bench::with(&["env"], &fields).run(task("t", "child")).await;
    let mut lines: Vec<_> = result.logs.iter().map(|line| line.message.as_str()).collect();
    lines.retain(|line| !["PATH=", "HOME=", "LANG="].iter().any(|known| line.starts_with(known)));
    lines.sort_unstable();
    assert_eq!(lines, ["CARGO_PKG_NAME=flowmonkey-worker", "COLOUR=green"]);
}

#[tokio::test]
async fn a_child_gets_no_more_memory_than_its_limit() {
    let command = ["python3", "-c", "bytearray(1 << 30)"];
    let fields =
        [json!({ "limits": { "memoryBytes": 256 << 20 } }), json!({ "resources": { "memory": "256Mi" } })];
    for fields in fields {
        let error = Bench::with(&command, &fields).fail(task("t", "child")).await;
        assert!(error.message.contains("MemoryError"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_child_gets_no_more_processor_time_than_its_limit() {
    let bench = Bench::with(&["sh", "-c", "while :; do :; done"], &json!({ "limits": { "cpuSeconds": 1 } }));
    let error = bench.fail(task("t", "child")).await;
    assert_eq!(error.code, "LIMIT_EXCEEDED");
    assert!(error.message.contains("limits.cpuSeconds"), "{}", error.message);
}

#[tokio::test]
async fn what_a_child_started_ends_with_it() {
    let result = r#"echo '{"type":"result","outcome":"success","output":1}'"#;
    for end in ["exit 0", "sleep 1000"] {
        let lifeline = Lifeline::new();
        let command = lifeline.child(&format!("echo >&3; sleep 1000 & {result}; {end}"));
        let fields = json!({ "limits": { "graceMs": 100 } });
        let result =
            Bench::with(&command.each_ref().map(String::as_str), &fields).run(task("t", "child")).await;
        assert_eq!(result.output, Some(json!(1)), "{:?}", result.error);
        soon(lifeline.gone).await.unwrap();
    }
}

#[tokio::test]
async fn a_checkpoint_is_seen_by_the_next_attempt() {
    let bench = Bench::new(&["python3", "resume.py"]);
    let error = bench.fail(task("t", "child")).await;
    assert!(error.message.contains("broke on page 8"), "{}", error.message);
    let saved = CheckpointReference { id: "c1".into(), saved_at: "2030-01-01T00:00:00Z".into(), size: 10 };
    let next = TaskMessage { attempt: 2, checkpoint: Some(saved), ..task("t", "child") };
    let output = bench.run(next).await.output.unwrap();
    assert_eq!(output, json!({ "id": "c1", "savedAt": "2030-01-01T00:00:00Z", "data": { "page": 7 } }));
}

/// What the engine did not name is not there: nobody has to be asked.
#[tokio::test]
async fn a_later_attempt_without_a_checkpoint_begins_while_no_engine_can_be_reached() {
    let bench = Bench::new(&["sh", "-c", r#"echo '{"type":"result","outcome":"success","output":1}'"#]);
    bench.memory.away.store(true, Ordering::SeqCst);
    let next = TaskMessage { attempt: 2, ..task("t", "child") };
    assert_eq!(bench.run(next).await.output, Some(json!(1)));
}

#[tokio::test]
async fn a_result_of_a_wrong_shape_names_the_field() {
    let script = r#"echo '{"type":"result","outcome":"success","contextUpdates":7}'"#;
    let error = Bench::new(&["sh", "-c", script]).fail(task("t", "child")).await;
    assert_eq!(error.code, "HANDLER_ERROR");
    assert!(error.message.contains("`contextUpdates` must be an object"), "{}", error.message);
}
