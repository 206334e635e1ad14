//! A whole system on this machine: Postgres, Redis, engines and workers, each a process that can be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flowmonkey_test_support::{PgBouncer, Postgres, PostgresOptions, Redis, RedisOptions, TestDatabase};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time between heartbeats of the tests' workers.
pub(crate) const HEARTBEAT_MS: u64 = 200;
/// The lease of the tests' tasks.
pub(crate) const LEASE_MS: u64 = 2_000;

/// Looks again and again until `look` finds something.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "gave up waiting until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a system is made of.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Engines at first.
    pub(crate) engines: usize,
    /// Workers at first.
    pub(crate) workers: usize,
    /// A Postgres of its own, that can be killed; else a database of one that all tests share.
    pub(crate) own_postgres: bool,
    /// How a Postgres of its own is set up.
    pub(crate) postgres: PostgresOptions,
    /// The way to a database of the shared Postgres, if not a straight one.
    pub(crate) pooler: Option<PgBouncer>,
    /// The Redis.
    pub(crate) redis: RedisOptions,
    /// Instead: a Redis that is there already.
    pub(crate) redis_of_others: Option<Redis>,
    /// Tasks that a worker runs at a time.
    pub(crate) concurrency: usize,
    /// Further arguments of engines.
    pub(crate) engine_args: Vec<String>,
    /// Further arguments of workers.
    pub(crate) worker_args: Vec<String>,
    /// Where processes find each other, if not directly.
    pub(crate) routes: Routes,
}

/// Addresses in place of the true ones, as of networks in which things go wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// The record, for engines.
    pub(crate) database: Option<String>,
    /// The queues, for engines.
    pub(crate) engines_redis: Option<String>,
    /// The queues, for workers.
    pub(crate) workers_redis: Option<String>,
    /// The engines, for workers.
    pub(crate) engines: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engines: 2,
            workers: 2,
            own_postgres: false,
            postgres: PostgresOptions::default(),
            pooler: None,
            redis: RedisOptions::default(),
            redis_of_others: None,
            concurrency: 8,
            engine_args: Vec::new(),
            worker_args: Vec::new(),
            routes: Routes::default(),
        }
    }
}

/// A process of ours.
pub(crate) struct Process {
    /// Names it in logs.
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
    /// Of engines: where the HTTP API is.
    pub(crate) url: Option<String>,
}

impl Process {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As kill -9.
    pub(crate) fn kill(&mut self) {
        // It may have died by itself.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        let name = self.name.clone();
        let status = wait_for(&format!("{name} has ended"), async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.log());
    }

    /// SIGSTOP: it lives and does nothing.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success(), "{} is gone: {}", self.name, self.log());
    }

    /// Whether it has died, though nobody has asked for its status.
    pub(crate) fn has_died(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The state follows the name in brackets: proc(5).
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("--- the end of the log of {}\n{}", self.name, &log[from..]);
        }
    }
}

/// The database of a system.
enum Database {
    Shared(TestDatabase),
    Own(Postgres, String),
}

/// A whole system.
pub(crate) struct System {
    pub(crate) redis: Redis,
    database: Database,
    pub(crate) engines: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) options: Options,
    client: Client,
    made: usize,
}

impl System {
    /// Starts it; engines answer and workers claim when this returns.
    pub(crate) async fn start(options: Options) -> Self {
        flowmonkey_handlers::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/handlers");
        let handler = |handler_type| {
            json!({
                "type": handler_type, "version": "1.0.0", "command": ["python3", sources.join("work.py")], "reuse": true,
                "env": { "WORK_LOG": folder.path().join("work.log") },
            })
        };
        // The second is the same in a pool of its own.
        let manifest = json!({ "handlers": [handler("work"), handler("toil")] });
        fs::write(folder.path().join("handlers.json"), manifest.to_string()).unwrap();
        let redis = async {
            match &options.redis_of_others {
                Some(redis) => redis.clone(),
                None => Redis::start(options.redis.clone()).await,
            }
        };
        let (redis, database) = tokio::join!(redis, async {
            if options.own_postgres {
                let postgres = Postgres::start(options.postgres.clone()).await;
                let url = postgres.url("postgres");
                Database::Own(postgres, url)
            } else {
                Database::Shared(Postgres::shared().await.database().await)
            }
        });
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        let mut system = Self {
            redis,
            database,
            engines: Vec::new(),
            workers: Vec::new(),
            folder,
            options: options.clone(),
            client,
            made: 0,
        };
        for _ in 0..options.engines {
            system.add_engine(&[]).await;
        }
        for _ in 0..options.workers {
            system.add_worker(&[]).await;
        }
        system
    }

    /// The Postgres of this system alone.
    pub(crate) fn postgres(&self) -> &Postgres {
        match &self.database {
            Database::Own(postgres, _) => postgres,
            Database::Shared(_) => panic!("this system shares its Postgres"),
        }
    }

    /// Where the record is.
    pub(crate) fn database_url(&self) -> String {
        match (&self.database, &self.options.pooler) {
            (Database::Own(_, url), _) => url.clone(),
            (Database::Shared(database), Some(pooler)) => pooler.url(database.name()),
            (Database::Shared(database), None) => database.url(),
        }
    }

    /// Ends all connections to the record, as a failover does.
    pub(crate) async fn terminate_backends(&self) {
        match &self.database {
            Database::Own(postgres, _) => postgres.terminate_backends("postgres").await,
            Database::Shared(database) => database.terminate_backends().await,
        }
    }

    fn spawn(&mut self, kind: &str, configure: impl FnOnce(&mut Command)) -> Process {
        self.made += 1;
        let name = format!("{kind}-{}", self.made);
        let log = self.folder.path().join(format!("{name}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowmonkey"));
        command
            .arg(kind)
            .current_dir(self.folder.path())
            .env_remove("FLOWMONKEY_CRASH_AT")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        configure(&mut command);
        let child = command.spawn().unwrap();
        Process { name, child, log, url: None }
    }

    /// Starts an engine with these variables of the environment, without waiting for it.
    pub(crate) fn spawn_engine(&mut self, variables: &[(&str, &str)]) -> Process {
        self.spawn_engine_at("127.0.0.1:0", variables)
    }

    /// As `spawn_engine`, at an address.
    fn spawn_engine_at(&mut self, listen: &str, variables: &[(&str, &str)]) -> Process {
        let Routes { database, engines_redis, .. } = self.options.routes.clone();
        let database = database.unwrap_or_else(|| self.database_url());
        let redis = engines_redis.unwrap_or_else(|| self.redis.url());
        let arguments = self.options.engine_args.clone();
        self.spawn("engine", |command| {
            command
                .args(["--database", &database, "--redis", &redis, "--insecure-no-auth"])
                .args(["--heartbeat-ms", &HEARTBEAT_MS.to_string(), "--lease-ms", &LEASE_MS.to_string()])
                .args(arguments)
                .env("FLOWMONKEY_LISTEN", listen)
                .envs(variables.iter().copied());
        })
    }

    /// Adds an engine, once it answers.
    pub(crate) async fn add_engine(&mut self, variables: &[(&str, &str)]) {
        let mut engine = self.spawn_engine(variables);
        let url = wait_for("an engine tells its address", async || {
            let log = engine.log();
            assert!(!engine.has_ended(), "the engine has ended: {log}");
            let (_, rest) = log.split_once("listens on ")?;
            rest.split_whitespace().next().map(str::to_owned)
        })
        .await;
        engine.url = Some(url);
        self.engines.push(engine);
    }

    /// Starts an engine in the place of one that has ended, at its address, as behind the name of a service; once it answers.
    pub(crate) async fn replace_engine(&mut self, old: &Process) {
        let url = old.url.clone().unwrap();
        let listen = url.trim_start_matches("http://").to_owned();
        let mut engine = self.spawn_engine_at(&listen, &[]);
        loop {
            let told = wait_for("an engine tells its address or ends", async || {
                let log = engine.log();
                if log.contains("listens on ") { Some(true) } else { engine.has_ended().then_some(false) }
            })
            .await;
            if told {
                break;
            }
            // Some connection has the port for a while.
            assert!(engine.log().contains("cannot listen"), "the engine has ended: {}", engine.log());
            engine = self.spawn_engine_at(&listen, &[]);
        }
        engine.url = Some(url);
        self.engines.push(engine);
    }

    /// Adds a worker for all engines that there are.
    pub(crate) async fn add_worker(&mut self, variables: &[(&str, &str)]) {
        self.add_worker_for("work,transform", variables).await;
    }

    /// As `add_worker`, for these handler types.
    pub(crate) async fn add_worker_for(&mut self, handlers: &str, variables: &[(&str, &str)]) {
        let Routes { workers_redis, engines, .. } = self.options.routes.clone();
        let redis = workers_redis.unwrap_or_else(|| self.redis.url());
        let direct =
            || -> Vec<String> { self.engines.iter().filter_map(|engine| engine.url.clone()).collect() };
        let engines = engines.unwrap_or_else(|| direct().join(","));
        let arguments = self.options.worker_args.clone();
        let folder = self.folder.path().to_path_buf();
        let concurrency = self.options.concurrency.to_string();
        let mut worker = self.spawn("worker", |command| {
            command
                .args(["--redis", &redis, "--heartbeat-ms", &HEARTBEAT_MS.to_string()])
                .args(["--engine", &engines, "--handler", handlers])
                .args(["--concurrency", &concurrency, "--spill-dir"])
                .arg(folder.join("spill"))
                .arg("--handlers")
                .arg(folder.join("handlers.json"))
                .args(arguments)
                .envs(variables.iter().copied());
        });
        wait_for("a worker works", async || {
            let log = worker.log();
            assert!(!worker.has_ended(), "the worker has ended: {log}");
            log.contains("handlers  ").then_some(())
        })
        .await;
        self.workers.push(worker);
    }

    /// A request to any engine that answers.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        wait_for("an engine answers", async || {
            for engine in &self.engines {
                let Some(url) = &engine.url else { continue };
                let mut request = self.client.request(method.clone(), format!("{url}{path}"));
                if let Some(body) = body {
                    request = request.json(body);
                }
                let Ok(response) = request.send().await else { continue };
                let status = response.status().as_u16();
                // What is not there now comes back.
                if status == 503 || status == 429 {
                    continue;
                }
                return Some((status, response.json().await.unwrap_or(Value::Null)));
            }
            None
        })
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Publishes a flow written in YAML.
    pub(crate) async fn publish(&self, flow: &str) {
        let document =
            flowmonkey_core::flow::parse::parse_document(flow, flowmonkey_core::flow::parse::Format::Yaml)
                .unwrap();
        for flow in &document.flows {
            let (status, answer) = self.call(Method::POST, "/v1/flows", Some(&flow.source)).await;
            assert!(status == 201 || status == 200, "{answer}");
        }
    }

    /// Starts an execution under a key, so that a start whose answer was lost can be repeated; its id.
    pub(crate) async fn begin(&self, flow: &str, input: Value, key: &str) -> String {
        let body = json!({ "flowId": flow, "input": input, "idempotencyKey": key });
        let (status, answer) = self.call(Method::POST, "/v1/executions", Some(&body)).await;
        assert!(status == 202 || status == 200, "{status} {answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of an execution; its record.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        wait_for(&format!("{id} has ended"), async || {
            let record = self.get(&format!("/v1/executions/{id}")).await;
            ["completed", "failed", "cancelled"].contains(&record["status"].as_str()?).then_some(record)
        })
        .await
    }
}
