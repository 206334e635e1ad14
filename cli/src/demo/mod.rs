//! `flowmonkey demo`: audits the packages that this program is built from, and writes a report.

mod cargo_manifest;
mod licence;
mod package_audit;
mod packages;
mod page;
mod report;
mod rust_source;

use std::sync::Arc;

use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Failure, Handler, Task};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The flow of the audit.
pub(crate) const FLOW: &str = include_str!("../../../examples/audit/flow.yaml");

/// The handlers that the flow needs besides the stock ones.
pub(crate) fn handlers() -> [Arc<dyn Handler>; 3] {
    [
        Arc::new(packages::CargoPackages::default()),
        Arc::new(package_audit::PackageAudit::default()),
        Arc::new(report::AuditReport::default()),
    ]
}

fn manifest(handler_type: &str, description: &str) -> Manifest {
    Manifest {
        handler_type: handler_type.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(description.into()),
        ..Manifest::default()
    }
}

/// The task's input as a type.
fn input<T: DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    T::deserialize(task.input()).map_err(|error| Failure::terminal("INVALID_INPUT", format!("the input is wrong: {error}")))
}

/// The step's configuration as a type.
fn config<T: DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    T::deserialize(task.config()).map_err(|error| Failure::terminal("BAD_CONFIG", format!("config is wrong: {error}")))
}
