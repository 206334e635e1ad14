//! What a fault did to the rate of ends: how far it fell, when it was back, and how long nothing ended at all.

/// The part of the rate before that counts as being back.
const BACK: f64 = 0.9;
/// A rate is that of the second after an instant.
const SECOND_MS: i64 = 1000;
/// Between two instants at which the rate is looked at.
const STEP_MS: i64 = 10;

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Recovery {
    /// Ends a second before it.
    pub(super) before: f64,
    /// The least in any second that holds a part of what came after it.
    pub(super) least: f64,
    /// From the fault to the first second with nine tenths of the rate before, after one with less, if none with less begins within
    /// the next. Zero: there was none with less.
    pub(super) back_ms: Option<i64>,
    /// Time after the fault at which a second with less than that begins.
    pub(super) below_ms: i64,
    /// The longest time without an end, between the last end before it and the end of the observation.
    pub(super) gap_ms: i64,
}

/// The ends of executions, in order, seen from a fault at `at_ms`: `before_ms` of them before it, and those up to `until_ms`.
pub(super) fn recovery(ends_ms: &[i64], at_ms: i64, before_ms: i64, until_ms: i64) -> Recovery {
    let up_to = |instant: i64| ends_ms.partition_point(|end| *end < instant);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = |from: i64, to: i64| (up_to(to) - up_to(from)) as f64 * 1000.0 / (to - from) as f64;
    let before = rate(at_ms - before_ms, at_ms);
    let (mut least, mut below_ms, mut fell, mut back) = (f64::INFINITY, 0, false, None);
    let mut from = at_ms - SECOND_MS + STEP_MS;
    while from + SECOND_MS <= until_ms {
        let now = rate(from, from + SECOND_MS);
        least = least.min(now);
        if now < BACK * before {
            fell = true;
            below_ms += if from >= at_ms { STEP_MS } else { 0 };
            // It was not back for long.
            back = back.filter(|back| from - back > SECOND_MS);
        } else if fell && back.is_none() {
            back = Some(from);
        }
        from += STEP_MS;
    }
    let back_ms = if fell { back.map(|back| (back - at_ms).max(0)) } else { Some(0) };
    let (first, last) = (up_to(at_ms).saturating_sub(1), up_to(until_ms));
    let seen = &ends_ms[first..last];
    let gaps = seen.windows(2).map(|pair| pair[1] - pair[0]);
    let at_the_end = until_ms - seen.last().copied().unwrap_or(at_ms);
    let gap_ms = gaps.chain([at_the_end]).max().unwrap_or_default();
    Recovery { before, least, back_ms, below_ms, gap_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One end each 10 ms, but for a time, after which what was missed comes at once.
    fn ends(from: i64, to: i64) -> Vec<i64> {
        let at = |number: i64| if (from..to).contains(&(number * 10)) { to } else { number * 10 };
        let mut ends: Vec<i64> = (0..2000).map(at).collect();
        ends.sort_unstable();
        ends
    }

    #[test]
    fn a_rate_that_falls_is_back_when_a_second_has_nine_tenths_of_it() {
        let seen = recovery(&ends(10_000, 13_000), 10_000, 5_000, 20_000);
        assert_eq!(seen.before.round(), 100.0);
        assert_eq!((seen.least, seen.gap_ms), (0.0, 3_010));
        // The second from here on holds what was missed.
        assert_eq!(seen.back_ms, Some(2_010));
        assert_eq!(seen.below_ms, 2_010);
    }

    #[test]
    fn a_rate_that_comes_and_goes_is_not_back() {
        // Nothing for a second, then all of it, and nothing for another second.
        let mut ends = ends(10_000, 11_000);
        ends.iter_mut().filter(|end| (11_010..12_500).contains(*end)).for_each(|end| *end = 12_500);
        let seen = recovery(&ends, 10_000, 5_000, 20_000);
        assert_eq!(seen.back_ms, Some(11_510 - 10_000));
    }

    #[test]
    fn a_fault_that_nobody_notices_takes_no_time() {
        let seen = recovery(&ends(0, 0), 10_000, 5_000, 20_000);
        assert_eq!((seen.back_ms, seen.below_ms, seen.gap_ms), (Some(0), 0, 10));
    }

    #[test]
    fn a_rate_that_does_not_come_back_is_told() {
        let seen = recovery(&ends(10_000, 30_000), 10_000, 5_000, 20_000);
        assert_eq!((seen.back_ms, seen.gap_ms), (None, 10_010));
    }
}
