//! A whole system on this machine: a Postgres that flushes, a Redis, engines and workers, each a process.

pub(crate) mod usage;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flowmonkey_test_support::{Durability, Postgres, PostgresOptions, Program, Redis, RedisOptions};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::client::Client;

/// The database that the engines use.
pub(crate) const DATABASE: &str = "postgres";
/// What the engine says when it is ready.
const LISTENS: &str = "listens on http://";
/// What it says when somebody else has its port.
const CANNOT_LISTEN: &str = "cannot listen";
/// Times that a port is asked for.
const LISTENS_MAX: u32 = 100;
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
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
    program: PathBuf,
    engines: Vec<(Program, SocketAddr)>,
    workers: Vec<Program>,
    /// Engines and workers so far: names are not used again.
    made: u32,
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
        let postgres = postgres(&shape.postgres).await;
        let mut config = vec!["maxmemory-policy noeviction".to_owned()];
        if shape.redis_aof {
            config.extend(["appendonly yes", "appendfsync everysec"].map(str::to_owned));
        }
        let redis = Redis::start(RedisOptions { config, ..RedisOptions::default() }).await;
        let mut system = Self {
            program,
            engines: Vec::new(),
            workers: Vec::new(),
            made: 0,
            postgres,
            redis,
            shape,
            tracker: TaskTracker::new(),
        };
        for _ in 0..system.shape.engines {
            let engine = system.spawn_engine(ANY_PORT).await?;
            system.engines.push(engine);
        }
        for _ in 0..system.shape.workers {
            let worker = system.spawn_worker().await?;
            system.workers.push(worker);
        }
        Ok(system)
    }

    /// Starts an engine there; returns when it listens.
    async fn spawn_engine(&mut self, listen: SocketAddr) -> Result<(Program, SocketAddr)> {
        for _ in 0..LISTENS_MAX {
            self.made += 1;
            let mut command = Command::new(&self.program);
            command
                .args(["engine", "--insecure-no-auth", "--listen", &listen.to_string()])
                .args(["--requests-per-second", "1000000"])
                .args(["--database", &self.postgres.url(DATABASE), "--redis", &self.redis.url()])
                .args(["--name", &format!("engine-{}", self.made)])
                .args(&self.shape.engine_args)
                .env("NO_COLOR", "1");
            let engine = Program::start("engine", command);
            let (engine, address) = engine
                .until(|log| {
                    listens_at(log).map(Some).or_else(|| log.contains(CANNOT_LISTEN).then_some(None))
                })
                .await;
            if let Some(address) = address {
                return Ok((engine, address));
            }
            // Some connection has the port for a while.
            kill(engine).await?;
        }
        bail!("no engine could listen on {listen}")
    }

    /// Starts a worker for all engines that there are; returns when it works.
    async fn spawn_worker(&mut self) -> Result<Program> {
        self.made += 1;
        let urls: Vec<String> = self.engines.iter().map(|(_, address)| format!("http://{address}")).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", "--redis", &self.redis.url(), "--engine", &urls.join(",")])
            .args(["--name", &format!("worker-{}", self.made)])
            .args(["--concurrency", &self.shape.concurrency.to_string()])
            .args(["--handler-ms", &self.shape.handler_ms.to_string()])
            .args(["--handler-types", &self.shape.handler_types.to_string()]);
        let worker = Program::start("worker", command);
        let (worker, ()) = worker.until(|log| log.contains(WORKS).then_some(())).await;
        Ok(worker)
    }

    /// Kills the first engine; another one takes its place and address. Returns when that listens.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn replace_engine(&mut self) -> Result<()> {
        let (engine, address) = self.engines.remove(0);
        kill(engine).await?;
        let engine = self.spawn_engine(address).await?;
        self.engines.insert(0, engine);
        Ok(())
    }

    /// Kills the first worker; another one takes its place. Returns when that works.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn replace_worker(&mut self) -> Result<()> {
        kill(self.workers.remove(0)).await?;
        let worker = self.spawn_worker().await?;
        self.workers.insert(0, worker);
        Ok(())
    }

    /// Where the engines listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.engines.iter().map(|(_, address)| *address).collect()
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

    /// The server of the record.
    pub(crate) fn postgres(&self) -> &Postgres {
        &self.postgres
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

/// Starts `flowmonkey dev` in an empty folder; returns when it listens. `named` as [`Shape::program`].
///
/// # Errors
/// When there is no such program.
pub(crate) async fn dev(named: Option<PathBuf>) -> Result<(Program, SocketAddr)> {
    let mut command = Command::new(program(named)?);
    command.args(["dev", "--data-dir", "data", "--listen", &ANY_PORT.to_string()]).env("NO_COLOR", "1");
    Ok(Program::start("dev", command).until(listens_at).await)
}

/// Where an engine listens, once its log says so.
fn listens_at(log: &str) -> Option<SocketAddr> {
    log.split_once(LISTENS)?.1.split_whitespace().next()?.parse().ok()
}

/// As kill -9.
async fn kill(program: Program) -> Result<()> {
    Ok(tokio::task::spawn_blocking(move || drop(program)).await?)
}

/// A Postgres as it is measured: it flushes, and `further` settings are added to ours.
pub(crate) async fn postgres(further: &[String]) -> Postgres {
    let mut settings: Vec<String> = ["shared_buffers=1GB", "max_wal_size=4GB"].map(str::to_owned).to_vec();
    settings.extend(further.iter().cloned());
    let durability = Durability::Synced;
    Postgres::start(PostgresOptions { settings, durability, ..PostgresOptions::default() }).await
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
