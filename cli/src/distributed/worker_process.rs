//! A worker as a process: it needs the queues and an engine's URL, and never the record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{PlumbingError, TaskAccess};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig, ResultSent};
use flowmonkey_plumbing::ids::{Entropy, SystemEntropy};
use flowmonkey_plumbing::queue::redis::RedisQueue;
use flowmonkey_worker::config::CONCURRENCY;
use flowmonkey_worker::{
    DrainReport, Registry, ResultRoute, RouteError, Routed, UnsentResult, Worker, WorkerConfig, WorkerHandle,
};

use super::connect;
use crate::args::WorkerArgs;
use crate::embedded::handlers;
use crate::errors::CliError;

/// How long exchanges with queue and engines may take to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The way past the queue: an engine's HTTP API.
struct EngineRoute(Arc<HttpPlumbing>);

#[async_trait]
impl ResultRoute for EngineRoute {
    async fn send(&self, unsent: &UnsentResult) -> Result<Routed, RouteError> {
        let access = TaskAccess { delivery: unsent.result.delivery(), token: unsent.result.token.clone() };
        match self.0.send_result(&access, &unsent.result).await {
            Ok(ResultSent::Applied) => Ok(Routed::Applied),
            Ok(ResultSent::Refused) | Err(PlumbingError::Stale { .. }) => Ok(Routed::Stale),
            Err(PlumbingError::Unavailable(error)) => Err(RouteError::Unavailable(error)),
            Err(error @ (PlumbingError::TooLarge { .. } | PlumbingError::Refused { .. })) => {
                Err(RouteError::NotAllowed { reason: error.to_string() })
            }
        }
    }
}

/// A running worker.
pub(crate) struct WorkerProcess {
    /// Its name among workers.
    pub(crate) name: String,
    /// Handler types that it runs.
    pub(crate) handler_types: Vec<String>,
    handle: WorkerHandle,
    queue: Arc<RedisQueue>,
    plumbing: Arc<HttpPlumbing>,
}

impl WorkerProcess {
    /// Connects, and goes to work.
    ///
    /// # Errors
    /// When the queues cannot be reached, or a handler is not known.
    pub(crate) async fn start(args: &WorkerArgs) -> Result<Self, CliError> {
        let registry = registry(args)?;
        let handler_types: Vec<String> =
            registry.manifests().map(|manifest| manifest.handler_type.clone()).collect();
        let plumbing = HttpPlumbing::new(HttpPlumbingConfig {
            checkpoint_bytes_max: args.checkpoints.bytes,
            ..HttpPlumbingConfig::new(&args.engines)
        });
        let plumbing = Arc::new(plumbing.map_err(|error| CliError::Usage(error.to_string()))?);
        let queue = Arc::new(connect::redis(&args.redis, None).await?);
        let entropy = SystemEntropy::new();
        // Never the name of a process before it: leases are owned by instances.
        let host = args.name.clone().unwrap_or_else(|| "worker".into());
        let name = format!("{host}-{}-{:08x}", std::process::id(), entropy.bits() >> 96);
        let config = WorkerConfig {
            concurrency: args.handlers.concurrency.map_or(CONCURRENCY, |given| given as usize),
            heartbeat_ms: args.heartbeat_ms,
            drain_grace_ms: args.grace_ms,
            spill_dir: args.spill_dir.clone(),
            checkpoint_wait_ms: args.checkpoints.wait_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pool_prefix: args.region.as_ref().map_or_else(String::new, |region| format!("{region}/")),
            ..WorkerConfig::new(name.clone())
        };
        let worker = Worker::new(config, registry, queue.clone(), plumbing.clone(), Arc::new(SystemClock))
            .map_err(|error| CliError::Usage(error.to_string()))?
            .with_result_route(Arc::new(EngineRoute(plumbing.clone())));
        let handle = worker.start().map_err(CliError::io("cannot start the worker"))?;
        Ok(Self { name, handler_types, handle, queue, plumbing })
    }

    /// Waits until the worker has left because somebody asked it to drain.
    pub(crate) async fn drained(&self) {
        self.handle.drained().await;
    }

    /// Claims no more, lets what runs end within `grace`, and gives back the rest.
    pub(crate) async fn close(self, grace: Duration) -> DrainReport {
        let report = self.handle.drain(grace).await;
        self.plumbing.close(CLOSE_MAX).await;
        self.queue.close(CLOSE_MAX).await;
        report
    }
}

/// The handlers that were asked for; all that there are, if none was named.
fn registry(args: &WorkerArgs) -> Result<Registry, CliError> {
    let mut registry = handlers::registry(&args.handlers)?;
    let wanted: BTreeSet<&str> = args.handler.iter().map(String::as_str).collect();
    if wanted.is_empty() {
        return Ok(registry);
    }
    for handler in &wanted {
        if registry.get(handler).is_none() {
            let known: Vec<&str> =
                registry.manifests().map(|manifest| manifest.handler_type.as_str()).collect();
            return Err(CliError::Usage(format!(
                "--handler {handler}: there is no such handler here; these are: {}",
                known.join(", ")
            )));
        }
    }
    registry.retain(|handler_type| wanted.contains(handler_type));
    Ok(registry)
}
