//! The server side of the plumbing APIs.

mod plumbing;

pub use plumbing::EnginePlumbing;
