//! Tells engines and people that the worker is there, what it offers, and that it drains or has ended.
//!
//! Nothing waits for it: a queue that is away hears of the worker when it is back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::{ANNOUNCE_EVERY, QueueError, WorkerPresence};
use tokio::time::timeout;

use crate::backoff::Backoff;
use crate::rfc3339;
use crate::runtime::Shared;

/// An announcement that takes longer has failed.
pub(crate) const ANNOUNCE_LIMIT: Duration = Duration::from_secs(2);

/// Announces the worker until it ends, then retires it.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Whatever happens here, nobody waits for it for ever.
    let _announced = shared.announced.clone().drop_guard();
    let _retired = shared.retired.clone().drop_guard();
    let entropy = SystemEntropy::new();
    let mut presence = presence(&shared);
    let mut backoff = Backoff::default();
    let mut failures = 0_u32;
    loop {
        presence.draining = shared.draining.is_cancelled();
        presence.running = u32::try_from(shared.running.len()).unwrap_or(u32::MAX);
        let wait = match within_limit(shared.queue.announce(&presence)).await {
            Ok(asked_to_drain) => {
                if asked_to_drain && !shared.asked_to_drain.is_cancelled() {
                    tracing::info!("somebody has asked the worker to drain");
                    shared.asked_to_drain.cancel();
                }
                if failures > 0 {
                    tracing::info!(failures, "the worker is announced again");
                }
                failures = 0;
                backoff.reset();
                ANNOUNCE_EVERY
            }
            Err(error) => {
                shared.metrics.announce_errors.add(1);
                failures = failures.saturating_add(1);
                if failures == 1 {
                    tracing::warn!(error = %error, "the worker could not be announced; trying again");
                } else {
                    tracing::debug!(error = %error, failures, "the worker could not be announced");
                }
                backoff.next(&entropy)
            }
        };
        // Well or not: from here on tasks may be claimed.
        shared.announced.cancel();
        tokio::select! {
            // A drain that has nothing to wait for is seen all the same.
            biased;
            () = shared.draining.cancelled(), if !presence.draining => {}
            () = shared.heartbeats_end.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    if let Err(error) = within_limit(shared.queue.retire(&presence.worker, &presence.pools)).await {
        shared.metrics.announce_errors.add(1);
        tracing::warn!(error = %error, "the worker's end could not be announced; it will be seen as silent");
    }
}

fn presence(shared: &Shared) -> WorkerPresence {
    let config = &shared.config;
    let manifests = shared.registry.manifests();
    WorkerPresence {
        worker: config.worker_id.clone(),
        pools: manifests.clone().map(|manifest| config.pool(&manifest.handler_type)).collect(),
        slots: u32::try_from(config.concurrency).unwrap_or(u32::MAX),
        running: 0,
        version: config.version.clone(),
        region: config.region().map(str::to_owned),
        started_at: rfc3339(shared.clock.now_ms()),
        draining: false,
        manifests: manifests.map(public).collect(),
        silent_ms: 0,
    }
}

/// A manifest without what is nobody's business: the environment of a child process may hold secrets.
fn public(manifest: &Manifest) -> Manifest {
    Manifest { env: BTreeMap::new(), ..manifest.clone() }
}

async fn within_limit<T>(call: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
    let too_long = || QueueError::Unavailable(format!("no answer within {ANNOUNCE_LIMIT:?}").into());
    timeout(ANNOUNCE_LIMIT, call).await.unwrap_or_else(|_| Err(too_long()))
}
