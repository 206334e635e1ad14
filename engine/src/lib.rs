//! The engine shell: stores, chores and services round the pure core.
//!
//! Architecture invariant: the engine never runs handler code and never links `handlers/` or `worker-runtime/`.

pub mod access;
pub mod api;
mod apply;
mod around;
pub mod audit;
pub mod bulk;
pub mod chores;
mod commit;
pub mod config;
mod contexts;
mod controls;
mod datasets;
pub mod deletion;
mod effects;
pub mod engine;
pub mod evidence;
mod flows;
mod handlers;
mod jobs;
mod joins;
pub mod keys;
mod left;
pub mod objects;
pub mod oidc;
mod outcome;
mod pools;
mod rounds;
pub mod services;
mod stacks;
pub mod start;
pub mod store;
pub mod talk;
pub mod tokens;
mod turns;
pub mod view;
pub mod watch;
pub mod webhooks;
mod weighed;
mod wire;

pub use apply::{CommandError, CommandOutcome, Fault};
pub use config::EngineConfig;
pub use engine::{Engine, EngineDeps, EngineError};
pub use handlers::{AnnouncedHandlers, EMBEDDED_POOLS, InProcess};
