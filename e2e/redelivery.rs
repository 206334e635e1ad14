//! What becomes of the tasks of a worker that dies.

use std::time::Instant;

use serde_json::{Value, json};

use crate::books::{Note, notes};
use crate::system::{LEASE_MS, Options, System, wait_for};
use crate::workload::FLOWS;

/// Its tasks run elsewhere once their leases have ended: staleness, and one look of the reaper.
#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_dead_worker_run_again() {
    let mut system = System::start(Options { workers: 1, ..Options::default() }).await;
    system.publish(FLOWS).await;
    let id = system.begin("long", json!({}), "long").await;
    let begun = async |system: &System, attempt: u64| -> Note {
        wait_for(&format!("attempt {attempt} begins"), async || {
            notes(system).into_iter().find(|note| note.what == "begin" && note.attempt == attempt)
        })
        .await
    };
    let first = begun(&system, 1).await;
    system.add_worker(&[]).await;
    let killed_at = Instant::now();
    system.workers.remove(0).kill();
    let second = begun(&system, 2).await;
    println!("run again {} ms after the kill, with leases of {LEASE_MS} ms", killed_at.elapsed().as_millis());
    assert_eq!((&first.task, &first.key), (&second.task, &second.key));
    assert_eq!(system.ended(&id).await["status"], "completed");
    let history = system.get(&format!("/v1/executions/{id}/history?limit=500")).await;
    let events: Vec<&Value> =
        history["items"].as_array().unwrap().iter().map(|recorded| &recorded["event"]).collect();
    let place = |found: &dyn Fn(&Value) -> bool| {
        let place = events.iter().position(|event| found(event));
        place.unwrap_or_else(|| panic!("it is not in {history}"))
    };
    let lost = place(&|event| event["type"] == "leaseLost" && event["attempt"] == 1);
    let done = place(&|event| event["type"] == "attemptEnded" && event["attempt"] == 2);
    assert!(lost < done, "{history}");
    assert_eq!(events[done]["outcome"], "success", "{history}");
}
