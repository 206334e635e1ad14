//! An engine with its worker, its chores and its HTTP API in this process, over a data directory.

pub(crate) mod data_dir;
pub(crate) mod handlers;
pub(crate) mod rest;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_engine::api::{self, AccessOptions, ApiOptions, LiveOptions};
use flowmonkey_engine::chores::{self, reconciler, sweeper};
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::objects::Objects;
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::store::{self, SqliteOptions, SqliteStore};
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_handlers::HttpPolicy;
use flowmonkey_plumbing::clock::{SkippingClock, SystemClock};
use flowmonkey_plumbing::ids::{Entropy, SystemEntropy};
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};
use flowmonkey_worker::{Registry, Worker, WorkerConfig, WorkerHandle};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{CheckpointArgs, Durability};
use crate::errors::CliError;
use crate::listen::local_url;
use data_dir::DataDir;
use handlers::Known;
use rest::Next;

/// Time between heartbeats of embedded workers: they cost nothing here.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time without a heartbeat after which a lease ends.
const LEASE: Duration = Duration::from_secs(15);
const _: () = assert!(HEARTBEAT.as_millis() * 3 <= LEASE.as_millis());
/// Fewest tasks at a time when nothing is said.
const CONCURRENCY_MIN: usize = 8;
/// How long results that are on their way may take to be stored at the end.
const RESULTS_MAX: Duration = Duration::from_secs(10);
/// How long chores may take to end.
const CHORES_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether everything has come to rest.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What an embedded engine is to do.
pub(crate) struct Options {
    /// How much a power cut may lose.
    pub(crate) durability: Durability,
    /// Address of the HTTP API; port 0 chooses a free one.
    pub(crate) listen: SocketAddr,
    /// Begins resume URLs; none: the address that is listened on.
    pub(crate) public_url: Option<String>,
    /// Hosts that requests may name beside those of the loopback interface.
    pub(crate) allowed_hosts: Vec<String>,
    /// Which addresses webhooks may be at.
    pub(crate) webhook_policy: HttpPolicy,
    /// Whether anything is to move. False: the record is only looked at.
    pub(crate) moves: bool,
    /// The handlers of the worker; none: there is no worker.
    pub(crate) registry: Option<Registry>,
    /// Tasks at a time.
    pub(crate) concurrency: Option<u32>,
    /// Limits of checkpoints.
    pub(crate) checkpoints: CheckpointArgs,
    /// What becomes of tasks for which no handler is known.
    pub(crate) unknown_handler: UnknownHandler,
}

/// An engine in this process.
pub(crate) struct Embedded {
    pub(crate) engine: Arc<Engine>,
    /// The engine's clock.
    pub(crate) clock: Arc<SkippingClock>,
    /// Where this machine reaches the HTTP API.
    pub(crate) url: String,
    /// Where the HTTP API listens.
    pub(crate) address: SocketAddr,
    allowed_hosts: Vec<String>,
    /// Pools that the worker serves.
    served: BTreeSet<String>,
    worker: Option<WorkerHandle>,
    chores: TaskTracker,
    chores_end: CancellationToken,
    api: TaskTracker,
    api_end: CancellationToken,
    /// Until somebody serves on it.
    listener: Option<TcpListener>,
    committer: TaskTracker,
    store: Arc<SqliteStore>,
    dir: DataDir,
}

/// The address that chooses a free port on the loopback interface.
pub(crate) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Embedded {
    /// Opens the record of `dir` and goes on with what was unfinished in it. The address is taken; it answers from
    /// [`Self::serve`] on.
    ///
    /// # Errors
    /// When the record cannot be opened, or the address cannot be listened on.
    pub(crate) async fn open(dir: DataDir, options: Options) -> Result<Self, CliError> {
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(CliError::io(format!("cannot listen on {}", options.listen)))?;
        let address = listener.local_addr().map_err(CliError::io("cannot listen"))?;
        let url = local_url(address);
        let durability = match options.durability {
            Durability::Full => store::Durability::Full,
            Durability::Relaxed => store::Durability::Relaxed,
        };
        let sqlite = SqliteOptions { durability, ..SqliteOptions::default() };
        // The lock of the directory keeps others away.
        let store = Arc::new(SqliteStore::open(&data_dir::database(dir.path()), sqlite).await?.alone());
        let clock = Arc::new(SkippingClock::default());
        // Leases run on the wall clock, whatever the executions' time is.
        let queue = Arc::new(LocalQueue::new(Arc::new(SystemClock), LocalQueueLimits::default()));
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let known = Known::new(options.registry.clone(), options.unknown_handler);
        let deps = EngineDeps {
            store: store.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            handlers: Arc::new(known),
            announced: None,
        };
        let objects =
            if options.moves { Some(Objects::folder(&data_dir::objects(dir.path()))?) } else { None };
        let config = EngineConfig {
            heartbeat: HEARTBEAT,
            lease: LEASE,
            public_url: options.public_url.unwrap_or_else(|| format!("http://{address}")),
            unknown_handler: options.unknown_handler,
            objects,
            checkpoint_bytes_max: options.checkpoints.bytes,
            webhook_policy: options.webhook_policy,
            ..EngineConfig::default()
        };
        let committer = TaskTracker::new();
        let engine = Engine::open(deps, config, Some(&committer)).await?;
        let mut embedded = Self {
            engine,
            clock,
            url,
            address,
            allowed_hosts: options.allowed_hosts,
            served: BTreeSet::new(),
            worker: None,
            chores: TaskTracker::new(),
            chores_end: CancellationToken::new(),
            api: TaskTracker::new(),
            api_end: CancellationToken::new(),
            listener: Some(listener),
            committer,
            store,
            dir,
        };
        if options.moves {
            embedded.go_on().await?;
        }
        if let Some(registry) = options.registry {
            embedded.start_worker(registry, (options.concurrency, options.checkpoints), queue, &*entropy)?;
        }
        Ok(embedded)
    }

    /// Takes up what was unfinished, and runs the chores.
    async fn go_on(&self) -> Result<(), CliError> {
        // Nothing can be on its way yet: whatever is out is missing from the queue.
        reconciler::reconcile(&self.engine, reconciler::Patience::NONE).await?;
        sweeper::tick(&self.engine).await?;
        chores::spawn_all(&self.engine, &self.chores, &self.chores_end);
        Ok(())
    }

    fn start_worker(
        &mut self,
        registry: Registry,
        (concurrency, checkpoints): (Option<u32>, CheckpointArgs),
        queue: Arc<LocalQueue>,
        entropy: &dyn Entropy,
    ) -> Result<(), CliError> {
        self.served = registry.manifests().map(|manifest| manifest.handler_type.clone()).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = match concurrency {
            Some(given) => usize::try_from(given).unwrap_or(usize::MAX),
            None => (cores * 2).max(CONCURRENCY_MIN),
        };
        let heartbeat_ms = u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX);
        let name = format!("embedded-{}-{:08x}", std::process::id(), entropy.bits() >> 96);
        let config = WorkerConfig {
            concurrency,
            heartbeat_ms,
            checkpoint_wait_ms: checkpoints.wait_ms,
            ..WorkerConfig::new(name)
        };
        let plumbing = Arc::new(EnginePlumbing::new(self.engine.clone()));
        // The worker's clock only dates what it reports; limits and leases are measured on the wall clock.
        let worker = Worker::new(config, registry, queue, plumbing, self.clock.clone())
            .map_err(|error| CliError::Usage(error.to_string()))?;
        self.worker = Some(worker.start().map_err(CliError::io("cannot start the worker"))?);
        Ok(())
    }

    /// Serves the HTTP API and tells others where.
    ///
    /// # Errors
    /// When the address cannot be told.
    pub(crate) fn serve(&mut self) -> Result<(), CliError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let options = ApiOptions {
            shutdown: self.api_end.clone(),
            work: self.api.clone(),
            allowed_hosts: self.allowed_hosts.clone(),
            // Who may read the data directory may do everything anyway.
            access: AccessOptions::default(),
            live: LiveOptions::default(),
        };
        let router = api::router(self.engine.clone(), options);
        let end = self.api_end.clone();
        self.api.spawn(async move {
            if let Err(error) = api::serve(listener, router, end).await {
                tracing::error!(%error, "the HTTP API has ended");
            }
        });
        self.dir.tell_address(&self.url)
    }

    /// What moves the engine next.
    ///
    /// # Errors
    /// When record or queue fail.
    pub(crate) async fn next(&self) -> Result<Next, CliError> {
        Ok(rest::next(&self.engine, &self.served).await?)
    }

    /// As [`Self::next`], letting time pass at once where time alone moves something.
    ///
    /// # Errors
    /// When record or queue fail.
    pub(crate) async fn skip(&self) -> Result<Next, CliError> {
        Ok(rest::skip(&self.engine, &self.clock, &self.served).await?)
    }

    /// Waits until nothing moves by itself now.
    ///
    /// # Errors
    /// When record or queue fail.
    pub(crate) async fn settle(&self) -> Result<(), CliError> {
        while self.next().await? == Next::Now {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Ends everything in order: the worker hands in or gives back its tasks within `grace`, their results are stored, then
    /// the API, the chores and the record are closed.
    pub(crate) async fn close(self, grace: Duration) {
        self.api_end.cancel();
        if let Some(worker) = self.worker {
            let report = worker.drain(grace).await;
            tracing::debug!(?report, "the worker has ended");
            let engine = &self.engine;
            let stored = async {
                while engine
                    .queue()
                    .depths()
                    .await
                    .is_ok_and(|depths| depths.iter().any(|(_, depth)| depth.results > 0))
                {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            if timeout(RESULTS_MAX, stored).await.is_err() {
                tracing::warn!(
                    "not every result was stored in time; those steps run again at the next start"
                );
            }
        }
        self.chores_end.cancel();
        for tracker in [&self.chores, &self.api] {
            tracker.close();
            if timeout(CHORES_MAX, tracker.wait()).await.is_err() {
                tracing::warn!(left = tracker.len(), "not everything ended in time");
            }
        }
        drop(self.engine);
        self.committer.close();
        if timeout(CHORES_MAX, self.committer.wait()).await.is_err() {
            tracing::debug!("the engine is still held by somebody");
        }
        self.store.close().await;
        drop(self.dir);
    }
}
