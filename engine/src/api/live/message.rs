//! What clients say over a WebSocket, and the answers.

use axum::extract::ws::Utf8Bytes;
use flowmonkey_core::ids::ExecutionId;
use serde::Deserialize;
use serde_json::json;

use super::SUBSCRIPTION_ID_BYTES_MAX;
use super::filter::{Filter, Types};

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum ClientMessage {
    /// Tell me what the filter names, until I unsubscribe.
    Subscribe {
        id: String,
        #[serde(default)]
        filter: WireFilter,
        /// The sequence of the last event that the client has; only with one execution.
        #[serde(default)]
        resume_from: Option<u64>,
    },
    Unsubscribe {
        id: String,
    },
    Ping {},
}

/// A filter as it is sent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WireFilter {
    #[serde(default)]
    execution_id: Option<String>,
    #[serde(default)]
    flow_id: Option<String>,
    #[serde(default)]
    types: Option<Vec<String>>,
    #[serde(default)]
    children: bool,
}

/// A subscription as it was understood.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: String,
    pub(super) filter: Filter,
    pub(super) resume_from: Option<u64>,
}

impl ClientMessage {
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("the message is not understood: {error}"))
    }
}

impl Wanted {
    /// # Errors
    /// Says what is wrong.
    pub(super) fn of(id: String, filter: WireFilter, resume_from: Option<u64>) -> Result<Self, String> {
        if id.is_empty() || id.len() > SUBSCRIPTION_ID_BYTES_MAX {
            return Err(format!("`id` must have 1 to {SUBSCRIPTION_ID_BYTES_MAX} bytes"));
        }
        let WireFilter { execution_id, flow_id, types, children } = filter;
        if execution_id.is_some() && flow_id.is_some() {
            return Err("a filter names an execution or a flow, not both".into());
        }
        if resume_from.is_some() && execution_id.is_none() {
            return Err("`resumeFrom` goes with `executionId`: sequences are those of one execution".into());
        }
        let execution = execution_id
            .map(|text| text.parse::<ExecutionId>().map_err(|error| format!("`executionId`: {error}")))
            .transpose()?;
        let flow = flow_id.map(|id| id.as_str().into());
        let filter = Filter { execution, flow, children, types: Types::parse(types)? };
        Ok(Self { id, filter, resume_from })
    }
}

/// The answer to a subscription. `sequence`: that of the last event of the execution it names.
pub(super) fn subscribed(id: &str, sequence: Option<u64>) -> Utf8Bytes {
    let mut message = json!({ "type": "subscribed", "id": id });
    if let Some(sequence) = sequence {
        message["seq"] = sequence.into();
    }
    message.to_string().into()
}

pub(super) fn unsubscribed(id: &str) -> Utf8Bytes {
    json!({ "type": "unsubscribed", "id": id }).to_string().into()
}

/// Something was not done.
pub(super) fn refused(id: Option<&str>, code: &str, message: &str) -> Utf8Bytes {
    let mut shown = json!({ "type": "error", "code": code, "message": message });
    if let Some(id) = id {
        shown["id"] = id.into();
    }
    shown.to_string().into()
}

pub(super) const PONG: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"pong"}"#);

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, String> {
        match ClientMessage::parse(text)? {
            ClientMessage::Subscribe { id, filter, resume_from } => Wanted::of(id, filter, resume_from),
            ClientMessage::Unsubscribe { .. } | ClientMessage::Ping {} => Err("something else".into()),
        }
    }

    #[test]
    fn subscriptions_are_read() {
        let id = ExecutionId::from_uuid(uuid::Uuid::from_u128(7));
        let text = format!(
            r#"{{"type":"subscribe","id":"s","filter":{{"executionId":"{id}","types":["step.*"]}},"resumeFrom":3}}"#
        );
        let read = wanted(&text).unwrap();
        assert_eq!((read.filter.execution, read.resume_from), (Some(id), Some(3)));
        assert!(read.filter.types.includes("step.entered") && !read.filter.types.includes("task.log"));
        let all = wanted(r#"{"type":"subscribe","id":"s"}"#).unwrap();
        assert_eq!((all.filter.execution, all.filter.children), (None, false));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"type":"shout"}"#,
            r#"{"type":"ping","x":1}"#,
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","id":""}"#,
            r#"{"type":"subscribe","id":"s","extra":1}"#,
            r#"{"type":"subscribe","id":"s","filter":{"flow":"a"}}"#,
            r#"{"type":"subscribe","id":"s","filter":{"executionId":"7"}}"#,
            r#"{"type":"subscribe","id":"s","filter":{"types":["x"]}}"#,
            r#"{"type":"subscribe","id":"s","filter":{"types":[]}}"#,
            r#"{"type":"subscribe","id":"s","resumeFrom":1}"#,
            r#"{"type":"subscribe","id":"s","resumeFrom":-1}"#,
        ] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
