//! `flowmonkey demo` on a small project, whose numbers are known.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::{Done, flowmonkey};

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

const LOCK: &str = "version = 4\n\n[[package]]\nname = \"free\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"strict\"\nversion = \"0.2.0\"\n";

fn project() -> tempfile::TempDir {
    let project = tempfile::tempdir().unwrap();
    let root = project.path();
    write(
        root,
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"free\", \"strict\"]\n[workspace.package]\nlicense = \"MIT\"\n",
    );
    write(root, "Cargo.lock", LOCK);
    write(root, "LICENSE-MIT", "Permission is hereby granted, free of charge, to any person");
    write(
        root,
        "free/Cargo.toml",
        "[package]\nname = \"free\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense.workspace = true\n",
    );
    write(
        root,
        "free/src/lib.rs",
        "//! unsafe { }\npub fn f() {\n    unsafe { g() };\n    unsafe { g() };\n}\nunsafe fn g() {}\n",
    );
    write(
        root,
        "strict/Cargo.toml",
        "[package]\nname = \"strict\"\nversion = \"0.2.0\"\nedition = \"2024\"\nlicense = \"GPL-3.0-only\"\n",
    );
    write(root, "strict/src/lib.rs", "pub fn f() {}\n");
    write(root, "strict/build.rs", "fn main() {}\n");
    write(root, "strict/csrc/a.c", "int a;\nint b;\nint c;\n");
    project
}

fn demo(project: &Path, report: &Path, change: impl FnOnce(&mut std::process::Command)) -> Done {
    let mut command = flowmonkey(&[]);
    command.args(["demo", "--output", "json", "--project"]).arg(project).arg("--report").arg(report);
    change(&mut command);
    command.output().unwrap().into()
}

/// The value of an attribute, wherever the page has it.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("{name}=\"");
    html.split(&start).skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
}

#[test]
fn the_report_holds_what_is_in_the_sources() {
    let (project, report) = (project(), tempfile::tempdir().unwrap());
    let report = report.path().join("deep/report");
    let ended = demo(project.path(), &report, |_| {});
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = ended.json();
    let mut totals = summary["totals"].clone();
    totals.as_object_mut().unwrap().remove("durationMs").unwrap();
    let sizes = [
        "free/Cargo.toml",
        "free/src/lib.rs",
        "strict/Cargo.toml",
        "strict/src/lib.rs",
        "strict/build.rs",
        "strict/csrc/a.c",
    ]
    .map(|path| fs::metadata(project.path().join(path)).unwrap().len());
    let expected = json!({
        "files": 6, "bytes": sizes.iter().sum::<u64>(), "rustLines": 8, "rustCodeLines": 7, "cLines": 3,
        "unsafeBlocks": 2, "unsafeItems": 1,
    });
    assert_eq!(totals, expected);
    assert_eq!(summary["packages"], 2);
    assert_eq!(summary["failed"], json!([]));
    assert_eq!(summary["notHere"], json!([]));
    assert_eq!(summary["licences"], json!([["GPL-3.0-only", 1], ["MIT", 1]]));
    assert_eq!(
        summary["flagged"],
        json!([{ "name": "strict", "version": "0.2.0", "licence": "GPL-3.0-only" }])
    );
    assert_eq!(summary["verdict"], "needs a look");

    let html = fs::read_to_string(report.join("index.html")).unwrap();
    assert_eq!(attributes(&html, "data-package"), ["free", "strict"]);
    assert!(html.contains("<tr class=\"flagged\" data-package=\"strict\">"));
    let shown: Vec<(&str, &str)> = attributes(&html, "data-total")
        .into_iter()
        .zip(html.split("data-total=").skip(1).map(|rest| attributes(rest, "data-value")[0]))
        .collect();
    let bytes = sizes.iter().sum::<u64>().to_string();
    let expected = [
        ("packages", "2"),
        ("files", "6"),
        ("bytes", bytes.as_str()),
        ("lines of Rust", "8"),
        ("lines of C", "3"),
        ("unsafe blocks", "2"),
        ("build scripts", "1"),
    ];
    assert_eq!(shown, expected);
    assert!(!html.contains("{{"), "every place is filled in");
    assert!(!html.contains("src=\"") && !html.contains("href=\""), "nothing is loaded from elsewhere");
    assert!(html.contains("prefers-color-scheme: dark"));

    let csv = fs::read_to_string(report.join("packages.csv")).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 3);
    let column = |name: &str| lines[0].iter().position(|head| *head == name).unwrap();
    assert_eq!(lines[1][column("licence_files")], "LICENSE-MIT: MIT");
    assert_eq!((lines[2][column("build_script")], lines[2][column("licence_allowed")]), ("true", "false"));
    for line in &lines[1..] {
        assert_eq!((line[column("manifest_sha256")].len(), line[column("content_sha256")].len()), (64, 64));
    }
}

#[test]
fn packages_that_were_never_downloaded_are_named() {
    let (project, report) = (project(), tempfile::tempdir().unwrap());
    let root = project.path();
    let manifest = fs::read_to_string(root.join("free/Cargo.toml")).unwrap();
    write(root, "free/Cargo.toml", &format!("{manifest}[dependencies]\nabsent = \"1\"\n"));
    let absent = "[[package]]\nname = \"absent\"\nversion = \"1.2.3\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                  checksum = \"0000000000000000000000000000000000000000000000000000000000000000\"\n\n";
    let lock = LOCK.replacen("[[package]]", &format!("{absent}[[package]]"), 1);
    let lock = lock.replacen(
        "name = \"free\"\nversion = \"0.1.0\"\n",
        "name = \"free\"\nversion = \"0.1.0\"\ndependencies = [\n \"absent\",\n]\n",
        1,
    );
    write(root, "Cargo.lock", &lock);
    let home = tempfile::tempdir().unwrap();
    let ended = demo(root, report.path(), |command| {
        command.env("CARGO_HOME", home.path());
    });
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = ended.json();
    assert_eq!(summary["notHere"], json!(["absent 1.2.3"]));
    assert_eq!(summary["packages"], 2);
    let html = fs::read_to_string(report.path().join("index.html")).unwrap();
    assert!(html.contains("<li>absent 1.2.3</li>"));
}

fn assert_fails(ended: &Done, words: &[&str]) {
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word} in {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
    let kept = ended.stderr.split("the record is kept in ").nth(1).unwrap().trim();
    fs::remove_dir_all(kept).unwrap();
}

#[test]
fn what_is_missing_is_said_clearly() {
    let (empty, report) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ended = demo(empty.path(), report.path(), |_| {});
    assert_fails(&ended, &["SOURCES_MISSING", "Cargo.toml", "--project"]);
    let ended = demo(project().path(), report.path(), |command| {
        command.env("CARGO", "no-such-cargo");
    });
    assert_fails(&ended, &["CARGO_NOT_FOUND", "no-such-cargo"]);
    let ended = demo(&empty.path().join("nowhere"), report.path(), |_| {});
    assert_eq!(ended.code, 2);
    assert_eq!(fs::read_dir(report.path()).unwrap().count(), 0, "no report was begun");
}

#[test]
fn the_summary_for_people_names_the_report() {
    let (project, report) = (project(), tempfile::tempdir().unwrap());
    let mut command = flowmonkey(&[]);
    command.arg("demo").arg("--project").arg(project.path()).arg("--report").arg(report.path());
    let ended: Done = command.output().unwrap().into();
    for word in [
        "2 packages",
        "8 lines",
        "2 blocks, 1 items",
        "GPL-3.0-only",
        "strict 0.2.0",
        "index.html",
        "packages.csv",
    ] {
        assert!(ended.stdout.contains(word), "{word} in {}", ended.stdout);
    }
}
