//! The executions that an operation is about, as JSON: the same conditions under the same names as the parameters of a list.

use std::collections::BTreeMap;

use flowmonkey_core::execution::Status;
use flowmonkey_core::flow::pointer::escape;
use flowmonkey_core::limits::LABELS_MAX;
use flowmonkey_core::time::Timestamp;
use serde_json::{Map, Value};

use crate::store::{ExecutionFilter, Span};

/// What a filter knows.
const FIELDS: &str = "status, flowId, version, labels, tenantId, createdAfter, createdBefore, updatedAfter, updatedBefore, \
                      endedAfter, endedBefore, errorCode, currentStepId, waitingReason, id, parent, children";

/// Something that is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongField {
    /// JSON pointer within the filter; empty: the filter as a whole.
    pub pointer: String,
    /// What is wrong, in words.
    pub message: String,
}

/// Reads a filter. Its cursor and its page are open.
///
/// # Errors
/// All that is wrong with it. One without any condition is: it would mean all executions.
pub fn read(filter: &Map<String, Value>) -> Result<ExecutionFilter, Vec<WrongField>> {
    let mut fields = Reader { rest: filter.clone(), wrong: Vec::new() };
    if !filter.values().any(|value| !value.is_null()) {
        let message = "the filter has no condition; say `createdBefore` when all executions are meant";
        fields.wrong.push(WrongField { pointer: String::new(), message: message.into() });
    }
    let read = ExecutionFilter {
        statuses: fields.statuses(),
        flow_id: fields.text("flowId"),
        flow_version: fields.text("version"),
        labels: fields.labels(),
        tenant: fields.text("tenantId"),
        created: fields.span("createdAfter", "createdBefore"),
        updated: fields.span("updatedAfter", "updatedBefore"),
        ended: fields.span("endedAfter", "endedBefore"),
        error_code: fields.text("errorCode"),
        current_step: fields.text("currentStepId"),
        waiting_reason: fields.text("waitingReason"),
        id_prefix: fields.parsed("id", "the beginning of an execution id (`ex_` and hexadecimal digits)"),
        parent: fields.parsed("parent", "an execution id (`ex_` and 32 hexadecimal digits)"),
        include_children: fields.flag("children"),
        before: None,
        max: 0,
    };
    fields.finish().map(|()| read)
}

struct Reader {
    rest: Map<String, Value>,
    wrong: Vec<WrongField>,
}

impl Reader {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.shift_remove(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, name: &str, message: String) {
        self.wrong.push(WrongField { pointer: format!("/{}", escape(name)), message });
    }

    fn text(&mut self, name: &str) -> Option<String> {
        if let Value::String(text) = self.take(name)? {
            return Some(text);
        }
        self.refuse(name, format!("`{name}` must be a text"));
        None
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let parsed = self.text(name)?.parse().ok();
        if parsed.is_none() {
            self.refuse(name, format!("`{name}` must be {wanted}"));
        }
        parsed
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.refuse(name, format!("`{name}` must be true or false"));
                false
            }
        }
    }

    /// One status, several with commas between them, or a list.
    fn statuses(&mut self) -> Vec<Status> {
        let words: Option<Vec<String>> = match self.take("status") {
            None => return Vec::new(),
            Some(Value::String(text)) => Some(text.split(',').map(str::to_owned).collect()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        let statuses: Option<Vec<Status>> =
            words.and_then(|words| words.iter().map(|word| Status::parse(word)).collect());
        match statuses {
            // An empty list is no condition, and looks like one.
            Some(statuses) if !statuses.is_empty() => statuses,
            Some(_) | None => {
                let known: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
                self.refuse("status", format!("`status` must be one or several of {}", known.join(", ")));
                Vec::new()
            }
        }
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let labels: Option<BTreeMap<String, String>> = match self.take("labels") {
            None => return BTreeMap::new(),
            Some(Value::Object(labels)) => {
                let texts = labels.into_iter().map(|(name, value)| Some((name, value.as_str()?.to_owned())));
                texts.collect()
            }
            Some(_) => None,
        };
        match labels {
            Some(labels) if labels.len() > LABELS_MAX => {
                self.refuse("labels", format!("no execution has more than {LABELS_MAX} labels"));
                BTreeMap::new()
            }
            Some(labels) if !labels.is_empty() => labels,
            Some(_) | None => {
                self.refuse("labels", "`labels` must be an object of texts".into());
                BTreeMap::new()
            }
        }
    }

    fn span(&mut self, from: &str, until: &str) -> Span {
        Span { from: self.instant(from), until: self.instant(until) }
    }

    fn instant(&mut self, name: &str) -> Option<Timestamp> {
        let instant = Timestamp::parse_rfc3339(&self.text(name)?);
        if instant.is_none() {
            self.refuse(name, format!("`{name}` must be an instant such as 2026-07-31T08:30:00Z (RFC 3339)"));
        }
        instant
    }

    fn finish(mut self) -> Result<(), Vec<WrongField>> {
        for name in std::mem::take(&mut self.rest).keys() {
            self.refuse(name, format!("unknown field `{name}`; a filter knows {FIELDS}"));
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_value(filter: &Value) -> Result<ExecutionFilter, Vec<String>> {
        let wrong = |wrong: Vec<WrongField>| wrong.into_iter().map(|one| one.pointer).collect();
        read(filter.as_object().unwrap()).map_err(wrong)
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = json!({
            "status": ["failed", "gone"], "flowId": 5, "labels": { "a": 1 }, "createdAfter": "yesterday",
            "id": "7x", "parent": "ex_1", "children": "yes", "colour/ed": "red",
        });
        let expected =
            ["/status", "/flowId", "/labels", "/createdAfter", "/id", "/parent", "/children", "/colour~1ed"];
        assert_eq!(read_value(&wrong).unwrap_err(), expected);
        for everything in [json!({}), json!({ "flowId": null })] {
            assert_eq!(read_value(&everything).unwrap_err(), [""]);
        }
        for nothing in [json!({ "status": [] }), json!({ "labels": {} })] {
            assert_eq!(read_value(&nothing).unwrap_err().len(), 1, "{nothing}");
        }
    }

    #[test]
    fn statuses_are_a_text_or_a_list() {
        for failed_or_paused in [json!("failed,paused"), json!(["failed", "paused"])] {
            let filter = read_value(&json!({ "status": failed_or_paused })).unwrap();
            assert_eq!(filter.statuses, [Status::Failed, Status::Paused]);
        }
    }
}
