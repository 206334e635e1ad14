//! The verbs of the command line against a server: in each form of output, through profiles, with a server that is away, and
//! through restarts.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};
use support::{Bench, Done, EACH, FAILING, HELLO, Running, SIGNAL, http, wait_for};

/// Waits twice.
const TWICE: &str = "\
id: twice
version: 1.0.0
initialStepId: paid
steps:
  paid: { type: wait-signal, transitions: { onSuccess: shipped } }
  shipped: { type: wait-signal, transitions: { onSuccess: null } }
";

/// Is parked for a person until the file `mended` is there.
const PARKED: &str = "\
id: parked
version: 1.0.0
initialStepId: pack
steps:
  pack: { type: pack, onExhausted: incident, outputKey: packed, transitions: { onSuccess: null } }
";

const HANDLER: &str = r#"{ "type": "pack", "version": "1.0.0", "command": ["sh", "pack.sh"] }"#;

/// How many ports were tried, so that no two tests of this process get the same.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on, and that no outgoing connection gets, so that a server can come back to it.
fn free_port() -> u16 {
    let start = 9000 + u16::try_from(std::process::id() % 4000).unwrap();
    loop {
        let port = start + TRIED.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// `flowmonkey dev`, and the command line that asks it.
struct Served {
    bench: Bench,
    dev: Running,
    port: u16,
    url: String,
}

impl Served {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Bench::new();
        for (name, text) in files {
            bench.file(name, text);
        }
        bench.file("handlers.json", HANDLER);
        let port = free_port();
        let dev = Self::start(&bench, port);
        Self { bench, dev, port, url: format!("http://127.0.0.1:{port}") }
    }

    fn start(bench: &Bench, port: u16) -> Running {
        let listen = format!("127.0.0.1:{port}");
        let dev =
            bench.start(&["dev", "--data-dir", "data", "--listen", &listen, "--handlers", "handlers.json"]);
        let url = bench.address("data", &dev);
        wait_for("readiness", || (http(&url, "GET", "/readyz", "").0 == 200).then_some(()));
        dev
    }

    /// As kill -9.
    fn kill(&mut self) {
        self.dev.child.kill().unwrap();
        self.dev.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.dev = Self::start(&self.bench, self.port);
    }

    fn ask(&self, args: &[&str]) -> Done {
        self.bench.run(&[args, &["--server", &self.url]].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        self.ask(&[args, &["-o", "json"]].concat()).expect(0).json()
    }

    fn begin(&self, flow: &str) -> String {
        let (status, started) =
            http(&self.url, "POST", "/v1/executions", &json!({ "flowId": flow }).to_string());
        assert_eq!(status, 202, "{started}");
        started["id"].as_str().unwrap().to_owned()
    }

    fn wait_for_status(&self, id: &str, status: &str) -> Value {
        wait_for(status, || {
            let (_, record) = http(&self.url, "GET", &format!("/v1/executions/{id}"), "");
            (record["status"] == status).then_some(record)
        })
    }

    /// Starts a command whose result goes into a file; gives that, too.
    fn start_to_file(&self, args: &[&str]) -> (Running, std::path::PathBuf) {
        let file = self.bench.path("result");
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec "$0" "$@" > result"#, env!("CARGO_BIN_EXE_flowmonkey")]);
        shell.args(args).args(["--server", &self.url]);
        (self.bench.start_command(shell), file)
    }
}

fn wait_for_text(file: &std::path::Path, part: &str) {
    wait_for(part, || std::fs::read_to_string(file).ok()?.contains(part).then_some(()));
}

#[test]
fn flows_are_published_compared_and_taken_out_of_use() {
    let served = Served::new(&[("flows/hello.yaml", HELLO), ("flows/paying.yaml", SIGNAL)]);
    let first = served.ask(&["flow", "publish", "flows"]).expect(0).stdout;
    assert!(first.starts_with("FLOW") && first.matches("published").count() == 2, "{first}");
    let again = served.json(&["flow", "publish", "flows/hello.yaml"]);
    assert_eq!(again["items"][0]["outcome"], "unchanged");
    served.bench.file("flows/other.yaml", &HELLO.replace("Hello", "Good day"));
    let refused = served.ask(&["flow", "publish", "flows", "-o", "json"]).expect(1);
    assert!(refused.stderr.contains("flows/other.yaml: hello@1.0.0 is refused"), "{}", refused.stderr);
    assert!(refused.stderr.contains("FLOW_VERSION_EXISTS") && refused.stderr.contains("request rq_"));
    assert_eq!(refused.json()["items"][1]["outcome"], "refused");
    served.bench.file("bad.yaml", "id: bad\n");
    let bad = served.ask(&["flow", "publish", "bad.yaml", "flows"]).expect(2);
    assert!(bad.stderr.starts_with("bad.yaml:1:"), "{}", bad.stderr);
    let bad = served.ask(&["flow", "validate", "bad.yaml"]).expect(2);
    assert!(
        bad.stdout.starts_with("bad.yaml:1:1: error: ") && bad.stderr.contains(&served.url),
        "{}",
        bad.stderr
    );
    assert_eq!(served.json(&["flow", "validate", "flows/hello.yaml"])["valid"], true);

    served.bench.file("flows/other.yaml", &HELLO.replace("Hello", "Good day").replace("1.0.0", "1.1.0"));
    served.ask(&["flow", "publish", "flows/other.yaml"]).expect(0);
    let list = served.json(&["flow", "list"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 3, "{list}");
    let shown = served.ask(&["flow", "show", "hello"]).expect(0).stdout;
    assert!(
        shown.starts_with("hello@1.1.0  published\n") && shown.contains("initialStepId: greet"),
        "{shown}"
    );
    let yaml = served.ask(&["flow", "show", "hello", "--version", "1.0.0", "-o", "yaml"]).expect(0).stdout;
    assert!(yaml.starts_with("id: hello\nversion: 1.0.0\n"), "{yaml}");
    let diff = served.ask(&["flow", "diff", "hello", "1.0.0", "1.1.0"]).expect(0).stdout;
    assert!(diff.contains("~ step greet\n") && diff.contains("-> Good day"), "{diff}");
    let chart = served.ask(&["flow", "graph", "hello"]).expect(0).stdout;
    assert!(chart.starts_with("flowchart") && chart.contains("greet"), "{chart}");

    served.ask(&["flow", "archive", "hello"]).expect(0);
    let refused = served.ask(&["run", "hello"]).expect(1);
    assert!(refused.stderr.contains("FLOW_NOT_PUBLISHED"), "{}", refused.stderr);
    let restored = served.json(&["flow", "restore", "hello", "--version", "1.1.0"]);
    assert_eq!(restored["changed"], 1);
    let record = served.ask(&["run", "hello", "--input", r#"{"name":"Ada"}"#, "-o", "yaml"]).expect(0).stdout;
    assert!(record.contains("\noutput:\n  text: Good day Ada"), "{record}");
    let paused = served.ask(&["flow", "pause", "hello", "--reason", "lunch"]).expect(0).stdout;
    assert!(paused.starts_with("hello is paused (since ") && paused.contains("lunch"), "{paused}");
    assert_eq!(served.json(&["flow", "resume", "hello"])["paused"], false);
    let unknown = served.ask(&["flow", "show", "none"]).expect(2);
    assert!(unknown.stderr.contains("FLOW_NOT_FOUND"), "{}", unknown.stderr);
}

#[test]
fn executions_are_found_told_and_deleted() {
    let served = Served::new(&[("paying.yaml", SIGNAL), ("failing.yaml", FAILING)]);
    served.ask(&["flow", "publish", "paying.yaml", "failing.yaml"]).expect(0);
    let (first, second) = (served.begin("paying"), served.begin("paying"));
    let failed = served.ask(&["run", "failing", "-o", "json"]).expect(1).json()["id"].clone();
    served.wait_for_status(&first, "waiting");
    let found = served.json(&["execution", "list", "--error-code", "LATE"]);
    assert_eq!(found["items"][0]["id"], failed);
    let page =
        served.ask(&["execution", "list", "--flow", "paying", "--waiting", "signal paid", "--limit", "1"]);
    let page = page.expect(0).stdout;
    assert!(page.contains(&second) && page.contains(&format!("more: --cursor {second}")), "{page}");
    let rest = served.json(&["execution", "list", "--flow", "paying", "--cursor", &second]);
    assert_eq!(rest["items"][0]["id"], first.as_str());
    let wrong = served.ask(&["execution", "list", "--status", "wating"]).expect(2);
    assert!(wrong.stderr.contains("  status: ") && wrong.stderr.contains("request rq_"), "{}", wrong.stderr);
    assert_eq!(served.ask(&["execution", "count", "--flow", "paying"]).expect(0).stdout, "2\n");
    let counts = served.json(&["execution", "count", "--by-status"]);
    assert_eq!(counts["counts"]["waiting"], json!({ "count": 2, "exact": true }));
    let counts = served.ask(&["execution", "count", "--by-status", "-o", "yaml"]).expect(0).stdout;
    assert!(counts.contains("  failed:\n    count: 1\n"), "{counts}");

    for verb in ["history", "tasks", "children", "events"] {
        served.ask(&["execution", verb, &first]).expect(0);
    }
    let why = served.ask(&["execution", "explain", &first]).expect(0).stdout;
    assert!(why.ends_with(&format!("signal {first} paid --data '{{}}' --server {}\n", served.url)), "{why}");
    let again = ["execution", "signal", &first, "later", "--signal-id", "bank-7"];
    served.ask(&again).expect(0);
    let twice = served.ask(&again).expect(1);
    assert!(twice.stderr.contains("DUPLICATE_SIGNAL"), "{}", twice.stderr);
    served.ask(&["execution", "pause", &first]).expect(0);
    served.ask(&["execution", "resume", &first]).expect(0);
    let live = served.ask(&["execution", "delete", &first]).expect(1);
    assert!(live.stderr.contains("EXECUTION_NOT_ENDED"), "{}", live.stderr);
    assert_eq!(served.json(&["execution", "terminate", &second])["status"], "cancelled");
    for id in [&first, &second] {
        let gone = served.ask(&["execution", "delete", id, "--terminate"]).expect(0).stdout;
        assert_eq!(gone, format!("{id} is deleted\n"));
    }
    let unknown = served.ask(&["execution", "show", &first]).expect(2);
    assert!(unknown.stderr.contains("EXECUTION_NOT_FOUND"), "{}", unknown.stderr);
    for verb in ["watch", "logs", "tasks"] {
        let unknown = served.ask(&["execution", verb, &first]);
        assert!(unknown.code == 2 && unknown.stderr.contains("EXECUTION_NOT_FOUND"), "{}", unknown.stderr);
    }
}

#[test]
fn queues_failed_tasks_and_events_are_looked_after() {
    let broken = "read task; echo '{\"type\":\"result\",\"outcome\":\"failure\",\"error\":{\"code\":\"EMPTY\",\"message\":\"no boxes\",\
                  \"retryable\":false}}'\n";
    let served = Served::new(&[("parked.yaml", PARKED), ("pack.sh", broken)]);
    served.ask(&["flow", "publish", "parked.yaml"]).expect(0);
    let (first, second) = (served.begin("parked"), served.begin("parked"));
    served.wait_for_status(&first, "incident");
    served.wait_for_status(&second, "incident");
    let failed = served.ask(&["failed", "list", "--code", "EMPTY"]).expect(0).stdout;
    assert!(
        failed.starts_with("TASK") && failed.contains("no boxes") && failed.lines().count() == 3,
        "{failed}"
    );
    let task = |execution: &str| {
        let found = served.json(&["failed", "list", "--execution", execution]);
        found["items"][0]["taskId"].as_str().unwrap().to_owned()
    };
    let (first_task, second_task) = (task(&first), task(&second));
    let shown = served.ask(&["failed", "show", &first_task]).expect(0).stdout;
    assert!(shown.contains("  code: EMPTY\n"), "{shown}");
    let shown = served.json(&["task", "show", &first_task]);
    assert_eq!((&shown["stepId"], &shown["handlerType"]), (&json!("pack"), &json!("pack")));
    let tasks = served.ask(&["execution", "tasks", &first]).expect(0).stdout;
    assert!(tasks.contains(&first_task) && tasks.contains("failure"), "{tasks}");
    served
        .bench
        .file("pack.sh", "read task; echo '{\"type\":\"result\",\"outcome\":\"success\",\"output\":7}'\n");
    assert_eq!(served.json(&["failed", "replay", &first_task])["state"], "replayed");
    served.wait_for_status(&first, "completed");
    served.ask(&["failed", "discard", &second_task, "--reason", "gone"]).expect(0);
    served.wait_for_status(&second, "cancelled");
    let late = served.ask(&["failed", "replay", &second_task]).expect(1);
    assert!(late.stderr.contains("TASK_NOT_PARKED"), "{}", late.stderr);
    assert_eq!(served.json(&["failed", "list"])["items"], json!([]));
    assert_eq!(served.json(&["failed", "list", "--all"])["items"].as_array().unwrap().len(), 2);

    let paused = served.ask(&["queue", "pause", "pack", "--reason", "repairs"]).expect(0).stdout;
    assert!(paused.starts_with("pack is paused (since "), "{paused}");
    let held = served.begin("parked");
    wait_for("the pause to be the reason", || {
        (served.json(&["execution", "show", &held])["waitingReason"] == "queue paused: repairs").then_some(())
    });
    let queues = served.ask(&["queue", "list"]).expect(0).stdout;
    assert!(queues.starts_with("POOL") && queues.contains("repairs"), "{queues}");
    assert_eq!(served.json(&["queue", "resume", "pack"])["paused"], false);
    served.wait_for_status(&held, "completed");
    served.json(&["worker", "list"])["items"].as_array().unwrap();

    let publish = ["event", "publish", "parcel.arrived", "--data", r#"{"id":7}"#, "--event-id", "depot-7"];
    assert_eq!(served.ask(&publish).expect(0).stdout, "event depot-7 is published\n");
    assert!(served.ask(&publish).expect(0).stdout.contains("was published before"));
    let events = served.ask(&["event", "list", "--name", "parcel.arrived", "-o", "yaml"]).expect(0).stdout;
    assert!(events.contains("type: parcel.arrived\n"), "{events}");
}

#[test]
fn a_profile_names_the_server_and_the_form_of_output() {
    let served = Served::new(&[("hello.yaml", HELLO)]);
    let config =
        format!("[profiles.here]\nserver = \"{}\"\noutput = \"json\"\n[profiles.away]\n", served.url);
    served.bench.file("config.toml", &config);
    let run = |args: &[&str], env: &[(&str, &str)]| -> Done {
        let mut command = served.bench.command(args);
        command.env("FLOWMONKEY_CONFIG", "config.toml").envs(env.iter().copied());
        command.output().unwrap().into()
    };
    assert_eq!(run(&["execution", "list", "--profile", "here"], &[]).expect(0).json()["items"], json!([]));
    let by_name = [("FLOWMONKEY_PROFILE", "here")];
    assert!(run(&["execution", "list", "-o", "table"], &by_name).expect(0).stdout.starts_with("ID"));
    assert!(
        run(&["execution", "list"], &[by_name[0], ("FLOWMONKEY_OUTPUT", "yaml")])
            .expect(0)
            .stdout
            .starts_with("items: []")
    );
    let listed = run(&["profile", "list", "-o", "json"], &by_name).expect(0).json();
    assert_eq!((&listed["items"][0]["name"], &listed["items"][1]["used"]), (&json!("away"), &json!(true)));
    let shown = run(
        &["profile", "show", "--server", "http://other"],
        &[by_name[0], ("FLOWMONKEY_TOKEN", "fmk_secret")],
    );
    let shown = shown.expect(0);
    assert!(!shown.stdout.contains("secret"), "{}", shown.stdout);
    let shown = shown.json();
    assert_eq!((&shown["server"], &shown["serverFrom"]), (&json!("http://other"), &json!("--server")));
    assert_eq!(
        (&shown["tokenFrom"], &shown["outputFrom"]),
        (&json!("FLOWMONKEY_TOKEN"), &json!("profile here of config.toml"))
    );
    let why = run(&["profile", "show", "--profile", "none"], &[]).expect(2);
    assert!(why.stderr.contains("config.toml has no profile `none`; it has away, here"), "{}", why.stderr);
    served.bench.file("config.toml", "[profiles.here]\nsever = \"x\"\n");
    let wrong = run(&["execution", "list"], &by_name).expect(2);
    assert!(
        wrong.stderr.contains("config.toml:2:1: unknown field `sever`, expected one of"),
        "{}",
        wrong.stderr
    );
    // Whoever asks no server is not held up by that.
    run(&["flow", "schema", "--profile", ""], &[]).expect(0);
}

#[test]
fn a_server_that_is_away_is_named_with_the_cure() {
    let bench = Bench::new();
    let url = format!("http://127.0.0.1:{}", free_port());
    let id = "ex_00000000000000000000000000000001";
    for args in [
        &["execution", "list"][..],
        &["queue", "list"],
        &["execution", "watch", id],
        &["execution", "logs", id, "-f"],
    ] {
        let away = bench.run(&[args, &["--server", &url]].concat()).expect(4);
        let said = &away.stderr;
        assert!(
            said.contains(&format!("{url} does not answer")) && said.contains("--server names it"),
            "{said}"
        );
    }
    for wrong in ["nonsense", "ftp://me:hidden@x", "http://me:hidden@127.0.0.1"] {
        let refused = bench.run(&["execution", "list", "--server", wrong]).expect(2);
        assert!(!refused.stderr.contains("hidden"), "{}", refused.stderr);
    }
    let both = bench.run(&["execution", "list", "--server", &url, "--data-dir", "data"]).expect(2);
    assert!(both.stderr.contains("--data-dir"), "{}", both.stderr);
}

/// A server that answers one request; gives its URL, and then the first line of the request.
fn answers_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let first = lines.next().unwrap();
        lines.find(String::is_empty).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // What is left unread would take the answer with it.
        lines.for_each(drop);
        first
    });
    (url, heard)
}

#[test]
fn a_worker_is_drained_by_its_name() {
    let bench = Bench::new();
    let (url, heard) = answers_once(
        "HTTP/1.1 202 Accepted\r\nContent-Length: 32\r\n\r\n{\"worker\":\"w/1\",\"draining\":true}",
    );
    let drained = bench.run(&["worker", "drain", "w/1", "--server", &url]).expect(0).stdout;
    assert!(drained.starts_with("w/1 is asked to leave"), "{drained}");
    assert_eq!(heard.join().unwrap(), "POST /v1/workers/w%2F1:drain HTTP/1.1");
    // What is no FlowMonkey is told apart, and so is an older release.
    let (url, _) = answers_once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let strange = bench.run(&["worker", "list", "--server", &url]).expect(4);
    assert!(strange.stderr.contains("but not as FlowMonkey does"), "{}", strange.stderr);
    let (url, _) = answers_once(
        "HTTP/1.1 404 Not Found\r\nContent-Length: 40\r\n\r\n{\"code\":\"ROUTE_NOT_FOUND\",\"detail\":\"no\"}",
    );
    let older = bench.run(&["worker", "drain", "w1", "--server", &url]).expect(2);
    assert!(older.stderr.contains("may be of an older release"), "{}", older.stderr);
}

/// The sequences and types of what a watcher printed.
fn seen(text: &str) -> Vec<(u64, String)> {
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let committed = messages.filter(|message| message["seq"].is_u64());
    committed.map(|one| (one["seq"].as_u64().unwrap(), one["type"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_watcher_sees_everything_once_through_a_restart() {
    let mut served = Served::new(&[("twice.yaml", TWICE)]);
    served.ask(&["flow", "publish", "twice.yaml"]).expect(0);
    let id = served.begin("twice");
    served.wait_for_status(&id, "waiting");
    let (watcher, file) = served.start_to_file(&["execution", "watch", &id, "-o", "json"]);
    wait_for_text(&file, "step.waitBegan");
    served.kill();
    watcher.wait_for_line("is lost");
    // Something happens while the server is away.
    served.bench.run(&["execution", "signal", &id, "paid", "--data-dir", "data"]).expect(0);
    served.restart();
    watcher.wait_for_line("connected again");
    served.ask(&["execution", "signal", &id, "shipped"]).expect(0);
    let ended = watcher.end().expect(0);
    assert_eq!(ended.stderr.matches("is lost").count(), 1, "{}", ended.stderr);
    let seen = seen(&std::fs::read_to_string(&file).unwrap());
    let (_, history) = http(&served.url, "GET", &format!("/v1/executions/{id}/history?limit=500"), "");
    let recorded: Vec<(u64, String)> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["sequence"].as_u64().unwrap(), item["event"]["type"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(seen.len(), recorded.len());
    for ((number, kind), (sequence, name)) in seen.iter().zip(&recorded) {
        assert!(
            number == sequence && kind.split_once('.').unwrap().1 == name,
            "{number} {kind}: {sequence} {name}"
        );
    }
}

#[test]
fn watching_what_has_ended_tells_all_of_it_and_how_it_ended() {
    let served = Served::new(&[("hello.yaml", HELLO), ("failing.yaml", FAILING), ("paying.yaml", SIGNAL)]);
    served.ask(&["flow", "publish", "hello.yaml", "failing.yaml", "paying.yaml"]).expect(0);
    let hello = served.begin("hello");
    let lines = served.ask(&["execution", "watch", &hello]).expect(0).stdout;
    assert!(lines.lines().next().unwrap().contains("  execution.created  hello@1.0.0"), "{lines}");
    assert!(lines.lines().last().unwrap().contains("execution.completed"), "{lines}");
    let failing = served.begin("failing");
    let lines = served.ask(&["execution", "watch", &failing]).expect(1).stdout;
    assert!(lines.contains("too late [LATE]"), "{lines}");
    let yaml = served.ask(&["execution", "watch", &failing, "-o", "yaml"]).expect(1).stdout;
    assert!(yaml.starts_with("---\nseq: 1\ntype: execution.created\n"), "{yaml}");
    let paying = served.begin("paying");
    let (watcher, file) = served.start_to_file(&["execution", "watch", &paying]);
    wait_for_text(&file, "waits for signal paid");
    watcher.signal("INT");
    let left = watcher.end().expect(130);
    assert!(left.stderr.contains(&format!("{paying} goes on")), "{}", left.stderr);
    // Where nobody works on the record, all that has happened is told.
    drop(served.dev);
    let told = served.bench.run(&["execution", "watch", &paying, "--data-dir", "data"]).expect(3);
    assert!(
        told.stdout.contains("step.waitBegan") && told.stderr.contains("nobody works on"),
        "{}",
        told.stderr
    );
}

#[test]
fn children_are_watched_where_that_is_asked_for() {
    let served = Served::new(&[("each.yaml", EACH)]);
    served.ask(&["flow", "publish", "each.yaml"]).expect(0);
    let id = served.begin("each");
    let children = wait_for("the children to wait", || {
        let list = served.json(&["execution", "list", "--parent", &id, "--waiting", "signal go"]);
        let items = list["items"].as_array().unwrap();
        (items.len() == 2)
            .then(|| items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
    });
    let (watcher, file) = served.start_to_file(&["execution", "watch", &id, "--children"]);
    wait_for_text(&file, "step.fanOpened  fan: 2 children");
    for child in &children {
        served.ask(&["execution", "signal", child, "go"]).expect(0);
    }
    watcher.end().expect(0);
    let lines = std::fs::read_to_string(&file).unwrap();
    for child in &children {
        assert_eq!(lines.matches(&format!("  {child}  execution.completed")).count(), 1, "{lines}");
    }
    let alone = served.ask(&["execution", "watch", &id]).expect(0).stdout;
    assert!(children.iter().all(|child| !alone.contains(child)), "{alone}");
}

#[test]
fn log_lines_are_followed_to_the_end_through_a_restart() {
    let script = "read task\necho '{\"type\":\"log\",\"level\":\"info\",\"message\":\"begun\"}'\ncat gate > /dev/null\n\
                  echo '{\"type\":\"log\",\"level\":\"info\",\"message\":\"packed\"}'\n\
                  echo '{\"type\":\"result\",\"outcome\":\"success\",\"output\":7}'\n";
    let mut served = Served::new(&[("parked.yaml", PARKED), ("pack.sh", script)]);
    assert!(Command::new("mkfifo").arg(served.bench.path("gate")).status().unwrap().success());
    served.ask(&["flow", "publish", "parked.yaml"]).expect(0);
    let id = served.begin("parked");
    let (follower, file) = served.start_to_file(&["execution", "logs", &id, "-f"]);
    wait_for_text(&file, "begun");
    served.kill();
    follower.wait_for_line("asking again until it does");
    served.restart();
    follower.wait_for_line("answers again");
    // Whoever opens it waits for a program that reads it: the second attempt.
    drop(std::fs::File::options().write(true).open(served.bench.path("gate")).unwrap());
    follower.end().expect(0);
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!((lines.matches("packed").count(), lines.matches("pack  begun").count()), (1, 1), "{lines}");
}
