//! What a person sees in a terminal while a flow runs: a real pseudo terminal, read by a terminal emulator.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use support::{Bench, EACH, http, wait_for};

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// Says how far it is, and goes on once it is let through the gate.
const SCRIPT: &str = r#"read task
echo '{"type":"progress","percent":45,"message":"half the boxes"}'
cat gate > /dev/null
echo '{"type":"result","outcome":"success","output":{"boxes":2}}'
"#;

const FLOW: &str = "\
id: packing
version: 1.0.0
initialStepId: pack
steps:
  pack: { type: pack, outputKey: packed, transitions: { onSuccess: null } }
";

/// A program in a terminal of its own.
struct Terminal {
    child: Child,
    screen: vt100::Parser,
    /// All that was written, with its control sequences.
    raw: Vec<u8>,
}

impl Terminal {
    /// `script` (of util-linux) gives the program its terminal.
    fn start(bench: &Bench, args: &[&str], no_color: bool) -> Self {
        let found = Command::new("script").arg("--version").stdout(Stdio::null()).status();
        assert!(
            found.is_ok_and(|status| status.success()),
            "this test needs `script` on the PATH (util-linux)"
        );
        let program = env!("CARGO_BIN_EXE_flowmonkey");
        let line = format!("stty rows {ROWS} cols {COLUMNS}; exec '{program}' {}", args.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        let mut script = bench.prepare(script);
        script.env("TERM", "xterm-256color");
        if !no_color {
            script.env_remove("NO_COLOR");
        }
        let child = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, screen: vt100::Parser::new(ROWS, COLUMNS, 0), raw: Vec::new() }
    }

    /// Takes in what the program writes next; false: it has ended.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = self.child.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
        self.screen.process(&bytes[..read]);
        self.raw.extend_from_slice(&bytes[..read]);
        read > 0
    }

    fn seen(&self) -> String {
        self.screen.screen().contents()
    }

    /// Reads until all of `parts` can be seen at once.
    fn wait_for(&mut self, parts: &[&str]) {
        while !parts.iter().all(|part| self.seen().contains(part)) {
            assert!(self.read(), "it ended without {parts:?}:\n{}", self.seen());
        }
    }

    fn end(&mut self) -> i32 {
        while self.read() {}
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has usually ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("packing.yaml", FLOW);
    bench.file("pack.sh", SCRIPT);
    bench.file("handlers.json", r#"{ "type": "pack", "version": "1.0.0", "command": ["sh", "pack.sh"] }"#);
    assert!(Command::new("mkfifo").arg(bench.path("gate")).status().unwrap().success());
    bench
}

/// Whether control sequences set a colour (SGR 30 to 49 and 90 to 107).
fn has_colour(raw: &[u8]) -> bool {
    let text = String::from_utf8_lossy(raw);
    text.split("\u{1b}[").skip(1).any(|sequence| {
        let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        let is_colour = |code: &str| matches!(code.parse(), Ok(30..=49_u8 | 90..=107));
        sequence[end..].starts_with('m') && sequence[..end].split(';').any(is_colour)
    })
}

#[test]
fn a_person_sees_the_progress_and_in_the_end_only_the_result() {
    for no_color in [true, false] {
        let bench = bench();
        let args = ["run", "packing.yaml", "--handlers", "handlers.json"];
        let mut terminal = Terminal::start(&bench, &args, no_color);
        terminal.wait_for(&["packing@1.0.0", "pack", "45%", "half the boxes"]);
        // Whoever opens it waits for the program that reads it.
        drop(File::options().write(true).open(bench.path("gate")).unwrap());
        assert_eq!(terminal.end(), 0, "{}", terminal.seen());
        let seen = terminal.seen();
        assert!(seen.contains("completed") && seen.contains("boxes"), "{seen}");
        for left in ["45%", "half the boxes", "queued for"] {
            assert!(!seen.contains(left), "{left} is left on the screen:\n{seen}");
        }
        assert!(!terminal.screen.screen().hide_cursor(), "the cursor is given back");
        assert!(!no_color || !has_colour(&terminal.raw), "{:?}", String::from_utf8_lossy(&terminal.raw));
    }
}

#[test]
fn a_failure_is_told_below_nothing_else() {
    let bench = bench();
    bench.file("pack.sh", "read task; echo 'no boxes left' >&2; exit 3\n");
    let args = ["run", "packing.yaml", "--handlers", "handlers.json"];
    let mut terminal = Terminal::start(&bench, &args, true);
    assert_eq!(terminal.end(), 1, "{}", terminal.seen());
    let seen = terminal.seen();
    assert!(seen.contains("failed") && seen.contains("no boxes left"), "{seen}");
    assert!(!has_colour(&terminal.raw), "{:?}", String::from_utf8_lossy(&terminal.raw));
    assert!(!terminal.screen.screen().hide_cursor(), "the cursor is given back");
}

#[test]
fn a_watcher_sees_the_progress_of_an_execution_elsewhere() {
    let bench = bench();
    let dev =
        bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0", "--handlers", "handlers.json"]);
    let url = bench.address("data", &dev);
    bench.run(&["flow", "publish", "packing.yaml", "--server", &url]).expect(0);
    let (_, started) = http(&url, "POST", "/v1/executions", r#"{"flowId":"packing"}"#);
    let id = started["id"].as_str().unwrap();
    // What was reported before it is watched is shown, too.
    wait_for("the progress", || {
        let (_, record) = http(&url, "GET", &format!("/v1/executions/{id}"), "");
        record["progress"]["percent"].as_f64().is_some_and(|percent| percent > 44.0).then_some(())
    });
    let mut terminal = Terminal::start(&bench, &["execution", "watch", id, "--server", &url], true);
    terminal.wait_for(&["packing@1.0.0", "pack", "45%", "half the boxes"]);
    drop(File::options().write(true).open(bench.path("gate")).unwrap());
    assert_eq!(terminal.end(), 0, "{}", terminal.seen());
    let seen = terminal.seen();
    assert!(seen.contains("completed") && seen.contains("boxes"), "{seen}");
    assert!(!seen.contains("half the boxes"), "{seen}");
    assert!(!terminal.screen.screen().hide_cursor(), "the cursor is given back");
    // The same for who starts it.
    let run = ["run", "packing.yaml", "--server", &url];
    let mut terminal = Terminal::start(&bench, &run, true);
    terminal.wait_for(&["packing.yaml", "pack", "45%", "half the boxes"]);
    drop(File::options().write(true).open(bench.path("gate")).unwrap());
    assert_eq!(terminal.end(), 0, "{}", terminal.seen());
    assert!(terminal.seen().contains("completed") && !terminal.seen().contains("45%"), "{}", terminal.seen());
}

#[test]
fn a_watcher_sees_how_many_children_have_ended() {
    let bench = bench();
    bench.file("each.yaml", EACH);
    let dev = bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let url = bench.address("data", &dev);
    bench.run(&["flow", "publish", "each.yaml", "--server", &url]).expect(0);
    let (_, started) = http(&url, "POST", "/v1/executions", r#"{"flowId":"each"}"#);
    let id = started["id"].as_str().unwrap();
    let children = wait_for("the children to wait", || {
        let path = format!("/v1/executions?parent={id}&waitingReason=signal");
        let (_, list) = http(&url, "GET", &path, "");
        list["items"].as_array().filter(|items| items.len() == 2).cloned()
    });
    let mut terminal = Terminal::start(&bench, &["execution", "watch", id, "--server", &url], true);
    terminal.wait_for(&["each@1.0.0", "fan", "0/2"]);
    let go = |child: &serde_json::Value| {
        let path = format!("/v1/executions/{}:signal", child["id"].as_str().unwrap());
        assert_eq!(http(&url, "POST", &path, r#"{"name":"go"}"#).0, 200);
    };
    go(&children[0]);
    terminal.wait_for(&["fan", "1/2"]);
    go(&children[1]);
    assert_eq!(terminal.end(), 0, "{}", terminal.seen());
    assert!(terminal.seen().contains("completed") && !terminal.seen().contains("1/2"), "{}", terminal.seen());
}
