//! The wall clock, as a trait, so that tests and virtual time can replace it.

use std::sync::atomic::{AtomicI64, Ordering};

/// Tells the time: milliseconds since the Unix epoch.
pub trait Clock: Send + Sync {
    /// Now.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// The machine's clock plus an offset that is measured now and then: the clock of another machine.
#[derive(Debug, Default)]
pub struct OffsetClock {
    offset_ms: AtomicI64,
}

impl OffsetClock {
    /// Notes by how many milliseconds the other clock is ahead.
    pub fn set_offset(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::SeqCst);
    }
}

impl Clock for OffsetClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms().saturating_add(self.offset_ms.load(Ordering::SeqCst))
    }
}

/// The machine's clock plus an offset that only grows: virtual time for `--skip-time`.
#[derive(Debug, Default)]
pub struct SkippingClock {
    offset_ms: AtomicI64,
}

impl SkippingClock {
    /// Makes `now` be at least `target_ms`.
    pub fn skip_to(&self, target_ms: i64) {
        let missing = target_ms.saturating_sub(self.now_ms());
        if missing > 0 {
            self.offset_ms.fetch_add(missing, Ordering::SeqCst);
        }
    }
}

impl Clock for SkippingClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms().saturating_add(self.offset_ms.load(Ordering::SeqCst))
    }
}
