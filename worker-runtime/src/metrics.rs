//! What a worker counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What a worker has counted since its start.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Tasks claimed.
    pub claimed: Counter,
    /// Handlers started.
    pub started: Counter,
    /// Attempts that succeeded.
    pub succeeded: Counter,
    /// Attempts that failed, for whatever reason.
    pub failed: Counter,
    /// Attempts after which the step waits.
    pub waited: Counter,
    /// Attempts stopped by a drain and handed back as `released`.
    pub stopped: Counter,
    /// Tasks handed back before their handler had started.
    pub released: Counter,
    /// Attempts whose handler panicked.
    pub panicked: Counter,
    /// Attempts that ran out of time.
    pub timed_out: Counter,
    /// Attempts whose handler did not end in time after a cancellation.
    pub cancelled: Counter,
    /// Attempts stopped because the queue no longer knew this worker as their owner.
    pub lost: Counter,
    /// Attempts stopped because this worker could not extend their leases in time.
    pub fenced: Counter,
    /// Results accepted by the queue.
    pub reported: Counter,
    /// Results refused by the queue: another worker owns the task.
    pub refused: Counter,
    /// Calls of `claim` that failed.
    pub claim_errors: Counter,
    /// Leases put back because the queue may have forgotten them.
    pub reasserted: Counter,
    /// Results written to disk because the queue did not take them.
    pub spilled: Counter,
    /// Results that were on disk, of this worker or one before it, and have been accepted or refused since.
    pub unspilled: Counter,
    /// Files put aside because they are no result that can be read.
    pub spill_corrupt: Counter,
    /// Results that found no room on disk, or could not be written: they stayed in memory.
    pub spill_errors: Counter,
    /// Results sent past the queue.
    pub rerouted: Counter,
    /// Announcements that failed or took too long.
    pub announce_errors: Counter,
    /// Calls of `extend` and `reassert` that failed or took too long.
    pub extend_errors: Counter,
    /// Calls of `finish` that failed; each is repeated.
    pub finish_errors: Counter,
}
