//! Instants as integer milliseconds since the Unix epoch. Nothing here reads a clock.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, as an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant plus `millis`; stops at the last representable instant instead of overflowing.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        let millis = if millis > i64::MAX as u64 { i64::MAX } else { millis as i64 };
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this instant; 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        let difference = self.0.saturating_sub(earlier.0);
        if difference < 0 { 0 } else { difference as u64 }
    }

    /// RFC 3339 in UTC with milliseconds: `2026-02-03T12:00:00.123Z`. Instants outside the years that RFC 3339
    /// can spell are shown as the nearest one that it can.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        const FIRST: i64 = -62_135_596_800_000; // 0001-01-01
        const LAST: i64 = 253_402_300_799_999; // 9999-12-31
        DateTime::<Utc>::from_timestamp_millis(self.0.clamp(FIRST, LAST))
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// Reads RFC 3339 (any offset). `None` when the text is not a valid instant.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|instant| Self(instant.timestamp_millis()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// What the shell gives to one decision: the instant, and chance for jitter. Both are arguments so that a decision can
/// be repeated exactly.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The instant at which the decision is taken.
    pub now: Timestamp,
    /// Evenly spread random bits; used for jitter only.
    pub chance: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips_and_keeps_milliseconds() {
        let instant = Timestamp::parse_rfc3339("2026-02-03T13:00:00.123+01:00").unwrap();
        assert_eq!(instant.to_rfc3339(), "2026-02-03T12:00:00.123Z");
        assert_eq!(Timestamp::parse_rfc3339(&instant.to_rfc3339()), Some(instant));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn arithmetic_saturates() {
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!(last.plus(u64::MAX), last);
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), 0);
        assert_eq!(last.to_rfc3339(), "9999-12-31T23:59:59.999Z");
    }
}
