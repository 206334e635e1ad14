//! What is set up wrongly is refused with words that help, an exit code, and no secret.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;

use flowmonkey_test_support::{
    Certificates, ClientCertificates, Postgres, PostgresOptions, Redis, RedisOptions, TestDatabase, Tls,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::process::Command;

use crate::books::{Books, notes};
use crate::system::{Options, System, wait_for};
use crate::workload::{FLOWS, start_mix};

/// In every password; in no output.
const SECRET: &str = "hush4711";
/// What was asked for cannot be meant.
const USAGE: i32 = 2;
/// What was asked for could not be done.
const NOT_CARRIED_OUT: i32 = 4;

/// Runs the program until it ends by itself: its exit code, and what it said.
async fn refusal(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_flowmonkey"))
        .args(arguments)
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        // One that is let in after all must not outlive the test.
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let status = wait_for(&format!("{arguments:?} is refused"), async || child.try_wait().unwrap()).await;
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains(SECRET), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    (status.code().unwrap(), said)
}

async fn expect(arguments: &[&str], code: i32, words: &[&str]) {
    let (found, said) = refusal(arguments).await;
    assert_eq!(found, code, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: `{word}` is not in: {said}");
    }
}

async fn database() -> TestDatabase {
    Postgres::shared().await.database().await
}

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_be_meant_are_refused_at_once() {
    // Nothing listens there: it must not even be tried.
    let database = format!("postgres://a:{SECRET}@127.0.0.1:1/a");
    let redis = format!("redis://:{SECRET}@127.0.0.1:1");
    let engine = ["engine", "--database", &database, "--redis", &redis];
    let worker = ["worker", "--redis", &redis];
    let with = |first: &[&'static str]| first.to_vec();
    let cases: Vec<(&[&str], Vec<&str>, &[&str])> = vec![
        (
            &engine,
            with(&["--lease-ms", "2000", "--heartbeat-ms", "1000"]),
            &["--lease-ms 2000", "three heartbeats"],
        ),
        (&engine, with(&["--oidc-issuer", "https://id.example"]), &["--oidc-audience"]),
        (
            &engine,
            with(&["--oidc-issuer", "http://id.example", "--oidc-audience", "flowmonkey"]),
            &["http://id.example", "https"],
        ),
        (&engine, with(&["--queue-percent", "transform"]), &["HANDLER=PERCENT"]),
        (&engine, with(&["--queue-percent", "transform=101"]), &["0 to 100"]),
        (&engine, with(&["--fall-back", "nobody"]), &["`nobody`", "--handlers"]),
        (
            &worker,
            with(&["--engine", "http://127.0.0.1:1", "--handler", "nobody"]),
            &["--handler nobody", "transform"],
        ),
        (&worker, with(&["--engine", "no address"]), &["not a URL"]),
        (
            &worker,
            with(&["--engine", "http://127.0.0.1:1", "--redis-key-file", "key.pem"]),
            &["key of a client certificate", "not the certificate"],
        ),
        (
            &worker,
            with(&["--engine", "http://127.0.0.1:1", "--redis-certificate-file", "certificate.pem"]),
            &["client certificate", "not its key"],
        ),
        (&worker, with(&["--engine", "http://127.0.0.1:1", "--redis-prefix", "a b"]), &["prefix"]),
    ];
    for (first, rest, words) in cases {
        let arguments: Vec<&str> = first.iter().copied().chain(rest).collect();
        expect(&arguments, USAGE, words).await;
    }
    let redis_of_nobody = format!("http://:{SECRET}@127.0.0.1:1");
    expect(
        &["worker", "--redis", &redis_of_nobody, "--engine", "http://127.0.0.1:1"],
        USAGE,
        &["URL of Redis"],
    )
    .await;
    let typo = format!("{database}?sslmod=require");
    expect(&["engine", "--database", &typo, "--redis", &redis], USAGE, &["`sslmod`"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_not_let_in_are_told_at_once() {
    let database = database().await;
    let redis =
        Redis::start(RedisOptions { password: Some("right".into()), ..RedisOptions::default() }).await;
    let stranger = database.url().replace("postgres@", &format!("nobody:{SECRET}@"));
    expect(&["engine", "--database", &stranger, "--redis", &redis.url()], NOT_CARRIED_OUT, &["nobody"]).await;
    let nowhere = database.url().replace(database.name(), "nowhere");
    expect(&["engine", "--database", &nowhere, "--redis", &redis.url()], NOT_CARRIED_OUT, &["nowhere"]).await;
    let wrong = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port());
    let engine = ["engine", "--database", &database.url(), "--redis", &wrong, "--listen", "127.0.0.1:0"];
    expect(&engine, USAGE, &["Password authentication failed"]).await;
    expect(
        &["worker", "--redis", &wrong, "--engine", "http://127.0.0.1:1"],
        USAGE,
        &["Password authentication failed"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_for_this_program_is_refused() {
    let redis = Redis::start(RedisOptions::default()).await;
    let database = database().await;
    let engine = [
        "engine",
        "--database",
        &database.url(),
        "--redis",
        &redis.url(),
        "--listen",
        "127.0.0.1:0",
        "--no-migrate",
    ];
    expect(&engine, NOT_CARRIED_OUT, &["migrate"]).await;
    let (code, said) = refusal(&["migrate", "--database", &database.url()]).await;
    assert_eq!(code, 0, "{said}");
    let newer = "INSERT INTO fm_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'of tomorrow', true, '', 0)";
    execute(&database.url(), newer).await;
    execute(&database.url(), "UPDATE fm_schema SET readable_from = 9999").await;
    expect(&engine, NOT_CARRIED_OUT, &["9999", "newer"]).await;
    execute(&database.url(), "DELETE FROM fm_migrations WHERE version = 9999").await;
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name());
    execute(&database.url(), &read_only).await;
    expect(&engine, NOT_CARRIED_OUT, &["can only be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_refused_with_the_cure() {
    let config = ["maxmemory 200mb", "maxmemory-policy allkeys-lru"].map(str::to_owned).to_vec();
    let options = RedisOptions { config, ..RedisOptions::default() };
    let mut system =
        System::start(Options { engines: 0, workers: 0, redis: options, ..Options::default() }).await;
    let (database, redis) = (system.database_url(), system.redis.url());
    let engine = ["engine", "--database", &database, "--redis", &redis, "--listen", "127.0.0.1:0"];
    expect(&engine, USAGE, &["allkeys-lru", "noeviction"]).await;
    system.add_engine(&[("FLOWMONKEY_REDIS_ALLOW_EVICTION", "true")]).await;
    assert_eq!(system.get("/readyz").await["status"], "ready");
}

/// A minute of patience goes by here, side by side.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_come_are_named_after_a_while() {
    let database = database().await;
    let url = database.url();
    let dead_database = format!("postgres://a:{SECRET}@127.0.0.1:1/record");
    let dead_redis = format!("redis://:{SECRET}@127.0.0.1:1");
    let listen = ["--listen", "127.0.0.1:0"];
    let without_record =
        ["engine", "--database", &dead_database, "--redis", &dead_redis, listen[0], listen[1]];
    let without_queues = ["engine", "--database", &url, "--redis", &dead_redis, listen[0], listen[1]];
    let worker = ["worker", "--redis", &dead_redis, "--engine", "http://127.0.0.1:1"];
    tokio::join!(
        expect(
            &without_record,
            NOT_CARRIED_OUT,
            &["cannot be reached yet", "the database record at 127.0.0.1:1"]
        ),
        expect(
            &without_queues,
            NOT_CARRIED_OUT,
            &["Redis is not there yet; trying again", "queue is unreachable"]
        ),
        expect(&worker, NOT_CARRIED_OUT, &["Redis is not there yet; trying again", "queue is unreachable"]),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_before_its_servers_waits_for_them() {
    let options = Options { engines: 0, workers: 0, own_postgres: true, ..Options::default() };
    let mut system = System::start(options).await;
    system.postgres().kill();
    system.redis.kill();
    let (redis, postgres) = (system.redis.clone(), system.postgres().clone());
    let folder = system.folder.path().to_path_buf();
    let log = move || fs::read_to_string(folder.join("engine-1.log")).unwrap_or_default();
    let servers = async {
        wait_for("it misses the record", async || {
            log().contains("record cannot be reached yet").then_some(())
        })
        .await;
        postgres.restart().await;
        wait_for("it misses Redis", async || log().contains("Redis is not there yet").then_some(())).await;
        redis.restart().await;
    };
    tokio::join!(system.add_engine(&[]), servers);
    assert_eq!(system.get("/readyz").await["status"], "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn systems_with_different_prefixes_share_a_redis_and_nothing_else() {
    let quiet = || Options { engines: 0, workers: 0, ..Options::default() };
    let mut one = System::start(quiet()).await;
    let mut other = System::start(Options { redis_of_others: Some(one.redis.clone()), ..quiet() }).await;
    for (system, prefix) in [(&mut one, "one"), (&mut other, "other")] {
        system.add_engine(&[("FLOWMONKEY_REDIS_PREFIX", prefix)]).await;
        system.publish(FLOWS).await;
    }
    one.add_worker(&[("FLOWMONKEY_REDIS_PREFIX", "one")]).await;
    let waiting = other.begin("retried", json!({}), "other").await;
    let mine = one.begin("retried", json!({}), "one").await;
    assert_eq!(one.ended(&mine).await["status"], "completed");
    let depths = async |system: &System| -> BTreeMap<String, u64> {
        let queues = system.get("/v1/queues").await;
        let depth = |queue: &serde_json::Value| {
            (queue["handler"].as_str().unwrap().to_owned(), queue["ready"]["normal"].as_u64().unwrap())
        };
        queues["items"].as_array().unwrap().iter().map(depth).collect()
    };
    assert_eq!(depths(&other).await.get("work"), Some(&1), "its only task still waits");
    assert_eq!(depths(&one).await.get("work").copied().unwrap_or(0), 0);
    assert!(notes(&other).is_empty());
    other.add_worker(&[("FLOWMONKEY_REDIS_PREFIX", "other")]).await;
    assert_eq!(other.ended(&waiting).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_may_be_encrypted_both_ways() {
    let certificates = Arc::new(Certificates::new());
    let tls = Tls { certificates: certificates.clone(), clients: ClientCertificates::Demanded };
    let options = Options {
        engines: 0,
        workers: 0,
        own_postgres: true,
        postgres: PostgresOptions { tls: Some(tls.clone()), ..PostgresOptions::default() },
        redis: RedisOptions { tls: Some(tls), ..RedisOptions::default() },
        ..Options::default()
    };
    let mut system = System::start(options).await;
    assert!(system.redis.url().starts_with("rediss://"));
    assert!(system.database_url().contains("sslmode=verify-full"));
    let files = [certificates.authority(), certificates.client_certificate(), certificates.client_key()];
    let [authority, certificate, key] = files.each_ref().map(|file| file.to_str().unwrap());
    let variables = [
        ("FLOWMONKEY_REDIS_CA_FILE", authority),
        ("FLOWMONKEY_REDIS_CERTIFICATE_FILE", certificate),
        ("FLOWMONKEY_REDIS_KEY_FILE", key),
    ];
    system.add_engine(&variables).await;
    system.add_worker(&variables).await;
    system.publish(FLOWS).await;
    let mut books = Books::default();
    start_mix(&system, &mut books, 0).await;
    assert_eq!(books.check(&system).await.executions, 5);
}
