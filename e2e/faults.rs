//! The failure table, row by row.

mod clocks;
mod engines;
mod load;
mod messages;
mod network;
mod postgres;
mod redis;
mod sentinel;
mod workers;

use self::load::Load;
use crate::system::{Options, System};

/// Rounds of the test in which nothing goes wrong.
const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_when_nothing_goes_wrong() {
    let system = System::start(Options::default()).await;
    let mut load = Load::new(&system).await;
    for _ in 0..ROUNDS {
        load.round(&system).await;
    }
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "only the failures that were asked for");
    for engine in &system.engines {
        let url = format!("{}/metrics", engine.url.as_ref().unwrap());
        let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
        let mut late = metrics.lines().filter(|line| line.starts_with("flowmonkey_invariant_repairs_total{"));
        assert!(late.all(|line| line.ends_with(" 0")), "each engine does what follows at once: {metrics}");
        assert!(metrics.contains("flowmonkey_invariant_repairs_total{"), "{metrics}");
    }
}
