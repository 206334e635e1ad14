//! Steps that wait.

use crate::flow::expression::Expression;
use crate::flow::schema::Schema;
use crate::flow::selector::Selector;

/// `delay`, `wait`.
#[derive(Debug)]
pub enum Delay {
    /// Milliseconds, all units added up.
    For(u64),
    /// Until the instant (RFC 3339 or epoch milliseconds) that the template gives.
    Until(Selector),
}

/// `wait-signal`: waits until the named signal (or the step's resume token) arrives.
#[derive(Debug)]
pub struct WaitSignal {
    /// The signal's name; by default the step's id.
    pub signal: String,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
}

/// `wait-event`: waits until a matching event arrives.
#[derive(Debug)]
pub struct WaitEvent {
    /// The event's name.
    pub event: String,
    /// CEL over `event` (name, data) and the context; none: every event of that name.
    pub matches: Option<Expression>,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
}

/// `approval`: a wait for a person's answer.
#[derive(Debug)]
pub struct Approval {
    /// The signal's name; by default the step's id.
    pub signal: String,
    /// Who may answer; shown, not enforced by the core.
    pub assignees: Vec<String>,
    /// What an answer must look like; another answer is refused.
    pub form: Option<Schema>,
    /// Milliseconds until the step fails with `WAIT_TIMEOUT`.
    pub timeout_ms: Option<u64>,
    /// When nobody answers in time, others are asked.
    pub escalation: Option<Escalation>,
}

/// When nobody answers an approval in time, others are asked (once).
#[derive(Debug)]
pub struct Escalation {
    /// Milliseconds after the approval began.
    pub after_ms: u64,
    /// The new assignees.
    pub assignees: Vec<String>,
}
