//! The server side of the plumbing APIs.

mod plumbing;
mod results;

pub use plumbing::EnginePlumbing;
pub(crate) use results::SpilledError;
