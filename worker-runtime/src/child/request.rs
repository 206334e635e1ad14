//! Calls of the plumbing APIs by a child: a line that asks, and a line that answers.

use flowmonkey_plumbing::api::{EmittedEvent, Progress};
use flowmonkey_plumbing::wire::{ContextOperation, LogLevel};
use serde_json::{Value, json};

use super::protocol::{Fields, Malformed, check_depth};

/// A call that is to be answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    /// Chosen by the child; the answer has it, too.
    pub(crate) number: u64,
    /// What is called; else what is wrong with it.
    pub(crate) call: Result<Call, String>,
}

/// What is called.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    /// The context, or the part of it at a path.
    ContextGet(Option<String>),
    /// A change of the context.
    ContextChange(ContextOperation),
    CheckpointSave(Value),
    CheckpointLoad,
    CheckpointClear,
    Progress(Progress),
    /// Published at once.
    Event(EmittedEvent),
    Log(LogLevel, String),
}

/// Reads a `request` line. One that cannot even be answered is malformed.
pub(super) fn read(mut fields: Fields) -> Result<Request, Malformed> {
    let number = fields.required("request")?;
    let call = call(&mut fields).map_err(|error| error.to_string());
    Ok(Request { number, call })
}

fn call(fields: &mut Fields) -> Result<Call, Malformed> {
    let call: String = fields.required("call")?;
    for value in fields.fields.values() {
        check_depth(value)?;
    }
    Ok(match call.as_str() {
        "context.get" => Call::ContextGet(fields.take("path")?),
        "context.set" => {
            let path = fields.required("path")?;
            Call::ContextChange(ContextOperation::Set { path, value: present(fields, "value")? })
        }
        "context.merge" => Call::ContextChange(ContextOperation::Merge { value: fields.required("value")? }),
        "context.delete" => Call::ContextChange(ContextOperation::Delete { path: fields.required("path")? }),
        "checkpoint.save" => Call::CheckpointSave(present(fields, "data")?),
        "checkpoint.load" => Call::CheckpointLoad,
        "checkpoint.clear" => Call::CheckpointClear,
        "progress" => {
            let percent: f64 = fields.required("percent")?;
            Call::Progress(Progress {
                percent: percent.clamp(0.0, 100.0),
                message: fields.take("message")?,
                estimated_completion: fields.take("estimatedCompletion")?,
                counters: fields.take("counters")?.unwrap_or_default(),
            })
        }
        "event" => {
            let event = fields.required("event")?;
            let data = fields.fields.remove("data").unwrap_or_default();
            Call::Event(EmittedEvent { id: fields.take("eventId")?, event, data })
        }
        "log" => Call::Log(fields.take("level")?.unwrap_or_default(), fields.required("message")?),
        unknown => {
            let known = "context.get, context.set, context.merge, context.delete, checkpoint.save, checkpoint.load, \
                checkpoint.clear, progress, event, log";
            return Err(fields.problem("call", format!("is `{unknown}`, which is none of {known}")));
        }
    })
}

/// A field that may be null, but not absent.
fn present(fields: &mut Fields, field: &str) -> Result<Value, Malformed> {
    fields.fields.remove(field).ok_or_else(|| fields.problem(field, "is required"))
}

/// What is answered.
pub(super) type Answer = Result<Value, (String, String)>;

/// The line that answers. `value`: the fields of a success; else code and message.
pub(super) fn answer(task_id: &str, number: u64, answer: Answer) -> String {
    let mut line = json!({ "type": "answer", "id": task_id, "request": number, "ok": answer.is_ok() });
    match answer {
        // `value`, and `found` where null would be ambiguous.
        Ok(Value::Object(fields)) => {
            if let Value::Object(line) = &mut line {
                line.extend(fields);
            }
        }
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {}
        Err((code, message)) => line["error"] = json!({ "code": code, "message": message }),
    }
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{Said, parse};
    use super::*;

    fn read(fields: Value) -> Result<Said, Malformed> {
        let mut line = json!({ "type": "request", "id": "t", "request": 7 });
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parse(line.to_string().as_bytes(), "t")
    }

    fn call(fields: Value) -> Result<Call, String> {
        let said = read(fields).unwrap();
        let Said::Request(Request { number: 7, call }) = said else { panic!("not that request: {said:?}") };
        call
    }

    #[test]
    fn every_call_is_read_with_its_fields() {
        let set = ContextOperation::Set { path: "a.b".into(), value: Value::Null };
        for (fields, wanted) in [
            (json!({ "call": "context.get" }), Call::ContextGet(None)),
            (json!({ "call": "context.get", "path": "a" }), Call::ContextGet(Some("a".into()))),
            (json!({ "call": "context.set", "path": "a.b", "value": null }), Call::ContextChange(set)),
            (json!({ "call": "checkpoint.save", "data": null }), Call::CheckpointSave(Value::Null)),
            (json!({ "call": "checkpoint.load", "other": 1 }), Call::CheckpointLoad),
            (json!({ "call": "checkpoint.clear" }), Call::CheckpointClear),
            (json!({ "call": "log", "message": "m" }), Call::Log(LogLevel::Info, "m".into())),
        ] {
            assert_eq!(call(fields.clone()), Ok(wanted), "{fields}");
        }
        let progress =
            call(json!({ "call": "progress", "percent": 450, "counters": { "rows": { "value": 3 } } }));
        let Ok(Call::Progress(progress)) = progress else { panic!("{progress:?}") };
        assert_eq!((progress.percent, progress.counters["rows"].value), (100.0, 3.0));
    }

    #[test]
    fn what_is_wrong_with_a_call_is_said_in_its_answer() {
        for (fields, named) in [
            (json!({}), "`call`"),
            (json!({ "call": "context.drop" }), "context.drop"),
            (json!({ "call": "context.set", "path": "a" }), "`value`"),
            (json!({ "call": "context.merge", "value": [] }), "`value`"),
            (json!({ "call": "context.get", "path": 1 }), "`path`"),
            (json!({ "call": "progress" }), "`percent`"),
            (json!({ "call": "event" }), "`event`"),
        ] {
            let problem = call(fields.clone()).unwrap_err();
            assert!(problem.contains(named), "{fields}: {problem}");
        }
        for number in [json!(null), json!(-1), json!("7")] {
            let error = read(json!({ "request": number, "call": "checkpoint.load" })).unwrap_err();
            assert!(matches!(error, Malformed::Line { .. }), "{error}");
        }
    }
}
