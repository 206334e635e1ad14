//! `file` on real folders.

use std::os::unix::fs::symlink;
use std::path::Path;

use flowmonkey_handlers::{FilePolicy, StockPolicy};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Bench;

fn bench() -> (Bench, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (at(folder.path()), folder)
}

fn at(root: &Path) -> Bench {
    Bench::new(StockPolicy { file: FilePolicy { roots: vec![root.to_owned()] }, ..StockPolicy::default() })
}

fn job(operation: &str, path: &str) -> Value {
    json!({ "operation": operation, "path": path })
}

#[tokio::test]
async fn what_is_written_is_read_in_every_encoding() {
    let (bench, _folder) = bench();
    let cases = [
        ("utf8", json!("héllo"), 6),
        ("json", json!({ "a": [1, null] }), 14),
        ("base64", json!("AP8="), 2),
        ("lines", json!(["a", "b"]), 4),
    ];
    for (encoding, content, size) in cases {
        let config = json!({ "operation": "write", "path": "deep/er/x", "encoding": encoding });
        let output = bench.run("file", config, content.clone()).await;
        assert_eq!(output, Ok(json!({ "path": "deep/er/x", "size": size })), "{encoding}");
        let config = json!({ "operation": "read", "path": "deep/er/x", "encoding": encoding });
        assert_eq!(bench.run("file", config, Value::Null).await.unwrap()["content"], content, "{encoding}");
    }
}

#[tokio::test]
async fn writing_leaves_nothing_else_behind_and_replaces_whole_files() {
    let (bench, folder) = bench();
    std::fs::write(folder.path().join("x"), "a longer text").unwrap();
    bench.run("file", job("write", "x"), json!("short")).await.unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("x")).unwrap(), "short");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let output = bench.run("file", job("append", "x"), json!("er")).await.unwrap();
    assert_eq!(output, json!({ "path": "x", "size": 7, "appended": 2 }));
}

#[tokio::test]
async fn files_are_described_hashed_listed_and_deleted() {
    let (bench, folder) = bench();
    for path in ["a.txt", "b.log", "sub/c.txt", "sub/deeper/d.txt"] {
        bench.run("file", job("write", path), json!("abc")).await.unwrap();
    }
    symlink("/etc", folder.path().join("sub/etc")).unwrap();
    let stat = bench.run("file", job("stat", "sub/c.txt"), Value::Null).await.unwrap();
    assert_eq!((&stat["type"], &stat["size"]), (&json!("file"), &json!(3)));
    let hash = bench.run("file", job("hash", "a.txt"), Value::Null).await.unwrap();
    assert_eq!(hash["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    let names = async |config| {
        let output = bench.run("file", config, Value::Null).await.unwrap();
        output["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(job("list", ".")).await, ["a.txt", "b.log", "sub"]);
    let all = json!({ "operation": "list", "path": "", "recursive": true });
    assert_eq!(bench.code("file", all, Value::Null).await, "BAD_CONFIG");
    let all = json!({ "operation": "list", "path": ".", "recursive": true });
    assert_eq!(
        names(all).await,
        ["a.txt", "b.log", "sub", "sub/c.txt", "sub/deeper", "sub/deeper/d.txt", "sub/etc"]
    );
    let glob = json!({ "operation": "list", "path": ".", "recursive": true, "glob": "**/*.txt" });
    assert_eq!(names(glob).await, ["a.txt", "sub/c.txt", "sub/deeper/d.txt"]);
    let flat = json!({ "operation": "list", "path": "sub", "recursive": true, "glob": "*.txt" });
    assert_eq!(names(flat).await, ["c.txt"]);

    assert_eq!(bench.code("file", job("delete", "sub"), Value::Null).await, "FILE_ERROR");
    let whole = json!({ "operation": "delete", "path": "sub", "recursive": true });
    assert_eq!(bench.run("file", whole.clone(), Value::Null).await.unwrap()["deleted"], true);
    assert_eq!(bench.run("file", whole, Value::Null).await.unwrap()["deleted"], false);
    assert!(Path::new("/etc/passwd").exists());
    assert_eq!(names(job("list", ".")).await, ["a.txt", "b.log"]);
}

#[tokio::test]
async fn nothing_outside_the_roots_can_be_reached() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let (bench, folder) = bench();
    std::fs::write(folder.path().join("inside"), "x").unwrap();
    symlink(outside.path(), folder.path().join("folder-link")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file-link")).unwrap();
    symlink(outside.path().join("new"), folder.path().join("dangling")).unwrap();
    symlink("..", folder.path().join("up")).unwrap();
    symlink("inside", folder.path().join("inner-link")).unwrap();
    let absolute = outside.path().join("secret");
    let paths = [
        "../x",
        "a/../../x",
        "folder-link/secret",
        "file-link",
        "up/x",
        "inner-link",
        absolute.to_str().unwrap(),
        "/etc/passwd",
    ];
    for path in paths {
        for operation in ["read", "hash", "append"] {
            assert_eq!(
                bench.code("file", job(operation, path), json!("x")).await,
                "FILE_FORBIDDEN",
                "{operation} {path}"
            );
        }
    }
    for path in ["folder-link/new", "up/new", "../new"] {
        assert_eq!(bench.code("file", job("write", path), json!("x")).await, "FILE_FORBIDDEN", "{path}");
    }
    assert_eq!(bench.code("file", job("append", "dangling"), json!("x")).await, "FILE_FORBIDDEN");
    assert_eq!(bench.code("file", job("list", "folder-link"), json!("x")).await, "FILE_FORBIDDEN");
    let recursive = json!({ "operation": "delete", "path": "folder-link/secret", "recursive": true });
    assert_eq!(bench.code("file", recursive, json!("x")).await, "FILE_FORBIDDEN");
    assert_eq!(bench.code("file", job("delete", "."), json!("x")).await, "FILE_FORBIDDEN");
    assert_eq!(bench.run("file", job("stat", "file-link"), Value::Null).await.unwrap()["type"], "symlink");

    // Writing to a link replaces the link.
    bench.run("file", job("write", "file-link"), json!("mine")).await.unwrap();
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn missing_large_and_odd_files_are_told_apart() {
    let (bench, folder) = bench();
    std::fs::write(folder.path().join("big"), "0123456789").unwrap();
    std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
    assert_eq!(bench.code("file", job("read", "none"), Value::Null).await, "FILE_NOT_FOUND");
    assert_eq!(bench.code("file", job("stat", "no/ne"), Value::Null).await, "FILE_NOT_FOUND");
    let limited = json!({ "operation": "read", "path": "big", "maxBytes": 9 });
    assert_eq!(bench.code("file", limited, Value::Null).await, "FILE_TOO_LARGE");
    let limited = json!({ "operation": "write", "path": "new", "maxBytes": 9 });
    assert_eq!(bench.code("file", limited, json!("0123456789")).await, "FILE_TOO_LARGE");
    assert_eq!(bench.code("file", job("read", "binary"), Value::Null).await, "FILE_ERROR");
    assert_eq!(bench.code("file", job("read", "."), Value::Null).await, "FILE_FORBIDDEN");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert_eq!(bench.code("file", job("read", "folder"), Value::Null).await, "FILE_ERROR");
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(bench.code("file", job("read", "pipe"), Value::Null).await, "FILE_ERROR");
}

#[tokio::test]
async fn without_roots_every_path_is_refused() {
    let bench = Bench::new(StockPolicy::default());
    let failure = bench.run("file", job("read", "x"), Value::Null).await.unwrap_err();
    assert_eq!(failure.error.code, "FILE_FORBIDDEN");
    assert!(failure.error.message.contains("no file roots"), "{}", failure.error.message);
}
