//! The attempts in this worker's hands: shared by the tasks that run them and the thread that keeps their leases.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowmonkey_plumbing::queue::{Delivery, Lease};
use flowmonkey_plumbing::wire::TaskMessage;
use tokio::sync::{Notify, watch};

use crate::config::HEARTBEAT_MS_MIN;

/// A worker stops on its own this part of the lease before the lease ends, so that it has stopped when another starts.
const FENCE_MARGIN_PART: u32 = 6;
/// The margin is never longer.
const FENCE_MARGIN_MAX: Duration = Duration::from_secs(5);
/// How often a worker that runs something looks at the generations of its pools. A queue that was emptied is rebuilt a few
/// seconds later; until then the leases must be back.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The generation of a queue that was emptied and is not rebuilt: what it says of leases proves nothing.
pub(crate) const NOT_BUILT: u64 = 0;

/// Why an attempt should stop. Ordered: a later one overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Go on.
    No,
    /// The worker drains and its grace has passed.
    Drain,
    /// Cancellation was asked for.
    Cancel,
    /// The leases could not be extended in time: another worker may run the task by now.
    Fenced,
    /// The queue knows another owner, or none.
    Lost,
}

/// When a task was claimed, by this worker's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClaimedAt {
    /// The claim was sent then: the lease has not begun before.
    pub(crate) earliest: Instant,
    /// The attempt's time counts from here.
    pub(crate) latest: Instant,
}

struct Entry {
    pool: Arc<str>,
    stop: watch::Sender<Stop>,
    lease: Duration,
    heartbeat: Duration,
    /// By this worker's monotonic clock, as all of these.
    fence_at: Instant,
    /// The attempt's hard end.
    ends_at: Instant,
    /// The pool's generation when the queue last confirmed the lease.
    generation: u64,
    /// The handler has ended; only the lease is kept until the result is accepted.
    reporting: bool,
    /// The result is on disk until it is accepted.
    spilled: bool,
    /// The lease is gone for good.
    lost: bool,
    /// The task is suspected of killing workers.
    isolate: bool,
}

impl Entry {
    /// Whether its lease is still to be kept.
    fn is_kept(&self) -> bool {
        !self.lost && *self.stop.borrow() < Stop::Fenced
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<Delivery, Entry>,
    /// The generation of each pool, as last told by a claim or a heartbeat.
    generations: HashMap<Arc<str>, u64>,
}

/// The attempts in this worker's hands.
#[derive(Default)]
pub(crate) struct Running {
    state: Mutex<State>,
    /// Rung when an attempt needs a heartbeat earlier than the next one planned.
    pub(crate) sooner: Notify,
    /// Rung when an attempt of a suspected task has left this worker's hands.
    pub(crate) suspect_left: Notify,
    /// A claim has shown a new generation: all pools are to be looked at now.
    look_now: AtomicBool,
    planned: Mutex<Option<Instant>>,
}

/// What is due for the attempts of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The next heartbeat.
    pub(crate) beat: Instant,
    /// The next look at the generations; none: nothing runs.
    pub(crate) look: Option<Instant>,
    /// When the first unfenced attempt has to be fenced.
    fence: Option<Instant>,
}

impl Plan {
    /// The first of them.
    pub(crate) fn wake(self) -> Instant {
        [self.look, self.fence].into_iter().flatten().fold(self.beat, Instant::min)
    }
}

impl Running {
    /// Adds an attempt that was claimed from a pool of that generation. None: it is in hand already.
    pub(crate) fn insert(
        &self,
        pool: &Arc<str>,
        message: &TaskMessage,
        generation: u64,
        claimed: ClaimedAt,
    ) -> Option<watch::Receiver<Stop>> {
        let (stop, stopped) = watch::channel(Stop::No);
        let lease = Duration::from_millis(message.lease_ms);
        let heartbeat = Duration::from_millis(message.heartbeat_interval_ms.max(HEARTBEAT_MS_MIN));
        let fence_at = claimed.earliest + lease_without_margin(lease);
        let entry = Entry {
            pool: Arc::clone(pool),
            stop,
            lease,
            heartbeat,
            fence_at,
            ends_at: claimed.latest + Duration::from_millis(message.remaining_ms),
            generation,
            reporting: false,
            spilled: false,
            lost: false,
            isolate: message.isolate,
        };
        let changed = {
            let mut state = self.state();
            let delivery = message.delivery();
            if state.entries.contains_key(&delivery) {
                return None;
            }
            state.entries.insert(delivery, entry);
            state.generations.insert(Arc::clone(pool), generation).is_some_and(|known| known != generation)
        };
        if changed {
            self.look_now.store(true, Ordering::SeqCst);
        }
        let planned = *lock(&self.planned);
        let needed = (claimed.earliest + heartbeat.min(LOOK_EVERY)).min(fence_at);
        if changed || planned.is_none_or(|planned| needed < planned) {
            self.sooner.notify_one();
        }
        Some(stopped)
    }

    /// Whether all pools are to be looked at now; says so once.
    pub(crate) fn must_look_now(&self) -> bool {
        self.look_now.swap(false, Ordering::SeqCst)
    }

    /// The handler has ended: from now on nothing stops the attempt, its lease is kept until [`Self::remove`].
    pub(crate) fn set_reporting(&self, delivery: &Delivery) {
        if let Some(entry) = self.state().entries.get_mut(delivery) {
            entry.reporting = true;
        }
    }

    /// The result is on disk; the lease is kept as before.
    pub(crate) fn set_spilled(&self, delivery: &Delivery) {
        if let Some(entry) = self.state().entries.get_mut(delivery) {
            entry.spilled = true;
        }
    }

    pub(crate) fn remove(&self, delivery: &Delivery) {
        let removed = self.state().entries.remove(delivery);
        if removed.is_some_and(|entry| entry.isolate) {
            self.suspect_left.notify_one();
        }
    }

    /// Whether a suspected task is in this worker's hands.
    pub(crate) fn holds_suspect(&self) -> bool {
        self.state().entries.values().any(|entry| entry.isolate)
    }

    pub(crate) fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Of them, those whose results are on disk.
    pub(crate) fn spilled(&self) -> usize {
        self.state().entries.values().filter(|entry| entry.spilled).count()
    }

    /// Tells an attempt to stop, unless its handler has ended or it was told something stronger.
    pub(crate) fn stop(&self, delivery: &Delivery, reason: Stop) {
        if let Some(entry) = self.state().entries.get(delivery) {
            tell(entry, reason);
        }
    }

    pub(crate) fn stop_all(&self, reason: Stop) {
        for entry in self.state().entries.values() {
            tell(entry, reason);
        }
    }

    /// The queue has said that the lease is gone for good.
    pub(crate) fn lost(&self, delivery: &Delivery) {
        if let Some(entry) = self.state().entries.get_mut(delivery) {
            tell(entry, Stop::Lost);
            entry.lost = true;
        }
    }

    /// The pools whose leases are to be kept.
    pub(crate) fn pools(&self) -> BTreeSet<Arc<str>> {
        let state = self.state();
        let kept = state.entries.values().filter(|entry| entry.is_kept());
        kept.map(|entry| Arc::clone(&entry.pool)).collect()
    }

    /// The attempts of a pool whose leases are to be kept.
    pub(crate) fn kept(&self, pool: &str) -> Vec<Delivery> {
        let state = self.state();
        let kept = state.entries.iter().filter(|(_, entry)| &*entry.pool == pool && entry.is_kept());
        kept.map(|(delivery, _)| delivery.clone()).collect()
    }

    /// The same as leases to be re-asserted.
    pub(crate) fn leases(&self, pool: &str) -> Vec<Lease> {
        let now = Instant::now();
        let state = self.state();
        let kept = state.entries.iter().filter(|(_, entry)| &*entry.pool == pool && entry.is_kept());
        let leases = kept.map(|(delivery, entry)| Lease {
            delivery: delivery.clone(),
            lease_ms: millis(entry.lease),
            remaining_ms: millis(entry.ends_at.saturating_duration_since(now)),
        });
        leases.collect()
    }

    /// Whether the queue may have forgotten leases of the pool: it has not confirmed them since its generation changed, or
    /// it has none.
    pub(crate) fn may_be_forgotten(&self, pool: &str) -> bool {
        let state = self.state();
        let known = state.generations.get(pool).copied().unwrap_or(NOT_BUILT);
        let mut kept = state.entries.values().filter(|entry| &*entry.pool == pool && entry.is_kept());
        kept.any(|entry| entry.generation == NOT_BUILT || entry.generation != known)
    }

    /// Notes the generation of a pool. True: it is another one than before, or the queue is not built.
    pub(crate) fn note_generation(&self, pool: &Arc<str>, generation: u64) -> bool {
        let before = self.state().generations.insert(Arc::clone(pool), generation);
        generation == NOT_BUILT || before != Some(generation)
    }

    /// Notes that the queue confirmed the leases, in a call that began at `sent_at`.
    pub(crate) fn confirmed<'a>(
        &self,
        deliveries: impl IntoIterator<Item = &'a Delivery>,
        generation: u64,
        sent_at: Instant,
    ) {
        let mut state = self.state();
        for delivery in deliveries {
            if let Some(entry) = state.entries.get_mut(delivery) {
                entry.fence_at = sent_at + lease_without_margin(entry.lease);
                entry.generation = generation;
            }
        }
    }

    /// Stops the attempts whose leases may have ended by `now`.
    pub(crate) fn fence(&self, now: Instant) {
        for entry in self.state().entries.values() {
            if entry.fence_at <= now {
                tell(entry, Stop::Fenced);
            }
        }
    }

    /// What is due after a heartbeat at `last_beat` and a look at `last_look`. Remembers the earliest, to be woken for
    /// attempts that cannot wait for it.
    pub(crate) fn plan(&self, last_beat: Instant, last_look: Instant, longest: Duration) -> Plan {
        let plan = {
            let state = self.state();
            let entries = state.entries.values();
            let shortest = entries.clone().map(|entry| entry.heartbeat).min().unwrap_or(longest).min(longest);
            let fence = entries
                .filter(|entry| !entry.reporting && *entry.stop.borrow() < Stop::Fenced)
                .map(|entry| entry.fence_at)
                .min();
            let look = (!state.entries.is_empty()).then(|| last_look + shortest.min(LOOK_EVERY));
            Plan { beat: last_beat + shortest, look, fence }
        };
        *lock(&self.planned) = Some(plan.wake());
        plan
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(entry: &Entry, reason: Stop) {
    if !entry.reporting {
        entry.stop.send_if_modified(|stop| {
            let stronger = reason > *stop;
            if stronger {
                *stop = reason;
            }
            stronger
        });
    }
}

fn lease_without_margin(lease: Duration) -> Duration {
    lease - (lease / FENCE_MARGIN_PART).min(FENCE_MARGIN_MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
