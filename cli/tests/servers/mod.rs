//! Postgres and Redis for one test, and engines and workers over them.

use std::path::Path;

use flowmonkey_test_support::{Durability, Postgres, PostgresOptions, Redis, RedisOptions, TestDatabase};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{Bench, Running, http, wait_for};

/// A record, queues, and a directory to work in.
pub struct Servers {
    pub bench: Bench,
    pub database: TestDatabase,
    pub redis: Redis,
    /// Ends with the test.
    _postgres: Postgres,
}

/// A Redis as operators are told to set it up.
pub fn good_redis() -> RedisOptions {
    RedisOptions { config: vec!["maxmemory 100mb".into()], ..RedisOptions::default() }
}

impl Servers {
    /// Set up as operators are told to.
    pub async fn good() -> Self {
        let options = PostgresOptions { durability: Durability::Synced, ..PostgresOptions::default() };
        Self::with(options, good_redis()).await
    }

    pub async fn with(postgres: PostgresOptions, redis: RedisOptions) -> Self {
        let postgres = Postgres::start(postgres).await;
        let database = postgres.database().await;
        let redis = Redis::start(redis).await;
        Self { bench: Bench::new(), database, redis, _postgres: postgres }
    }

    /// Runs a statement in the database.
    pub async fn sql(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.database.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number out of the database.
    pub async fn number(&self, query: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.database.url()).await.unwrap();
        let number = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        number
    }

    /// Starts an engine that asks nobody for a key; gives it and its URL.
    pub fn engine(&self, more: &[&str]) -> (Running, String) {
        self.guarded_engine(&[&["--insecure-no-auth"], more].concat())
    }

    /// Starts an engine that asks for keys; gives it and its URL.
    pub fn guarded_engine(&self, more: &[&str]) -> (Running, String) {
        let (database, redis) = (self.database.url(), self.redis.url());
        let mut args = vec!["engine", "--listen", "127.0.0.1:0", "--database", &database, "--redis", &redis];
        args.extend(more);
        let mut engine = self.bench.start(&args);
        let url = listening(&mut engine);
        (engine, url)
    }

    /// Starts a worker of all stock handlers, and waits until it has announced itself.
    pub fn worker(&self, engine: &str, more: &[&str]) -> Running {
        let redis = self.redis.url();
        let mut args = vec!["worker", "--engine", engine, "--redis", &redis];
        args.extend(more);
        let worker = self.bench.start(&args);
        worker.wait_for_line("handlers  ");
        worker
    }

    /// `flowmonkey doctor` of both, in JSON: the exit code and what it says.
    pub fn doctor(&self, more: &[&str]) -> (i32, Value) {
        let (database, redis) = (self.database.url(), self.redis.url());
        let mut args = vec!["doctor", "--output", "json", "--database", &database, "--redis", &redis];
        args.extend(more);
        let done = self.bench.run(&args);
        (done.code, done.json())
    }
}

/// Waits until an engine listens; where.
#[track_caller]
pub fn listening(engine: &mut Running) -> String {
    wait_for("the engine to listen", || {
        let said = engine.said();
        assert!(engine.child.try_wait().unwrap().is_none(), "the engine has ended: {said}");
        let line = said.lines().find(|line| line.contains(" listens on "))?;
        line.split_whitespace().last().map(str::to_owned)
    })
}

/// Starts the flow of a file; gives the execution's id.
pub fn start(url: &str, definition: &Value, input: &Value) -> String {
    let request = serde_json::json!({ "definition": definition, "input": input });
    let (status, started) = http(url, "POST", "/v1/executions", &request.to_string());
    assert_eq!(status, 202, "{started}");
    started["id"].as_str().unwrap().to_owned()
}

/// Waits until an execution is as `is_so` wants it, and gives it.
#[track_caller]
pub fn until(url: &str, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || {
        let (_, record) = http(url, "GET", &format!("/v1/executions/{id}"), "");
        is_so(&record).then_some(record)
    })
}

/// Waits until an execution has ended as `status`, and gives it.
#[track_caller]
pub fn ends(url: &str, id: &str, status: &str) -> Value {
    let is_over =
        |record: &Value| ["completed", "failed", "cancelled"].iter().any(|end| record["status"] == *end);
    let record = until(url, id, "the end", is_over);
    assert_eq!(record["status"], status, "{record:#}");
    record
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
