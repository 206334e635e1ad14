//! What selectors, templates and expressions can see. A scope borrows; nothing is copied until it is selected.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::Timestamp;

/// The context of a parent at the moment of its fan-out: immutable, shared by all children, with the parent's own outer
/// snapshot behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The parent's own context.
    pub context: Map<String, Value>,
    /// What the parent itself saw outside its own context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Arc<Snapshot>>,
}

/// Facts about the execution that expressions see as `execution`.
#[derive(Clone, Debug)]
pub struct ExecutionFacts<'a> {
    /// `execution.id`.
    pub id: String,
    /// `execution.flowId`.
    pub flow_id: &'a str,
    /// `execution.startedAt` (RFC 3339).
    pub started_at: Timestamp,
    /// `execution.run`.
    pub run: u32,
}

/// What can be seen at one moment of one execution.
///
/// A root key is looked up in this order: the execution's own context; `_error`, `_resume`, `_resumeUrl`; `parent` (the
/// snapshot itself); the snapshot's keys, then its outer snapshot's, and so on. So a branch of a `parallel` sees the
/// parent's keys as if they were its own, and can still name them by `parent`.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The execution's own context.
    pub context: &'a Map<String, Value>,
    /// The parent's context at the fan-out.
    pub outer: Option<&'a Snapshot>,
    /// `_error`: the error of the step whose failure led here, `{code, message, stepId, details?}`.
    pub error: Option<&'a Value>,
    /// `_resume`: the data of the last resume.
    pub resume: Option<&'a Value>,
    /// `_resumeUrl.STEP`: gives the URL that resumes the named step. None: the path stays as text, `${_resumeUrl.STEP}`,
    /// so that what is recorded holds no token.
    pub resume_url: Option<&'a dyn Fn(&str) -> String>,
    /// `input` in expressions: the step's resolved input.
    pub input: Option<&'a Value>,
    /// `iteration` in expressions: iterations of the loop done so far.
    pub iteration: Option<u32>,
    /// `event` in expressions of `wait-event`: `{name, data}`.
    pub event: Option<&'a Value>,
    /// `execution` in expressions.
    pub execution: &'a ExecutionFacts<'a>,
}
