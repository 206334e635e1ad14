//! The books of the tests: what was started, what handlers saw, and what the record says of it. They know nothing of how the
//! engine works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::system::System;

/// What the handler `work` noted.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// `begin`, `end` or `fail`.
    pub(crate) what: String,
    pub(crate) task: String,
    pub(crate) key: String,
    pub(crate) attempt: u64,
}

/// Everything that handlers noted, in order.
pub(crate) fn notes(system: &System) -> Vec<Note> {
    let text = fs::read_to_string(system.folder.path().join("work.log")).unwrap_or_default();
    let note = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        Note {
            what: line["what"].as_str().unwrap().to_owned(),
            task: line["task"].as_str().unwrap().to_owned(),
            key: line["key"].as_str().unwrap().to_owned(),
            attempt: line["attempt"].as_u64().unwrap(),
        }
    };
    text.lines().map(note).collect()
}

/// What was expected of executions.
#[derive(Default)]
pub(crate) struct Books {
    /// Status and number of tasks of the handler `work`, by execution.
    expected: BTreeMap<String, Expected>,
}

/// What is expected of an execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// How it ends.
    pub(crate) status: &'static str,
    /// Tasks of the handler `work` that it and its children carry out, if that is certain.
    pub(crate) tasks: Option<usize>,
}

/// What the checks found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) executions: usize,
    pub(crate) tasks: usize,
    /// Deliveries beyond the first of their task.
    pub(crate) redelivered: usize,
}

impl Books {
    /// Notes that an execution was started.
    pub(crate) fn started(&mut self, id: String, expected: Expected) {
        self.expected.insert(id, expected);
    }

    /// Waits for the end of everything that was started, and holds it against the books: nothing lost, nothing doubled.
    pub(crate) async fn check(&self, system: &System) -> Audit {
        let mut audit = Audit { executions: self.expected.len(), ..Audit::default() };
        let mut tasks = 0;
        for (id, expected) in &self.expected {
            let record = system.ended(id).await;
            assert_eq!(record["status"], expected.status, "{record}");
            check_history(system, id).await;
            tasks += expected.tasks.unwrap_or(0);
        }
        let is_certain = self.expected.values().all(|expected| expected.tasks.is_some());
        let notes = notes(system);
        let (keys, redelivered) = check_notes(&notes);
        if is_certain {
            assert_eq!(keys, tasks, "tasks that handlers saw");
        }
        audit.tasks = keys;
        audit.redelivered = redelivered;
        audit
    }
}

/// Sequences have no gaps, and each visit of each step succeeded once.
async fn check_history(system: &System, id: &str) {
    let mut after = 0;
    let mut successes = BTreeSet::new();
    loop {
        let page = system.get(&format!("/v1/executions/{id}/history?after={after}&limit=500")).await;
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            return;
        }
        for recorded in items {
            assert_eq!(recorded["sequence"], after + 1, "a gap in the history of {id}");
            after += 1;
            let event = &recorded["event"];
            if event["type"] == "attemptEnded" && event["outcome"] == "success" {
                let visit = (event["stepId"].to_string(), event["visit"].to_string());
                assert!(successes.insert(visit.clone()), "{visit:?} of {id} succeeded twice");
            }
        }
    }
}

/// Each task under one key, each key of one task, and no attempt begun twice. How many tasks there were, and how many
/// deliveries beyond the first.
fn check_notes(notes: &[Note]) -> (usize, usize) {
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    let mut deliveries = BTreeSet::new();
    for note in notes.iter().filter(|note| note.what == "begin") {
        let key = keys.entry(&note.task).or_insert(&note.key);
        assert_eq!(*key, note.key, "task {} was given two keys", note.task);
        assert!(
            deliveries.insert((&note.task, note.attempt)),
            "attempt {} of task {} was begun twice",
            note.attempt,
            note.task
        );
    }
    let distinct: BTreeSet<&&str> = keys.values().collect();
    assert_eq!(distinct.len(), keys.len(), "two tasks were given one key");
    (keys.len(), deliveries.len() - keys.len())
}
