//! All that crosses between engine and worker: messages ([`wire`]), queues ([`queue`]), handler manifests
//! ([`manifest`]), and the plumbing APIs that a running handler may call ([`api`]).
//!
//! Architecture invariant: this crate knows neither the engine nor the worker runtime.

pub mod api;
pub mod clock;
pub mod crash;
pub mod ids;
pub mod manifest;
pub mod queue;
pub mod wire;
