//! An embedded engine with one no-op handler, in a temporary folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use flowmonkey_core::execution::{Execution, Handlers};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Format, parse_document};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::limits::{ContextLimits, Limits};
use flowmonkey_engine::api::{ApiOptions, router, serve};
use flowmonkey_engine::chores::{self, reconciler};
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::store::{Durability, SqliteOptions, SqliteStore};
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::Plumbing;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};
use flowmonkey_worker::{Completion, Failure, Handler, Registry, Task, Worker, WorkerConfig, WorkerHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::flows::handler_type;

/// A running embedded engine.
pub(crate) struct Embedded {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    worker: WorkerHandle,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// Over HTTP: what the worker calls.
    client: Option<Arc<HttpPlumbing>>,
}

/// How an engine and its worker are set up.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// How the record is flushed.
    pub(crate) durability: Durability,
    /// Tasks that the worker runs at a time.
    pub(crate) concurrency: usize,
    /// How the worker reaches the plumbing APIs.
    pub(crate) way: Way,
    /// Between heartbeats of jobs; none: the default.
    pub(crate) job_heartbeat: Option<Duration>,
}

/// How the worker reaches the plumbing APIs.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// By calls.
    InProcess,
    /// By requests over the loopback interface.
    Http,
}

struct Noop(Manifest);

#[async_trait]
impl Handler for Noop {
    fn manifest(&self) -> &Manifest {
        &self.0
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        Ok(Completion::Success(Some(task.input().clone())))
    }
}

/// Every handler type may be meant.
pub(crate) struct AllKnown;

impl Handlers for AllKnown {
    fn accepts(&self, _handler_type: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _handler_type: &str) -> Option<u64> {
        None
    }
}

impl Embedded {
    /// Opens the folder and starts everything. Unfinished executions go on.
    ///
    /// # Errors
    /// When the record cannot be opened.
    pub(crate) async fn open(folder: &Path, durability: Durability, concurrency: usize) -> Result<Self> {
        let manifest =
            Manifest { handler_type: handler_type(0), version: "1.0.0".into(), ..Manifest::default() };
        let options = Options { durability, concurrency, way: Way::InProcess, job_heartbeat: None };
        Self::open_with(folder, options, Arc::new(Noop(manifest))).await
    }

    /// As [`Self::open`], with other settings and another handler.
    ///
    /// # Errors
    /// When the record cannot be opened.
    pub(crate) async fn open_with(
        folder: &Path,
        Options { durability, concurrency, way, job_heartbeat }: Options,
        handler: Arc<dyn Handler>,
    ) -> Result<Self> {
        let options = SqliteOptions { durability, ..SqliteOptions::default() };
        // As the command does it under the lock of its data directory.
        let store = SqliteStore::open(&folder.join("flowmonkey.db"), options).await?.alone();
        let clock = Arc::new(SystemClock);
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        let tracker = TaskTracker::new();
        let deps = EngineDeps {
            store: Arc::new(store),
            queue: queue.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllKnown),
            announced: None,
        };
        let wide =
            ContextLimits { max_value_size: 64 << 20, max_total_size: 128 << 20, ..ContextLimits::default() };
        let config = EngineConfig {
            unknown_handler: UnknownHandler::Fail,
            limits: Limits { context: wide, inline_results_bytes: 16 << 20, ..Limits::default() },
            ..EngineConfig::default()
        };
        let engine = Engine::open(deps, config, Some(&tracker)).await?;
        let shutdown = CancellationToken::new();
        reconciler::reconcile(&engine, reconciler::Patience::NONE).await?;
        chores::spawn_all(&engine, &tracker, &shutdown);
        let mut registry = Registry::new();
        registry.register(handler)?;
        let mut config = WorkerConfig { concurrency, ..WorkerConfig::new("loadtest") };
        if let Some(every) = job_heartbeat {
            config.job_heartbeat_ms = u64::try_from(every.as_millis())?;
        }
        let client = match way {
            Way::InProcess => None,
            Way::Http => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let url = format!("http://{}", listener.local_addr()?);
                let router = router(engine.clone(), ApiOptions::default());
                tracker.spawn(serve(listener, router, shutdown.clone()));
                Some(Arc::new(HttpPlumbing::new(HttpPlumbingConfig::new([url]))?))
            }
        };
        let plumbing: Arc<dyn Plumbing> = match &client {
            Some(client) => client.clone(),
            None => Arc::new(EnginePlumbing::new(engine.clone())),
        };
        let worker = Worker::new(config, registry, queue, plumbing, clock)?.start()?;
        Ok(Self { engine, worker, tracker, shutdown, client })
    }

    /// Waits for the end of an execution.
    ///
    /// # Errors
    /// When the record fails.
    pub(crate) async fn end_of(&self, id: ExecutionId) -> Result<Arc<Execution>> {
        let end = self.engine.watchers.end_of(id);
        let now = self.engine.execution(id).await?;
        if now.is_terminal() { Ok(Arc::new(now)) } else { end.await.context("the engine stopped") }
    }

    /// Stops everything in order.
    pub(crate) async fn close(self) {
        self.worker.drain(Duration::from_secs(5)).await;
        if let Some(client) = &self.client {
            client.close(Duration::from_secs(5)).await;
        }
        self.shutdown.cancel();
        self.tracker.close();
        let Self { engine, tracker, .. } = self;
        drop(engine);
        tracker.wait().await;
    }
}

/// Parses one flow.
///
/// # Errors
/// Names the first problem.
pub(crate) fn flow(text: &str) -> Result<Arc<Flow>> {
    let document = parse_document(text, Format::Yaml)
        .map_err(|issues| anyhow!("{}", issues.first().map_or_else(String::new, ToString::to_string)))?;
    document.flows.into_iter().next().context("a document without a flow")
}
