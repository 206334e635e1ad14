//! Reports results: what is ready goes in one call per pool, and is repeated until the queue has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::wire::ResultMessage;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::runtime::Shared;

/// Results that wait to be reported; when there are more, attempts keep their slots until there is room.
pub(crate) const PENDING_MAX: usize = 1024;
/// Results in one call.
const FINISH_MAX: usize = 200;

/// A result and where it goes.
pub(crate) struct Report {
    pub(crate) pool: Arc<str>,
    pub(crate) result: ResultMessage,
}

/// The results of one pool that wait.
#[derive(Default)]
struct Pending {
    results: Vec<ResultMessage>,
    backoff: Backoff,
    /// None: at once.
    not_before: Option<Instant>,
}

/// Reports until all senders are gone and nothing is left.
pub(crate) async fn run(shared: Arc<Shared>, mut reports: mpsc::Receiver<Report>) {
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
                finish(&shared, pool, pending, &entropy).await;
            }
        }
        pools.retain(|_, pending| !pending.results.is_empty());
    }
}

fn add(pools: &mut BTreeMap<Arc<str>, Pending>, Report { pool, result }: Report) {
    pools.entry(pool).or_default().results.push(result);
}

/// Hands in the results of one pool, or notes when to try again.
async fn finish(shared: &Shared, pool: &str, pending: &mut Pending, entropy: &SystemEntropy) {
    while !pending.results.is_empty() {
        let count = pending.results.len().min(FINISH_MAX);
        let batch = pending.results[..count].to_vec();
        // Not within a `select!`: a call that is dropped half-way would have to be repeated anyway.
        crash::point("worker/before-report");
        match shared.queue.finish(pool, &shared.config.worker_id, batch).await {
            Ok(refused) => {
                crash::point("worker/after-report");
                pending.backoff.reset();
                pending.not_before = None;
                for result in pending.results.drain(..count) {
                    shared.running.remove(&result.delivery());
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
                pending.not_before = Some(Instant::now() + pending.backoff.next(entropy));
                return;
            }
        }
    }
}
