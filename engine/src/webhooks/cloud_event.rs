//! Published events as CloudEvents 1.0, in the JSON format.

use serde_json::{Map, Value};

use crate::store::{EventAttributes, PublishedEvent};

/// The version that is spoken.
pub(crate) const SPEC_VERSION: &str = "1.0";
/// Media type of one event.
pub(crate) const MEDIA_TYPE: &str = "application/cloudevents+json";
/// Media type of a list of events.
pub(crate) const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";
/// The source of events that came from outside and named none.
const OUTSIDE: &str = "/flowmonkey";
/// The extension that names the execution which published an event.
pub(crate) const EXECUTION: &str = "flowmonkeyexecution";
/// The extension that has the record's id of an event whose producer gave it another.
pub(crate) const RECORD_ID: &str = "flowmonkeyid";

/// The event as a CloudEvent.
pub(crate) fn cloud_event(event: &PublishedEvent) -> Value {
    let nothing = EventAttributes::default();
    let attributes = event.attributes.as_deref().unwrap_or(&nothing);
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| {
        shown.insert(name.into(), value);
    };
    put("specversion", SPEC_VERSION.into());
    put("id", attributes.id.as_ref().unwrap_or(&event.id).as_str().into());
    let source = match (&attributes.source, event.source) {
        (Some(source), _) => source.clone(),
        (None, Some(execution)) => format!("/executions/{execution}"),
        (None, None) => OUTSIDE.into(),
    };
    put("source", source.into());
    put("type", event.name.as_str().into());
    put("time", attributes.time.clone().unwrap_or_else(|| event.at.to_rfc3339()).into());
    if let Some(subject) = &attributes.subject {
        put("subject", subject.as_str().into());
    }
    let content_type = attributes.data_content_type.as_deref().unwrap_or("application/json");
    put("datacontenttype", content_type.into());
    if let Some(schema) = &attributes.data_schema {
        put("dataschema", schema.as_str().into());
    }
    for (name, value) in &attributes.extensions {
        put(name, value.clone());
    }
    if let Some(execution) = event.source {
        put(EXECUTION, execution.to_string().into());
    }
    if attributes.id.is_some() {
        put(RECORD_ID, event.id.as_str().into());
    }
    put(if attributes.is_binary { "data_base64" } else { "data" }, event.data.clone());
    Value::Object(shown)
}
