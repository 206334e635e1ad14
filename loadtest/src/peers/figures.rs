//! What is compared.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::system::usage::rounded;

/// One of the figures, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Steps per second of flows of three, in a closed loop.
    Throughput,
    /// The same of flows that are enqueued all at once.
    Bulk,
    /// Microseconds of processor time per step of the closed loop, of all processes.
    ProcessorTime,
    /// Milliseconds from start to result.
    OneStepP50,
    OneStepP99,
    /// Milliseconds that each step beyond the first takes.
    FurtherStep,
    /// Milliseconds.
    FanOut,
    /// MiB of the servers, before any load.
    ServerMemory,
    /// MiB of the process that has the handlers, before any load.
    WorkerMemory,
}

impl Figure {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Throughput,
        Self::Bulk,
        Self::ProcessorTime,
        Self::OneStepP50,
        Self::OneStepP99,
        Self::FurtherStep,
        Self::FanOut,
        Self::ServerMemory,
        Self::WorkerMemory,
    ];

    /// In reports.
    const fn key(self) -> &'static str {
        match self {
            Self::Throughput => "stepsPerSecond",
            Self::Bulk => "stepsPerSecondInBulk",
            Self::ProcessorTime => "cpuMicrosPerStep",
            Self::OneStepP50 => "oneStepMillisP50",
            Self::OneStepP99 => "oneStepMillisP99",
            Self::FurtherStep => "millisPerFurtherStep",
            Self::FanOut => "fanOutMillis",
            Self::ServerMemory => "idleServersMib",
            Self::WorkerMemory => "idleWorkerMib",
        }
    }

    /// In tables.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Throughput => "three steps, steps/s",
            Self::Bulk => "enqueued at once, steps/s",
            Self::ProcessorTime => "processor time per step, µs",
            Self::OneStepP50 => "one step p50, ms",
            Self::OneStepP99 => "one step p99, ms",
            Self::FurtherStep => "each further step, ms",
            Self::FanOut => "fan-out of 1,000, ms",
            Self::ServerMemory => "idle servers, MiB",
            Self::WorkerMemory => "idle worker, MiB",
        }
    }
}

/// What was measured; not everything of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures(BTreeMap<Figure, f64>);

impl Figures {
    /// Says one.
    pub(crate) fn put(&mut self, figure: Figure, value: f64) {
        self.0.insert(figure, value);
    }

    /// One of them.
    pub(crate) fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    /// Each divided by that of `other`, where both have it.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(figure, ours)| Some((*figure, ours / other.get(*figure)?)));
        Self(both.collect())
    }

    /// As JSON.
    pub(crate) fn told(&self) -> Value {
        self.0.iter().map(|(figure, value)| (figure.key().to_owned(), rounded(*value))).collect()
    }
}

/// Of each figure the median; none of nothing.
pub(crate) fn median(runs: &[&Figures]) -> Option<Figures> {
    if runs.is_empty() {
        return None;
    }
    let mut medians = Figures::default();
    for figure in Figure::ALL {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(figure)).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let Some(upper) = values.get(middle) else { continue };
        let lower = if values.len().is_multiple_of(2) { values[middle - 1] } else { *upper };
        medians.put(figure, f64::midpoint(lower, *upper));
    }
    Some(medians)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: f64) -> Figures {
        Figures(BTreeMap::from([(Figure::Throughput, value)]))
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let runs = [figures(1.0), figures(4.0), figures(2.0), figures(100.0)];
        assert_eq!(median(&runs.iter().collect::<Vec<_>>()), Some(figures(3.0)));
        assert_eq!(median(&runs[..3].iter().collect::<Vec<_>>()), Some(figures(2.0)));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_needs_both_figures() {
        let mut ours = figures(3.0);
        ours.put(Figure::FanOut, 1.0);
        assert_eq!(ours.over(&figures(2.0)), figures(1.5));
    }
}
