//! How far a measurement is, for people who look.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Between two looks at the clock.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// A bar on a terminal; nothing elsewhere. Clones are the same bar.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for so many of something.
    pub(crate) fn of(what: &'static str, count: u64) -> Self {
        let bar = ProgressBar::new(count).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg:20} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// A bar for a time that passes by itself.
    pub(crate) fn of_time(what: &'static str, length: Duration) -> Self {
        Self::of_work(format!("{what}, {} s", length.as_secs()))
    }

    /// A bar for work that nobody can count.
    pub(crate) fn of_work(what: String) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(DRAW_EVERY);
        Self(bar)
    }

    /// One more is done.
    pub(crate) fn one(&self) {
        self.0.inc(1);
    }

    /// So many more are done.
    pub(crate) fn many(&self, count: u64) {
        self.0.inc(count);
    }

    /// All is done.
    pub(crate) fn end(self) {
        self.0.finish_and_clear();
    }
}
