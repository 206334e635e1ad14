//! Engines that are away, and whole systems that are replaced.

use reqwest::Client;
use serde_json::json;

use super::load::{Load, noted, notes_of, progress};
use crate::system::{Options, Process, System, wait_for};

/// Tasks that run while there is no engine.
const LONG: usize = 3;

/// Workers finish what they run, results wait, and nobody is promised what nobody keeps.
#[tokio::test(flavor = "multi_thread")]
async fn all_engines_may_be_away_for_a_while() {
    let mut system = System::start(Options::default()).await;
    let mut load = Load::new(&system).await;
    let mut long = Vec::new();
    for _ in 0..LONG {
        long.push(load.start(&system, "long", json!({}), 2).await);
    }
    for id in &long {
        noted(&system, id, "begin", 1).await;
    }
    load.round(&system).await;
    let urls: Vec<String> = system.engines.iter().filter_map(|engine| engine.url.clone()).collect();
    let mut away = std::mem::take(&mut system.engines);
    away.iter_mut().for_each(Process::kill);
    // Longer than their leases: workers keep them without engines.
    for id in &long {
        noted(&system, id, "end", 1).await;
    }
    let waiting = "flowmonkey:results:{work}";
    wait_for("the results wait", async || {
        let redis::Value::Int(count) = system.redis.command(&["LLEN", waiting]).await else { return None };
        (count >= i64::try_from(LONG).unwrap()).then_some(())
    })
    .await;
    for url in urls {
        let body = json!({ "flowId": "chain", "input": {} });
        let answer = Client::new().post(format!("{url}/v1/executions")).json(&body).send().await;
        assert!(answer.is_err(), "nobody is there, and yet: {answer:?}");
    }
    for engine in &away {
        system.replace_engine(engine).await;
    }
    load.round(&system).await;
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "only the failures that were asked for");
    for id in &long {
        assert_eq!(notes_of(&system, id, "begin").len(), 2, "no task ran twice");
    }
}

/// All processes are replaced, one by one: nothing fails, runs twice, or uses a retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_replaces_everything_under_load() {
    let mut system = System::start(Options::default()).await;
    let mut load = Load::new(&system).await;
    let long = load.start(&system, "long", json!({}), 2).await;
    noted(&system, &long, "begin", 1).await;
    for _ in 0..system.engines.len() {
        load.during(&system, progress(&system, 10)).await;
        let mut old = system.engines.remove(0);
        load.during(&system, old.stop()).await;
        system.replace_engine(&old).await;
    }
    for _ in 0..system.workers.len() {
        load.during(&system, progress(&system, 10)).await;
        system.add_worker(&[]).await;
        let mut old = system.workers.remove(0);
        load.during(&system, old.stop()).await;
    }
    load.during(&system, progress(&system, 10)).await;
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "only the failures that were asked for");
    assert_eq!(notes_of(&system, &long, "begin").len(), 2, "no task ran twice");
}
