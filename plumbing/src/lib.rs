//! All that crosses between engine and worker: messages ([`wire`]), queues ([`queue`]), handler manifests
//! ([`manifest`]), the plumbing APIs that a running handler may call ([`api`], over HTTP with the feature `http-client`),
//! and what proves to the engine who calls ([`token`], [`mac`]).
//!
//! Architecture invariant: this crate knows neither the engine nor the worker runtime.

pub mod api;
pub mod broadcast;
pub mod clock;
pub mod crash;
#[cfg(feature = "http-client")]
pub mod http;
pub mod ids;
pub mod mac;
pub mod manifest;
#[cfg(feature = "http-guard")]
pub mod net;
pub mod queue;
pub mod token;
pub mod wire;
