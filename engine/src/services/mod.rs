//! The server side of the plumbing APIs.

mod checkpoint;
mod events;
mod plumbing;
mod progress;
mod results;

pub use plumbing::EnginePlumbing;
pub(crate) use results::SpilledError;
