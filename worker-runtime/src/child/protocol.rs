//! The child protocol: one JSON document per line, to the child and from it.

use chrono::DateTime;
use flowmonkey_plumbing::api::{Checkpoint, Progress};
use flowmonkey_plumbing::wire::{
    ContextOperation, Cost, EventWait, LogLevel, Outcome, RESUMED, TaskError, TaskEvent, TaskMessage,
    VALUE_DEPTH_MAX,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::request::{self, Request};
use crate::handler::{Completion, Failure, Pause, Wait};

/// The line that hands a task to a child.
///
/// What its checkpoint holds is JSON, because children save nothing else; bytes of another handler of the type are left out.
pub(crate) fn execute(message: &TaskMessage, checkpoint: Option<&Checkpoint>) -> String {
    let checkpoint = checkpoint.map(shown);
    let mut line = json!({
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
            "resumed": message.metadata.other.get(RESUMED),
            "secrets": {},
        },
    });
    // What did not travel with the task is asked for by requests.
    if let Some(url) = &message.context_url {
        line["params"]["contextUrl"] = json!(url);
        line["params"]["contextBytes"] = json!(message.context_bytes);
    }
    format!("{line}\n")
}

/// A checkpoint as children see it.
pub(super) fn shown(checkpoint: &Checkpoint) -> Value {
    let Checkpoint { id, saved_at, version, data } = checkpoint;
    json!({ "id": id, "savedAt": saved_at, "version": version, "data": data.as_json() })
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
    Progress(Progress),
    /// A checkpoint to save.
    Checkpoint(Value),
    /// A custom event.
    Event(TaskEvent),
    /// A call of a plumbing API that is to be answered.
    Request(Request),
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
    let known = ["result", "log", "progress", "checkpoint", "event", "request"];
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
        "progress" => Ok(Said::Progress(Progress {
            percent: fields.required("percent")?,
            message: fields.take("message")?,
            estimated_completion: fields.take("estimatedCompletion")?,
            counters: fields.take("counters")?.unwrap_or_default(),
        })),
        "checkpoint" => {
            let data = fields.fields.remove("data").ok_or_else(|| fields.problem("data", "is required"))?;
            check_depth(&data)?;
            Ok(Said::Checkpoint(data))
        }
        "event" => {
            let event = fields.required("event")?;
            let data = fields.fields.remove("data").unwrap_or_default();
            check_depth(&data)?;
            // Not `id`, which names the task.
            Ok(Said::Event(TaskEvent { id: fields.take("eventId")?, event, data }))
        }
        "request" => request::read(fields).map(Said::Request),
        _unknown => Ok(Said::Nothing),
    }
}

/// The fields of a message, taken out one by one.
pub(super) struct Fields {
    message: String,
    pub(super) fields: Map<String, Value>,
}

impl Fields {
    pub(super) fn problem(&self, field: &str, problem: impl Into<String>) -> Malformed {
        let (field, problem) = (field.to_owned(), problem.into());
        match self.message.as_str() {
            "result" => Malformed::Result { field, problem },
            message => Malformed::Line { message: message.to_owned(), field, problem },
        }
    }

    /// An optional field; null counts as absent.
    pub(super) fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, Malformed> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.problem(field, format!("cannot be read: {error}"))),
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, Malformed> {
        self.take(field)?.ok_or_else(|| self.problem(field, "is required"))
    }
}

pub(super) fn check_depth(value: &Value) -> Result<(), Malformed> {
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
    let run_again = fields.take("runAgain")?.unwrap_or(false);
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
        Outcome::Wait | Outcome::Waiting if run_again => {
            if output.is_some_and(|output| !output.is_null()) {
                return Err(
                    fields.problem("output", "is for the end: a pause keeps what it has in a checkpoint")
                );
            }
            Ok(Completion::Pause(pause(&mut fields)?))
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

/// When the child wants to go on.
fn pause(fields: &mut Fields) -> Result<Pause, Malformed> {
    let event: Option<EventWait> = fields.take("waitForEvent")?;
    if event.as_ref().is_some_and(|event| event.event.is_empty()) {
        return Err(fields.problem("waitForEvent.event", "must not be empty"));
    }
    let Wait { until, reason, resume_token, .. } = wait(fields, None)?;
    Ok(Pause { until, event, reason, resume_token })
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

/// The line that tells a child that it takes long.
pub(crate) fn soft_limit(task_id: &str) -> String {
    json!({ "type": "softLimit", "id": task_id }).to_string() + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &Value) -> Result<Said, Malformed> {
        parse(line.to_string().as_bytes(), "t")
    }

    fn result_of(line: &Value) -> Box<ChildResult> {
        let said = read(line).unwrap();
        let Said::Result(result) = said else { panic!("not a result: {said:?}") };
        result
    }

    #[test]
    fn absent_and_null_are_told_apart_where_it_matters() {
        let result = |fields: Value| {
            let mut line = json!({ "type": "result", "id": "t", "outcome": "success" });
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            result_of(&line)
        };
        assert_eq!(result(json!({})).ended, Ok(Completion::Success(None)));
        assert_eq!(result(json!({ "output": null })).ended, Ok(Completion::output(Value::Null)));
        let jump = |next: Option<&str>| Completion::Override { output: None, next: next.map(Into::into) };
        assert_eq!(result(json!({ "nextStepOverride": null })).ended, Ok(jump(None)));
        assert_eq!(result(json!({ "nextStepOverride": "b" })).ended, Ok(jump(Some("b"))));
        // Every other field may be null, as many serialisers write it.
        let nulls =
            json!({ "error": null, "contextUpdates": null, "cost": null, "events": null, "id": null });
        assert_eq!(result(nulls).ended, Ok(Completion::Success(None)));
    }

    #[test]
    fn waits_are_read_with_all_their_fields() {
        let line = json!({ "type": "result", "outcome": "waiting", "waitUntil": "2030-01-01T00:00:00Z",
            "waitReason": "approval", "resumeToken": "r", "metadata": { "a": 1 }, "nextStepOverride": null });
        let Ok(Completion::Wait(wait)) = result_of(&line).ended else { panic!("not a wait") };
        assert_eq!(wait.until.as_deref(), Some("2030-01-01T00:00:00Z"));
        assert_eq!((wait.reason.as_deref(), wait.resume_token.as_deref()), (Some("approval"), Some("r")));
        assert_eq!((wait.output, wait.metadata["a"].clone()), (Some(Value::Null), json!(1)));
        let line = json!({ "type": "result", "outcome": "wait", "output": null });
        assert_eq!(result_of(&line).ended, Ok(Completion::Wait(Wait::default())));
    }

    #[test]
    fn results_of_wrong_shapes_name_the_field() {
        for (fields, wanted) in [
            (json!({}), "outcome"),
            (json!({ "outcome": "maybe" }), "outcome"),
            (json!({ "outcome": "released" }), "outcome"),
            (json!({ "outcome": "failure" }), "error"),
            (json!({ "outcome": "failure", "error": "text" }), "error"),
            (json!({ "outcome": "failure", "error": { "code": "" } }), "error.code"),
            (json!({ "outcome": "failure", "error": { "code": "X" }, "retryAfterMs": -1 }), "retryAfterMs"),
            (json!({ "outcome": "success", "contextUpdates": "a" }), "contextUpdates"),
            (json!({ "outcome": "success", "contextUpdates": [{ "op": "grow" }] }), "contextUpdates[0]"),
            (json!({ "outcome": "success", "nextStepOverride": 1 }), "nextStepOverride"),
            (json!({ "outcome": "wait", "nextStepOverride": "b" }), "nextStepOverride"),
            (json!({ "outcome": "wait", "waitUntil": "tomorrow" }), "waitUntil"),
            (json!({ "outcome": "success", "events": {} }), "events"),
            (json!({ "outcome": "success", "cost": 1 }), "cost"),
            (json!({ "outcome": "success", "id": 7 }), "id"),
        ] {
            let mut line = json!({ "type": "result" });
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            match read(&line) {
                Err(Malformed::Result { field, .. }) => assert_eq!(field, wanted, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn changes_of_the_context_are_paths_or_operations_in_order() {
        let line =
            |updates: Value| json!({ "type": "result", "outcome": "success", "contextUpdates": updates });
        let context = |updates| result_of(&line(updates)).context;
        let set = |path: &str, value| ContextOperation::Set { path: path.into(), value };
        assert_eq!(context(json!({ "b.c": 1, "a": null })), [set("b.c", json!(1)), set("a", Value::Null)]);
        let operations = json!([{ "op": "delete", "path": "a" }, { "op": "set", "path": "b", "value": 2 }]);
        assert_eq!(context(operations), [ContextOperation::Delete { path: "a".into() }, set("b", json!(2))]);
    }

    #[test]
    fn depth_has_a_limit_that_is_no_log_line() {
        for levels in [VALUE_DEPTH_MAX + 1, 100_000] {
            let line =
                format!(r#"{{"type":"checkpoint","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
            assert_eq!(parse(line.as_bytes(), "t"), Err(Malformed::TooDeep));
        }
        let levels = VALUE_DEPTH_MAX;
        let line = format!(r#"{{"type":"checkpoint","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(matches!(parse(line.as_bytes(), "t"), Ok(Said::Checkpoint(_))));
    }

    #[test]
    fn lines_for_others_and_of_unknown_types_are_ignored() {
        assert_eq!(read(&json!({ "type": "result", "id": "u" })), Ok(Said::Nothing));
        assert_eq!(read(&json!({ "type": "metrics", "id": 3 })), Ok(Said::Nothing));
        assert_eq!(parse(b" \t", "t"), Ok(Said::Nothing));
    }

    #[test]
    fn a_pause_says_when_to_go_on() {
        let line = |fields: Value| {
            let mut line = json!({ "type": "result", "id": "t", "outcome": "wait", "runAgain": true });
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            line
        };
        let event = EventWait { event: "freed".into(), condition: Some("event.data > 1".into()) };
        let pause = Pause { event: Some(event), reason: Some("no GPU".into()), ..Pause::default() };
        let said = line(json!({
            "waitForEvent": { "event": "freed", "match": "event.data > 1" }, "waitReason": "no GPU",
        }));
        assert_eq!(result_of(&said).ended, Ok(Completion::Pause(pause)));
        let until = line(json!({ "waitUntil": "2030-01-01T00:00:00Z", "outcome": "waiting" }));
        let pause = Pause { until: Some("2030-01-01T00:00:00Z".into()), ..Pause::default() };
        assert_eq!(result_of(&until).ended, Ok(Completion::Pause(pause)));
        for wrong in [
            json!({ "output": 1 }),
            json!({ "waitForEvent": { "event": "" } }),
            json!({ "waitUntil": "soon" }),
        ] {
            assert!(matches!(read(&line(wrong)), Err(Malformed::Result { .. })));
        }
        let told: Value = serde_json::from_str(soft_limit("t").strip_suffix('\n').unwrap()).unwrap();
        assert_eq!(told, json!({ "type": "softLimit", "id": "t" }));
    }
}
