//! Keeps the leases of all attempts, from a thread of its own: no handler can starve it, not even one that blocks every
//! thread of the worker's runtime.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowmonkey_plumbing::queue::{Delivery, Extended, QueueError};
use tokio::task::{JoinError, JoinSet};

use crate::running::Stop;
use crate::runtime::Shared;

/// Starts the thread. It ends when [`Shared::heartbeats_end`] is cancelled.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keep = move || runtime.block_on(keep_leases(&shared));
    std::thread::Builder::new().name("flowmonkey-heartbeat".into()).spawn(keep)?;
    Ok(())
}

async fn keep_leases(shared: &Arc<Shared>) {
    let longest = Duration::from_millis(shared.config.heartbeat_ms);
    let generations = Arc::new(Mutex::new(HashMap::new()));
    let mut calls = JoinSet::new();
    let mut last = Instant::now();
    loop {
        let (beat, fence) = shared.running.plan(last, longest);
        let wake = fence.map_or(beat, |fence| fence.min(beat));
        tokio::select! {
            () = shared.heartbeats_end.cancelled() => {
                // From here on the leases run out: no handler may outlive its lease.
                shared.running.stop_all(Stop::Fenced);
                return;
            }
            () = shared.running.sooner.notified() => {}
            Some(ended) = calls.join_next() => report_panic(shared, ended),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        let now = Instant::now();
        shared.running.fence(now);
        if now >= beat {
            last = now;
            // A call that takes longer than the time between heartbeats is given up: the next one says as much.
            let overdue = calls.len();
            if overdue > 0 {
                shared.metrics.extend_errors.add(overdue);
                tracing::warn!(calls = overdue, "extending leases took too long");
                calls.shutdown().await;
            }
            for (pool, deliveries) in shared.running.by_pool() {
                calls.spawn(extend(Arc::clone(shared), Arc::clone(&generations), pool, deliveries));
            }
        }
    }
}

fn report_panic(shared: &Shared, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        shared.metrics.extend_errors.add(1);
        tracing::error!(error = %error, "the queue panicked while extending leases");
    }
}

/// The generation of each pool, as last seen.
type Generations = Arc<Mutex<HashMap<Arc<str>, u64>>>;

/// Extends the leases of one pool.
async fn extend(shared: Arc<Shared>, generations: Generations, pool: Arc<str>, deliveries: Vec<Delivery>) {
    let known = generations.lock().unwrap_or_else(PoisonError::into_inner).get(&pool).copied();
    match extend_pool(&shared, &pool, &deliveries, known).await {
        Ok(generation) => {
            generations.lock().unwrap_or_else(PoisonError::into_inner).insert(pool, generation);
        }
        Err(error) => {
            shared.metrics.extend_errors.add(1);
            tracing::warn!(%pool, error = %error, "leases were not extended");
        }
    }
}

/// Extends the leases of one pool; returns its generation.
async fn extend_pool(
    shared: &Shared,
    pool: &str,
    deliveries: &[Delivery],
    known: Option<u64>,
) -> Result<u64, QueueError> {
    let extended = extend_once(shared, pool, deliveries).await?;
    let generation = extended.generation;
    if known.is_some_and(|known| known != generation) {
        // The pool was rebuilt: what this worker runs is asserted once more, now that the rebuild is known.
        let again = extend_once(shared, pool, deliveries).await?;
        apply(shared, &again);
    } else {
        apply(shared, &extended);
    }
    Ok(generation)
}

async fn extend_once(shared: &Shared, pool: &str, deliveries: &[Delivery]) -> Result<Extended, QueueError> {
    let sent_at = Instant::now();
    let extended = shared.queue.extend(pool, &shared.config.worker_id, deliveries).await?;
    let kept: Vec<Delivery> =
        deliveries.iter().filter(|delivery| !extended.lost.contains(delivery)).cloned().collect();
    shared.running.extended(&kept, sent_at);
    Ok(extended)
}

fn apply(shared: &Shared, extended: &Extended) {
    for delivery in &extended.lost {
        shared.running.stop(delivery, Stop::Lost);
    }
    for delivery in &extended.cancelled {
        shared.running.stop(delivery, Stop::Cancel);
    }
}
