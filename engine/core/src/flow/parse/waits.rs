//! Reads the waits: `delay`, `wait-signal`, `wait-event`, `approval`.

use serde_json::{Value, json};

use super::fields::{self, Shape, optional, required};
use super::orchestrated::old;
use super::reader::{Object, Reader};
use super::step::{Surroundings, read};
use crate::flow::definition::{Approval, Delay, Escalation, StepKind, WaitEvent, WaitSignal};
use crate::flow::selector::Selector;
use crate::limits::DURATION_MAX_MS;
use crate::time::Timestamp;

/// Names of the units of a delay, and their milliseconds.
const UNITS: &[(&str, f64)] = &[
    ("ms", 1.0),
    ("delayMs", 1.0),
    ("seconds", 1000.0),
    ("minutes", 60_000.0),
    ("hours", 3_600_000.0),
    ("days", 86_400_000.0),
];

pub(super) const DELAY: Shape = old(&[
    optional("ms", fields::amount, "Milliseconds. All units are added up."),
    optional("delayMs", fields::amount, "Milliseconds, too."),
    optional("seconds", fields::amount, "Seconds."),
    optional("minutes", fields::amount, "Minutes."),
    optional("hours", fields::amount, "Hours."),
    optional("days", fields::amount, "Days."),
    optional(
        "until",
        || json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }, { "$ref": "#/$defs/selector" }] }),
        "Instead of units: an instant (RFC 3339, or milliseconds since 1970), a template, or a selector of one.",
    ),
]);

pub(super) fn read_delay(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    let mut total = 0.0;
    let mut given = Vec::new();
    let mut failed = false;
    for (unit, millis) in UNITS {
        if let Some(reader) = object.get(unit) {
            given.push(*unit);
            match reader.number(0.0) {
                Some(number) => total += number * millis,
                None => failed = true,
            }
        }
    }
    let reader = object.reader();
    if let Some(until) = object.get("until") {
        if let Some(unit) = given.first() {
            let hint = Some("keep one of the two".to_owned());
            reader.error("contradiction", &format!("has both `until` and `{unit}`"), hint);
            return None;
        }
        return read_until(&until).map(|selector| StepKind::Delay(Delay::Until(selector)));
    }
    if failed {
        return None;
    }
    let total = total.round();
    if total > DURATION_MAX_MS as f64 {
        reader.error("out-of-range", &format!("waits longer than {DURATION_MAX_MS} ms"), None);
        return None;
    }
    if given.is_empty() {
        let hint = Some("give `ms`, `seconds`, `minutes`, `hours`, `days` or `until`".to_owned());
        reader.warning("no-delay", "names no time, so that the step does not wait", hint);
    }
    Some(StepKind::Delay(Delay::For(total as u64)))
}

fn read_until(reader: &Reader<'_>) -> Option<Selector> {
    match reader.value() {
        Value::String(text) if !text.contains("${") => {
            if Timestamp::parse_rfc3339(text).is_none() {
                let hint = Some("write it as \"2030-01-31T12:00:00Z\", or as a template".to_owned());
                reader.error("bad-instant", &format!("must be an instant in RFC 3339, not {text:?}"), hint);
                return None;
            }
            Some(Selector::Static(reader.value().clone()))
        }
        Value::String(_) => reader.template().map(Selector::Template),
        Value::Number(_) => reader
            .whole(0, u64::MAX, "milliseconds since 1970")
            .map(|_| Selector::Static(reader.value().clone())),
        Value::Object(_) => reader.selector(),
        Value::Null | Value::Bool(_) | Value::Array(_) => {
            reader.expected("an instant, a template or a selector");
            None
        }
    }
}

const SIGNAL_DOC: &str = "The signal's name. Default: the step's id.";
const TIMEOUT_DOC: &str =
    "Milliseconds until the step fails with `WAIT_TIMEOUT`. Default: the flow's `timeouts.waitMs`.";

pub(super) const WAIT_SIGNAL: Shape = Shape {
    fields: &[
        optional("signal", fields::name, SIGNAL_DOC),
        optional("timeoutMs", fields::milliseconds, TIMEOUT_DOC),
    ],
    strict: true,
};

fn signal(object: &Object<'_>, surroundings: Surroundings<'_, '_>) -> Option<String> {
    Some(read(object, "signal", Reader::name)?.unwrap_or(surroundings.id).to_owned())
}

pub(super) fn read_wait_signal(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    _: &str,
) -> Option<StepKind> {
    let signal = signal(object, surroundings);
    let timeout_ms = read(object, "timeoutMs", Reader::duration);
    Some(StepKind::WaitSignal(WaitSignal { signal: signal?, timeout_ms: timeout_ms? }))
}

pub(super) const WAIT_EVENT: Shape = Shape {
    fields: &[
        required("event", fields::name, "The event's name."),
        optional(
            "match",
            fields::expression,
            "CEL over `event` (name, data) and the context. Default: every one of that name.",
        ),
        optional("timeoutMs", fields::milliseconds, TIMEOUT_DOC),
    ],
    strict: true,
};

pub(super) fn read_wait_event(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    let event = object.get("event").and_then(|reader| reader.name().map(str::to_owned));
    let matches = read(object, "match", Reader::expression);
    let timeout_ms = read(object, "timeoutMs", Reader::duration);
    Some(StepKind::WaitEvent(WaitEvent { event: event?, matches: matches?, timeout_ms: timeout_ms? }))
}

pub(super) const APPROVAL: Shape = Shape {
    fields: &[
        optional("signal", fields::name, SIGNAL_DOC),
        optional("assignees", fields::texts, "Who may answer. Default: everyone who may resume."),
        optional("form", fields::schema, "JSON Schema of an answer; another answer is refused."),
        optional("timeoutMs", fields::milliseconds, TIMEOUT_DOC),
        optional("escalation", escalation_schema, "When nobody answers in time, others are asked, once."),
    ],
    strict: true,
};

const ESCALATION: Shape = Shape {
    fields: &[
        required("afterMs", fields::milliseconds, "Milliseconds after the approval began."),
        required("assignees", fields::texts, "The new assignees."),
    ],
    strict: true,
};

fn escalation_schema() -> Value {
    fields::schema_of(&ESCALATION)
}

pub(super) fn read_approval(
    object: &Object<'_>,
    surroundings: Surroundings<'_, '_>,
    _: &str,
) -> Option<StepKind> {
    let signal = signal(object, surroundings);
    let assignees = read(object, "assignees", Reader::texts);
    let form = read(object, "form", Reader::schema);
    let timeout_ms = read(object, "timeoutMs", Reader::duration);
    let escalation = read(object, "escalation", |reader| {
        let object = reader.shaped(&ESCALATION)?;
        let after_ms = object.get("afterMs").and_then(|reader| reader.duration());
        let assignees = object.get("assignees").and_then(|reader| reader.texts());
        Some(Escalation { after_ms: after_ms?, assignees: assignees? })
    });
    Some(StepKind::Approval(Approval {
        signal: signal?,
        assignees: assignees?.unwrap_or_default(),
        form: form?,
        timeout_ms: timeout_ms?,
        escalation: escalation?,
    }))
}
