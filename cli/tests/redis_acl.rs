//! `flowmonkey redis-acl`: a real Redis takes the rules, and engines and workers live with them.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use flowmonkey_test_support::{PostgresOptions, RedisOptions};
use serde_json::json;
use servers::{Servers, ends, good_redis, listening, start};
use support::Bench;

fn rules(args: &[&str]) -> String {
    Bench::new().run(&[&["redis-acl"], args].concat()).expect(0).stdout.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_and_a_worker_run_with_the_printed_rules() {
    let with_password = |line: String, password: &str| line.replacen(" on ", &format!(" on >{password} "), 1);
    let acl = vec![
        "user default on nopass ~* &* +@all".to_owned(),
        with_password(rules(&["--role", "engine"]), "engines"),
        with_password(rules(&["--pool", "transform", "--user", "transformer"]), "workers"),
    ];
    let redis = RedisOptions { acl, ..good_redis() };
    let servers = Servers::with(PostgresOptions::default(), redis).await;
    let address = |user: &str| format!("redis://{user}@127.0.0.1:{}", servers.redis.port());
    let (database, redis) = (servers.database.url(), address("engine:engines"));
    let mut engine = servers.bench.start(&[
        "engine",
        "--insecure-no-auth",
        "--listen",
        "127.0.0.1:0",
        "--database",
        &database,
        "--redis",
        &redis,
        "--name",
        "one",
    ]);
    let url = listening(&mut engine);
    let redis = address("transformer:workers");
    let worker =
        servers.bench.start(&["worker", "--engine", &url, "--redis", &redis, "--handler", "transform"]);
    let flow = json!({ "id": "adds", "version": "1.0.0", "initialStepId": "a", "steps": { "a": {
        "type": "transform", "config": { "operation": "reduce", "accumulator": "sum", "path": "n" },
        "input": { "type": "key", "key": "items" }, "outputKey": "sum", "transitions": { "onSuccess": null } } } });
    let id = start(&url, &flow, &json!({ "items": [{ "n": 20 }, { "n": 22 }] }));
    let record = ends(&url, &id, "completed");
    assert_eq!(record["context"]["sum"], 42, "{record:#}\n{}", worker.said());

    // The same user gets nowhere with another pool.
    for (key, allowed) in [("flowmonkey:tasks:{transform}", true), ("flowmonkey:tasks:{http-request}", false)]
    {
        let answer = servers.redis.command(&["ACL", "DRYRUN", "transformer", "LLEN", key]).await;
        assert_eq!(format!("{answer:?}").contains("no permissions"), !allowed, "{answer:?}");
    }

    // Through the other door, without a restart; what the user had before is gone.
    let command = rules(&["--pool", "eu/transform", "--user", "transformer", "--format", "command"]);
    let words: Vec<&str> = command.split(' ').collect();
    servers.redis.command(&words).await;
    let list = format!("{:?}", servers.redis.command(&["ACL", "GETUSER", "transformer"]).await);
    assert!(list.contains("{eu/transform}") && !list.contains("{transform}"), "{list}");
    let keda = rules(&["--role", "keda", "--format", "command"]);
    servers.redis.command(&keda.split(' ').collect::<Vec<_>>()).await;
}

#[test]
fn what_means_something_in_patterns_is_refused() {
    let bench = Bench::new();
    for args in [
        &["--pool", "*"][..],
        &["--pool", "a b"],
        &["--role", "engine", "--prefix", "flow*"],
        &["--pool", "a", "--user", "x y"],
        &["--role", "engine", "--pool", "a"],
        &[],
    ] {
        let done = bench.run(&[&["redis-acl"], args].concat()).expect(2);
        assert_eq!(done.stdout, "", "{args:?}");
    }
}
