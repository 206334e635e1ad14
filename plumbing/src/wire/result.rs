//! The result message: what a worker reports of one attempt.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::is_false;
use crate::token::TaskToken;

/// What a worker reports of one attempt. Counts only while the record has that attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultMessage {
    /// [`super::PROTOCOL_VERSION`] of the sender.
    pub v: u16,
    /// The task.
    pub task_id: String,
    /// The fence.
    pub attempt: u32,
    /// The execution the task belongs to.
    pub execution_id: String,
    /// The step within the flow.
    pub step_id: String,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// The output; none: nothing is written (null is written).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present_null")]
    pub output: Option<Value>,
    /// Set for failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Changes of the context, merged in the commit of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_updates: Option<ContextUpdates>,
    /// How many patches of the context the attempt has staged; they are merged before `context_updates`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub context_patches: u32,
    /// Replaces the transition: a step's id, or null for the end. None: the transitions decide.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present_null_text")]
    pub next_step_override: Option<Option<String>>,
    /// For waits: a token chosen by the worker; `resume` with it needs an API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
    /// For waits: RFC 3339; none: until a resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_until: Option<String>,
    /// For waits: shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_reason: Option<String>,
    /// For waits: ends with an event, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for_event: Option<EventWait>,
    /// For waits: afterwards the same step runs again, from its checkpoint, instead of going on to the next one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub run_again: bool,
    /// For failures: milliseconds before the next attempt, at least (rate limits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What the attempt cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Custom events, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<TaskEvent>,
    /// Rows for tables, inserted in the commit of the result: exactly once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<TableRow>,
    /// Log lines of the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogLine>,
    /// When and where it ran.
    #[serde(default)]
    pub metrics: Metrics,
    /// Free for the worker.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// The task's token, with which the encoded message is sealed ([`crate::mac`]). It does not travel; none in what was read.
    #[serde(skip)]
    pub token: Option<TaskToken>,
}

impl ResultMessage {
    /// A result of this program's version that says nothing but its outcome.
    #[must_use]
    pub fn new(task_id: String, attempt: u32, outcome: Outcome) -> Self {
        Self {
            v: super::PROTOCOL_VERSION,
            task_id,
            attempt,
            execution_id: String::new(),
            step_id: String::new(),
            outcome,
            output: None,
            error: None,
            context_updates: None,
            context_patches: 0,
            next_step_override: None,
            resume_token: None,
            wait_until: None,
            wait_reason: None,
            wait_for_event: None,
            run_again: false,
            retry_after_ms: None,
            cost: None,
            events: Vec::new(),
            rows: Vec::new(),
            logs: Vec::new(),
            metrics: Metrics::default(),
            metadata: Map::new(),
            token: None,
        }
    }
}

const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An event that ends a wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventWait {
    /// The event's name.
    pub event: String,
    /// CEL over `event` (`{id, name, data}`); none: any event of that name.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The output counts.
    Success,
    /// The error counts.
    Failure,
    /// The step waits for a time or a resume. `waited` is read as this.
    #[serde(alias = "waited")]
    Wait,
    /// As `wait`, and the output is written.
    Waiting,
    /// Handed back after the handler had started (drain): the engine raises the attempt without touching budgets.
    Released,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskError {
    /// SCREAMING_SNAKE; what `retryOn` names.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// False: never retried, whatever the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Changes of the context: the seed's object of dotted paths, or an ordered list of operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ContextUpdates {
    /// In order.
    Operations(Vec<ContextOperation>),
    /// Dotted path to value; written in order.
    Paths(Map<String, Value>),
}

/// One change of the context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum ContextOperation {
    /// Writes `value` at the dotted path.
    Set {
        /// Dotted path.
        path: String,
        /// The value.
        value: Value,
    },
    /// Writes each key of `value` at the top level.
    Merge {
        /// The keys.
        value: Map<String, Value>,
    },
    /// Removes the dotted path.
    Delete {
        /// Dotted path.
        path: String,
    },
}

/// What an attempt cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// US dollars.
    #[serde(default)]
    pub usd: f64,
    /// Tokens of a language model.
    #[serde(default)]
    pub tokens: u64,
}

/// A custom event of a handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Names it, for the whole system: publishing it twice counts once. None: the engine makes one of the commit and the
    /// place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The event's name.
    pub event: String,
    /// The event's data.
    #[serde(default)]
    pub data: Value,
}

/// A row for a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRow {
    /// The table.
    pub table_id: String,
    /// Chosen by the handler, so that it can name the row in its output.
    pub row_id: String,
    /// Column to value.
    pub row: Map<String, Value>,
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For developers of the handler.
    Debug,
    /// The default.
    #[default]
    Info,
    /// Someone should look.
    Warn,
    /// Something failed.
    Error,
}

/// A log line of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Which line of the attempt, from 1; the same line may come live and with the result. 0: the sender does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub line: u32,
    /// How serious.
    #[serde(default)]
    pub level: LogLevel,
    /// The text.
    pub message: String,
    /// RFC 3339.
    #[serde(default)]
    pub timestamp: String,
}

/// When and where an attempt ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// RFC 3339, by the worker's clock.
    #[serde(default)]
    pub started_at: String,
    /// RFC 3339, by the worker's clock.
    #[serde(default)]
    pub completed_at: String,
    /// Milliseconds the handler ran.
    #[serde(default)]
    pub duration: u64,
    /// The worker instance.
    #[serde(default)]
    pub worker_id: String,
}

/// Tells an absent field from a null one.
mod present_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
        Value::deserialize(deserializer).map(Some)
    }
}

/// Tells an absent field from a null one.
mod present_null_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<String>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<String>>, D::Error> {
        Option::<String>::deserialize(deserializer).map(Some)
    }
}
