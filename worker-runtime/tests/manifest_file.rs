//! Manifest files in all their forms, and what is told about those that cannot be used.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::path::PathBuf;

use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{ManifestError, load_manifests};

fn load(name: &str, text: &str) -> (PathBuf, Result<Vec<(Manifest, PathBuf)>, ManifestError>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    std::fs::write(&file, text).unwrap();
    (directory.path().to_owned(), load_manifests(&file))
}

fn commands(name: &str, text: &str) -> Vec<(String, Vec<String>)> {
    let (directory, loaded) = load(name, text);
    let each = loaded.unwrap().into_iter().map(|(manifest, found)| {
        assert_eq!(found, directory);
        (manifest.handler_type, manifest.command)
    });
    each.collect()
}

fn problems(text: &str) -> Vec<String> {
    load("handlers.yaml", text).1.unwrap_err().problems
}

#[test]
fn all_forms_say_the_same() {
    let wanted: Vec<(String, Vec<String>)> = vec![
        ("greet".into(), vec!["python3".into(), "greet.py".into()]),
        ("other".into(), vec!["./other".into()]),
    ];
    for text in [
        "type: greet\ncommand: [python3, greet.py]\n---\ntype: other\ncommand: [./other]\n---\n",
        "- type: greet\n  command: [python3, greet.py]\n- {type: other, command: [./other]}\n",
        "handlers:\n- {type: greet, command: [python3, greet.py]}\n- {type: other, command: [./other]}\n",
        "handlers:\n  greet: [python3, greet.py]\n  other: {command: [./other], timeoutMs: 500}\n",
    ] {
        assert_eq!(commands("handlers.yaml", text), wanted, "{text}");
    }
    let json = r#"{ "handlers": { "greet": ["python3", "greet.py"], "other": { "command": ["./other"] } } }"#;
    assert_eq!(commands("handlers.json", json), wanted);
    assert_eq!(commands("handlers.yml", json), wanted);
}

#[test]
fn fields_are_read_as_in_the_manifest() {
    let text = "type: video\nversion: 1.2.0\nmode: stateful\nreuse: true\nresources: {memory: 4Gi}\n\
        limits: {lineBytes: 1000}\ncommand: [python3, '1']\nenv: {A: 'yes'}\n";
    let manifest = load("video.yaml", text).1.unwrap().remove(0).0;
    assert!(manifest.reuse);
    assert_eq!((manifest.version.as_str(), manifest.limits.line_bytes), ("1.2.0", 1000));
    assert_eq!((manifest.command[1].as_str(), manifest.env["A"].as_str()), ("1", "yes"));
    assert_eq!(manifest.limits.grace_ms, 5000);
}

#[test]
fn all_problems_are_told_at_once_and_by_name() {
    let text = "handlers:\n  greet: {command: [python3], colour: red, timeoutMs: soon}\n  Greet: [a]\n  \
        odd: 7\n  old: {version: '1', command: [a]}\n  big: {command: [a], resources: {memory: 12MB}}\n";
    let problems = problems(text);
    let wanted = [
        ("handler `greet`", "unknown field `colour`"),
        ("handler `greet`", "`timeoutMs`"),
        ("handler `Greet`", "`type` is not valid"),
        ("handler `odd`", "must be a list of program and arguments"),
        ("handler `old`", "`version` `1` is not a semantic version"),
        ("handler `big`", "`resources.memory` is `12MB`"),
    ];
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    for (problem, (place, what)) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(place) && problem.contains(what), "{problem}");
    }
}

#[test]
fn handlers_must_be_there_once_and_nothing_beside_them() {
    assert_eq!(
        problems("- {type: a, command: [x]}\n- {type: a, command: [y]}\n"),
        ["handler `a` occurs twice"]
    );
    assert_eq!(problems("handlers: {a: [x]}\nversion: 2\n"), ["unknown field `version` beside `handlers`"]);
    assert_eq!(problems("# nothing\n"), ["there is no handler in it"]);
    assert!(problems("command: [x]\n")[0].contains("missing field `type`"));
    assert!(problems("a: &a [1]\nb: *a\n")[0].starts_with("line 2, column 4: aliases"));
    assert!(problems("type: a\ntype: b\n")[0].contains("the key `type` occurs twice"));
    assert!(problems(&"[".repeat(100_000))[0].contains("line 1"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load_manifests(&PathBuf::from("no/such/file.yaml")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/file.yaml: cannot be read: "), "{error}");
    let (_, large) = load("large.yaml", &"# \n".repeat(1 << 19));
    assert_eq!(large.unwrap_err().problems, ["is larger than 1048576 bytes"]);
    let (_, broken) = load("broken.json", "{");
    assert!(broken.unwrap_err().problems[0].starts_with("this is not JSON"));
}
