//! The worker runtime: claims tasks, runs handlers, keeps leases, reports results.
//!
//! Architecture invariant: this crate knows the queue and the plumbing APIs, never the engine or its store.

pub mod handler;
mod journal;
mod testing;

pub use handler::{Completion, Failure, Handler, Task, Wait};

/// A time in milliseconds since the Unix epoch as RFC 3339, in UTC.
fn rfc3339(millis: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
