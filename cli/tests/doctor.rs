//! `flowmonkey doctor` on servers: each thing that can be wrong is said, and what is right is said, too.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use flowmonkey_plumbing::queue::redis::RedisQueue;
use flowmonkey_plumbing::queue::{TaskQueue, WorkerPresence};
use flowmonkey_test_support::{PostgresOptions, Redis, RedisOptions};
use serde_json::{Value, json};
use servers::{Servers, ends, good_redis, start, until};

/// State and text of each finding of `check`.
fn findings<'v>(report: &'v Value, check: &str) -> Vec<(&'v str, &'v str)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    checks.map(|finding| (finding["state"].as_str().unwrap(), finding["message"].as_str().unwrap())).collect()
}

/// That there is a finding of `check` in this state, with these words.
#[track_caller]
fn assert_found(report: &Value, check: &str, state: &str, words: &str) {
    let found = findings(report, check);
    let is_there = found.iter().any(|(found, text)| *found == state && text.contains(words));
    assert!(is_there, "{check} {state} {words}: {report:#}");
}

/// A flow of one step.
fn flow(id: &str, step: &Value) -> Value {
    json!({ "id": id, "version": "1.0.0", "initialStepId": "a", "steps": { "a": step } })
}

/// A flow of one task.
fn works() -> Value {
    flow("works", &json!({ "type": "transform", "transitions": { "onSuccess": null } }))
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_in_good_order_are_called_so() {
    let servers = Servers::good().await;
    let (code, before) = servers.doctor(&[]);
    assert_eq!(code, 0, "{before:#}");
    assert_found(&before, "schema", "warning", "flowmonkey migrate");
    assert_found(&before, "workers", "ok", "not known yet");
    assert_found(&before, "pools", "ok", "no engine has published");

    let (engine, url) = servers.engine(&[]);
    let _worker = servers.worker(&url, &["--handler", "transform"]);
    let id = start(&url, &works(), &json!({}));
    ends(&url, &id, "completed");
    let queue =
        RedisQueue::connect(flowmonkey_plumbing::queue::redis::RedisOptions::new(servers.redis.url())).await;
    let presence = WorkerPresence {
        worker: "worker-of-the-test".into(),
        pools: vec!["transform".into()],
        slots: 8,
        running: 3,
        ..WorkerPresence::default()
    };
    queue.unwrap().announce(&presence).await.unwrap();
    let (code, report) = servers.doctor(&["--engine", &url]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["healthy"], true);
    let bad = report["checks"].as_array().unwrap().iter().filter(|finding| finding["state"] != "ok");
    assert_eq!(bad.count(), 0, "{report:#}");
    assert_found(&report, "postgres", "ok", "Postgres 1");
    assert_found(&report, "settings", "ok", "fsync");
    assert_found(&report, "causes", "ok", "0 that have not ended");
    assert_found(&report, "worker", "ok", "3 of 8 slots");
    assert_found(&report, "functions", "ok", "loaded");
    assert_found(&report, "redis memory", "ok", "% of maxmemory");
    assert_found(&report, "engine", "ok", env!("CARGO_PKG_VERSION"));
    // A directory is not asked about when servers are.
    assert!(findings(&report, "directory").is_empty(), "{report:#}");
    drop(engine);
    let (code, report) = servers.doctor(&["--engine", &url]);
    assert_eq!(code, 1);
    assert_found(&report, "engine", "error", "not ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lose_data_are_named() {
    let redis = RedisOptions {
        config: vec!["maxmemory 100mb".into(), "maxmemory-policy allkeys-lru".into()],
        ..RedisOptions::default()
    };
    let settings = ["autovacuum=off", "synchronous_commit=off", "max_connections=12"];
    let options =
        PostgresOptions { settings: settings.map(str::to_owned).into(), ..PostgresOptions::default() };
    let servers = Servers::with(options, redis).await;
    let (code, report) = servers.doctor(&[]);
    assert_eq!(code, 1);
    assert_eq!(report["healthy"], false);
    assert_found(&report, "settings", "error", "fsync is off");
    assert_found(&report, "settings", "error", "autovacuum is off");
    assert_found(&report, "settings", "warning", "synchronous_commit is off");
    assert_found(&report, "connections", "warning", "max_connections");
    assert_found(&report, "redis", "error", "REDIS_EVICTS");
    let (_, allowed) = servers.doctor(&["--redis-allow-eviction"]);
    assert_found(&allowed, "redis", "warning", "REDIS_EVICTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_get_in_is_told_why() {
    let bench = support::Bench::new();
    let redis = Redis::start(RedisOptions { password: Some("right".into()), ..good_redis() }).await;
    let wrong = redis.url().replace("right", "wrong");
    let report = |args: &[&str]| {
        let done = bench.run(&[&["doctor", "--output", "json"], args].concat()).expect(1);
        assert!(!done.stdout.contains("wrong@") && !done.stderr.contains("wrong@"), "{}", done.stdout);
        done.json()
    };
    assert_found(&report(&["--redis", &wrong]), "redis", "error", "Password authentication failed");
    redis.kill();
    let away = report(&["--redis", &redis.url()]);
    assert_found(&away, "redis", "error", "refused");
    let nobody = report(&["--database", "postgres://user:wrong@127.0.0.1:1/flowmonkey"]);
    assert_found(&nobody, "postgres", "error", "127.0.0.1:1");
    let no_url = report(&["--database", "mysql://user:wrong@host/db"]);
    assert_found(&no_url, "postgres", "error", "postgres://");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_left_alone() {
    let servers = Servers::good().await;
    servers.bench.run(&["migrate", "--database", &servers.database.url()]).expect(0);
    servers
        .sql(
            "INSERT INTO fm_migrations (version, description, success, checksum, execution_time)
            VALUES (1000, 'of a later release', true, '', 0)",
        )
        .await;
    let (code, report) = servers.doctor(&[]);
    assert_eq!(code, 0, "{report:#}");
    assert_found(&report, "schema", "ok", "version 1000, of a newer release");
    servers.sql("UPDATE fm_schema SET readable_from = 1000").await;
    let (code, report) = servers.doctor(&[]);
    assert_eq!(code, 1);
    assert_found(&report, "schema", "error", "schema version 1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_moves_is_found() {
    let servers = Servers::good().await;
    let (engine, url) = servers.engine(&[]);
    let sleeps = flow(
        "sleeps",
        &json!({ "type": "delay", "config": { "days": 1 }, "transitions": { "onSuccess": null } }),
    );
    let sleeper = start(&url, &sleeps, &json!({}));
    let busy = start(&url, &works(), &json!({}));
    until(&url, &sleeper, "the wait", |record| record["status"] == "waiting");
    until(&url, &busy, "the task", |record| record["status"] == "waiting_for_worker");
    // No worker is there, and the task is in the queue.
    let report = support::wait_for("the task to be old enough to be missed", || {
        let (_, report) = servers.doctor(&[]);
        findings(&report, "tasks").iter().any(|(_, text)| text.starts_with("1 are out")).then_some(report)
    });
    assert_found(&report, "tasks", "ok", "all of them in the queues");
    assert_found(&report, "pool", "warning", "flowmonkey worker --handler transform");
    assert_found(&report, "workers", "warning", "none");
    assert_found(&report, "causes", "ok", "2 that have not ended");

    drop(engine);
    servers.redis.command(&["FLUSHALL"]).await;
    servers.sql("DELETE FROM fm_timers").await;
    let (code, report) = servers.doctor(&[]);
    assert_eq!(code, 1);
    assert_found(&report, "tasks", "warning", "1 of transform");
    assert_found(&report, "generations", "warning", "transform (the queue has forgotten it)");
    assert_found(&report, "causes", "error", &format!("{sleeper}: it waits until"));
    assert_found(&report, "executions", "ok", "1 waiting_for_worker");
}
