//! Keeps the leases of all attempts, from a thread of its own: no handler can starve it, not even one that blocks every
//! thread of the worker's runtime.
//!
//! Two rhythms. A *heartbeat* extends all leases. In between, while anything runs, a *look* asks each pool for its generation
//! once a second: one small call that names no task, so that its cost does not grow with the number of slots. A queue that
//! was emptied is thus noticed, and the leases are back, before the engine rebuilds it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmonkey_plumbing::queue::{Delivery, Extended, QueueError};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::announce;
use crate::running::{NOT_BUILT, Stop};
use crate::runtime::Shared;

/// Starts the thread. It ends when [`Shared::heartbeats_end`] is cancelled and the worker has retired.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keep = move || {
        runtime.block_on(async {
            let mut announcer = JoinSet::new();
            announcer.spawn(announce::run(Arc::clone(&shared)));
            keep_leases(&shared).await;
            while let Some(ended) = announcer.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "the queue panicked while the worker was announced");
                }
            }
        });
    };
    std::thread::Builder::new().name("flowmonkey-heartbeat".into()).spawn(keep)?;
    Ok(())
}

/// What a pool is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Extend all leases.
    Beat,
    /// Look at the generation.
    Look,
}

async fn keep_leases(shared: &Arc<Shared>) {
    let longest = Duration::from_millis(shared.config.heartbeat_ms);
    let mut calls = Calls::default();
    let (mut last_beat, mut last_look) = (Instant::now(), Instant::now());
    let mut idle = true;
    loop {
        let plan = shared.running.plan(last_beat, last_look, longest);
        if idle && plan.look.is_some() {
            // The claim has just told the generation.
            last_look = Instant::now();
            idle = false;
            continue;
        }
        idle = plan.look.is_none();
        tokio::select! {
            () = shared.heartbeats_end.cancelled() => {
                // From here on the leases run out: no handler may outlive its lease.
                shared.running.stop_all(Stop::Fenced);
                return;
            }
            () = shared.running.sooner.notified() => {}
            Some(ended) = calls.set.join_next() => calls.ended(shared, ended),
            () = tokio::time::sleep_until(plan.wake().into()) => {}
        }
        let now = Instant::now();
        shared.running.fence(now);
        if now >= plan.beat {
            (last_beat, last_look) = (now, now);
            // A call that takes longer than the time between heartbeats is given up: the next one says as much.
            calls.give_up(shared).await;
            calls.start(shared, Round::Beat);
        } else if shared.running.must_look_now() || plan.look.is_some_and(|look| now >= look) {
            last_look = now;
            calls.start(shared, Round::Look);
        }
    }
}

/// The calls that are under way, at most one per pool.
#[derive(Default)]
struct Calls {
    set: JoinSet<(Arc<str>, Result<(), QueueError>)>,
    pools: HashMap<Arc<str>, AbortHandle>,
    /// Pools whose last call failed: they are extended with the next look already.
    failed: HashMap<Arc<str>, u32>,
}

impl Calls {
    fn start(&mut self, shared: &Arc<Shared>, round: Round) {
        self.pools.retain(|_, call| !call.is_finished());
        for pool in shared.running.pools() {
            if self.pools.contains_key(&pool) {
                continue;
            }
            let round = if self.failed.contains_key(&pool) { Round::Beat } else { round };
            let (shared, of) = (Arc::clone(shared), Arc::clone(&pool));
            let call = self.set.spawn(async move {
                let kept = keep(&shared, &of, round).await;
                (of, kept)
            });
            self.pools.insert(pool, call);
        }
    }

    async fn give_up(&mut self, shared: &Shared) {
        self.pools.retain(|_, call| !call.is_finished());
        for (pool, call) in self.pools.drain() {
            call.abort();
            shared.metrics.extend_errors.add(1);
            tracing::warn!(%pool, "extending leases took too long");
        }
        while let Some(ended) = self.set.join_next().await {
            self.ended(shared, ended);
        }
    }

    fn ended(&mut self, shared: &Shared, ended: Result<(Arc<str>, Result<(), QueueError>), JoinError>) {
        match ended {
            Ok((pool, Ok(()))) => {
                if let Some(failures) = self.failed.remove(&pool) {
                    tracing::info!(%pool, failures, "leases are extended again");
                }
            }
            Ok((pool, Err(error))) => {
                shared.metrics.extend_errors.add(1);
                let failures = self.failed.entry(Arc::clone(&pool)).or_default();
                *failures += 1;
                if *failures == 1 {
                    tracing::warn!(%pool, error = %error, "leases were not extended; trying again every second");
                } else {
                    tracing::debug!(%pool, error = %error, failures, "leases were not extended");
                }
            }
            // Given up, and counted then.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                shared.metrics.extend_errors.add(1);
                tracing::error!(error = %error, "the queue panicked while extending leases");
            }
        }
    }
}

/// Keeps the leases of one pool.
async fn keep(shared: &Shared, pool: &Arc<str>, round: Round) -> Result<(), QueueError> {
    // What the queue cannot be trusted to have is re-asserted without asking first.
    if shared.running.may_be_forgotten(pool) {
        return reassert(shared, pool).await;
    }
    let deliveries = match round {
        Round::Beat => shared.running.kept(pool),
        Round::Look => Vec::new(),
    };
    let sent_at = Instant::now();
    let extended = shared.queue.extend(pool, &shared.config.worker_id, &deliveries).await?;
    if shared.running.note_generation(pool, extended.generation) {
        // The queue may have forgotten the leases: what it calls lost proves nothing.
        tell_cancelled(shared, &extended);
        return reassert(shared, pool).await;
    }
    confirm(shared, &extended, &deliveries, sent_at);
    Ok(())
}

/// Puts the leases of one pool back; only what this calls lost is lost.
async fn reassert(shared: &Shared, pool: &Arc<str>) -> Result<(), QueueError> {
    let leases = shared.running.leases(pool);
    let sent_at = Instant::now();
    let extended = shared.queue.reassert(pool, &shared.config.worker_id, &leases).await?;
    shared.running.note_generation(pool, extended.generation);
    shared.metrics.reasserted.add(leases.len().saturating_sub(extended.lost.len()));
    let deliveries: Vec<Delivery> = leases.into_iter().map(|lease| lease.delivery).collect();
    let (count, lost, generation) = (deliveries.len(), extended.lost.len(), extended.generation);
    if generation == NOT_BUILT {
        tracing::debug!(%pool, leases = count, lost, "leases of a queue that is not built were re-asserted");
    } else {
        tracing::info!(%pool, leases = count, lost, generation, "leases of a new generation were re-asserted");
    }
    confirm(shared, &extended, &deliveries, sent_at);
    Ok(())
}

/// Acts on an answer that can be trusted.
fn confirm(shared: &Shared, extended: &Extended, deliveries: &[Delivery], sent_at: Instant) {
    let lost: HashSet<&Delivery> = extended.lost.iter().collect();
    let kept = deliveries.iter().filter(|delivery| !lost.contains(delivery));
    shared.running.confirmed(kept, extended.generation, sent_at);
    for delivery in &extended.lost {
        shared.running.lost(delivery);
    }
    tell_cancelled(shared, extended);
}

fn tell_cancelled(shared: &Shared, extended: &Extended) {
    for delivery in &extended.cancelled {
        shared.running.stop(delivery, Stop::Cancel);
    }
}
