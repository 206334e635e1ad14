//! Work goes on and on, something breaks every few seconds, and in the end nothing may be lost or doubled.
//!
//! `FLOWMONKEY_SOAK_SECONDS` says for how long (default 30), `FLOWMONKEY_SOAK_SEED` repeats the choice of faults of a run,
//! `FLOWMONKEY_SOAK_REPORT` names a file for the report.

mod chaos;
mod load;
mod report;

use std::time::{Duration, Instant};

use crate::system::{Options, System, wait_for};
use crate::workload::FLOWS;
use chaos::{Choices, Fault};
use load::Load;
use report::Report;

/// How long faults go on, unless told otherwise.
const SECONDS: u64 = 30;
/// Time between faults, in milliseconds.
const FAULTS_EVERY_MS: std::ops::Range<u64> = 1_000..3_000;
const ENGINES: usize = 2;
const WORKERS: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The faults of the test suite; others by FLOWMONKEY_SOAK_SEED.
const SEED: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_everything_ends_once() {
    let seconds = number("FLOWMONKEY_SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = number("FLOWMONKEY_SOAK_SEED").unwrap_or(SEED);
    println!("FLOWMONKEY_SOAK_SEED={seed} FLOWMONKEY_SOAK_SECONDS={seconds}");
    let mut choices = Choices::new(seed);
    let options = Options { engines: ENGINES, workers: WORKERS, ..Options::default() };
    let mut system = System::start(options).await;
    system.publish(FLOWS).await;
    let load = Load::start(&system);
    let began = Instant::now();
    let mut faults = Vec::new();
    let mut next: Vec<Fault> = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        if next.is_empty() {
            // Each kind comes once before any comes again.
            next = choices.shuffled(&Fault::ALL);
        }
        let Some(fault) = next.pop() else { continue };
        // The rhythm of the faults; nothing waits for anything here.
        tokio::time::sleep(Duration::from_millis(choices.within(FAULTS_EVERY_MS))).await;
        load.scrape(&system).await;
        let at = Instant::now();
        println!("{:6.1} s  {fault:?}", began.elapsed().as_secs_f64());
        fault.strike(&mut system, &mut choices, &load).await;
        faults.push((fault, at));
    }
    let healed_at = Instant::now();
    load.stop_starting().await;
    let lost = load.drain(&system).await;
    let drained = healed_at.elapsed();
    load.scrape(&system).await;
    let report = Report::make(seed, seconds, &system, &load, &faults, drained, lost).await;
    report.tell();
    report.assert_sound();
    wait_for("the queues are empty", async || {
        let queues = system.get("/v1/queues").await;
        let is_empty = |queue: &serde_json::Value| {
            let ready = &queue["ready"];
            let counts =
                [&ready["high"], &ready["normal"], &ready["low"], &queue["inFlight"], &queue["results"]];
            counts.iter().all(|count| **count == 0)
        };
        queues["items"].as_array()?.iter().all(is_empty).then_some(())
    })
    .await;
}
