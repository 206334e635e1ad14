//! Virtual time: it moves only when the simulation moves it.

use std::sync::atomic::{AtomicI64, Ordering};

use flowmonkey_plumbing::clock::Clock;

/// Where the simulated time begins: 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// Virtual time.
#[derive(Debug)]
pub struct VirtualClock(AtomicI64);

impl Default for VirtualClock {
    fn default() -> Self {
        Self(AtomicI64::new(EPOCH_MS))
    }
}

impl VirtualClock {
    /// Moves the time by `millis`.
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}
