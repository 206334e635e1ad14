//! CloudEvents 1.0 on their way in: structured, in batches, and in binary mode.

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flowmonkey_core::context::json_size;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::{EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX, event_refusal};
use ring::digest;
use serde_json::{Map, Value};

use super::problem::{Detail, ErrorClass, Problem};
use crate::store::{EventAttributes, PublishedEvent};
use crate::webhooks::cloud_event::SPEC_VERSION;

/// Events of one batch.
pub(super) const BATCH_MAX: usize = 500;
/// Extension attributes of one event.
const EXTENSIONS_MAX: usize = 32;
/// Bytes of an extension's name.
const EXTENSION_NAME_BYTES_MAX: usize = 64;
/// How the headers of binary mode begin.
const PREFIX: &str = "ce-";

/// Reads one event that stands at `pointer` of the body.
pub(super) fn structured(value: Value, pointer: &str, now: Timestamp) -> Result<PublishedEvent, Vec<Detail>> {
    let Value::Object(map) = value else {
        return Err(vec![Detail::at(pointer, "a CloudEvent is an object", None)]);
    };
    let wrong = |field: &str, message: String| Detail::at(format!("{pointer}/{field}"), message, None);
    read(map, now, &wrong)
}

/// Whether the request is an event in binary mode.
pub(super) fn is_binary_mode(headers: &HeaderMap) -> bool {
    headers.contains_key("ce-specversion")
}

/// Reads an event whose attributes are headers and whose data is the body.
pub(super) fn binary(
    headers: &HeaderMap,
    media: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> Result<PublishedEvent, Vec<Detail>> {
    let mut map = Map::new();
    let mut errors = Vec::new();
    let wrong = |field: &str, message: String| Detail::parameter(&format!("{PREFIX}{field}"), message);
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        match header_text(headers, name) {
            Some(text) if attribute != "datacontenttype" && !attribute.starts_with("data_") => {
                map.insert(attribute.into(), text.into());
            }
            Some(_) => errors.push(wrong(attribute, format!("`{name}` is no attribute of binary mode"))),
            None => errors.push(wrong(attribute, format!("`{name}` is given twice, or is not text"))),
        }
    }
    if let Some(content_type) = headers.get("content-type").and_then(|value| value.to_str().ok()) {
        map.insert("datacontenttype".into(), content_type.into());
    }
    let is_json = media.is_none_or(|media| media == "application/json" || media.ends_with("+json"));
    if !body.is_empty() {
        let text = std::str::from_utf8(body).ok();
        let is_text = media.is_some_and(|media| media.starts_with("text/"));
        match (is_json, is_text, text) {
            (true, _, _) => match serde_json::from_slice(body) {
                Ok(data) => drop(map.insert("data".into(), data)),
                Err(error) => errors.push(Detail::at("", format!("the data is not JSON: {error}"), None)),
            },
            (false, true, Some(text)) => drop(map.insert("data".into(), text.into())),
            (false, _, _) => drop(map.insert("data_base64".into(), BASE64.encode(body).into())),
        }
    }
    match read(map, now, &wrong) {
        Ok(event) if errors.is_empty() => Ok(event),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            Err(errors)
        }
    }
}

/// The value of a header, its percent-encoding undone as the HTTP binding of CloudEvents says.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let bytes = value.as_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while let Some(byte) = bytes.get(place) {
        let escaped = bytes.get(place + 1..place + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                text.push(decoded);
                place += 3;
            }
            None => {
                text.push(*byte);
                place += 1;
            }
        }
    }
    String::from_utf8(text).ok()
}

/// The data of an event, if it is not too large.
pub(super) fn small_enough(data: &Value) -> Result<(), Problem> {
    let actual = json_size(data);
    if actual <= EVENT_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("the event's data is {actual} bytes, over the limit of {EVENT_BYTES_MAX}");
    Err(Problem::new(ErrorClass::TooLarge, "EVENT_TOO_LARGE", detail))
}

type Wrong<'a> = &'a dyn Fn(&str, String) -> Detail;

fn read(
    mut map: Map<String, Value>,
    now: Timestamp,
    wrong: Wrong<'_>,
) -> Result<PublishedEvent, Vec<Detail>> {
    let mut errors = Vec::new();
    let mut text = |map: &mut Map<String, Value>, field: &str, required: bool| match map.shift_remove(field) {
        None | Some(Value::Null) => {
            if required {
                errors.push(wrong(field, format!("`{field}` is missing")));
            }
            None
        }
        Some(Value::String(text)) if text.is_empty() => {
            errors.push(wrong(field, format!("`{field}` is empty")));
            None
        }
        Some(Value::String(text)) if text.len() > EVENT_NAME_BYTES_MAX => {
            errors.push(wrong(field, format!("`{field}` has more than {EVENT_NAME_BYTES_MAX} bytes")));
            None
        }
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            errors.push(wrong(field, format!("`{field}` must be a text")));
            None
        }
    };
    let version = text(&mut map, "specversion", true);
    let id = text(&mut map, "id", true).unwrap_or_default();
    let source = text(&mut map, "source", true).unwrap_or_default();
    let name = text(&mut map, "type", true).unwrap_or_default();
    let subject = text(&mut map, "subject", false);
    let time = text(&mut map, "time", false);
    let data_content_type = text(&mut map, "datacontenttype", false);
    let data_schema = text(&mut map, "dataschema", false);
    if version.is_some_and(|version| version != SPEC_VERSION) {
        errors.push(wrong("specversion", format!("`specversion` must be {SPEC_VERSION}")));
    }
    if !name.is_empty()
        && let Some(refusal) = event_refusal(&name, None)
    {
        errors.push(wrong("type", refusal));
    }
    if time.as_ref().is_some_and(|time| Timestamp::parse_rfc3339(time).is_none()) {
        errors.push(wrong("time", "`time` must be RFC 3339".into()));
    }
    let (data, is_binary) = match (map.shift_remove("data"), map.shift_remove("data_base64")) {
        (Some(_), Some(_)) => {
            errors.push(wrong("data_base64", "an event has `data` or `data_base64`, not both".into()));
            (Value::Null, false)
        }
        (None, Some(Value::String(text))) if BASE64.decode(&text).is_ok() => (text.into(), true),
        (None, Some(_)) => {
            errors.push(wrong("data_base64", "`data_base64` must be base64".into()));
            (Value::Null, true)
        }
        (data, None) => (data.unwrap_or(Value::Null), false),
    };
    if map.len() > EXTENSIONS_MAX {
        errors.push(wrong("", format!("an event has at most {EXTENSIONS_MAX} extension attributes")));
        map.clear();
    }
    let mut attributes = EventAttributes {
        id: Some(id.clone()),
        source: Some(source.clone()),
        subject,
        time,
        data_content_type,
        data_schema,
        is_binary,
        ..EventAttributes::default()
    };
    for (name, value) in map {
        let is_name = (1..=EXTENSION_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let is_simple = match &value {
            Value::Bool(_) => true,
            Value::Number(number) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            Value::String(text) => text.len() <= EVENT_NAME_BYTES_MAX,
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => false,
        };
        if !is_name {
            errors.push(wrong(&name, format!("`{name}` is no attribute: a to z and 0 to 9 only")));
        } else if !is_simple {
            let wanted = "true, false, a 32-bit number or a text";
            errors.push(wrong(
                &name,
                format!("`{name}` must be {wanted} of at most {EVENT_NAME_BYTES_MAX} bytes"),
            ));
        } else {
            attributes.extensions.insert(name, value);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let record_id = record_id(&source, &id);
    Ok(PublishedEvent {
        id: record_id,
        name,
        data,
        tenant: None,
        source: None,
        at: now,
        attributes: Some(Box::new(attributes)),
    })
}

/// Producers number their events each for itself: an event is named by source and id together.
fn record_id(source: &str, id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{}:{source}{id}", source.len()).as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ce_{hex}")
}
