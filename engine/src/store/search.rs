//! Which executions a list or a count is about, and how the record finds them.
//!
//! Architecture invariant: no index holds what an ordinary step changes. What changes with every step (the step, the instant
//! of the last change, why it waits) is therefore looked for among the executions that have not ended, which are few, and
//! those that have ended are found by what they ended with.

use std::collections::BTreeMap;
use std::str::FromStr;

use async_trait::async_trait;
use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use uuid::Uuid;

use super::StoreError;

/// Executions up to which a count is exact.
pub const COUNT_MAX: u64 = 10_000;
/// Milliseconds by which the instant in an id and that of the creation may differ, and by which an execution may end before it
/// began (clocks of several engines), before it is kept in an index of its own. The migrations name it too.
const CLOCKS_APART_MS: i64 = 10_000;
/// Bits of an id below its instant.
const BELOW_INSTANT: u32 = 80;
/// The latest instant that an id can tell.
const INSTANT_MAX: i64 = (1 << 48) - 1;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// A span of time. Open ends are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From this instant on.
    pub from: Option<Timestamp>,
    /// Before this instant.
    pub until: Option<Timestamp>,
}

impl Span {
    /// Whether all time is in it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.from.is_none() && self.until.is_none()
    }

    /// Whether `at` is in it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until)
    }

    /// What is in both.
    fn and(self, other: Self) -> Self {
        let until = match (self.until, other.until) {
            (Some(one), Some(another)) => Some(one.min(another)),
            (one, another) => one.or(another),
        };
        Self { from: self.from.max(other.from), until }
    }
}

/// How ids begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdPrefix {
    low: u128,
    high: u128,
}

/// The text begins no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ids begin with `ex_` and up to {ID_DIGITS} hexadecimal digits")]
pub struct InvalidIdPrefix;

impl IdPrefix {
    /// Whether the id begins like this.
    #[must_use]
    pub fn begins(self, id: ExecutionId) -> bool {
        (self.low..=self.high).contains(&id.as_uuid().as_u128())
    }
}

impl FromStr for IdPrefix {
    type Err = InvalidIdPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidIdPrefix> {
        let digits = text.strip_prefix("ex_").unwrap_or(text);
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if digits.is_empty() || digits.len() > ID_DIGITS || !is_hex {
            return Err(InvalidIdPrefix);
        }
        let bound = |fill: &str| {
            let filled = format!("{digits}{}", fill.repeat(ID_DIGITS - digits.len()));
            u128::from_str_radix(&filled, 16)
        };
        match (bound("0"), bound("f")) {
            (Ok(low), Ok(high)) => Ok(Self { low, high }),
            (Ok(_) | Err(_), _) => Err(InvalidIdPrefix),
        }
    }
}

/// Which executions. All conditions have to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecutionFilter {
    /// Only these statuses; empty: all.
    pub statuses: Vec<Status>,
    /// Only of this flow.
    pub flow_id: Option<String>,
    /// Only of this version of its flow.
    pub flow_version: Option<String>,
    /// Only with these labels.
    pub labels: BTreeMap<String, String>,
    /// Only of this tenant; none: of all, and of none.
    pub tenant: Option<String>,
    /// Only those created in this time.
    pub created: Span,
    /// Only those that last changed in this time.
    pub updated: Span,
    /// Only those that ended in this time.
    pub ended: Span,
    /// Only with this error.
    pub error_code: Option<String>,
    /// Only those that are at this step, or ended there.
    pub current_step: Option<String>,
    /// Only those that wait, for a reason that begins like this.
    pub waiting_reason: Option<String>,
    /// Only those whose ids begin like this.
    pub id_prefix: Option<IdPrefix>,
    /// Children too, not only roots.
    pub include_children: bool,
    /// Only children of this execution.
    pub parent: Option<ExecutionId>,
    /// Only those older than this one (the cursor of the page before).
    pub before: Option<ExecutionId>,
    /// At most this many.
    pub max: usize,
}

/// How many executions there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// So many.
    pub count: u64,
    /// Whether there are no more: a count stops at [`COUNT_MAX`].
    pub exact: bool,
}

impl Count {
    /// What was counted up to one more than [`COUNT_MAX`].
    pub(super) const fn of(found: u64) -> Self {
        if found > COUNT_MAX {
            Self { count: COUNT_MAX, exact: false }
        } else {
            Self { count: found, exact: true }
        }
    }
}

/// Searching executions.
#[async_trait]
pub trait SearchStore: Send + Sync + 'static {
    /// How many executions a filter finds, whatever its `before` and `max` say: exact up to [`COUNT_MAX`].
    async fn count(&self, filter: &ExecutionFilter) -> Result<Count, StoreError>;
}

/// Which executions can be among those that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All.
    Any,
    /// Those that have not ended.
    Live,
    /// Those that have.
    Ended,
}

/// Ids from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdRange {
    low: u128,
    high: u128,
}

impl IdRange {
    const ALL: Self = Self { low: 0, high: u128::MAX };

    /// The first.
    pub(super) const fn low(self) -> Uuid {
        Uuid::from_u128(self.low)
    }

    /// The last.
    pub(super) const fn high(self) -> Uuid {
        Uuid::from_u128(self.high)
    }

    fn and(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    /// The ids that were drawn in this time, both ends included.
    fn drawn(from: Option<i64>, to: Option<i64>) -> Self {
        let instant = |millis: i64| u128::from(millis.clamp(0, INSTANT_MAX).unsigned_abs());
        Self {
            low: from.map_or(0, |from| instant(from) << BELOW_INSTANT),
            high: to.map_or(u128::MAX, |to| (instant(to) << BELOW_INSTANT) | ((1 << BELOW_INSTANT) - 1)),
        }
    }
}

/// A filter, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// What the statuses and the other conditions come to.
    pub(super) phase: Phase,
    /// When it last changed; for one that has ended, when it ended.
    pub(super) updated: Span,
    /// The ids that the page can have.
    pub(super) ids: IdRange,
}

/// Executions that are found by one statement. The parts of a search have no execution in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Which.
    pub(super) phase: Phase,
    /// With these ids.
    pub(super) ids: IdRange,
    /// Only those whose ids do not tell when they were created, and none with these ids.
    pub(super) astray: Option<IdRange>,
}

impl ExecutionFilter {
    /// Understands the filter, with its cursor or without; none: nothing can match.
    pub(super) fn search(&self, paged: bool) -> Option<Search> {
        let mut phase = match self.statuses.as_slice() {
            [] => Phase::Any,
            some if some.iter().all(|status| status.is_terminal()) => Phase::Ended,
            some if !some.iter().any(|status| status.is_terminal()) => Phase::Live,
            _ => Phase::Any,
        };
        let mut narrow = |to: Phase| {
            let fits = phase == Phase::Any || phase == to;
            phase = to;
            fits
        };
        if (!self.ended.is_open() && !narrow(Phase::Ended))
            || (self.waiting_reason.is_some() && !narrow(Phase::Live))
        {
            return None;
        }
        let mut ids =
            self.id_prefix.map_or(IdRange::ALL, |prefix| IdRange { low: prefix.low, high: prefix.high });
        if let Some(before) = self.before.filter(|_| paged) {
            ids = ids.and(IdRange { low: 0, high: before.as_uuid().as_u128().checked_sub(1)? })?;
        }
        Some(Search { phase, updated: self.updated.and(self.ended), ids })
    }
}

impl Search {
    /// The statements that find it, in the order in which they have to be made: an execution that ends meanwhile may be
    /// found twice, but is not missed.
    pub(super) fn parts(&self, filter: &ExecutionFilter) -> Vec<Part> {
        let depends = !self.updated.is_open() || filter.current_step.is_some();
        let phases = match self.phase {
            Phase::Any if depends => vec![Phase::Live, Phase::Ended],
            phase @ (Phase::Any | Phase::Live | Phase::Ended) => vec![phase],
        };
        let mut parts = Vec::new();
        for phase in phases {
            let drawn = self.drawn(filter, phase);
            if drawn == IdRange::ALL {
                parts.push(Part { phase, ids: self.ids, astray: None });
                continue;
            }
            parts.extend(self.ids.and(drawn).map(|ids| Part { phase, ids, astray: None }));
            parts.push(Part { phase, ids: self.ids, astray: Some(drawn) });
        }
        parts
    }

    /// The ids that executions of `phase` have, as far as their ids tell when they were created.
    fn drawn(&self, filter: &ExecutionFilter, phase: Phase) -> IdRange {
        // Those that have not ended are few.
        if phase == Phase::Live {
            return IdRange::ALL;
        }
        let last = |until: Option<Timestamp>, apart: i64| {
            until.map(|until| until.as_millis().saturating_sub(1).saturating_add(apart))
        };
        let from = filter.created.from.map(|from| from.as_millis().saturating_sub(CLOCKS_APART_MS));
        let created = last(filter.created.until, CLOCKS_APART_MS);
        let ended = if phase == Phase::Ended { last(self.updated.until, 2 * CLOCKS_APART_MS) } else { None };
        let to = match (created, ended) {
            (Some(created), Some(ended)) => Some(created.min(ended)),
            (created, ended) => created.or(ended),
        };
        IdRange::drawn(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Option<Timestamp> {
        Some(Timestamp::from_millis(millis))
    }

    #[test]
    fn counts_stop_at_their_bound() {
        assert_eq!(Count::of(COUNT_MAX), Count { count: COUNT_MAX, exact: true });
        assert_eq!(Count::of(COUNT_MAX + 1), Count { count: COUNT_MAX, exact: false });
    }

    #[test]
    fn prefixes_of_ids_are_ranges() {
        let range = |text: &str| text.parse::<IdPrefix>().map(|prefix| (prefix.low, prefix.high));
        assert_eq!(range("ex_0199"), Ok((0x0199 << 112, (0x0199 << 112) | ((1 << 112) - 1))));
        assert_eq!(range("0199"), range("ex_0199"));
        assert_eq!(range(&"F".repeat(32)), Ok((u128::MAX, u128::MAX)));
        for text in ["", "ex_", "ex_x", "+1", "é", &"0".repeat(33)] {
            assert_eq!(range(text), Err(InvalidIdPrefix), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_not_looked_for() {
        let waiting = ExecutionFilter { waiting_reason: Some("signal".into()), ..ExecutionFilter::default() };
        assert_eq!(waiting.search(true).map(|search| search.phase), Some(Phase::Live));
        let statuses = vec![Status::Failed];
        assert_eq!(ExecutionFilter { statuses: statuses.clone(), ..waiting.clone() }.search(true), None);
        let ended = Span { from: at(5), until: None };
        assert_eq!(ExecutionFilter { ended, ..waiting }.search(true), None);
        let failed = ExecutionFilter { statuses, ended, ..ExecutionFilter::default() };
        assert_eq!(
            failed.search(true).map(|search| (search.phase, search.updated)),
            Some((Phase::Ended, ended))
        );
        let first = ExecutionId::from_uuid(Uuid::nil());
        let none = ExecutionFilter { before: Some(first), ..ExecutionFilter::default() };
        assert_eq!(none.search(true), None);
        assert_eq!(none.search(false).map(|search| search.ids), Some(IdRange::ALL));
    }

    #[test]
    fn time_is_looked_for_by_ids_and_beside_them() {
        let created = Span { from: at(100_000), until: at(200_000) };
        let filter = ExecutionFilter { created, ..ExecutionFilter::default() };
        let parts = filter.search(true).map(|search| search.parts(&filter)).unwrap();
        let [near, astray] = parts.as_slice() else { panic!("{parts:?}") };
        assert_eq!((near.phase, near.astray), (Phase::Any, None));
        assert_eq!(near.ids.low >> BELOW_INSTANT, 90_000);
        assert_eq!(near.ids.high >> BELOW_INSTANT, 209_999);
        assert_eq!((astray.ids, astray.astray), (IdRange::ALL, Some(near.ids)));

        let updated = Span { from: None, until: at(50) };
        let filter = ExecutionFilter { updated, ..ExecutionFilter::default() };
        let parts = filter.search(true).map(|search| search.parts(&filter)).unwrap();
        assert_eq!(
            parts.iter().map(|part| part.phase).collect::<Vec<_>>(),
            [Phase::Live, Phase::Ended, Phase::Ended]
        );
        assert_eq!(parts[1].ids.high >> BELOW_INSTANT, 20_049);
    }
}
