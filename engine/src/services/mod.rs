//! The server side of the plumbing APIs.

mod checkpoint;
mod context;
mod job;
mod plumbing;
mod progress;
mod results;

pub(crate) use context::{ContextRefusal, context_path};
pub use plumbing::EnginePlumbing;
pub(crate) use results::SpilledError;
