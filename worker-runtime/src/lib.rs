//! The worker runtime: claims tasks, runs handlers, keeps leases, reports results.
//!
//! Architecture invariant: this crate knows the queue and the plumbing APIs, never the engine or its store.

mod announce;
mod backoff;
pub mod child;
mod claim;
pub mod config;
mod context;
pub mod handler;
mod heartbeat;
mod job;
mod journal;
mod keeper;
pub mod manifest_file;
mod metrics;
pub mod registry;
mod report;
mod route;
mod run;
mod running;
mod runtime;
mod spill;
mod task_log;
mod testing;

pub use child::{ChildHandler, ChildHandlerError};
pub use config::{WorkerConfig, WorkerConfigError};
pub use handler::{Completion, Failure, Handler, Pause, Task, Wait};
pub use manifest_file::{ManifestError, load_manifests};
pub use metrics::{Counter, WorkerMetrics};
pub use registry::{Registry, RegistryError};
pub use route::{ResultRoute, RouteError, Routed, UnsentResult};
pub use runtime::{DrainReport, Worker, WorkerHandle};
pub use task_log::TaskLogLayer;

/// A time in milliseconds since the Unix epoch as RFC 3339, in UTC.
fn rfc3339(millis: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
