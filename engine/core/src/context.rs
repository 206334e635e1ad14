//! The context of an execution: sizes, nesting, and writes within limits.
//!
//! A write costs what it writes and replaces, never the whole context: the size of the whole is carried along as a
//! [`ContextSize`].

mod error;
mod size;
mod write;

pub use error::ContextError;
pub use size::{ContextSize, depth, json_size};
pub use write::{check_whole, merge, remove_path, set_path};

#[cfg(test)]
mod tests;
