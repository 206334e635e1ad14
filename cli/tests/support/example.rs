//! Runs the real program on the real examples.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Bench, Done, Running, call, flowmonkey, http, try_http, wait_for};

/// A file of the examples.
pub fn example(path: &str) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    examples.join(path).canonicalize().unwrap_or_else(|error| panic!("{path}: {error}"))
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
        let mut command = flowmonkey(&["run"]);
        command.arg(&self.file).args(&self.args);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.args(["--output", "json", "--durability", "relaxed", "--data-dir", self.data_dir()]);
        command
    }

    pub fn ended(&self) -> Done {
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
            let list: Value = serde_json::from_str(&list.stdout).ok()?;
            started.id = list["items"].as_array()?.first()?["id"].as_str().unwrap().to_owned();
            is_there(&started.ask("show", &[])).then_some(())
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

    pub fn call(&self, verb: &str, args: &[&str]) -> Done {
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
    pub url: String,
    ids: Vec<String>,
    handlers: PathBuf,
    /// Ends with the test, before the directory that it works in.
    running: Running,
    bench: Bench,
}

impl Dev {
    pub fn with_flows(file: &str, ids: &[&str], handlers: &str) -> Self {
        require_python();
        let (bench, file) = (Bench::new(), example(file));
        let flows = bench.path("flows");
        std::fs::create_dir(&flows).unwrap();
        std::fs::copy(&file, flows.join(file.file_name().unwrap())).unwrap();
        let handlers = example(handlers);
        let running = Self::start(&bench, &handlers);
        let ids = ids.iter().map(ToString::to_string).collect();
        let mut dev = Self { url: String::new(), ids, handlers, running, bench };
        dev.wait_until_ready();
        dev
    }

    /// As kill -9; then it starts again, with the same record.
    pub fn kill_and_restart(&mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
        self.running = Self::start(&self.bench, &self.handlers);
        self.wait_until_ready();
    }

    fn start(bench: &Bench, handlers: &Path) -> Running {
        let handlers = handlers.to_str().unwrap();
        let args = ["dev", "--listen", "127.0.0.1:0", "--handlers", handlers, "--data-dir", "record"];
        bench.start(&[&args[..], &["--flows", "flows"]].concat())
    }

    fn wait_until_ready(&mut self) {
        self.url = self.bench.address("record", &self.running);
        // The flows are published once it serves.
        wait_for("the flows to be published", || {
            let is_there = |id: &String| {
                let answer = try_http(&self.url, "GET", &format!("/v1/flows/{id}"), "");
                answer.is_some_and(|answer| answer.0 == 200)
            };
            self.ids.iter().all(is_there).then_some(())
        });
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        http(&self.url, method, path, &body.map(Value::to_string).unwrap_or_default())
    }

    /// Waits until an execution has ended as `status`, and gives its record.
    pub fn ends(&self, id: &str, status: &str) -> Value {
        let record = wait_for("the execution to end", || {
            let record = self.call("GET", &format!("/v1/executions/{id}"), None).1;
            ["completed", "failed", "cancelled"].iter().any(|end| record["status"] == *end).then_some(record)
        });
        assert_eq!(record["status"], status, "{record:#}");
        record
    }
}

/// Ends the test with a clear word when there is no Python.
pub fn require_python() {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    assert!(found.is_ok_and(|status| status.success()), "this test needs `python3` on the PATH");
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
