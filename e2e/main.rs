//! End to end: real processes, a real Postgres and a real Redis, and everything that may happen to them.

#![expect(clippy::unwrap_used, reason = "test code")]

mod books;
mod configuration;
mod crash_points;
mod faults;
mod in_process;
mod live;
mod pooler;
mod rebuild;
mod redelivery;
mod soak;
mod system;
mod video;
mod workload;
