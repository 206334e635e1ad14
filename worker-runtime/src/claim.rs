//! Claims tasks for free slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmonkey_plumbing::crash;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, ClaimedTask, Delivery};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backoff::Backoff;
use crate::report::Report;
use crate::run::{self, Attempt};
use crate::runtime::Shared;

/// Tasks in one claim.
const CLAIM_MAX: usize = 100;
/// Every so many claims of a pool, one looks at the low list first.
const LOW_FIRST_EVERY: u64 = 10;
/// How long nothing is claimed beside a suspected task, and then between two claims beside it. Those that kill their workers
/// mostly do so soon; the slots of a worker are not to be idle for as long as a suspect takes that does not.
const ALONE_FOR: Duration = Duration::from_secs(60);
/// How often handing back is tried; after that the leases end by themselves.
const RELEASE_TRIES: u32 = 6;

/// Room for one handler to run. Held until the handler's future is dropped, so that a handler that cannot be stopped still
/// counts.
pub(crate) struct Slot {
    _of_worker: OwnedSemaphorePermit,
    _of_handler: Option<OwnedSemaphorePermit>,
    // Last: it rings when the permits are back.
    freed: RingWhenDropped,
}

impl Slot {
    /// The slot is used from now on: its end is news to the claimer.
    fn used(mut self) -> Self {
        self.freed.used = true;
        self
    }
}

struct RingWhenDropped {
    bell: Arc<Notify>,
    used: bool,
}

impl Drop for RingWhenDropped {
    fn drop(&mut self) {
        if self.used {
            self.bell.notify_one();
        }
    }
}

struct Pool {
    name: Arc<str>,
    /// None: only the worker's own concurrency counts.
    slots: Option<Arc<Semaphore>>,
    claims: u64,
}

/// Claims until the worker drains.
pub(crate) struct Claimer {
    shared: Arc<Shared>,
    reports: mpsc::Sender<Report>,
    slots: Arc<Semaphore>,
    freed: Arc<Notify>,
    pools: Vec<Pool>,
    /// While a suspected task is in hand, nothing is claimed before.
    alone_until: Instant,
    entropy: SystemEntropy,
}

impl Claimer {
    pub(crate) fn new(shared: Arc<Shared>, reports: mpsc::Sender<Report>) -> Self {
        let pools = shared.registry.manifests().map(|manifest| {
            let slots = manifest.slots().map(|slots| usize::try_from(slots).unwrap_or(usize::MAX));
            Pool {
                name: shared.config.pool(&manifest.handler_type).into(),
                slots: slots.map(|slots| Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)))),
                claims: 0,
            }
        });
        let pools = pools.collect();
        let slots = Arc::new(Semaphore::new(shared.config.concurrency));
        Self {
            shared,
            reports,
            slots,
            freed: Arc::default(),
            pools,
            alone_until: Instant::now(),
            entropy: SystemEntropy::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        // People see the worker before it takes anything; a queue that is away does not hold it up for long.
        tokio::select! {
            () = self.shared.draining.cancelled() => {}
            () = self.shared.announced.cancelled() => {}
        }
        while !self.shared.draining.is_cancelled() {
            // Results that nobody takes must not pile up: without room for them, no tasks.
            tokio::select! {
                () = self.shared.draining.cancelled() => return,
                room = self.reports.reserve() => match room {
                    Ok(room) => drop(room),
                    Err(_closed) => return,
                },
            }
            if let Some(rest) = self.left_alone() {
                tokio::select! {
                    () = self.shared.draining.cancelled() => {}
                    () = self.shared.running.suspect_left.notified() => {}
                    () = tokio::time::sleep(rest) => {}
                }
                continue;
            }
            match self.claim_round().await {
                Ok(true) => backoff.reset(),
                Ok(false) => {
                    backoff.reset();
                    self.wait().await;
                }
                Err(()) => {
                    let wait = backoff.next(&self.entropy);
                    tokio::select! {
                        () = self.shared.draining.cancelled() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// Claims once from every pool that has a free slot. True: there may be more, as a pool gave all that was asked for.
    async fn claim_round(&mut self) -> Result<bool, ()> {
        let mut claimed_any = false;
        let mut is_more = false;
        let mut failed = false;
        let beside_suspect = self.shared.running.holds_suspect();
        for index in 0..self.pools.len() {
            if self.left_alone().is_some() {
                break;
            }
            let mut slots = self.reserve(&self.pools[index]);
            if slots.is_empty() || self.shared.draining.is_cancelled() {
                continue;
            }
            let pool = &mut self.pools[index];
            pool.claims += 1;
            let claim = Claim {
                pool: pool.name.to_string(),
                worker: self.shared.config.worker_id.clone(),
                max: slots.len(),
                low_first: pool.claims.is_multiple_of(LOW_FIRST_EVERY),
            };
            let claimed_at = Instant::now();
            // Not within a `select!`: a claim that is dropped half-way would leave tasks in nobody's hands.
            match self.shared.queue.claim(claim).await {
                Ok(claimed) => {
                    if !claimed.is_empty() {
                        crash::point("worker/claimed");
                        claimed_any = true;
                    }
                    is_more |= claimed.len() == slots.len();
                    let name = Arc::clone(&self.pools[index].name);
                    self.start(&name, claimed, &mut slots, claimed_at).await;
                }
                Err(error) => {
                    failed = true;
                    self.shared.metrics.claim_errors.add(1);
                    tracing::warn!(pool = %self.pools[index].name, error = %error, "claim failed");
                }
            }
        }
        if beside_suspect {
            self.alone_until = Instant::now() + ALONE_FOR;
        }
        // Another pool is first in the next round, so that no pool takes all slots for ever.
        if !self.pools.is_empty() {
            self.pools.rotate_left(1);
        }
        if failed && !claimed_any { Err(()) } else { Ok(is_more) }
    }

    /// How long nothing is to be claimed beside a suspected task; none: claims are welcome.
    fn left_alone(&self) -> Option<Duration> {
        let left = self.alone_until.checked_duration_since(Instant::now())?;
        self.shared.running.holds_suspect().then_some(left)
    }

    /// Of what was claimed, what may run here. A suspected task that is to run has been claimed together with nothing else
    /// when it begins: the rest goes back first, so that it does not lose its lease with this worker.
    async fn sift(&mut self, pool: &Arc<str>, claimed: Vec<ClaimedTask>) -> Vec<ClaimedTask> {
        let Some(first) = claimed.iter().position(|claimed| claimed.task.isolate) else { return claimed };
        let has_one = self.shared.running.holds_suspect();
        let (kept, back): (Vec<_>, Vec<_>) = claimed
            .into_iter()
            .enumerate()
            .partition(|(place, claimed)| if has_one { !claimed.task.isolate } else { *place == first });
        if !has_one {
            self.alone_until = Instant::now() + ALONE_FOR;
        }
        let back: Vec<Delivery> = back.into_iter().map(|(_, claimed)| claimed.task.delivery()).collect();
        if !back.is_empty() {
            self.release(pool, &back).await;
        }
        kept.into_iter().map(|(_, claimed)| claimed).collect()
    }

    async fn start(
        &mut self,
        pool: &Arc<str>,
        claimed: Vec<ClaimedTask>,
        slots: &mut Vec<Slot>,
        claimed_at: Instant,
    ) {
        self.shared.metrics.claimed.add(claimed.len());
        let claimed = self.sift(pool, claimed).await;
        let mut untouched = Vec::new();
        for ClaimedTask { task: message, generation } in claimed {
            let slot = if self.shared.draining.is_cancelled() { None } else { slots.pop() };
            let Some(slot) = slot else {
                untouched.push(message.delivery());
                continue;
            };
            let Some(stop) = self.shared.running.insert(pool, &message, generation, claimed_at) else {
                tracing::warn!(delivery = %message.delivery(), "a task was claimed that is in hand already");
                continue;
            };
            let reports = self.reports.clone();
            let attempt =
                Attempt { pool: Arc::clone(pool), message, claimed_at, slot: slot.used(), stop, reports };
            self.shared.attempts.spawn(run::supervise(Arc::clone(&self.shared), attempt));
        }
        if !untouched.is_empty() {
            self.release(pool, &untouched).await;
        }
    }

    async fn release(&self, pool: &str, deliveries: &[Delivery]) {
        let mut backoff = Backoff::default();
        for _ in 0..RELEASE_TRIES {
            match self.shared.queue.release(pool, &self.shared.config.worker_id, deliveries).await {
                Ok(()) => {
                    self.shared.metrics.released.add(deliveries.len());
                    return;
                }
                Err(error) => tracing::warn!(pool, error = %error, "tasks could not be handed back"),
            }
            tokio::time::sleep(backoff.next(&self.entropy)).await;
        }
        tracing::warn!(pool, tasks = deliveries.len(), "tasks were not handed back: their leases will end");
    }

    /// Slots for as many tasks of `pool` as may run now.
    fn reserve(&self, pool: &Pool) -> Vec<Slot> {
        let mut slots = Vec::new();
        while slots.len() < CLAIM_MAX {
            let of_handler = match &pool.slots {
                None => None,
                Some(semaphore) => match Arc::clone(semaphore).try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_full) => break,
                },
            };
            let Ok(of_worker) = Arc::clone(&self.slots).try_acquire_owned() else { break };
            let freed = RingWhenDropped { bell: Arc::clone(&self.freed), used: false };
            slots.push(Slot { _of_worker: of_worker, _of_handler: of_handler, freed });
        }
        slots
    }

    /// Waits until there may be a task for a free slot.
    async fn wait(&self) {
        let open: Vec<String> = if self.slots.available_permits() == 0 {
            Vec::new()
        } else {
            let free = |pool: &&Pool| pool.slots.as_ref().is_none_or(|slots| slots.available_permits() > 0);
            self.pools.iter().filter(free).map(|pool| pool.name.to_string()).collect()
        };
        // While every pool has a free slot, another one is no news: it would only be claimed in vain.
        let some_are_full = open.len() < self.pools.len();
        tokio::select! {
            () = self.shared.draining.cancelled() => {}
            () = self.shared.queue.wait_for_tasks(&open), if !open.is_empty() => {}
            () = self.freed.notified(), if some_are_full => {}
            () = tokio::time::sleep(Duration::from_millis(self.shared.config.poll_ms)) => {}
        }
    }
}
