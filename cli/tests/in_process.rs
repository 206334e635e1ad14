//! `engine --queue-percent` and `--fall-back`: tasks that run in the engine's own process.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use flowmonkey_test_support::PostgresOptions;
use serde_json::{Value, json};
use servers::{Servers, ends, good_redis, start, until};
use support::{http, wait_for};

/// A flow of one task.
fn works() -> Value {
    json!({ "id": "works", "version": "1.0.0", "initialStepId": "a", "steps": { "a": { "type": "transform" } } })
}

/// The pool that the task of an execution is out in.
fn pool(url: &str, id: &str) -> Option<String> {
    let (_, why) = http(url, "GET", &format!("/v1/executions/{id}:explain"), "");
    why["liveCause"]["pool"].as_str().map(str::to_owned)
}

async fn servers() -> Servers {
    Servers::with(PostgresOptions::default(), good_redis()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_percentage_chooses_who_runs_a_task() {
    let servers = servers().await;
    let (engine, url) = servers.engine(&["--queue-percent", "transform=0"]);
    assert!(engine.said().contains("in process  transform"), "{}", engine.said());
    ends(&url, &start(&url, &works(), &json!({})), "completed");
    drop(engine);
    let (_engine, url) = servers.engine(&["--queue-percent", "transform=100"]);
    let id = start(&url, &works(), &json!({}));
    until(&url, &id, "the task", |record| record["status"] == "waiting_for_worker");
    assert_eq!(pool(&url, &id).as_deref(), Some("transform"));
    let _worker = servers.worker(&url, &["--handler", "transform"]);
    ends(&url, &id, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_steps_in_while_no_worker_is_there() {
    let servers = servers().await;
    let (_engine, url) = servers.engine(&["--fall-back", "transform"]);
    // From when the engine has looked for workers; what was sent to them before stays with them.
    let early = wait_for("the engine to step in", || {
        let id = start(&url, &works(), &json!({}));
        let record = until(&url, &id, "the task to be out or done", |record| record["status"] != "pending");
        let there = pool(&url, &id);
        if there.as_deref() == Some("transform") {
            return None;
        }
        Some((id, record))
    });
    ends(&url, &early.0, "completed");
    // With a worker, the worker has it; it is stopped by a signal that it cannot answer, so that the task stays out.
    let worker = servers.worker(&url, &["--handler", "transform"]);
    wait_for("the worker to be known", || {
        let (_, workers) = http(&url, "GET", "/v1/workers", "");
        let items = workers["items"].as_array()?.clone();
        items
            .iter()
            .any(|item| item["pools"].as_array().is_some_and(|pools| pools.contains(&json!("transform"))))
            .then_some(())
    });
    worker.signal("STOP");
    let id = wait_for("a task to go to the worker", || {
        let id = start(&url, &works(), &json!({}));
        until(&url, &id, "the task to be out or done", |record| record["status"] != "pending");
        (pool(&url, &id).as_deref() == Some("transform")).then_some(id)
    });
    worker.signal("CONT");
    ends(&url, &id, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_in_process_is_refused_at_once() {
    let servers = servers().await;
    let (database, redis) = (servers.database.url(), servers.redis.url());
    for wrong in
        [["--queue-percent", "transform=101"], ["--queue-percent", "transform"], ["--fall-back", "nobody"]]
    {
        let mut args = vec!["engine", "--listen", "127.0.0.1:0", "--database", &database, "--redis", &redis];
        args.extend(wrong);
        servers.bench.run(&args).expect(2);
    }
}
