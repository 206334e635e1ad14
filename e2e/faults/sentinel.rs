//! A failover that loses what was written last.

use flowmonkey_test_support::Sentinel;
use serde_json::json;

use super::load::{Load, noted, notes_of, progress};
use crate::system::{Options, Routes, System};

/// Tasks that run meanwhile.
const LONG: usize = 3;
/// Tasks that are begun while the replica learns nothing.
const TAIL: usize = 15;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_may_lose_what_was_written_last() {
    let sentinel = Sentinel::start(1).await;
    let hosts: Vec<String> =
        sentinel.addresses().iter().map(|url| url.trim_start_matches("redis://").to_owned()).collect();
    let url = format!("redis+sentinel://{}/{}", hosts.join(","), sentinel.primary_name());
    let routes = Routes { engines_redis: Some(url.clone()), workers_redis: Some(url), ..Routes::default() };
    let system = System::start(Options { routes, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let primary = sentinel.primary().await;
    let replica = sentinel.servers().iter().find(|server| server.port() != primary.port()).unwrap();
    load.during(&system, progress(&system, TAIL)).await;
    replica.pause();
    let mut long = Vec::new();
    for _ in 0..LONG {
        long.push(load.start(&system, "long", json!({}), 2).await);
    }
    for id in &long {
        noted(&system, id, "begin", 1).await;
    }
    load.during(&system, async {
        progress(&system, TAIL).await;
        let old = sentinel.kill_primary().await;
        replica.resume();
        sentinel.primary_after(&old).await;
        progress(&system, TAIL).await;
    })
    .await;
    load.check(&system).await;
    for id in &long {
        let lost: Vec<u64> = notes_of(&system, id, "begin").iter().map(|note| note.attempt).collect();
        assert_eq!(lost.iter().filter(|attempt| **attempt == 1).count(), 2, "each attempt once: {lost:?}");
    }
}
