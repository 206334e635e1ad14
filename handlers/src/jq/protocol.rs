//! What a worker and its evaluator processes say to each other: one JSON document a line. Both are the same version of
//! this crate, so the format may change at will.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Values in all outputs of one item: bounds the output of a program whose values share their parts.
pub(super) const OUTPUT_NODES_MAX: usize = 2_000_000;

/// Asks for one program to be run on each item, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The program.
    pub(super) program: String,
    /// `$context`.
    pub(super) context: Value,
    /// `$config`.
    pub(super) config: Value,
    /// What an item's outputs become.
    pub(super) outputs: Outputs,
    /// `$index` of the first item; none: null.
    pub(super) first_index: Option<usize>,
    /// Each becomes `.` and `$input`.
    pub(super) items: Vec<Value>,
    /// Seconds of processor time for the request.
    pub(super) cpu_seconds: u64,
}

/// What the outputs of a program become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outputs {
    /// The one output; null when there is none; more than one is a failure.
    #[default]
    Single,
    /// An array of all outputs.
    All,
}

/// The first line of an answer: whether the program compiled. One [`Answer`] a line follows for each item.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Compiled {
    pub(super) problem: Option<Problem>,
}

/// The answer for one item.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Output(Value),
    Failed(Problem),
}

/// What is wrong with a program, or went wrong in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// For people.
    pub(crate) message: String,
    /// From 1; for programs that do not compile.
    pub(crate) line: Option<usize>,
    /// In characters from 1; for programs that do not compile.
    pub(crate) column: Option<usize>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, column: None }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(formatter, "line {line}, column {column}: ")?;
        }
        formatter.write_str(&self.message)
    }
}
