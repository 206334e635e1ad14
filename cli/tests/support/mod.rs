//! Runs the real program, waits for what it says, and talks HTTP to it.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test program uses a part of it")]

mod example;
mod flows;
mod http;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

pub use example::{Dev, Run, Server, Started, example, history};
pub use flows::EACH;
pub use flows::{FAILING, HELLO, MONTH, SIGNAL};
pub use http::{http, http_as, try_http, wait_for};

/// Settings of whoever runs the tests that the program must not see.
const SETTINGS: [&str; 11] = [
    "FLOWMONKEY_CONFIG",
    "FLOWMONKEY_LOG",
    "FLOWMONKEY_OUTPUT",
    "FLOWMONKEY_PROFILE",
    "FLOWMONKEY_SERVER",
    "FLOWMONKEY_DATA_DIR",
    "FLOWMONKEY_DATABASE",
    "FLOWMONKEY_LISTEN",
    "FLOWMONKEY_SMTP",
    "FLOWMONKEY_TOKEN",
    "FLOWMONKEY_TOKEN_FILE",
];

/// The program, with nothing of this process's settings.
pub fn flowmonkey(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmonkey"));
    command.args(args);
    secluded(command)
}

/// Lets a command see nothing of this process's settings. Whoever runs the tests in a terminal is not asked anything.
fn secluded(mut command: Command) -> Command {
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn call(args: &[&str]) -> Done {
    flowmonkey(args).output().unwrap().into()
}

/// A directory to work in.
pub struct Bench {
    pub dir: TempDir,
}

/// What a finished command left.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("not JSON ({error}), exit code {}:\n{}\n{}", self.code, self.stdout, self.stderr)
        })
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.prepare(flowmonkey(args))
    }

    /// Lets a command work here, with nothing of this process's settings.
    pub fn prepare(&self, command: Command) -> Command {
        let mut command = secluded(command);
        command.current_dir(self.dir.path()).env("TMPDIR", self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    pub fn run_with_stdin(&self, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // Whoever refuses too much input stops reading it: that it cannot all be written is expected then.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.into()
    }

    /// Starts a command that stays.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_command(flowmonkey(args))
    }

    /// Starts any command that stays, here.
    pub fn start_command(&self, command: Command) -> Running {
        let mut command = self.prepare(command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = said.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut said = lines.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Running { child, said, reader: Some(reader) }
    }

    /// The address that `owner` has told in its data directory.
    pub fn address(&self, data_dir: &str, owner: &Running) -> String {
        let path = self.path(data_dir).join("address");
        wait_for("the address file", || {
            let note: Value = serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()?;
            // What another owner left behind does not count.
            let address = note["address"].as_str().filter(|_| note["pid"] == owner.child.id());
            address.map(str::to_owned)
        })
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A command that stays. Dropping it kills it.
pub struct Running {
    pub child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn wait_for_line(&self, part: &str) {
        wait_for(part, || self.said().contains(part).then_some(()));
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Done {
        let status = wait_for("the process to end", || self.child.try_wait().unwrap());
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.reader.take().unwrap().join().unwrap();
        Done { code: status.code().unwrap_or(-1), stdout, stderr: self.said() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Names of what is in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
