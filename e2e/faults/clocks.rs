//! Clocks that are minutes apart.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::DateTime;
use serde_json::json;

use super::load::{Load, noted, notes_of};
use crate::system::{Options, Process, System};

/// Where Debian has the library that shifts the time of a process.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const AHEAD: [(&str, &str); 4] = shifted("+300s");
const BEHIND: [(&str, &str); 4] = shifted("-300s");
/// Of the flow `delayed`.
const DELAY: Duration = Duration::from_millis(1_500);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(15);

const fn shifted(by: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME", by),
        // Monotonic clocks of different machines have nothing to do with each other anyway.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FLOWMONKEY_LOG", "info"),
    ]
}

/// Leases go by the clock of Redis, timers by that of Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_may_be_apart() {
    assert!(Path::new(LIBRARY).exists(), "this test needs libfaketime; on Debian: apt-get install faketime");
    let mut system = System::start(Options { engines: 0, workers: 0, ..Options::default() }).await;
    system.add_engine(&AHEAD).await;
    system.add_engine(&BEHIND).await;
    system.add_worker(&BEHIND).await;
    system.add_worker(&AHEAD).await;
    assert_are_apart(&system.engines[0], &system.engines[1]);
    assert_are_apart(&system.workers[1], &system.workers[0]);
    let mut load = Load::new(&system).await;
    let long = load.start(&system, "long", json!({}), 2).await;
    // Both engines make timers and answer them.
    for _ in 0..6 {
        let began = Instant::now();
        let id = load.start(&system, "delayed", json!({}), 1).await;
        noted(&system, &id, "begin", 1).await;
        let took = began.elapsed();
        assert!(DELAY <= took && took < DELAY + LATE, "a delay of {DELAY:?} took {took:?}");
    }
    for _ in 0..4 {
        load.round(&system).await;
    }
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "only the failures that were asked for");
    assert_eq!(notes_of(&system, &long, "begin").len(), 2, "no lease has ended");
}

/// By the times of their first lines in the log.
fn assert_are_apart(ahead: &Process, behind: &Process) {
    let first = |process: &Process| {
        let log = process.log();
        let time = log.split_whitespace().find_map(|word| DateTime::parse_from_rfc3339(word).ok());
        time.unwrap_or_else(|| panic!("no time in the log of {}: {log}", process.name)).timestamp()
    };
    let apart = first(ahead) - first(behind);
    assert!((550..650).contains(&apart), "the clocks are {apart} s apart");
}
