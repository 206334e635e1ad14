//! The worker runtime: claims tasks, runs handlers, keeps leases, reports results.
//!
//! Architecture invariant: this crate knows the queue and the plumbing APIs, never the engine or its store.

pub mod handler;
mod journal;

pub use handler::{Completion, Failure, Handler, Task, Wait};
