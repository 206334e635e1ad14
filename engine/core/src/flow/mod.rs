//! The flow language: definitions, their validation, and what selects values from a context.

pub mod condition;
pub mod dataset;
pub mod definition;
pub mod expression;
pub mod graph;
pub mod js;
pub mod json_schema;
pub mod outline;
pub mod parse;
pub mod path;
pub mod pointer;
pub mod schema;
pub mod scope;
pub mod selector;
pub mod template;

pub use definition::Flow;
