//! Waiting times between repetitions: doubling, bounded, spread by chance so that workers do not march in step.

use std::time::Duration;

use flowmonkey_plumbing::ids::Entropy;

/// The wait after the first failure.
const FIRST: Duration = Duration::from_millis(50);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half and all of the doubled time.
    pub(crate) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let whole = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        let extra = u64::try_from(entropy.bits() % u128::from(spread + 1)).unwrap_or(0);
        half + Duration::from_micros(extra)
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u128);

    impl Entropy for Fixed {
        fn bits(&self) -> u128 {
            self.0
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next(&Fixed(0))).collect();
        assert_eq!(waits[..3], [25, 50, 100].map(Duration::from_millis));
        assert_eq!(waits[39], LONGEST / 2);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        backoff.reset();
        assert!(backoff.next(&Fixed(u128::MAX)) <= FIRST);
    }
}
