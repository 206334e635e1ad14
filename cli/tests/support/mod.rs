//! Runs the real program on the real examples.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// A file of the examples.
pub fn example(path: &str) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    examples.join(path).canonicalize().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The program, with nothing of this process's settings.
pub fn flowmonkey() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmonkey"));
    for name in ["FLOWMONKEY_SERVER", "FLOWMONKEY_DATA_DIR", "FLOWMONKEY_LOG", "FLOWMONKEY_SMTP"] {
        command.env_remove(name);
    }
    // Whoever runs the tests in a terminal is not asked to move executions.
    command.stdin(Stdio::null());
    command
}

/// What a program left behind.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("not JSON ({error}), exit code {}:\n{}\n{}", self.code, self.stdout, self.stderr)
        })
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program to its end.
pub fn call(args: &[&str]) -> Ended {
    flowmonkey().args(args).output().unwrap().into()
}

/// `flowmonkey run` of an example.
pub struct Run {
    file: PathBuf,
    args: Vec<String>,
    folder: Option<PathBuf>,
    /// Holds the record, so that a failed run leaves nothing behind.
    data: tempfile::TempDir,
}

impl Run {
    pub fn of(file: &str) -> Self {
        Self { file: example(file), args: Vec::new(), folder: None, data: tempfile::tempdir().unwrap() }
    }

    pub fn flow(self, id: &str) -> Self {
        self.args(&["--flow", id])
    }

    pub fn input(self, input: &Value) -> Self {
        self.args(&["--input", &input.to_string()])
    }

    pub fn handlers(self, file: &str) -> Self {
        require_python();
        self.args(&["--handlers", example(file).to_str().unwrap()])
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// The current directory of the program.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    pub fn data_dir(&self) -> &str {
        self.data.path().to_str().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = flowmonkey();
        command.arg("run").arg(&self.file).args(&self.args);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.args(["--output", "json", "--durability", "relaxed", "--data-dir", self.data_dir()]);
        command
    }

    pub fn ended(&self) -> Ended {
        self.command().output().unwrap().into()
    }

    /// Runs it to its end, which must be `status`, and gives the record.
    pub fn ends(&self, status: &str) -> Value {
        let ended = self.ended();
        let record = ended.json();
        assert_eq!(record["status"], status, "{record:#}\n{}", ended.stderr);
        assert_eq!(ended.code, i32::from(status != "completed"), "{}", ended.stderr);
        record
    }

    /// Starts it, and waits until it is as `is_there` wants it. Looks by a process of its own each time.
    pub fn starts(&self, is_there: impl Fn(&Value) -> bool) -> Started {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut started =
            Started { child: command.spawn().unwrap(), id: String::new(), data_dir: self.data_dir().into() };
        wait_for("the execution to be there", || {
            assert!(started.child.try_wait().unwrap().is_none(), "it ended early: {}", started.complaint());
            // Until the record has been made, there is nobody to ask.
            let list = call(&["execution", "list", "--output", "json", "--data-dir", &started.data_dir]);
            let Ok(list) = serde_json::from_str::<Value>(&list.stdout) else { return false };
            let Some(item) = list["items"].as_array().and_then(|items| items.first()) else { return false };
            started.id = item["id"].as_str().unwrap().to_owned();
            is_there(&started.ask("show", &[]))
        });
        started
    }
}

/// A run that goes on.
pub struct Started {
    child: Child,
    pub id: String,
    data_dir: String,
}

impl Started {
    /// Asks the running process about its execution.
    pub fn ask(&self, verb: &str, args: &[&str]) -> Value {
        self.call(verb, args).json()
    }

    pub fn call(&self, verb: &str, args: &[&str]) -> Ended {
        let mut all = vec!["execution", verb, self.id.as_str()];
        all.extend(args);
        all.extend(["--output", "json", "--data-dir", self.data_dir.as_str()]);
        call(&all)
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }

    /// Waits for the end, which must be `status`, and gives the record.
    pub fn ends(mut self, status: &str) -> Value {
        let mut record = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut record).unwrap();
        let code = self.child.wait().unwrap().code();
        let record: Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["status"], status, "{record:#}");
        assert_eq!(code, Some(i32::from(status != "completed")));
        record
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has usually ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A server in a process of its own, which prints its URL first.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    pub fn python(script: &str) -> Self {
        require_python();
        let mut command = Command::new("python3");
        command.arg(example(script));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `flowmonkey dev`, with the flows (`ids`) of one example file.
pub struct Dev {
    child: Child,
    pub url: String,
    ids: Vec<String>,
    handlers: PathBuf,
    data: tempfile::TempDir,
}

impl Dev {
    pub fn with_flows(file: &str, ids: &[&str], handlers: &str) -> Self {
        require_python();
        let data = tempfile::tempdir().unwrap();
        let flows = data.path().join("flows");
        std::fs::create_dir(&flows).unwrap();
        let file = example(file);
        std::fs::copy(&file, flows.join(file.file_name().unwrap())).unwrap();
        let handlers = example(handlers);
        let child = Self::spawn(data.path(), &handlers);
        let ids = ids.iter().map(ToString::to_string).collect();
        let mut dev = Self { child, url: String::new(), ids, handlers, data };
        dev.wait_until_ready();
        dev
    }

    /// As kill -9; then it starts again, with the same record.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What a killed owner left must not be taken for the new one's.
        std::fs::remove_file(self.data.path().join("record/address")).ok();
        self.url.clear();
        self.child = Self::spawn(self.data.path(), &self.handlers);
        self.wait_until_ready();
    }

    fn spawn(data: &Path, handlers: &Path) -> Child {
        let mut command = flowmonkey();
        command.args(["dev", "--listen", "127.0.0.1:0", "--handlers"]).arg(handlers);
        command.arg("--data-dir").arg(data.join("record")).arg("--flows").arg(data.join("flows"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait_until_ready(&mut self) {
        wait_for("the server to say where it is", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the server ended early");
            let Ok(note) = std::fs::read_to_string(self.data.path().join("record/address")) else {
                return false;
            };
            let note: Value = serde_json::from_str(&note).unwrap();
            note["address"].as_str().unwrap_or_default().clone_into(&mut self.url);
            // The flows are published once it serves.
            !self.url.is_empty()
                && self.ids.iter().all(|id| self.call("GET", &format!("/v1/flows/{id}"), None).0 == 200)
        });
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        http(method, &format!("{}{path}", self.url), body)
    }

    /// Waits until an execution has ended as `status`, and gives its record.
    pub fn ends(&self, id: &str, status: &str) -> Value {
        let mut record = Value::Null;
        wait_for("the execution to end", || {
            record = self.call("GET", &format!("/v1/executions/{id}"), None).1;
            ["completed", "failed", "cancelled"].iter().any(|end| record["status"] == *end)
        });
        assert_eq!(record["status"], status, "{record:#}");
        record
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One request, on a connection of its own.
pub fn http(method: &str, url: &str, body: Option<&Value>) -> (u16, Value) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Ends the test with a clear word when there is no Python.
pub fn require_python() {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    assert!(found.is_ok_and(|status| status.success()), "this test needs `python3` on the PATH");
}

/// Asks again and again until `is_so`. What it asks takes its time by itself, so there is no pause.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "waited too long for {what}");
    }
}

/// Steps and outcomes of a record's history.
pub fn history(record: &Value) -> Vec<(&str, &str)> {
    let text = |entry: &'_ Value, key: &str| entry[key].as_str().map(ToOwned::to_owned);
    let entries = record["history"].as_array().unwrap();
    assert!(entries.iter().all(|entry| text(entry, "stepId").is_some() && text(entry, "outcome").is_some()));
    entries
        .iter()
        .map(|entry| (entry["stepId"].as_str().unwrap(), entry["outcome"].as_str().unwrap()))
        .collect()
}
