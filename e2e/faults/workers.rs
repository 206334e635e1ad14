//! Workers that die, stand still, or are killed by what they run.

use std::time::{Duration, Instant};

use flowmonkey_test_support::FaultProxy;
use reqwest::Method;
use serde_json::json;

use super::load::{Load, events_of, noted, notes_of};
use super::network::port_of;
use crate::books::Expected;
use crate::system::{LEASE_MS, Options, Process, Routes, System, wait_for};

/// The reaper looks every second; the rest is for a busy machine.
const REAPED_WITHIN: Duration = Duration::from_secs(8);
/// Lost leases after which a task is parked.
const LOST_MAX: u64 = 3;
/// Tasks that run to their ends around a poisoned one.
const INNOCENT: usize = 6;
/// Tasks of which some are claimed together with a poisoned one each time.
const BYSTANDERS: usize = 20;

/// Another worker runs the task, soon after the lease has ended, and no retry is used: the flow has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_worker_is_killed_runs_again_elsewhere() {
    let mut system = System::start(Options { workers: 1, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let long = load.start(&system, "long", json!({}), 2).await;
    noted(&system, &long, "begin", 1).await;
    system.add_worker(&[]).await;
    load.round(&system).await;
    system.workers.remove(0).kill();
    let killed_at = Instant::now();
    noted(&system, &long, "begin", 2).await;
    assert!(
        killed_at.elapsed() < Duration::from_millis(LEASE_MS) + REAPED_WITHIN,
        "{:?}",
        killed_at.elapsed()
    );
    load.check(&system).await;
    let lost = events_of(&system, &long, "leaseLost").await;
    assert_eq!((lost.len(), lost[0]["attempt"].as_u64()), (1, Some(1)), "{lost:?}");
    assert_eq!(events_of(&system, &long, "retryScheduled").await.len(), 0);
    let attempts: Vec<u64> = notes_of(&system, &long, "begin").iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 2, 1], "of the long task and the one after it");
}

/// The handler of a worker that stands still may end; whatever the worker then makes of it does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_for_longer_than_its_lease_comes_too_late() {
    let mut system = System::start(Options { engines: 1, workers: 1, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let long = load.start(&system, "long", json!({}), 2).await;
    noted(&system, &long, "begin", 1).await;
    system.workers[0].pause();
    system.add_worker(&[]).await;
    noted(&system, &long, "begin", 2).await;
    noted(&system, &long, "end", 1).await;
    // Both its late result and its heartbeats meet a newer attempt that runs.
    system.workers[0].resume();
    noted(&system, &long, "end", 2).await;
    load.check(&system).await;
    let ended = events_of(&system, &long, "attemptEnded").await;
    let attempts: Vec<_> =
        ended.iter().map(|event| (event["stepId"].as_str(), event["attempt"].as_u64())).collect();
    assert_eq!(attempts, [(Some("long"), Some(2)), (Some("last"), Some(1))], "the newer attempt counts");
    // It works again.
    assert!(!system.workers[0].has_died());
}

/// A result that could not be handed in before the lease ended, neither by way of Redis nor of an engine, is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_after_its_lease_is_refused_as_stale() {
    let mut system = System::start(Options { engines: 0, workers: 0, ..Options::default() }).await;
    system.add_engine(&[("FLOWMONKEY_LOG", "warn,flowmonkey_engine=debug")]).await;
    let redis = FaultProxy::start(system.redis.port());
    let engine = FaultProxy::start(port_of(system.engines[0].url.as_ref().unwrap()));
    system.options.routes = Routes {
        workers_redis: Some(redis.url_of(&system.redis.url(), system.redis.port())),
        engines: Some(format!("http://{}", engine.address())),
        ..Routes::default()
    };
    system.add_worker(&[]).await;
    system.options.routes = Routes::default();
    let mut load = Load::new(&system).await;
    let short = load.start(&system, "short", json!({}), 1).await;
    noted(&system, &short, "begin", 1).await;
    for proxy in [&redis, &engine] {
        proxy.refuse();
        proxy.cut();
    }
    noted(&system, &short, "end", 1).await;
    system.add_worker(&[]).await;
    noted(&system, &short, "end", 2).await;
    for proxy in [&redis, &engine] {
        proxy.heal();
    }
    // By the engine that takes it from the queue, or by the one that it was sent to past the queue: whichever is there first.
    wait_for("the late result is refused", async || {
        let logs = [system.engines[0].log(), system.workers[0].log()];
        logs.iter().any(|log| log.contains("a result was refused")).then_some(())
    })
    .await;
    load.check(&system).await;
    let ended = events_of(&system, &short, "attemptEnded").await;
    assert_eq!((ended.len(), ended[0]["attempt"].as_u64()), (1, Some(2)), "{ended:?}");
}

/// After some lost workers the task is parked with its input, and others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_workers_is_parked() {
    let mut system = System::start(Options { engines: 1, concurrency: 1, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let poison = system.begin("poison", json!({ "kept": "for replay" }), "poison").await;
    let mut deaths = 0;
    for _ in 0..INNOCENT {
        load.start(&system, "chain", json!({}), 2).await;
    }
    loop {
        let path = format!("/v1/executions/{poison}");
        if system.get(&path).await["status"] == "incident" {
            break;
        }
        // As an orchestrator does.
        let dead = system.workers.iter().position(Process::has_died);
        if let Some(dead) = dead {
            system.workers.remove(dead);
            system.add_worker(&[]).await;
            deaths += 1;
        }
        assert!(deaths <= LOST_MAX, "the task goes on killing");
        tokio::task::yield_now().await;
    }
    assert_eq!(events_of(&system, &poison, "leaseLost").await.len() as u64, LOST_MAX);
    assert_eq!(events_of(&system, &poison, "retryScheduled").await.len(), 0);
    let explained = system.get(&format!("/v1/executions/{poison}:explain")).await;
    assert_eq!(explained["liveCause"]["error"]["code"], "WORKER_LOST", "{explained}");
    let record = system.get(&format!("/v1/executions/{poison}")).await;
    assert_eq!(record["context"]["kept"], "for replay", "{record}");
    while let Some(dead) = system.workers.iter().position(Process::has_died) {
        system.workers.remove(dead);
        system.add_worker(&[]).await;
    }
    let (status, answer) =
        system.call(Method::POST, &format!("/v1/executions/{poison}:cancel"), Some(&json!({}))).await;
    assert!(status < 300, "{status} {answer}");
    load.books.started(poison.clone(), Expected { status: "cancelled", tasks: Some(1) });
    load.check(&system).await;
}

/// Those that die with it are not taken for its like.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_task_that_kills_its_workers_is_parked() {
    let options = Options { engines: 1, workers: 0, concurrency: 8, ..Options::default() };
    let mut system = System::start(options).await;
    let mut load = Load::new(&system).await;
    let poison = system.begin("poison", json!({}), "poison").await;
    for _ in 0..BYSTANDERS {
        load.start(&system, "short", json!({}), 1).await;
    }
    system.add_worker(&[]).await;
    system.add_worker(&[]).await;
    let live = "/v1/executions?status=pending,waiting_for_worker,waiting&limit=500";
    loop {
        // As an orchestrator does.
        if let Some(dead) = system.workers.iter().position(Process::has_died) {
            system.workers.remove(dead);
            system.add_worker(&[]).await;
        }
        if system.get(live).await["items"].as_array().unwrap().is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let parked = system.get("/v1/executions?status=incident&limit=500").await;
    let parked: Vec<&str> =
        parked["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(parked, [poison.as_str()]);
    assert_eq!(events_of(&system, &poison, "leaseLost").await.len() as u64, LOST_MAX);
    let (status, answer) =
        system.call(Method::POST, &format!("/v1/executions/{poison}:cancel"), Some(&json!({}))).await;
    assert!(status < 300, "{status} {answer}");
    load.books.started(poison, Expected { status: "cancelled", tasks: Some(1) });
    let report = load.check(&system).await;
    assert!(report.audit.redelivered > LOST_MAX as usize, "some died with it: {:?}", report.audit);
}

/// What no worker finishes in its grace is handed back at once: no lease has to end, no retry is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_end_hands_back_what_it_runs() {
    let options = Options { engines: 1, workers: 1, ..Options::default() };
    let mut system = System::start(Options { worker_args: vec!["--grace-ms=100".into()], ..options }).await;
    let mut load = Load::new(&system).await;
    let long = load.start(&system, "long", json!({}), 2).await;
    noted(&system, &long, "begin", 1).await;
    let mut old = system.workers.remove(0);
    old.stop().await;
    // There is nobody who could run it; the record knows already.
    wait_for("the task was handed back", async || {
        let explained = system.get(&format!("/v1/executions/{long}:explain")).await;
        (explained["liveCause"]["attempt"] == 2).then_some(())
    })
    .await;
    assert_eq!(events_of(&system, &long, "leaseLost").await.len(), 0);
    assert_eq!(events_of(&system, &long, "retryScheduled").await.len(), 0);
    system.options.worker_args.clear();
    system.add_worker(&[]).await;
    load.check(&system).await;
    assert_eq!(notes_of(&system, &long, "begin").len(), 3);
}
