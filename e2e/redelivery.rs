//! What becomes of the tasks of a worker that dies.

use std::time::Instant;

use serde_json::json;

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
    let of_task: Vec<(u64, String)> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|recorded| &recorded["event"])
        .filter(|event| event["type"] == "attemptEnded" && event["stepId"] == "long")
        .map(|event| (event["attempt"].as_u64().unwrap(), event["outcome"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(of_task.len(), 2, "{history}");
    assert_eq!(of_task[1], (2, "success".to_owned()));
    assert_eq!(of_task[0].0, 1, "the lease was lost before the second attempt: {history}");
    assert_ne!(of_task[0].1, "success");
}
