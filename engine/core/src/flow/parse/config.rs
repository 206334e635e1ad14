//! Checks the configuration of handlers' steps against the schemas that the handlers' manifests have.

use std::fmt;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::orchestrated;
use super::reader::{Object, suggest};
use crate::flow::schema::{Break, Schema};

/// The schemas of the handlers that are known.
pub trait ConfigSchemas: fmt::Debug {
    /// The schema of the configuration of a handler type; none: it is not checked.
    fn config_schema(&self, handler_type: &str) -> Option<&Schema>;

    /// The handler types that are known. Another one may exist all the same; one that is written almost as one of these is
    /// reported.
    fn handler_types(&self) -> Vec<&str>;
}

/// Reports what the handler will refuse (an error), and the fields that it does not know (a warning).
pub(super) fn check(step: &Object<'_>, handler_type: &str) {
    static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    check_type(step, handler_type);
    let Some(schema) = step.reader().config_schema(handler_type) else { return };
    // With the engine's fields in it, a missing one is an empty one.
    let config = step.get("config").unwrap_or_else(|| step.reader().entry("config", &NOTHING));
    // Reported where the step is read.
    if !config.value().is_object() {
        return;
    }
    for broken in schema.breaks(config.value()) {
        let place = config.within(&broken.pointer);
        let described = described(schema.source(), &broken.pointer);
        match broken.kind {
            Break::Unknown { keys, known } => {
                for key in keys {
                    let Some(entry) = place.value().get(&key).map(|value| place.entry(&key, value)) else {
                        continue;
                    };
                    let near = suggest(&key, known.iter().map(String::as_str));
                    let text = format!("is not known to the handler `{handler_type}` and does nothing");
                    entry.warning_at_key(
                        "unknown-config",
                        &text,
                        near.or_else(|| Some("leave it out".into())),
                    );
                }
            }
            Break::Missing { key } => {
                let text = format!("has no `{key}`, which the handler `{handler_type}` needs");
                let pointer = format!("{}/{key}", broken.pointer);
                let hint = self::described(schema.source(), &pointer);
                let hint = hint.map_or_else(|| format!("add `{key}`"), |doc| format!("add `{key}`: {doc}"));
                place.error("bad-config", &text, Some(hint));
            }
            Break::Other { message } => {
                let text = format!("is refused by the handler `{handler_type}`: {message}");
                place.error("bad-config", &text, described);
            }
        }
    }
}

/// Reports a type that looks like a slip of the pen.
fn check_type(step: &Object<'_>, handler_type: &str) {
    let known = step.reader().handler_types();
    if known.is_empty() || known.contains(&handler_type) {
        return;
    }
    let orchestrated = orchestrated::KINDS.iter().map(|kind| kind.name);
    if let Some(near) = suggest(handler_type, known.into_iter().chain(orchestrated))
        && let Some(written) = step.get("type")
    {
        let text = format!("names `{handler_type}`, a handler that is not known here");
        written.warning("unknown-handler", &text, Some(near));
    }
}

/// What a schema says about the field at `pointer`: its own words, else those of the object or list around it.
fn described(schema: &Value, pointer: &str) -> Option<String> {
    let mut found = None;
    let mut schema = schema;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        let Some(inner) = schema.get("properties").and_then(|properties| properties.get(&key)) else { break };
        schema = inner;
        found = schema.get("description").and_then(Value::as_str).or(found);
    }
    found.map(|text| text.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::flow::parse::{Format, Issue, Severity, parse_document, parse_document_with};

    #[derive(Debug)]
    struct Only(Schema);

    impl ConfigSchemas for Only {
        fn config_schema(&self, handler_type: &str) -> Option<&Schema> {
            (handler_type == "http-request").then_some(&self.0)
        }

        fn handler_types(&self) -> Vec<&str> {
            vec!["http-request", "transform"]
        }
    }

    fn issues(text: &str) -> Vec<Issue> {
        let schema = json!({
            "properties": {
                "url": { "type": "string", "description": "Where to." },
                "retries": { "type": "integer", "maximum": 3 },
                "tls": { "properties": { "name": { "type": "string" } }, "additionalProperties": false },
            },
            "required": ["url"], "additionalProperties": false,
        });
        assert!(parse_document(text, Format::Yaml).is_ok(), "without schemas configurations are opaque");
        match parse_document_with(text, Format::Yaml, Arc::new(Only(Schema::compile(&schema).unwrap()))) {
            Ok(document) => document.warnings,
            Err(issues) => issues,
        }
    }

    fn flow(steps: &str) -> String {
        format!("id: f\nversion: 1.0.0\ninitialStepId: a\nsteps:\n{steps}\n")
    }

    #[test]
    fn types_that_look_like_known_ones_are_warned_of() {
        let of = |handler: &str| issues(&flow(&format!("  a: {{ type: {handler} }}")));
        for (written, near) in [("tranform", "transform"), ("wiat-signal", "wait-signal")] {
            let found = of(written);
            assert_eq!(
                (found.len(), found[0].code, found[0].severity),
                (1, "unknown-handler", Severity::Warning)
            );
            assert_eq!(found[0].hint.as_deref(), Some(format!("did you mean `{near}`?").as_str()));
            assert_eq!(found[0].pointer, "/steps/a/type");
        }
        for mine in ["transform", "encode-video", "x"] {
            assert!(of(mine).is_empty(), "{mine}");
        }
    }

    #[test]
    fn unknown_fields_are_warned_of_and_wrong_ones_are_errors_with_their_places() {
        let found = issues(&flow(
            "  a:\n    type: http\n    config:\n      ulr: x\n      url: 5\n      tls: { nmae: x }\n      retries: 9",
        ));
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "8:7: warning: step `a`: `config.ulr` is not known to the handler `http-request` and does nothing \
                 [unknown-config]; did you mean `url`?",
                "9:12: error: step `a`: `config.url` is refused by the handler `http-request`: 5 is not of type \
                 \"string\" [bad-config]; Where to",
                "10:14: warning: step `a`: `config.tls.nmae` is not known to the handler `http-request` and does nothing \
                 [unknown-config]; did you mean `name`?",
                "11:16: error: step `a`: `config.retries` is refused by the handler `http-request`: 9 is greater than \
                 the maximum of 3 [bad-config]",
            ]
        );
        assert_eq!(found[1].pointer, "/steps/a/config/url");
    }

    #[test]
    fn missing_fields_are_missed_with_and_without_a_configuration_and_in_bodies() {
        let body = "  a:\n    type: map\n    config:\n      items: { type: path, path: x }\n      body: { type: http-request }";
        for (text, pointer) in [
            (flow("  a: { type: http-request, config: {} }"), "/steps/a/config"),
            (flow("  a: { type: http-request }"), "/steps/a/config"),
            (flow(body), "/steps/a/config/body/config"),
        ] {
            let found = issues(&text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].severity, found[0].pointer.as_str()), (Severity::Error, pointer));
            assert_eq!(found[0].hint.as_deref(), Some("add `url`: Where to"));
            assert!(found[0].line > 0, "{found:?}");
        }
        assert!(issues(&flow("  a: { type: other, config: { ulr: 1 } }")).is_empty());
    }
}
