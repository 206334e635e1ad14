//! How often somebody may come: so many requests a second, and a burst, for each name. Memory is bounded: of more names than
//! are remembered, the one that was seen longest ago is forgotten.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// The generic cell rate algorithm: of each name only the instant is kept at which it would have used up nothing.
pub(super) struct RateLimit {
    /// Time that one request uses up.
    each: Duration,
    /// Time that may be used up ahead.
    burst: Duration,
    names: Mutex<LruCache<String, Instant>>,
}

impl RateLimit {
    /// `per_second` requests, at least one, and as many as those of `burst_seconds` at once; of `names` names.
    pub(super) fn new(per_second: u32, burst_seconds: u32, names: NonZeroUsize) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self {
            each,
            burst: Duration::from_secs(u64::from(burst_seconds)),
            names: Mutex::new(LruCache::new(names)),
        }
    }

    /// Counts a request of `name`; else how long it has to wait for the next.
    pub(super) fn take(&self, name: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let mut names = self.names();
        if let Some(free_at) = names.get_mut(name) {
            let start = (*free_at).max(now);
            let ahead = (start + self.each).duration_since(now);
            if ahead > self.burst {
                return Err(ahead.saturating_sub(self.burst));
            }
            *free_at = start + self.each;
        } else {
            names.put(name.to_owned(), now + self.each);
        }
        Ok(())
    }

    /// As [`Self::take`], without counting.
    pub(super) fn may(&self, name: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let ahead = match self.names().peek(name) {
            Some(free_at) => (*free_at + self.each).saturating_duration_since(now),
            None => return Ok(()),
        };
        if ahead > self.burst { Err(ahead.saturating_sub(self.burst)) } else { Ok(()) }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, LruCache<String, Instant>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate() {
        let limit = RateLimit::new(10, 2, NonZeroUsize::new(2).unwrap());
        for _ in 0..20 {
            limit.may("a").unwrap();
            limit.take("a").unwrap();
        }
        assert_eq!(limit.take("a"), Err(Duration::from_millis(100)));
        assert_eq!(limit.may("a"), Err(Duration::from_millis(100)));
        limit.take("b").unwrap();
        tokio::time::advance(Duration::from_millis(250)).await;
        limit.take("a").unwrap();
        limit.take("a").unwrap();
        limit.take("a").unwrap_err();
        // A third name takes the place of the one that was seen longest ago.
        limit.take("c").unwrap();
        assert_eq!(limit.names().len(), 2);
    }
}
