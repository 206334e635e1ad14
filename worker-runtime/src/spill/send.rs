//! Sends spilled results when the queue is back, oldest first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::QueueError;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Group, Spill};
use crate::backoff::Backoff;
use crate::report::{Outlets, route_some};
use crate::route::UnsentResult;
use crate::runtime::Shared;

/// Results in one call.
const SEND_MAX: usize = 200;
/// Bytes read for one call, and one result more.
const SEND_BYTES: u64 = 8 * 1024 * 1024;
/// How often folders of workers that have died are looked for.
const ADOPT_EVERY: Duration = Duration::from_secs(10);

/// When a group that failed is tried again.
#[derive(Default)]
struct Retry {
    backoff: Backoff,
    not_before: Option<Instant>,
    /// A result among them is refused by the queue as such: they go one at a time.
    singly: bool,
}

/// Sends until the worker ends, or until `reported` says that no more will come and nothing is left.
pub(crate) async fn run(
    shared: Arc<Shared>,
    spill: Arc<Spill>,
    outlets: Outlets,
    reported: CancellationToken,
) {
    let entropy = SystemEntropy::new();
    let mut retries: BTreeMap<Group, Retry> = BTreeMap::new();
    let mut adopt_at = Instant::now();
    loop {
        if Instant::now() >= adopt_at {
            adopt_at = Instant::now() + ADOPT_EVERY;
            blocking(&spill, Spill::adopt).await;
        }
        let groups = spill.groups();
        retries.retain(|group, _| groups.contains(group));
        for group in groups {
            let retry = retries.entry(group.clone()).or_default();
            if retry.not_before.is_none_or(|not_before| not_before <= Instant::now()) {
                send_group(&shared, &spill, &outlets, &group, retry, &entropy).await;
            }
            if shared.heartbeats_end.is_cancelled() {
                return;
            }
        }
        if reported.is_cancelled() && spill.is_empty() {
            return;
        }
        let next = retries.values().filter_map(|retry| retry.not_before).fold(adopt_at, Instant::min);
        tokio::select! {
            () = shared.heartbeats_end.cancelled() => return,
            () = reported.cancelled(), if !reported.is_cancelled() => {}
            () = spill.bell.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Sends what there is for one group, or notes when to try again.
async fn send_group(
    shared: &Shared,
    spill: &Arc<Spill>,
    outlets: &Outlets,
    group: &Group,
    retry: &mut Retry,
    entropy: &SystemEntropy,
) {
    loop {
        let (count, of) = (if retry.singly { 1 } else { SEND_MAX }, group.clone());
        let oldest = blocking(spill, move |spill| spill.oldest(&of, count, SEND_BYTES)).await;
        let Some((names, unsent)) = oldest.map(|oldest| oldest.into_iter().unzip::<_, _, Vec<_>, Vec<_>>())
        else {
            return;
        };
        if names.is_empty() {
            if spill.groups().contains(group) {
                // All of these were put aside; the rest is next.
                continue;
            }
            return;
        }
        let batch = unsent.iter().map(|unsent: &UnsentResult| unsent.result.clone()).collect();
        let sent = match shared.queue.finish(&group.pool, &group.worker, batch).await {
            Ok(refused) => {
                for delivery in &refused {
                    tracing::warn!(pool = %group.pool, %delivery, "a spilled result was refused");
                }
                shared.metrics.refused.add(refused.len());
                shared.metrics.reported.add(unsent.len().saturating_sub(refused.len()));
                retry.backoff.reset();
                retry.not_before = None;
                unsent.iter().map(|_| true).collect()
            }
            Err(error) => {
                shared.metrics.finish_errors.add(1);
                tracing::debug!(pool = %group.pool, error = %error, "spilled results were not accepted");
                if matches!(error, QueueError::Corrupt { .. }) {
                    if retry.singly {
                        let (of, reason) = (group.clone(), error.to_string());
                        blocking(spill, move |spill| spill.reject(&of, &names, &reason)).await;
                    }
                    retry.singly = true;
                    continue;
                }
                retry.not_before = Some(Instant::now() + retry.backoff.next(entropy));
                route_some(shared, outlets, &unsent).await
            }
        };
        let taken: Vec<(String, UnsentResult)> = names
            .into_iter()
            .zip(unsent)
            .zip(sent)
            .filter(|(_, sent): &(_, bool)| *sent)
            .map(|(one, _)| one)
            .collect();
        for (_, unsent) in &taken {
            shared.running.remove(&unsent.result.delivery());
        }
        let count = taken.len();
        let (names, of): (Vec<String>, _) =
            (taken.into_iter().map(|(name, _)| name).collect(), group.clone());
        blocking(spill, move |spill| spill.delete(&of, &names)).await;
        shared.metrics.unspilled.add(count);
        if retry.not_before.is_some() || shared.heartbeats_end.is_cancelled() {
            return;
        }
    }
}

/// Runs something slow off the runtime. None: it panicked, or the runtime ends.
async fn blocking<T: Send + 'static>(
    spill: &Arc<Spill>,
    work: impl FnOnce(&Spill) -> T + Send + 'static,
) -> Option<T> {
    let spill = Arc::clone(spill);
    match spawn_blocking(move || work(&spill)).await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(error = %error, "reading spilled results failed");
            None
        }
    }
}
