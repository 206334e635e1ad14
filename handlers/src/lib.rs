//! The stock handlers.

pub mod jq;

mod batch;
mod command;
mod config;
mod confined;
mod digest;
mod email;
mod file;
mod http;
mod schema;
#[cfg(test)]
mod schema_tests;
mod table;
mod transform;
mod trust;
mod video;

use std::sync::Arc;

use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::Handler;

pub use batch::BatchProcess;
pub use command::{Command, CommandPolicy, Programs};
pub use config::BAD_CONFIG;
pub use email::{Email, EmailPolicy, SmtpTls};
pub use file::{FileHandler, FilePolicy};
pub use http::{HttpPolicy, HttpRequest};
pub use table::TableInsert;
pub use transform::Transform;
pub use trust::{Trust, TrustError};
pub use video::{VideoPolicy, VideoProcessing};

/// What the stock handlers may do on this worker. The default is the strictest: public addresses only, no programs, no
/// files, no jq, mail only by servers that flows name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StockPolicy {
    /// For `http-request`.
    pub http: HttpPolicy,
    /// For `command`.
    pub command: CommandPolicy,
    /// For `file`.
    pub file: FilePolicy,
    /// For `video-processing`.
    pub video: VideoPolicy,
    /// For `email`.
    pub email: EmailPolicy,
    /// For the certificates of the servers of `http-request` and `email`.
    pub trust: Trust,
    /// For the jq programs of `transform` and `batch-process`; none: they fail.
    pub jq: Option<jq::JqPolicy>,
}

/// All stock handlers.
#[must_use]
pub fn stock(policy: StockPolicy) -> Vec<Arc<dyn Handler>> {
    let StockPolicy { http, command, file, video, email, trust, jq } = policy;
    let jq = Arc::new(jq::Jq::new(jq));
    vec![
        Arc::new(HttpRequest::new(http, &trust)),
        Arc::new(Transform::new(Arc::clone(&jq))),
        Arc::new(BatchProcess::new(jq)),
        Arc::new(Command::new(command)),
        Arc::new(FileHandler::new(file)),
        Arc::new(VideoProcessing::new(video)),
        Arc::new(TableInsert::default()),
        Arc::new(Email::new(email, trust)),
    ]
}

/// Makes ring the cryptography of the process's TLS, unless something is already. Can be called any number of times.
pub fn install_crypto() {
    // An error means that a provider is installed: ours or the program's own.
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn manifest(handler_type: &str, description: &str, fields: schema::Table) -> Manifest {
    Manifest {
        handler_type: handler_type.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(description.into()),
        config_schema: Some(schema::config_schema(fields)),
        ..Manifest::default()
    }
}
