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
use crate::running::ClaimedAt;
use crate::runtime::Shared;

/// Tasks in one claim.
const CLAIM_MAX: usize = 100;
/// Tasks in one claim that is made before there are any. A worker that is frozen, or cut off, has made one too: these tasks
/// wait for the end of their leases.
const WAITING_CLAIM_MAX: usize = 4;
/// Such a claim waits no longer than this part of a lease: nobody knows when in this time the lease began.
const WAITING_LEASE_PART: u32 = 6;
/// A part that is shorter is not waited for in this way: it would be asked again and again.
const WAITING_MIN: Duration = Duration::from_millis(50);
/// Longer than it should takes nobody: a connection may be dead.
const WAIT_MARGIN: Duration = Duration::from_millis(500);
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
    /// The shortest lease of its tasks so far.
    shortest_lease: Option<Duration>,
    /// The last wait has given more tasks than a claim that waits may take: two claims would be made where one is enough.
    is_busy: bool,
}

/// What the claimer does next.
enum Next {
    /// Claim from all pools.
    Round,
    /// Wait: there was nothing more.
    Wait,
}

/// What a claim has given.
#[derive(Default)]
struct Claimed {
    tasks: usize,
    /// There may be more.
    all_that_was_asked: bool,
}

/// A claim has failed, which has been told.
struct ClaimFailed;

/// Claims until the worker drains.
pub(crate) struct Claimer {
    shared: Arc<Shared>,
    reports: mpsc::Sender<Report>,
    slots: Arc<Semaphore>,
    freed: Arc<Notify>,
    pools: Vec<Pool>,
    /// While a suspected task is in hand, nothing is claimed before.
    alone_until: Instant,
    /// When all pools were asked for the last time: rings may be lost.
    asked_all: Instant,
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
                shortest_lease: None,
                is_busy: false,
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
            asked_all: Instant::now(),
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
        let mut next = Next::Round;
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
                next = Next::Round;
                continue;
            }
            let beside_suspect = self.shared.running.holds_suspect();
            let is_wait = matches!(next, Next::Wait);
            let done = if is_wait { self.wait().await } else { self.claim_round().await };
            if beside_suspect {
                self.alone_until = Instant::now() + ALONE_FOR;
            }
            next = match done {
                Ok(next) => {
                    // A look that finds nothing says nothing of the wait that has failed before it.
                    if is_wait || matches!(next, Next::Round) {
                        backoff.reset();
                    }
                    next
                }
                Err(ClaimFailed) => {
                    let wait = backoff.next(&self.entropy);
                    let wait = if is_wait { wait.min(self.poll()) } else { wait };
                    tokio::select! {
                        () = self.shared.draining.cancelled() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                    Next::Round
                }
            };
        }
    }

    /// Claims once from every pool that has a free slot.
    async fn claim_round(&mut self) -> Result<Next, ClaimFailed> {
        let (mut claimed_any, mut is_more, mut failed) = (false, false, false);
        for index in 0..self.pools.len() {
            if self.left_alone().is_some() {
                break;
            }
            match self.claim_from(index, CLAIM_MAX, None).await {
                Ok(Claimed { tasks, all_that_was_asked }) => {
                    claimed_any |= tasks > 0;
                    is_more |= all_that_was_asked;
                }
                Err(ClaimFailed) => failed = true,
            }
        }
        self.rotate();
        self.asked_all = Instant::now();
        if failed && !claimed_any {
            return Err(ClaimFailed);
        }
        Ok(if is_more { Next::Round } else { Next::Wait })
    }

    /// Claims for the free slots of a pool, `max` at most; given a time, when there is something, or when it is over.
    async fn claim_from(
        &mut self,
        index: usize,
        max: usize,
        longest: Option<Duration>,
    ) -> Result<Claimed, ClaimFailed> {
        let mut slots = self.reserve(&self.pools[index], max);
        if slots.is_empty() || self.shared.draining.is_cancelled() {
            return Ok(Claimed::default());
        }
        let pool = &mut self.pools[index];
        pool.claims += 1;
        let name = Arc::clone(&pool.name);
        let claim = Claim {
            pool: name.to_string(),
            worker: self.shared.config.worker_id.clone(),
            max: slots.len(),
            low_first: pool.claims.is_multiple_of(LOW_FIRST_EVERY),
        };
        let earliest = Instant::now();
        let claimed = match longest {
            // Not within a `select!`: a claim that is dropped half-way would leave tasks in nobody's hands.
            None => self.shared.queue.claim(claim).await,
            Some(longest) => tokio::select! {
                biased;
                // What is claimed nevertheless goes back.
                () = self.shared.draining.cancelled() => return Ok(Claimed::default()),
                claimed = self.shared.queue.claim_when_ready(claim, longest) => claimed,
            },
        };
        let latest = longest.map_or(earliest, |longest| Instant::now().min(earliest + longest));
        match claimed {
            Ok(claimed) => {
                let leases = claimed.iter().map(|claimed| Duration::from_millis(claimed.task.lease_ms));
                let pool = &mut self.pools[index];
                pool.shortest_lease = pool.shortest_lease.into_iter().chain(leases).min();
                if !claimed.is_empty() {
                    crash::point("worker/claimed");
                }
                let done = Claimed { tasks: claimed.len(), all_that_was_asked: claimed.len() == slots.len() };
                self.start(&name, claimed, &mut slots, ClaimedAt { earliest, latest }).await;
                Ok(done)
            }
            Err(error) => {
                self.shared.metrics.claim_errors.add(1);
                tracing::warn!(pool = %name, error = %error, "claim failed");
                Err(ClaimFailed)
            }
        }
    }

    /// Another pool is first from now on, so that no pool takes all slots for ever.
    fn rotate(&mut self) {
        if !self.pools.is_empty() {
            self.pools.rotate_left(1);
        }
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
        claimed_at: ClaimedAt,
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
            let attempt = Attempt {
                pool: Arc::clone(pool),
                message,
                claimed_at: claimed_at.latest,
                slot: slot.used(),
                stop,
                reports,
            };
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

    /// Slots for as many tasks of `pool` as may run now, `max` at most.
    fn reserve(&self, pool: &Pool, max: usize) -> Vec<Slot> {
        let mut slots = Vec::new();
        while slots.len() < max {
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

    /// Waits until there may be a task for a free slot, and claims it.
    async fn wait(&mut self) -> Result<Next, ClaimFailed> {
        let left = self.poll().saturating_sub(self.asked_all.elapsed());
        if left.is_zero() {
            return Ok(Next::Round);
        }
        let open: Vec<String> = if self.slots.available_permits() == 0 {
            Vec::new()
        } else {
            let free = |pool: &&Pool| pool.slots.as_ref().is_none_or(|slots| slots.available_permits() > 0);
            self.pools.iter().filter(free).map(|pool| pool.name.to_string()).collect()
        };
        // Of several pools that are waited for, it is not known from which to claim.
        if let ([pool], [_]) = (&*self.pools, &*open)
            && let Some(lease) = pool.shortest_lease
            && lease / WAITING_LEASE_PART >= WAITING_MIN
            && !pool.is_busy
        {
            let longest = left.min(lease / WAITING_LEASE_PART);
            return self.claim_after_wait(0, WAITING_CLAIM_MAX, Some(longest)).await;
        }
        // While every pool has a free slot, another one is no news: it would only be claimed in vain.
        let some_are_full = open.len() < self.pools.len();
        let rung = tokio::select! {
            () = self.shared.draining.cancelled() => None,
            rung = self.shared.queue.wait_for_tasks(&open, left), if !open.is_empty() => rung,
            () = self.freed.notified(), if some_are_full => None,
            () = tokio::time::sleep(left + WAIT_MARGIN) => None,
        };
        let index = rung.and_then(|rung| self.pools.iter().position(|pool| *pool.name == *rung));
        // Nothing is known: all are asked.
        let Some(index) = index else { return Ok(Next::Round) };
        let next = self.claim_after_wait(index, CLAIM_MAX, None).await;
        self.rotate();
        next
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(self.shared.config.poll_ms)
    }

    async fn claim_after_wait(
        &mut self,
        index: usize,
        max: usize,
        longest: Option<Duration>,
    ) -> Result<Next, ClaimFailed> {
        let Claimed { tasks, all_that_was_asked } = self.claim_from(index, max, longest).await?;
        self.pools[index].is_busy = tasks >= WAITING_CLAIM_MAX;
        Ok(if all_that_was_asked { Next::Round } else { Next::Wait })
    }
}
