//! The stock handlers.

pub mod jq;

mod config;
mod transform;

use flowmonkey_plumbing::manifest::Manifest;
pub use config::BAD_CONFIG;
pub use transform::Transform;

fn manifest(handler_type: &str, description: &str) -> Manifest {
    Manifest {
        handler_type: handler_type.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(description.into()),
        ..Manifest::default()
    }
}
