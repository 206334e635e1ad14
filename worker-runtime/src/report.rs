//! Reports results: what is ready goes in one call per pool, and is repeated until the queue has it. While the queue takes none
//! for a while, results go past it where there is another way, else to disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::wire::ResultMessage;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::backoff::Backoff;
use crate::route::{ResultRoute, RouteError, Routed, UnsentResult};
use crate::runtime::Shared;
use crate::spill::Spill;

/// Results that wait to be reported, and as many on the way there; when there are more, no tasks are claimed until there is
/// room.
pub(crate) const PENDING_MAX: usize = 1024;
/// Results in one call.
const FINISH_MAX: usize = 200;

/// A result and where it goes.
pub(crate) struct Report {
    pub(crate) pool: Arc<str>,
    pub(crate) result: ResultMessage,
}

/// Where results go while the queue does not take them.
#[derive(Clone, Default)]
pub(crate) struct Outlets {
    pub(crate) spill: Option<Arc<Spill>>,
    pub(crate) route: Option<Arc<dyn ResultRoute>>,
}

/// The results of one pool that wait.
#[derive(Default)]
struct Pending {
    results: Vec<Report>,
    backoff: Backoff,
    /// None: at once.
    not_before: Option<Instant>,
    /// Since when the queue takes none.
    failing_since: Option<Instant>,
}

/// Reports until all senders are gone and nothing is left.
/// Then drops `reported`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    outlets: Outlets,
    mut reports: mpsc::Receiver<Report>,
    reported: DropGuard,
) {
    let _reported = reported;
    let entropy = SystemEntropy::new();
    let mut pools: BTreeMap<Arc<str>, Pending> = BTreeMap::new();
    let mut open = true;
    loop {
        let waiting: usize = pools.values().map(|pending| pending.results.len()).sum();
        let next_try = pools.values().map(|pending| pending.not_before.unwrap_or_else(Instant::now)).min();
        if !open && next_try.is_none() {
            return;
        }
        tokio::select! {
            report = reports.recv(), if open && waiting < PENDING_MAX => match report {
                None => open = false,
                Some(report) => {
                    add(&mut pools, report);
                    // Whatever else is ready travels along; nothing is waited for.
                    for _ in waiting + 1..PENDING_MAX {
                        let Ok(report) = reports.try_recv() else { break };
                        add(&mut pools, report);
                    }
                }
            },
            () = tokio::time::sleep_until(next_try.unwrap_or_else(Instant::now)), if next_try.is_some() => {}
        }
        let now = Instant::now();
        for (pool, pending) in &mut pools {
            if pending.not_before.is_none_or(|not_before| not_before <= now) {
                finish(&shared, &outlets, pool, pending, &entropy).await;
            }
        }
        pools.retain(|_, pending| !pending.results.is_empty());
    }
}

fn add(pools: &mut BTreeMap<Arc<str>, Pending>, report: Report) {
    pools.entry(Arc::clone(&report.pool)).or_default().results.push(report);
}

/// Hands in the results of one pool, or notes when to try again.
async fn finish(
    shared: &Shared,
    outlets: &Outlets,
    pool: &str,
    pending: &mut Pending,
    entropy: &SystemEntropy,
) {
    while !pending.results.is_empty() {
        let count = pending.results.len().min(FINISH_MAX);
        let batch = pending.results[..count].iter().map(|report| report.result.clone()).collect();
        // Not within a `select!`: a call that is dropped half-way would have to be repeated anyway.
        crash::point("worker/before-report");
        match shared.queue.finish(pool, &shared.config.worker_id, batch).await {
            Ok(refused) => {
                crash::point("worker/after-report");
                pending.backoff.reset();
                pending.not_before = None;
                pending.failing_since = None;
                for report in pending.results.drain(..count) {
                    shared.running.remove(&report.result.delivery());
                }
                shared.metrics.refused.add(refused.len());
                shared.metrics.reported.add(count.saturating_sub(refused.len()));
                for delivery in refused {
                    tracing::warn!(pool, %delivery, "a result was refused: another worker owns the task");
                }
            }
            Err(error) => {
                shared.metrics.finish_errors.add(1);
                tracing::warn!(pool, results = count, error = %error, "results were not accepted; trying again");
                let failing_since = *pending.failing_since.get_or_insert_with(Instant::now);
                let patience = Duration::from_millis(shared.config.spill_after_ms);
                // A worker that is about to end has no time for patience.
                if failing_since.elapsed() >= patience || shared.draining.is_cancelled() {
                    pending.results =
                        put_elsewhere(shared, outlets, std::mem::take(&mut pending.results)).await;
                }
                pending.not_before = Some(Instant::now() + pending.backoff.next(entropy));
                return;
            }
        }
    }
}

/// Sends results past the queue, or writes them to disk; gives back what stays in memory.
async fn put_elsewhere(shared: &Shared, outlets: &Outlets, reports: Vec<Report>) -> Vec<Report> {
    if outlets.spill.is_none() && outlets.route.is_none() {
        return reports;
    }
    let unsent: Vec<UnsentResult> = reports
        .into_iter()
        .map(|Report { pool, result }| UnsentResult {
            pool: pool.to_string(),
            worker: shared.config.worker_id.clone(),
            result,
        })
        .collect();
    let sent = route_some(shared, outlets, &unsent).await;
    let mut left = Vec::new();
    for (unsent, sent) in unsent.into_iter().zip(sent) {
        if sent {
            shared.running.remove(&unsent.result.delivery());
        } else {
            left.push(unsent);
        }
    }
    let kept = match &outlets.spill {
        Some(spill) => write(shared, spill, left).await,
        None => left,
    };
    let report = |UnsentResult { pool, result, .. }: UnsentResult| Report { pool: pool.into(), result };
    kept.into_iter().map(report).collect()
}

/// Writes results to disk; gives back those for which that failed.
async fn write(shared: &Shared, spill: &Arc<Spill>, left: Vec<UnsentResult>) -> Vec<UnsentResult> {
    let (spill, now_ms) = (Arc::clone(spill), shared.clock.now_ms());
    let written = spawn_blocking(move || {
        let written: Vec<_> = left.iter().map(|unsent| spill.write(unsent, now_ms)).collect();
        (left, written)
    });
    // Only the end of the runtime, and with it of this task, drops what is written.
    let Ok((left, written)) = written.await else { return Vec::new() };
    let mut kept = Vec::new();
    for (unsent, written) in left.into_iter().zip(written) {
        let delivery = unsent.result.delivery();
        match written {
            Ok(()) => {
                shared.metrics.spilled.add(1);
                shared.running.set_spilled(&delivery);
            }
            Err(error) => {
                shared.metrics.spill_errors.add(1);
                tracing::debug!(%delivery, error = %error, "a result stays in memory");
                kept.push(unsent);
            }
        }
    }
    kept
}

/// Tries to send results past the queue; says for each whether nobody waits for it any more.
pub(crate) async fn route_some(shared: &Shared, outlets: &Outlets, unsent: &[UnsentResult]) -> Vec<bool> {
    let mut sent = vec![false; unsent.len()];
    let Some(route) = &outlets.route else { return sent };
    for (one, sent) in unsent.iter().zip(&mut sent) {
        match route.send(one).await {
            Ok(Routed::Applied) => {
                shared.metrics.rerouted.add(1);
                *sent = true;
            }
            Ok(Routed::Stale) => {
                shared.metrics.refused.add(1);
                let delivery = one.result.delivery();
                tracing::warn!(%delivery, "a result was refused: the task has moved on without it");
                *sent = true;
            }
            Err(error @ RouteError::NotAllowed { .. }) => {
                let delivery = one.result.delivery();
                tracing::warn!(%delivery, error = %error, "a result waits for the queue");
            }
            Err(RouteError::Unavailable(error)) => {
                tracing::debug!(error = %error, "no engine takes results past the queue");
                break;
            }
        }
    }
    sent
}
