//! The stock handlers.

pub mod jq;

mod batch;
mod command;
mod config;
mod http;
mod table;
mod transform;

use flowmonkey_plumbing::manifest::Manifest;
pub use config::BAD_CONFIG;
pub use batch::BatchProcess;
pub use command::{Command, CommandPolicy, Programs};
pub use http::{HttpPolicy, HttpRequest};
pub use table::TableInsert;
pub use transform::Transform;

/// Makes ring the cryptography of the process's TLS, unless something is already. Can be called any number of times.
pub fn install_crypto() {
    // An error means that a provider is installed: ours or the program's own.
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn manifest(handler_type: &str, description: &str) -> Manifest {
    Manifest {
        handler_type: handler_type.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(description.into()),
        ..Manifest::default()
    }
}
