//! Numbers of what should not happen.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a Redis queue met since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStats {
    /// Claimed tasks whose body could not be read, or was not of that delivery; each was handed in as a failure
    /// `TASK_UNREADABLE`.
    pub tasks_unreadable: u64,
    /// Results whose body could not be read, or was not of that delivery.
    pub results_unreadable: u64,
    /// Elements of lists and hashes that are nothing of ours, and were put aside.
    pub elements_put_aside: u64,
    /// Keys of the wrong type that were put aside.
    pub keys_put_aside: u64,
    /// Results that could not be encoded and were replaced by a failure `RESULT_UNWRITABLE`.
    pub results_unwritable: u64,
    /// Connections opened for calls; above 1: it broke, or was refused, before.
    pub connections_opened: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) tasks_unreadable: Counter,
    pub(super) results_unreadable: Counter,
    pub(super) elements_put_aside: Counter,
    pub(super) keys_put_aside: Counter,
    pub(super) results_unwritable: Counter,
}

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn read(&self, connections_opened: u64) -> RedisStats {
        RedisStats {
            tasks_unreadable: self.tasks_unreadable.get(),
            results_unreadable: self.results_unreadable.get(),
            elements_put_aside: self.elements_put_aside.get(),
            keys_put_aside: self.keys_put_aside.get(),
            results_unwritable: self.results_unwritable.get(),
            connections_opened,
        }
    }
}
