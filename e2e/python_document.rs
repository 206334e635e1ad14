//! `docs/protocol.md` against the code: its examples, its Python, its functions.

use std::fs;
use std::path::Path;

use flowmonkey_plumbing::queue::WorkerPresence;
use flowmonkey_plumbing::queue::redis::library_source;
use flowmonkey_plumbing::wire::{ResultMessage, TaskMessage};
use serde_json::Value;

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn the_document_says_what_the_code_does() {
    let document = file("docs/protocol.md");
    let blocks = |language: &str| -> Vec<&str> {
        let opening = format!("\n```{language}\n");
        document.split(opening.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
    };
    // The proof of a result is spelled as in the worker.
    let worker = file("e2e/python/worker.py");
    let [python] = blocks("python")[..] else { panic!("one block of Python") };
    for line in python.lines().filter(|line| !line.starts_with("import")) {
        assert!(worker.contains(line), "{line}");
    }
    // The examples are messages, and name no field that is none.
    let whole: Vec<Value> =
        blocks("json").into_iter().filter_map(|block| serde_json::from_str(block).ok()).collect();
    let [presence, task, result] = &whole[..] else { panic!("three examples, not {}", whole.len()) };
    let read: TaskMessage = serde_json::from_value(task.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), *task);
    let read: ResultMessage = serde_json::from_value(result.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), *result);
    let read: WorkerPresence = serde_json::from_value(presence.clone()).unwrap();
    assert_eq!(read.manifests.len(), 1);
    for function in ["claim", "extend", "reassert", "finish", "release", "release_others", "announce"] {
        assert!(document.contains(&format!("\n| `{function}` | 18")), "{function}");
        assert!(
            library_source().contains(&format!("register('{function}', {function}, DRAINS)")),
            "{function}"
        );
    }
}
