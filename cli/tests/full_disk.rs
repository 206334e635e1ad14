//! A disk without space: what cannot be stored is refused in clear words, nothing that was accepted is lost, and all goes on
//! by itself when there is space again.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use support::{Bench, Running, SIGNAL, http, wait_for};

/// Less than a record has: no file of it can grow.
const FULL_BYTES: u64 = 4096;
/// Bytes of the small file system.
const DISK: &str = "8m";

/// A step whose program waits until it can read `gate`.
const GATED: &str = "\
id: gated
version: 1.0.0
initialStepId: wait
steps:
  wait:
    type: command
    config: { command: [cat, gate] }
    outputKey: out
    retry: { maxAttempts: 1 }
    transitions: { onSuccess: null }
";

/// A shell that runs its arguments, for which a file that is too large is an error and not the end.
fn patient() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh", env!("CARGO_BIN_EXE_flowmonkey")]);
    command
}

fn limit_files(running: &Running, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

/// Starts and signals executions on a server whose disk is filled and freed in between.
fn a_server_survives(running: &Running, url: &str, fill: impl Fn(), free: impl Fn()) {
    let flow = flow_of(SIGNAL);
    assert_eq!(http(url, "POST", "/v1/flows", &flow).0, 201);
    let start = || http(url, "POST", "/v1/executions", r#"{"flowId":"paying"}"#);
    let signal =
        |id: &str| http(url, "POST", &format!("/v1/executions/{id}:signal"), r#"{"name":"paid","data":1}"#);
    let (status, before) = start();
    assert_eq!(status, 202, "{before}");
    let before = before["id"].as_str().unwrap().to_owned();

    fill();
    // What the log still has room for may be accepted; then it is refused, and said why.
    let mut accepted = vec![before.clone()];
    let refused = wait_for("a refusal", || {
        let (status, answer) = start();
        if status == 202 {
            accepted.push(answer["id"].as_str().unwrap().to_owned());
            return None;
        }
        Some((status, answer))
    });
    assert!(refused.0 == 503 || refused.0 == 507, "{refused:?}");
    let code = refused.1["code"].as_str().unwrap();
    assert!(["STORE_FULL", "STORE_UNAVAILABLE"].contains(&code), "{refused:?}");
    assert_ne!(signal(&before).0, 202, "what cannot be stored is not accepted");

    free();
    let (status, after) =
        wait_for("space to be noticed", || Some(start()).filter(|(status, _)| *status == 202));
    assert_eq!(status, 202, "{after}");
    accepted.push(after["id"].as_str().unwrap().to_owned());
    for id in &accepted {
        let (status, answer) = signal(id);
        assert!(status == 202 || status == 200, "{status} {answer}");
    }
    for id in &accepted {
        let record = wait_for("the end", || {
            let (_, record) = http(url, "GET", &format!("/v1/executions/{id}"), "");
            ["completed", "failed"].contains(&record["status"].as_str()?).then_some(record)
        });
        assert_eq!(record["status"], "completed", "{record}");
    }
    assert!(running.said().contains("STORE_"), "the log names it: {}", running.said());
}

fn flow_of(yaml: &str) -> String {
    use flowmonkey_core::flow::parse::{Format, parse_document};
    parse_document(yaml, Format::Yaml).unwrap().flows[0].source.to_string()
}

#[test]
fn a_server_goes_on_when_its_files_may_grow_again() {
    let bench = Bench::new();
    let mut command = patient();
    command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir", "record"]);
    let running = bench.start_command(command);
    let url = bench.address("record", &running);
    wait_for("the server", || (http(&url, "GET", "/readyz", "").0 == 200).then_some(()));
    a_server_survives(
        &running,
        &url,
        || limit_files(&running, Some(FULL_BYTES)),
        || limit_files(&running, None),
    );
}

#[test]
fn a_server_goes_on_when_its_disk_has_space_again() {
    let bench = Bench::new();
    fs::create_dir(bench.path("disk")).unwrap();
    // The file system is seen by the server alone and ends with it. Who is not root becomes it, for this.
    let own = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mount = format!(r#"mount -t tmpfs -o size={DISK} none disk && exec "$@""#);
    let mut command = Command::new("unshare");
    command.args([own, "sh", "-c", &mount, "sh", env!("CARGO_BIN_EXE_flowmonkey")]);
    command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir", "disk/record"]);
    let running = bench.start_command(command);
    running.wait_for_line("listens on http://");
    let said = running.said();
    let url = said.split("listens on ").nth(1).unwrap().lines().next().unwrap().to_owned();
    wait_for("the server", || (http(&url, "GET", "/readyz", "").0 == 200).then_some(()));
    let root = PathBuf::from(format!("/proc/{}/root", running.child.id()));
    let filler = root.join(bench.path("disk/filler").strip_prefix("/").unwrap());
    let fill = || {
        let mut zeros = std::io::repeat(0);
        let full = std::io::copy(&mut zeros, &mut fs::File::create(&filler).unwrap()).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    };
    a_server_survives(&running, &url, fill, || fs::remove_file(&filler).unwrap());
}

#[test]
fn a_run_without_space_says_so() {
    let bench = Bench::new();
    bench.file("signal.yaml", SIGNAL);
    let mut command = Command::new("sh");
    let limited = r#"trap "" XFSZ; ulimit -f 8; exec "$@""#;
    command.args([
        "-c",
        limited,
        "sh",
        env!("CARGO_BIN_EXE_flowmonkey"),
        "run",
        "signal.yaml",
        "--data-dir",
        "record",
    ]);
    let done = bench.start_command(command).end();
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(
        done.stderr.contains("the record is full") && done.stderr.contains("flowmonkey.db"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn a_run_goes_on_when_there_is_space_again() {
    let bench = Bench::new();
    bench.file("gated.yaml", GATED);
    assert!(Command::new("mkfifo").arg(bench.path("gate")).status().unwrap().success());
    let mut command = patient();
    command.args(["run", "gated.yaml", "--allow-command", "cat", "--data-dir", "record", "-o", "json"]);
    let running = bench.start_command(command);
    // Opening it waits until the program reads it: then the task is out.
    let gate = fs::File::options().write(true).open(bench.path("gate")).unwrap();
    limit_files(&running, Some(FULL_BYTES));
    std::io::Write::write_all(&mut &gate, b"through").unwrap();
    drop(gate);
    running.wait_for_line("the record");
    limit_files(&running, None);
    let done = running.end().expect(0);
    let record: Value = done.json();
    assert_eq!(
        (&record["status"], &record["context"]["out"]["stdout"]),
        (&"completed".into(), &"through".into())
    );
    assert_eq!(record["history"].as_array().unwrap().len(), 1, "{record}");
}
