//! The child protocol: one JSON document per line, to the child and from it.

use chrono::DateTime;
use flowmonkey_plumbing::api::{Checkpoint, Progress};
use flowmonkey_plumbing::wire::{
    ContextOperation, Cost, LogLevel, Outcome, TaskError, TaskEvent, TaskMessage, VALUE_DEPTH_MAX,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::handler::{Completion, Failure, Wait};

/// The line that hands a task to a child.
pub(crate) fn execute(message: &TaskMessage, checkpoint: Option<&Checkpoint>) -> String {
    let line = json!({
        "type": "execute",
        "id": message.task_id,
        "handler": message.handler.handler_type,
        "params": {
            "input": message.input,
            "config": message.config,
            "context": message.context,
            "attempt": message.attempt,
            "idempotencyKey": message.idempotency_key,
            "deadline": message.deadline,
            "remainingMs": message.remaining_ms,
            "executionId": message.execution_id,
            "flowId": message.flow_id,
            "stepId": message.step_id,
            "checkpoint": checkpoint,
            "secrets": {},
        },
    });
    format!("{line}\n")
}

/// The line that tells a child to stop.
pub(crate) fn cancel(task_id: &str) -> String {
    format!("{}\n", json!({ "type": "cancel", "id": task_id }))
}

/// What a line of a child says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// The attempt has ended.
    Result(Box<ChildResult>),
    /// A log line; its text may be no message of the protocol at all.
    Log(LogLevel, String),
    /// Progress.
    Progress(f64, Option<String>),
    /// A checkpoint to save.
    Checkpoint(Value),
    /// A custom event.
    Event(TaskEvent),
    /// For another task, or of a type that this version does not know.
    Nothing,
}

/// A line that is a message of the protocol, but not a valid one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A message that only adds to the attempt.
    #[error("a `{message}` line of the child is not valid: `{field}` {problem}")]
    Line {
        /// The type of the message.
        message: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The result itself.
    #[error("the result of the child is not valid: `{field}` {problem}")]
    Result {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Lists and objects within each other.
    #[error("a line of the child has more than {VALUE_DEPTH_MAX} levels of lists and objects")]
    TooDeep,
}

/// How an attempt ended, and what it leaves behind.
#[derive(Debug, PartialEq)]
pub(crate) struct ChildResult {
    pub(crate) ended: Result<Completion, Failure>,
    pub(crate) context: Vec<ContextOperation>,
    pub(crate) events: Vec<TaskEvent>,
    pub(crate) cost: Option<Cost>,
}

/// Reads a line that a child wrote while it had the task `task_id`.
pub(crate) fn parse(line: &[u8], task_id: &str) -> Result<Said, Malformed> {
    let text = || Ok(Said::Log(LogLevel::Info, String::from_utf8_lossy(line).into_owned()));
    let Some(first) = line.iter().find(|byte| !byte.is_ascii_whitespace()) else { return Ok(Said::Nothing) };
    // Only an object can be a message: whatever else is printed is not even looked at.
    if *first != b'{' {
        return text();
    }
    let fields = match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(fields) => fields,
        // The parser's own limit; as a log line the message would be missed.
        Err(error) if error.to_string().contains("recursion limit") => return Err(Malformed::TooDeep),
        Err(_) => return text(),
    };
    let Some(Value::String(message)) = fields.get("type") else { return text() };
    let message = message.clone();
    let mut fields = Fields { message, fields };
    let known = ["result", "log", "progress", "checkpoint", "event"];
    if !known.contains(&fields.message.as_str()) {
        return Ok(Said::Nothing);
    }
    // A child has one task at a time, so that a line without an id can only mean that one.
    if fields.take::<String>("id")?.is_some_and(|id| id != task_id) {
        return Ok(Said::Nothing);
    }
    match fields.message.as_str() {
        "result" => result(fields).map(|result| Said::Result(Box::new(result))),
        "log" => {
            let level = fields.take("level")?.unwrap_or_default();
            Ok(Said::Log(level, fields.required("message")?))
        }
        "progress" => {
            let Progress { percent, message, .. } = Progress {
                percent: fields.required("percent")?,
                message: fields.take("message")?,
                estimated_completion: None,
            };
            Ok(Said::Progress(percent, message))
        }
        "checkpoint" => {
            let data = fields.fields.remove("data").ok_or_else(|| fields.problem("data", "is required"))?;
            check_depth(&data)?;
            Ok(Said::Checkpoint(data))
        }
        "event" => {
            let event = fields.required("event")?;
            let data = fields.fields.remove("data").unwrap_or_default();
            check_depth(&data)?;
            Ok(Said::Event(TaskEvent { event, data }))
        }
        _unknown => Ok(Said::Nothing),
    }
}

/// The fields of a message, taken out one by one.
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn problem(&self, field: &str, problem: impl Into<String>) -> Malformed {
        let (field, problem) = (field.to_owned(), problem.into());
        match self.message.as_str() {
            "result" => Malformed::Result { field, problem },
            message => Malformed::Line { message: message.to_owned(), field, problem },
        }
    }

    /// An optional field; null counts as absent.
    fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, Malformed> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.problem(field, format!("cannot be read: {error}"))),
        }
    }

    fn required<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, Malformed> {
        self.take(field)?.ok_or_else(|| self.problem(field, "is required"))
    }
}

fn check_depth(value: &Value) -> Result<(), Malformed> {
    if is_deeper(value, VALUE_DEPTH_MAX) { Err(Malformed::TooDeep) } else { Ok(()) }
}

/// Whether a value has more than `levels` of lists and objects. The parser bounds the recursion.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let inner = |value| levels == 0 || is_deeper(value, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(inner),
        Value::Object(fields) => levels == 0 || fields.values().any(inner),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn result(mut fields: Fields) -> Result<ChildResult, Malformed> {
    for value in fields.fields.values() {
        check_depth(value)?;
    }
    let outcome: Outcome = fields.required("outcome")?;
    let context = context(&mut fields)?;
    let events = fields.take("events")?.unwrap_or_default();
    let cost = fields.take("cost")?;
    let output = fields.fields.remove("output");
    let next = match fields.fields.remove("nextStepOverride") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::String(step)) => Some(Some(step)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(fields.problem("nextStepOverride", "must be a step's id or null"));
        }
    };
    if outcome != Outcome::Success && matches!(next, Some(Some(_))) {
        return Err(fields.problem("nextStepOverride", "is only for the outcome `success`"));
    }
    let ended = match outcome {
        Outcome::Success => Ok(match next {
            None => Completion::Success(output),
            Some(next) => Completion::Override { output, next },
        }),
        Outcome::Failure => {
            let error: TaskError = fields.required("error")?;
            if error.code.is_empty() {
                return Err(fields.problem("error.code", "must not be empty"));
            }
            Err(Failure { error, retry_after_ms: fields.take("retryAfterMs")? })
        }
        Outcome::Wait => Ok(Completion::Wait(wait(&mut fields, output.filter(|output| !output.is_null()))?)),
        Outcome::Waiting => Ok(Completion::Wait(wait(&mut fields, Some(output.unwrap_or_default()))?)),
        Outcome::Released => {
            return Err(fields
                .problem("outcome", "must be `success`, `failure`, `wait` or `waiting`, not `released`"));
        }
    };
    Ok(ChildResult { ended, context, events, cost })
}

fn wait(fields: &mut Fields, output: Option<Value>) -> Result<Wait, Malformed> {
    let until: Option<String> = fields.take("waitUntil")?;
    if let Some(until) = &until
        && let Err(error) = DateTime::parse_from_rfc3339(until)
    {
        return Err(fields.problem("waitUntil", format!("is not a time by RFC 3339: {error}")));
    }
    Ok(Wait {
        until,
        reason: fields.take("waitReason")?,
        resume_token: fields.take("resumeToken")?,
        output,
        metadata: fields.take("metadata")?.unwrap_or_default(),
    })
}

/// Changes of the context: an object of dotted paths, or a list of operations.
fn context(fields: &mut Fields) -> Result<Vec<ContextOperation>, Malformed> {
    match fields.fields.remove("contextUpdates") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(paths)) => {
            Ok(paths.into_iter().map(|(path, value)| ContextOperation::Set { path, value }).collect())
        }
        Some(Value::Array(operations)) => {
            let read = |(index, operation)| {
                serde_json::from_value(operation).map_err(|error| {
                    fields.problem(&format!("contextUpdates[{index}]"), format!("cannot be read: {error}"))
                })
            };
            operations.into_iter().enumerate().map(read).collect()
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            Err(fields.problem("contextUpdates", "must be an object of paths or a list of operations"))
        }
    }
}
