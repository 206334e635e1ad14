//! The attempts in this worker's hands: shared by the tasks that run them and the thread that keeps their leases.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowmonkey_plumbing::queue::Delivery;
use flowmonkey_plumbing::wire::TaskMessage;
use tokio::sync::{Notify, watch};

use crate::config::HEARTBEAT_MS_MIN;

/// A worker stops on its own this part of the lease before the lease ends, so that it has stopped when another starts.
const FENCE_MARGIN_PART: u32 = 6;
/// The margin is never longer.
const FENCE_MARGIN_MAX: Duration = Duration::from_secs(5);

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

struct Entry {
    pool: Arc<str>,
    stop: watch::Sender<Stop>,
    lease: Duration,
    heartbeat: Duration,
    /// By this worker's monotonic clock.
    fence_at: Instant,
    /// The handler has ended; only the lease is kept until the result is accepted.
    reporting: bool,
}

/// The attempts in this worker's hands.
#[derive(Default)]
pub(crate) struct Running {
    entries: Mutex<HashMap<Delivery, Entry>>,
    /// Rung when an attempt needs a heartbeat earlier than the next one planned.
    pub(crate) sooner: Notify,
    planned: Mutex<Option<Instant>>,
}

impl Running {
    /// Adds an attempt that was claimed at `claimed_at` (taken before the claim). None: it is in hand already.
    pub(crate) fn insert(
        &self,
        pool: &Arc<str>,
        message: &TaskMessage,
        claimed_at: Instant,
    ) -> Option<watch::Receiver<Stop>> {
        let (stop, stopped) = watch::channel(Stop::No);
        let lease = Duration::from_millis(message.lease_ms);
        let heartbeat = Duration::from_millis(message.heartbeat_interval_ms.max(HEARTBEAT_MS_MIN));
        let fence_at = claimed_at + lease_without_margin(lease);
        let entry = Entry { pool: Arc::clone(pool), stop, lease, heartbeat, fence_at, reporting: false };
        {
            let mut entries = self.entries();
            let delivery = message.delivery();
            if entries.contains_key(&delivery) {
                return None;
            }
            entries.insert(delivery, entry);
        }
        let planned = *lock(&self.planned);
        let needed = (claimed_at + heartbeat).min(fence_at);
        if planned.is_none_or(|planned| needed < planned) {
            self.sooner.notify_one();
        }
        Some(stopped)
    }

    /// The handler has ended: from now on nothing stops the attempt, its lease is kept until [`Self::remove`].
    pub(crate) fn set_reporting(&self, delivery: &Delivery) {
        if let Some(entry) = self.entries().get_mut(delivery) {
            entry.reporting = true;
        }
    }

    pub(crate) fn remove(&self, delivery: &Delivery) {
        self.entries().remove(delivery);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Tells an attempt to stop, unless its handler has ended or it was told something stronger.
    pub(crate) fn stop(&self, delivery: &Delivery, reason: Stop) {
        if let Some(entry) = self.entries().get(delivery) {
            tell(entry, reason);
        }
    }

    pub(crate) fn stop_all(&self, reason: Stop) {
        for entry in self.entries().values() {
            tell(entry, reason);
        }
    }

    /// The attempts whose leases are to be extended, by pool.
    pub(crate) fn by_pool(&self) -> BTreeMap<Arc<str>, Vec<Delivery>> {
        let mut pools: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (delivery, entry) in &*self.entries() {
            pools.entry(Arc::clone(&entry.pool)).or_default().push(delivery.clone());
        }
        pools
    }

    /// Notes that the leases were extended by a call that began at `sent_at`.
    pub(crate) fn extended(&self, deliveries: &[Delivery], sent_at: Instant) {
        let mut entries = self.entries();
        for delivery in deliveries {
            if let Some(entry) = entries.get_mut(delivery) {
                entry.fence_at = sent_at + lease_without_margin(entry.lease);
            }
        }
    }

    /// Stops the attempts whose leases may have ended by `now`.
    pub(crate) fn fence(&self, now: Instant) {
        for entry in self.entries().values() {
            if entry.fence_at <= now {
                tell(entry, Stop::Fenced);
            }
        }
    }

    /// When the next heartbeat is due after one at `last`, and when the first unfenced attempt has to be fenced. Remembers
    /// the earlier of them, to be woken for attempts that cannot wait for it.
    pub(crate) fn plan(&self, last: Instant, longest: Duration) -> (Instant, Option<Instant>) {
        let (beat, fence) = {
            let entries = self.entries();
            let shortest = entries.values().map(|entry| entry.heartbeat).min().unwrap_or(longest);
            let fences = entries
                .values()
                .filter(|entry| !entry.reporting && *entry.stop.borrow() < Stop::Fenced)
                .map(|entry| entry.fence_at);
            (last + shortest.min(longest), fences.min())
        };
        *lock(&self.planned) = Some(fence.map_or(beat, |fence| fence.min(beat)));
        (beat, fence)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Delivery, Entry>> {
        lock(&self.entries)
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
