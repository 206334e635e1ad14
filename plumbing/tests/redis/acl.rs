//! Each kind of user can do its work, and nothing else.

use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::{result, task};
use flowmonkey_plumbing::queue::redis::{AclRole, LIBRARY, RedisOptions, RedisQueue, Severity, acl_rules};
use flowmonkey_plumbing::queue::{DispatchQueue, Lease, QueueError, TaskQueue, WorkerPresence};
use flowmonkey_test_support::{Redis, RedisOptions as ServerOptions, patient};
use redis::{ErrorKind, ServerErrorKind, Value};

use super::support::{claim_by, claimed, on, options, queue_with};

async fn add_user(server: &Redis, name: &str, role: &AclRole, prefix: &str) {
    let rules = acl_rules(role, prefix).unwrap();
    let mut words = vec!["ACL".to_owned(), "SETUSER".into(), name.into(), "on".into(), ">secret".into()];
    // A selector is one word.
    let mut depth = 0;
    for part in rules.split(' ') {
        match words.last_mut() {
            Some(last) if depth > 0 => {
                last.push(' ');
                last.push_str(part);
            }
            _ => words.push(part.to_owned()),
        }
        depth += part.matches('(').count();
        depth -= part.matches(')').count();
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    server.command(&words).await;
}

async fn as_user(server: &Redis, name: &str, words: &[&str]) -> redis::RedisResult<Value> {
    let url = format!("redis://{name}:secret@127.0.0.1:{}", server.port());
    let mut connection =
        redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&patient()).await?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query_async(&mut connection).await
}

async fn assert_forbidden(server: &Redis, name: &str, commands: &[&[&str]]) {
    for command in commands {
        let error = as_user(server, name, command).await.expect_err(&command.join(" "));
        let is_forbidden = error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
            || error.to_string().contains("can't run this command")
            || error.to_string().to_ascii_lowercase().contains("no permissions")
            || error.to_string().contains("NOPERM");
        assert!(is_forbidden, "{command:?}: {error}");
    }
}

fn for_user(server: &Redis, name: &str, base: &RedisOptions) -> RedisOptions {
    let url = format!("redis://{name}:secret@127.0.0.1:{}", server.port());
    RedisOptions { url, ..base.clone() }
}

#[tokio::test]
async fn a_pools_user_does_all_that_workers_do_and_nothing_else() {
    let server = Redis::start(ServerOptions::default()).await;
    let base = options(server.url());
    let prefix = base.prefix.clone();
    add_user(&server, "worker", &AclRole::Worker { pool: "a".into() }, &prefix).await;

    // Before an engine has loaded the functions, the worker is told what is missing.
    let worker = RedisQueue::connect(for_user(&server, "worker", &base)).await.unwrap();
    let error = worker.claim(claim_by("w", 1)).await.unwrap_err();
    let QueueError::Unavailable(source) = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("start an engine first"), "{source}");

    let engine = queue_with(base).await.0;
    let tasks = ["t1", "t2", "t3", "t4"].map(|id| task(id, 1, "a"));
    engine.push(tasks.to_vec()).await.unwrap();
    worker.wait_for_tasks(&["a".into()], Duration::from_secs(60)).await;
    // Something is withdrawn and something is garbage, so that those ways are taken too.
    let high = format!("{prefix}:tasks:{{a}}:high");
    server.command(&["RPUSH", &high, "garbage", "gone:1"]).await;
    assert_eq!(claimed(&worker, "w", 3).await, ["t1", "t2", "t3"]);
    assert_eq!(worker.stats().await.elements_put_aside, 1);
    let held = ["t1", "t2", "t3"].map(|id| on(id, 1).delivery);
    engine.request_cancel(&[on("t1", 1)]).await.unwrap();
    let extended = worker.extend("a", "w", &held).await.unwrap();
    assert_eq!((extended.lost, extended.cancelled), (vec![], vec![on("t1", 1).delivery]));
    worker.release("a", "w", &held[1..2]).await.unwrap();
    let leases = ["t1", "t3", "t4", "unknown"].map(|id| Lease {
        delivery: on(id, 1).delivery,
        lease_ms: 60_000,
        remaining_ms: 60_000,
    });
    assert_eq!(worker.reassert("a", "w", &leases).await.unwrap().lost, []);
    // Of those in hands, of one that is ready, and of one that nobody knows.
    let late = task("late", 1, "a");
    let results = [&tasks[0], &tasks[1], &late].map(result).to_vec();
    assert_eq!(worker.finish("a", "w", results).await.unwrap(), []);
    let presence =
        WorkerPresence { worker: "w".into(), pools: vec!["a".into()], ..WorkerPresence::default() };
    worker.announce(&presence).await.unwrap();
    assert_eq!(engine.workers().await.unwrap().len(), 1);
    worker.retire("w", &["a".into()]).await.unwrap();
    assert_eq!(engine.workers().await.unwrap(), []);
    assert_eq!(engine.take("e", 9).await.unwrap().len(), 3);
    let progress = format!("{prefix}:progress:{{a}}:e");
    as_user(&server, "worker", &["PUBLISH", &progress, "50"]).await.unwrap();

    engine.push(vec![task("secret", 1, "b")]).await.unwrap();
    let key = |kind: &str| format!("{prefix}:{kind}");
    let function = |name: &str| format!("{LIBRARY}_{name}");
    assert_forbidden(
        &server,
        "worker",
        &[
            &["FLUSHALL"],
            &["KEYS", "*"],
            &["SCAN", "0"],
            &["CONFIG", "GET", "*"],
            &["INFO"],
            &["MONITOR"],
            &["ACL", "LIST"],
            &["EVAL", "return 1", "0"],
            &["FUNCTION", "LOAD", "x"],
            &["FUNCTION", "FLUSH"],
            &["SUBSCRIBE", &progress],
            &["PSUBSCRIBE", "*"],
            &["PUBLISH", &key("events"), "x"],
            &["PUBLISH", &key("progress:{b}:e"), "x"],
            &["LPUSH", &key("tasks:{a}"), "x:1"],
            &["LRANGE", &key("results:{a}"), "0", "-1"],
            &["HGETALL", &key("outcomes:{a}")],
            &["HGET", &key("outcomes:{a}"), "t1:1"],
            &["HDEL", &key("payload:{a}"), "t1:1"],
            &["SET", &key("generation:{a}"), "9"],
            &["SMEMBERS", &key("pools")],
            &["HGET", &key("payload:{b}"), "secret:1"],
            &["LINDEX", &key("tasks:{b}"), "0"],
            &["BLPOP", &key("bell:{b}"), "1"],
            &["FCALL", &function("claim"), "1", &key("tasks:{b}")],
            &["FCALL", &function("keep_alive"), "1", &key("engines"), "x", "1"],
        ],
    )
    .await;
    // Functions of engines on the worker's own pool fail at what they need and workers do not have.
    assert!(matches!(worker.push(vec![task("x", 1, "a")]).await, Err(QueueError::Unavailable(_))));
    assert!(worker.take("w", 1).await.is_err());
}

#[tokio::test]
async fn an_engines_user_does_all_that_engines_do_and_cannot_harm_the_server() {
    let server = Redis::start(ServerOptions::default()).await;
    let base = options(server.url());
    add_user(&server, "engine", &AclRole::Engine, &base.prefix).await;
    let engine = queue_with(for_user(&server, "engine", &base)).await.0;
    let findings = engine.check().await.unwrap();
    assert!(findings.iter().all(|finding| finding.severity < Severity::Refuse), "{findings:?}");
    let tasks = ["t1", "t2"].map(|id| task(id, 1, "a"));
    engine.push(tasks.to_vec()).await.unwrap();
    engine.set_generation("a", 1).await.unwrap();
    assert_eq!(engine.generations(&["a".into()]).await.unwrap(), [Some(1)]);
    assert!(!engine.server_id().await.unwrap().is_empty());
    claimed(&engine, "w", 1).await;
    engine.finish("a", "w", vec![result(&tasks[0])]).await.unwrap();
    engine.wait_for_results().await;
    assert_eq!(engine.take("e", 9).await.unwrap().len(), 1);
    assert_eq!(engine.adopt_results("e").await.unwrap(), 1);
    assert_eq!(engine.take("e", 9).await.unwrap().len(), 1);
    engine.acknowledge("e", &[on("t1", 1)]).await.unwrap();
    engine.keep_alive("e").await.unwrap();
    assert_eq!(engine.expired(9).await.unwrap(), []);
    assert_eq!(engine.request_cancel(&[on("t2", 1)]).await.unwrap(), [on("t2", 1)]);
    engine.drop_deliveries(&[on("t2", 1)]).await.unwrap();
    server.command(&["SET", &format!("{}:gone:{{a}}", base.prefix), "x"]).await;
    assert!(engine.is_idle().await.unwrap());
    assert_eq!(engine.stats().await.keys_put_aside, 1);
    assert_forbidden(
        &server,
        "engine",
        &[
            &["FLUSHALL"],
            &["CONFIG", "SET", "maxmemory", "1"],
            &["ACL", "LIST"],
            &["EVAL", "return 1", "0"],
            &["FUNCTION", "FLUSH"],
            &["FUNCTION", "DELETE", LIBRARY],
            &["SHUTDOWN"],
            &["GET", "another:key"],
            &["SUBSCRIBE", "another:channel"],
        ],
    )
    .await;
}

/// Its scaler asks for the type and then for the length, in one script.
#[tokio::test]
async fn keda_counts_and_does_nothing_else() {
    let server = Redis::start(ServerOptions::default()).await;
    let base = options(server.url());
    add_user(&server, "keda", &AclRole::Keda, &base.prefix).await;
    let queue = queue_with(base.clone()).await.0;
    queue.push(["t1", "t2"].map(|id| task(id, 1, "a")).to_vec()).await.unwrap();
    claimed(&queue, "w", 1).await;
    let script = "local type = redis.call('type', KEYS[1]).ok\n\
                  local lengths = { list = 'llen', zset = 'zcard', set = 'scard', hash = 'hlen' }\n\
                  if not lengths[type] then return -1 end\n\
                  return redis.call(lengths[type], KEYS[1])";
    for key in ["tasks:{a}", "leases:{a}"] {
        let key = format!("{}:{key}", base.prefix);
        assert_eq!(
            as_user(&server, "keda", &["EVAL", script, "1", &key]).await.unwrap(),
            Value::Int(1),
            "{key}"
        );
    }
    let key = |kind: &str| format!("{}:{kind}", base.prefix);
    assert_forbidden(
        &server,
        "keda",
        &[
            &["LPOP", &key("tasks:{a}")],
            &["EVAL", "return redis.call('lpop', KEYS[1])", "1", &key("tasks:{a}")],
            &["EVAL", script, "1", &key("payload:{a}")],
            &["HGETALL", &key("payload:{a}")],
            &["FLUSHALL"],
        ],
    )
    .await;
}
