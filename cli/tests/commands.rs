//! Commands that need no record: flows, completions, help.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use serde_json::Value;
use support::{Bench, HELLO};

/// The subcommands that the help of `args` lists.
fn listed(args: &[&str]) -> Vec<String> {
    let help = Bench::new().run(&[args, &["--help"]].concat()).expect(0).stdout;
    help.lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn the_help_names_every_command() {
    assert_eq!(
        listed(&[]),
        [
            "run",
            "dev",
            "engine",
            "worker",
            "migrate",
            "demo",
            "flow",
            "execution",
            "task",
            "failed",
            "queue",
            "event",
            "table",
            "key",
            "audit",
            "profile",
            "doctor",
            "redis-acl",
            "backup",
            "restore",
            "move",
            "completions",
            "help"
        ]
    );
    assert_eq!(
        listed(&["flow"]),
        [
            "validate", "graph", "schema", "publish", "list", "show", "diff", "archive", "restore", "pause",
            "resume", "help"
        ]
    );
    assert_eq!(listed(&["failed"]), ["list", "show", "replay", "discard", "help"]);
    assert_eq!(listed(&["queue"]), ["list", "pause", "resume", "help"]);
    assert_eq!(listed(&["worker"]), ["list", "drain", "help"]);
    assert_eq!(listed(&["event"]), ["publish", "list", "help"]);
    assert_eq!(listed(&["profile"]), ["list", "show", "help"]);
    assert_eq!(
        listed(&["execution"]),
        [
            "list",
            "count",
            "show",
            "history",
            "tasks",
            "children",
            "logs",
            "events",
            "explain",
            "watch",
            "cancel",
            "pause",
            "resume",
            "signal",
            "retry",
            "rerun",
            "terminate",
            "delete",
            "help"
        ]
    );
    assert_eq!(listed(&["key"]), ["create", "list", "revoke", "help"]);
    assert_eq!(listed(&["audit"]), ["verify", "help"]);
    assert_eq!(listed(&["table"]), ["list", "rows", "define", "help"]);
}

#[test]
fn every_command_has_help_with_a_purpose() {
    for command in [
        "run",
        "dev",
        "engine",
        "worker",
        "migrate",
        "doctor",
        "redis-acl",
        "backup",
        "restore",
        "completions",
    ] {
        let help = Bench::new().run(&[command, "--help"]).expect(0).stdout;
        assert!(help.contains("Usage: flowmonkey"), "{help}");
    }
}

#[test]
fn a_misspelt_command_is_answered_with_the_right_one() {
    let done = Bench::new().run(&["exection", "list"]).expect(2);
    assert!(done.stderr.contains("execution"), "{}", done.stderr);
}

#[test]
fn the_version_is_the_packages() {
    let done = Bench::new().run(&["--version"]).expect(0);
    assert_eq!(done.stdout.trim(), concat!("flowmonkey ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let done = Bench::new().run(&["completions", shell]).expect(0);
        assert!(done.stdout.contains("execution") && done.stdout.contains("validate"), "{shell}");
    }
}

#[test]
fn validation_tells_all_problems_of_all_files() {
    let bench = Bench::new();
    bench.file("good.yaml", HELLO);
    bench.file(
        "bad.json",
        "{\n  \"id\": \"bad\",\n  \"version\": \"1.0.0\",\n  \"initialStepId\": \"x\",\n  \"steps\": {}\n}\n",
    );
    bench.file("worse.yaml", "id: [\n");
    bench.run(&["flow", "validate", "good.yaml"]).expect(0);
    let done = bench.run(&["flow", "validate", "good.yaml", "bad.json", "worse.yaml"]).expect(2);
    assert!(done.stdout.lines().any(|line| line.starts_with("bad.json:") && line.contains(": error: ")));
    assert!(done.stdout.lines().any(|line| line.starts_with("worse.yaml:")), "{}", done.stdout);
    let done = bench.run(&["flow", "validate", "good.yaml", "bad.json", "-o", "json"]).expect(2);
    let report = done.json();
    assert_eq!(
        (&report["valid"], &report["files"][0]["valid"], &report["files"][1]["valid"]),
        (&false.into(), &true.into(), &false.into())
    );
    let issue = &report["files"][1]["issues"][0];
    assert!(issue["line"].as_u64().unwrap() > 0 && issue["message"].is_string(), "{issue}");
}

#[test]
fn flows_are_drawn_and_described() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let chart = bench.run(&["flow", "graph", "hello.yaml"]).expect(0).stdout;
    assert!(chart.starts_with("flowchart") && chart.contains("greet"), "{chart}");
    let schema: Value = bench.run(&["flow", "schema"]).expect(0).json();
    assert!(schema["$schema"].as_str().unwrap().contains("2020-12"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let bench = Bench::new();
    let mut child =
        bench.command(&["flow", "schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn configurations_of_known_handlers_are_validated() {
    let bench = Bench::new();
    let step = |config: &str| {
        format!(
            "id: f\nversion: 1.0.0\ninitialStepId: a\nsteps:\n  a:\n    type: http\n    config:\n{config}"
        )
    };
    bench.file("slip.yaml", &step("      url: https://example.com\n      mehtod: POST\n"));
    let done = bench.run(&["flow", "validate", "slip.yaml"]).expect(0);
    let expected = "slip.yaml:9:7: warning: step `a`: `config.mehtod` is not known to the handler `http-request` and does \
                    nothing (did you mean `method`?)\n";
    assert_eq!(done.stdout, expected);
    bench.file(
        "wrong.yaml",
        &step("      url: https://example.com\n      timeoutMs: 0\n      method: TRACE\n"),
    );
    let report = bench.run(&["flow", "validate", "wrong.yaml", "-o", "json"]).expect(2).json();
    let issues = report["files"][0]["issues"].as_array().unwrap();
    let place =
        |at: usize| (&issues[at]["line"], &issues[at]["column"], issues[at]["pointer"].as_str().unwrap());
    assert_eq!(place(0), (&9.into(), &18.into(), "/steps/a/config/timeoutMs"));
    assert_eq!(place(1), (&10.into(), &15.into(), "/steps/a/config/method"));
    assert!(issues[1]["hint"].as_str().unwrap().starts_with("GET, POST"), "{}", issues[1]);

    // A manifest takes the place of a stock handler, schema and all.
    let manifest =
        r#"{ "type": "http-request", "command": ["x"], "configSchema": { "required": ["host"] } }"#;
    bench.file("mine.json", manifest);
    let done = bench.run(&["flow", "validate", "slip.yaml", "--handlers", "mine.json"]).expect(2);
    assert!(done.stdout.contains("has no `host`, which the handler `http-request` needs"), "{}", done.stdout);
    bench.file("bad.json", r#"{ "type": "x", "command": ["x"], "configSchema": { "type": "odd" } }"#);
    let done = bench.run(&["flow", "validate", "slip.yaml", "--handlers", "bad.json"]).expect(2);
    assert!(done.stderr.contains("handler `x`: `configSchema`: not a JSON Schema"), "{}", done.stderr);
}

#[test]
fn a_file_without_certificates_is_no_authority() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let done = bench.run(&["run", "hello.yaml", "--ca-file", "hello.yaml"]).expect(2);
    assert!(done.stderr.contains("--ca-file hello.yaml: there is no certificate in it"), "{}", done.stderr);
}

#[test]
fn nobody_listens_everywhere_without_a_word() {
    let bench = Bench::new();
    let done = bench.run(&["dev", "--listen", "0.0.0.0:0"]).expect(2);
    assert!(done.stderr.contains("--insecure-no-auth"), "{}", done.stderr);
    assert!(!bench.path(".flowmonkey").exists());
}

#[test]
fn settings_that_never_work_are_not_tried_again() {
    let bench = Bench::new();
    bench.file("none.pem", "nothing");
    let worker = |more: &[&str]| {
        let args = [&["worker", "--engine", "http://127.0.0.1:1", "--redis"], more].concat();
        bench.run(&args).expect(2).stderr
    };
    assert!(worker(&["nonsense"]).contains("the URL of Redis is not valid"));
    assert!(worker(&["http://cache"]).contains("its scheme is none of redis"));
    let missing = worker(&["rediss://127.0.0.1:1", "--redis-ca-file", "missing.pem"]);
    assert!(missing.contains("missing.pem cannot be read"), "{missing}");
    let none = worker(&["rediss://127.0.0.1:1", "--redis-ca-file", "none.pem"]);
    assert!(none.contains("none.pem holds no certificate"), "{none}");
    for url in ["mysql://a/b", "nonsense", "postgres://a/b?sslmod=require"] {
        let said = bench.run(&["migrate", "--database", url]).expect(2).stderr;
        assert!(said.starts_with("flowmonkey: the URL of the database cannot be used: "), "{said}");
    }
}

#[test]
fn a_misspelt_handler_is_pointed_out() {
    let bench = Bench::new();
    let flow = |handler: &str| {
        format!(
            "id: f\nversion: 1.0.0\ninitialStepId: a\nsteps:\n  a:\n    type: {handler}\n    config: {{}}\n"
        )
    };
    bench.file("flows/slip.yaml", &flow("ehco"));
    bench.file("flows/deep/slip.yaml", &flow("aproval"));
    bench.file("flows/deep/mine.yaml", &flow("encode-video"));
    bench.file("flows/README.md", "none");
    let done = bench.run(&["flow", "validate", "flows"]).expect(0);
    let said: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(
        said,
        [
            "flows/deep/slip.yaml:6:11: warning: step `a`: `type` names `aproval`, a handler that is not known here (did you \
             mean `approval`?)",
            "flows/slip.yaml:6:11: warning: step `a`: `type` names `ehco`, a handler that is not known here (did you mean \
             `echo`?)",
        ]
    );
    assert!(done.stderr.starts_with("3 flows are valid (2 warnings)"), "{}", done.stderr);
    bench.file("mine.json", r#"{ "type": "ehco", "command": ["x"] }"#);
    let done = bench.run(&["flow", "validate", "flows/slip.yaml", "--handlers", "mine.json"]).expect(0);
    assert_eq!(done.stdout, "");
    std::fs::create_dir(bench.path("empty")).unwrap();
    let done = bench.run(&["flow", "validate", "empty"]).expect(2);
    assert!(done.stderr.contains("empty holds no flow file"), "{}", done.stderr);
}
