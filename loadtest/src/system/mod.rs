//! A whole system on this machine: a Postgres that flushes, a Redis, engines and workers, each a process.

pub(crate) mod usage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowmonkey_test_support::{Durability, Postgres, PostgresOptions, Program, Redis, RedisOptions};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::client::Client;

/// The database that the engines use.
const DATABASE: &str = "postgres";
/// What the engine says when it is ready.
pub(crate) const LISTENS: &str = "listens on http://";
/// What the worker says when it is ready.
pub(crate) const WORKS: &str = "the worker works";

/// What a system is made of.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Engines
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) engines: u8,
    /// Workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) workers: u8,
    /// Tasks that each worker runs at a time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) concurrency: u16,
    /// Milliseconds that each task takes
    #[arg(long, default_value_t = 0)]
    pub(crate) handler_ms: u64,
    /// Handler types, each with a queue of its own, that steps use in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) handler_types: u16,
    /// The program to measure [default: `flowmonkey` beside this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Let Redis keep an append-only file, flushed once a second; the record does not need it
    #[arg(long)]
    pub(crate) redis_aof: bool,
    /// A further setting of Postgres, as `shared_buffers=1GB`
    #[arg(long = "postgres", value_name = "NAME=VALUE")]
    pub(crate) postgres: Vec<String>,
    /// A further argument of the engines
    #[arg(long = "engine-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(crate) engine_args: Vec<String>,
    /// Show the end of the engines' and workers' logs afterwards
    #[arg(long)]
    pub(crate) logs: bool,
}

impl Default for Shape {
    /// As without any argument.
    fn default() -> Self {
        Self {
            engines: 1,
            workers: 1,
            concurrency: 512,
            handler_ms: 0,
            handler_types: 1,
            program: None,
            redis_aof: false,
            postgres: Vec::new(),
            engine_args: Vec::new(),
            logs: false,
        }
    }
}

/// A running system. It ends with the value.
pub(crate) struct System {
    engines: Vec<(Program, SocketAddr)>,
    workers: Vec<Program>,
    postgres: Postgres,
    redis: Redis,
    shape: Shape,
    /// Runs the connections of clients.
    pub(crate) tracker: TaskTracker,
}

impl System {
    /// Starts everything.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub(crate) async fn start(shape: Shape) -> Result<Self> {
        let program = program(shape.program.clone())?;
        let mut settings: Vec<String> =
            ["shared_buffers=1GB", "max_wal_size=4GB"].map(str::to_owned).to_vec();
        settings.extend(shape.postgres.iter().cloned());
        let postgres = Postgres::start(PostgresOptions {
            settings,
            durability: Durability::Synced,
            ..PostgresOptions::default()
        })
        .await;
        let mut config = vec!["maxmemory-policy noeviction".to_owned()];
        if shape.redis_aof {
            config.extend(["appendonly yes", "appendfsync everysec"].map(str::to_owned));
        }
        let redis = Redis::start(RedisOptions { config, ..RedisOptions::default() }).await;
        let mut engines = Vec::new();
        for number in 1..=shape.engines {
            let mut command = Command::new(&program);
            command
                .args(["engine", "--insecure-no-auth", "--listen", "127.0.0.1:0"])
                .args(["--requests-per-second", "1000000"])
                .args(["--database", &postgres.url(DATABASE), "--redis", &redis.url()])
                .args(["--name", &format!("engine-{number}")])
                .args(&shape.engine_args)
                .env("NO_COLOR", "1");
            let engine = Program::start("engine", command);
            let (engine, address) =
                engine.until(|log| log.split_once(LISTENS)?.1.split_whitespace().next()?.parse().ok()).await;
            engines.push((engine, address));
        }
        let mut workers = Vec::new();
        let urls: Vec<String> = engines.iter().map(|(_, address)| format!("http://{address}")).collect();
        for number in 1..=shape.workers {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["worker", "--redis", &redis.url(), "--engine", &urls.join(",")])
                .args(["--name", &format!("worker-{number}")])
                .args(["--concurrency", &shape.concurrency.to_string()])
                .args(["--handler-ms", &shape.handler_ms.to_string()])
                .args(["--handler-types", &shape.handler_types.to_string()]);
            let (worker, ()) =
                Program::start("worker", command).until(|log| log.contains(WORKS).then_some(())).await;
            workers.push(worker);
        }
        let system = Self { engines, workers, postgres, redis, shape, tracker: TaskTracker::new() };
        Ok(system)
    }

    /// A connection to one of the engines, in turn by number.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub(crate) async fn client(&self, number: usize) -> Result<Client> {
        let (_, address) = &self.engines[number % self.engines.len()];
        Client::connect(*address, &self.tracker).await
    }

    /// Where the record is.
    pub(crate) fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// The queues.
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// The processes by what they are; the load is this one.
    pub(crate) fn pids(&self) -> BTreeMap<&'static str, Vec<u32>> {
        let mut postgres = usage::children_of(self.postgres.pid());
        postgres.push(self.postgres.pid());
        BTreeMap::from([
            ("engine", self.engines.iter().map(|(engine, _)| engine.pid()).collect()),
            ("worker", self.workers.iter().map(Program::pid).collect()),
            ("postgres", postgres),
            ("redis", vec![self.redis.pid()]),
            ("load", vec![std::process::id()]),
        ])
    }

    /// KiB of memory by what uses it.
    pub(crate) fn memory(&self) -> Value {
        let pids = self.pids();
        let of = |pids: &[u32]| pids.iter().filter_map(|pid| usage::memory_kib(*pid)).sum::<u64>();
        pids.iter().map(|(role, pids)| ((*role).to_owned(), json!(of(pids)))).collect()
    }

    /// How it was made up, for the report.
    pub(crate) fn described(&self) -> Value {
        let Shape { engines, workers, concurrency, handler_ms, handler_types, redis_aof, .. } = &self.shape;
        json!({
            "engines": engines,
            "workers": workers,
            "concurrency": concurrency,
            "handlerMs": handler_ms,
            "handlerTypes": handler_types,
            "redisAof": redis_aof,
        })
    }

    /// Ends everything; shows the logs if that was asked for.
    pub(crate) async fn stop(self) {
        let Self { engines, workers, shape, .. } = self;
        let engines = engines.into_iter().map(|(engine, _)| engine);
        for (role, program) in
            workers.into_iter().map(|one| ("worker", one)).chain(engines.map(|one| ("engine", one)))
        {
            if shape.logs {
                eprintln!("--- {role}\n{}", program.log());
            }
            program.stop().await;
        }
    }
}

/// The program to measure.
pub(crate) fn program(named: Option<PathBuf>) -> Result<PathBuf> {
    let program = match named {
        Some(program) => program,
        None => std::env::current_exe()?.parent().context("a program in a folder")?.join("flowmonkey"),
    };
    ensure!(
        program.is_file(),
        "{} is not there; build it with `cargo build --release -p flowmonkey`, or name another with --program",
        program.display()
    );
    Ok(program.canonicalize()?)
}
