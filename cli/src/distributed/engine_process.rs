//! An engine as a process: over a shared record and shared queues, with its chores and its HTTP API, and workers of its own
//! for what is to run in process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::limits::Limits;
use flowmonkey_engine::api::{self, AccessOptions, ApiOptions, LiveOptions};
use flowmonkey_engine::chores;
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::objects::Objects;
use flowmonkey_engine::oidc::OidcOptions;
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::store::PostgresStore;
use flowmonkey_engine::talk::spread;
use flowmonkey_engine::{AnnouncedHandlers, EMBEDDED_POOLS, Engine, EngineConfig, EngineDeps, InProcess};
use flowmonkey_plumbing::broadcast::Broadcast;
use flowmonkey_plumbing::clock::{OffsetClock, SystemClock};
use flowmonkey_plumbing::ids::{Entropy, SystemEntropy};
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::queue::redis::RedisQueue;
use flowmonkey_worker::{Registry, Worker, WorkerConfig, WorkerHandle};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect;
use crate::args::{AccessArgs, EngineArgs};
use crate::embedded::handlers;
use crate::errors::CliError;

/// How often the database's clock is compared with this machine's.
const CLOCK_EVERY: Duration = Duration::from_secs(30);
/// How long chores may take to end.
const CHORES_MAX: Duration = Duration::from_secs(10);
/// Collectors, and commits that are written at the same time: the record is another machine, and waiting for it is most
/// of a commit.
const IN_FLIGHT: usize = 4;

/// A running engine.
pub(crate) struct EngineProcess {
    pub(crate) engine: Arc<Engine>,
    /// Where the HTTP API listens.
    pub(crate) address: SocketAddr,
    /// Handler types that run in process at times.
    pub(crate) in_process: Vec<String>,
    store: PostgresStore,
    queue: Arc<RedisQueue>,
    worker: Option<WorkerHandle>,
    chores: TaskTracker,
    chores_end: CancellationToken,
    api: TaskTracker,
    api_end: CancellationToken,
    committer: TaskTracker,
}

impl EngineProcess {
    /// Connects, checks, and goes to work. The HTTP API answers when this returns.
    ///
    /// # Errors
    /// When record or queues cannot be reached or are not fit, or the address cannot be listened on.
    pub(crate) async fn start(args: &EngineArgs) -> Result<Self, CliError> {
        let (in_process, registry) = in_process(args)?;
        let access = access(args)?;
        let listener = TcpListener::bind(args.api.listen)
            .await
            .map_err(CliError::io(format!("cannot listen on {}", args.api.listen)))?;
        let address = listener.local_addr().map_err(CliError::io("cannot listen"))?;
        let url = args.api.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
        let store = connect::database(&args.database).await?;
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let engine_id = match &args.name {
            Some(name) => name.clone(),
            None => format!("engine-{}-{:08x}", std::process::id(), entropy.bits() >> 96),
        };
        let queue = Arc::new(connect::redis(&args.redis, Some(&engine_id)).await?);
        connect::check_redis(&queue).await?;
        let clock = Arc::new(OffsetClock::default());
        clock.set_offset(store.clock_offset(&SystemClock).await?);
        let unknown_handler = UnknownHandler::Wait;
        let announced = Arc::new(AnnouncedHandlers::new(unknown_handler, in_process.clone()));
        // Before the first start: what is to fall back must not go to a queue that nobody serves.
        announced.learn(&queue.workers().await?);
        let deps = EngineDeps {
            store: Arc::new(store.clone()),
            queue: queue.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            handlers: announced.clone(),
            announced: Some(announced),
        };
        let mut config = config(args, engine_id, &url, unknown_handler)?;
        config.objects = args.object_store.as_deref().map(Objects::open).transpose()?;
        let heartbeat = config.heartbeat;
        let committer = TaskTracker::new();
        let engine = Engine::open(deps, config, Some(&committer)).await?;
        let mut process = Self {
            engine,
            address,
            in_process: registry.manifests().map(|manifest| manifest.handler_type.clone()).collect(),
            store,
            queue,
            worker: None,
            chores: TaskTracker::new(),
            chores_end: CancellationToken::new(),
            api: TaskTracker::new(),
            api_end: CancellationToken::new(),
            committer,
        };
        let broadcast: Arc<dyn Broadcast> = Arc::new(process.queue.broadcast());
        spread::join(&process.engine, &broadcast, &process.chores, &process.chores_end);
        chores::spawn_all(&process.engine, &process.chores, &process.chores_end);
        process.keep_clock(clock);
        if !process.in_process.is_empty() {
            process.start_worker(registry, args, heartbeat, &*entropy)?;
        }
        process.serve(listener, args, access);
        Ok(process)
    }

    /// Follows the database's clock, so that the clocks of engines may differ.
    fn keep_clock(&self, clock: Arc<OffsetClock>) {
        let (store, end) = (self.store.clone(), self.chores_end.clone());
        self.chores.spawn(async move {
            loop {
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(CLOCK_EVERY) => {}
                }
                match store.clock_offset(&SystemClock).await {
                    Ok(offset) => clock.set_offset(offset),
                    Err(error) => tracing::debug!(%error, "the database's clock was not read"),
                }
            }
        });
    }

    fn start_worker(
        &mut self,
        registry: Registry,
        args: &EngineArgs,
        heartbeat: Duration,
        entropy: &dyn Entropy,
    ) -> Result<(), CliError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = args.handlers.concurrency.map_or(cores * 2, |given| given as usize);
        let name = format!("{}-worker-{:08x}", self.engine.config().engine_id, entropy.bits() >> 96);
        let config = WorkerConfig {
            concurrency,
            drain_grace_ms: args.grace_ms,
            heartbeat_ms: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
            pool_prefix: EMBEDDED_POOLS.into(),
            checkpoint_wait_ms: args.checkpoints.wait_ms,
            ..WorkerConfig::new(name)
        };
        let plumbing = Arc::new(EnginePlumbing::new(self.engine.clone()));
        let worker = Worker::new(config, registry, self.queue.clone(), plumbing, Arc::new(SystemClock))
            .map_err(|error| CliError::Usage(error.to_string()))?;
        self.worker = Some(worker.start().map_err(CliError::io("cannot start the worker"))?);
        Ok(())
    }

    fn serve(&self, listener: TcpListener, args: &EngineArgs, access: AccessOptions) {
        let options = ApiOptions {
            shutdown: self.api_end.clone(),
            work: self.api.clone(),
            allowed_hosts: args.api.hosts(),
            access,
            live: LiveOptions::default(),
        };
        let router = api::router(self.engine.clone(), options);
        let end = self.api_end.clone();
        self.api.spawn(async move {
            if let Err(error) = api::serve(listener, router, end).await {
                tracing::error!(%error, "the HTTP API has ended");
            }
        });
    }

    /// Ends in order: open requests are answered, tasks that run here are handed in or given back within `grace`, results
    /// that were taken are stored, everything is closed. Other engines go on with the rest.
    pub(crate) async fn close(self, grace: Duration) {
        self.api_end.cancel();
        if let Some(worker) = self.worker {
            let report = worker.drain(grace).await;
            tracing::debug!(?report, "the worker has ended");
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
        self.queue.close(CHORES_MAX).await;
        self.store.close().await;
    }
}

fn config(
    args: &EngineArgs,
    engine_id: String,
    url: &str,
    unknown_handler: UnknownHandler,
) -> Result<EngineConfig, CliError> {
    let inline_context_bytes = usize::try_from(args.context_inline_bytes).unwrap_or(usize::MAX);
    Ok(EngineConfig {
        engine_id,
        limits: Limits { inline_context_bytes, ..Limits::default() },
        heartbeat: Duration::from_millis(args.heartbeat_ms),
        lease: Duration::from_millis(args.lease_ms),
        public_url: url.to_owned(),
        unknown_handler,
        require_result_mac: true,
        shares_record: true,
        collectors: IN_FLIGHT,
        commits_in_flight: IN_FLIGHT,
        checkpoint_bytes_max: args.checkpoints.bytes,
        webhook_policy: handlers::webhook_policy(&args.api.webhook_allow)?,
        ..EngineConfig::default()
    })
}

/// Whom the HTTP API answers.
fn access(args: &EngineArgs) -> Result<AccessOptions, CliError> {
    let AccessArgs { oidc_issuer, oidc_audience, oidc_scopes_claim, oidc_tenant_claim, requests_per_second } =
        &args.access;
    let oidc = match (oidc_issuer, oidc_audience) {
        (Some(issuer), Some(audience)) => {
            let (scopes, tenant) = (oidc_scopes_claim.clone(), oidc_tenant_claim.clone());
            let options = OidcOptions::new(issuer, audience, scopes, tenant);
            Some(options.map_err(|error| CliError::Usage(error.to_string()))?)
        }
        (_, _) => None,
    };
    if oidc.is_some() && args.api.insecure_no_auth {
        return Err(CliError::Usage("--oidc-issuer is of no use with --insecure-no-auth".into()));
    }
    Ok(AccessOptions {
        required: !args.api.insecure_no_auth,
        oidc,
        requests_per_second: Some(*requests_per_second),
    })
}

/// What runs in process, and the handlers for it.
fn in_process(args: &EngineArgs) -> Result<(InProcess, Registry), CliError> {
    let mut to_queue_percent = BTreeMap::new();
    for word in &args.queue_percent {
        let wanted = || CliError::Usage(format!("--queue-percent {word}: give HANDLER=PERCENT, 0 to 100"));
        let (handler, percent) = word.split_once('=').ok_or_else(wanted)?;
        let percent: u8 = percent.parse().ok().filter(|percent| *percent <= 100).ok_or_else(wanted)?;
        to_queue_percent.insert(handler.to_owned(), percent);
    }
    let fall_back: BTreeSet<String> = args.fall_back.iter().cloned().collect();
    let wanted: BTreeSet<&String> = to_queue_percent.keys().chain(&fall_back).collect();
    let mut registry = handlers::registry(&args.handlers)?;
    for handler in &wanted {
        if registry.get(handler).is_none() {
            return Err(CliError::Usage(format!(
                "`{handler}` cannot run in process: there is no such handler here; name its manifest by --handlers"
            )));
        }
    }
    registry.retain(|handler_type| wanted.iter().any(|wanted| *wanted == handler_type));
    Ok((InProcess { to_queue_percent, fall_back }, registry))
}
