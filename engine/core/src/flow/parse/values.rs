//! Values with a language of their own: selectors, templates, paths, CEL, JSON Schema, versions, targets.

use std::collections::BTreeSet;
use std::sync::Arc;

use semver::{Version, VersionReq};
use serde_json::{Value, json};

use super::fields::{self, Field, Shape, optional, required};
use super::reader::{Reader, describe, suggest};
use crate::flow::definition::StepId;
use crate::flow::expression::Expression;
use crate::flow::schema::Schema;
use crate::flow::selector::{Path, Selector, Template};
use crate::limits::DURATION_MAX_MS;

/// One type of selector.
pub(crate) struct SelectorType {
    /// The value of `type`.
    pub(crate) name: &'static str,
    /// Its fields, `type` left out.
    pub(crate) shape: Shape,
    read: for<'a> fn(&super::reader::Object<'a>) -> Option<Selector>,
}

const TYPE: Field = required("type", fields::name, "Which selector this is.");

/// All types of selectors.
pub(crate) const SELECTORS: &[SelectorType] = &[
    SelectorType {
        name: "key",
        shape: old(&[TYPE, required("key", fields::text, "A key of the context; dots have no meaning.")]),
        read: |object| Some(Selector::Key(object.get("key")?.text()?.to_owned())),
    },
    SelectorType {
        name: "keys",
        shape: old(&[
            TYPE,
            required("keys", fields::texts, "Keys of the context; missing ones are left out."),
        ]),
        read: |object| Some(Selector::Keys(object.get("keys")?.texts()?)),
    },
    SelectorType {
        name: "path",
        shape: old(&[
            TYPE,
            required("path", fields::text, "A dotted path in the context, such as `items.0.id`."),
        ]),
        read: |object| Some(Selector::Path(object.get("path")?.path()?)),
    },
    SelectorType {
        name: "template",
        shape: old(&[
            TYPE,
            required("template", fields::anything, "Any value; `${path}` in texts is filled in."),
        ]),
        read: |object| Some(Selector::Template(object.get_or_null("template")?.template()?)),
    },
    SelectorType { name: "full", shape: old(&[TYPE]), read: |_| Some(Selector::Full) },
    SelectorType {
        name: "static",
        shape: old(&[TYPE, optional("value", fields::anything, "Taken as it is. Default null.")]),
        read: |object| Some(Selector::Static(object.map().get("value").cloned().unwrap_or_default())),
    },
    SelectorType {
        name: "expr",
        shape: Shape {
            fields: &[TYPE, required("expr", fields::expression, "A CEL expression.")],
            strict: true,
        },
        read: |object| Some(Selector::Expr(object.get("expr")?.expression()?)),
    },
];

const fn old(fields: &'static [Field]) -> Shape {
    Shape { fields, strict: false }
}

/// The JSON Schema of a selector.
pub(crate) fn selector_schema() -> Value {
    let types: Vec<Value> = SELECTORS
        .iter()
        .map(|kind| {
            let mut schema = fields::schema_of(&kind.shape);
            schema["properties"]["type"] = json!({ "const": kind.name });
            schema
        })
        .collect();
    json!({ "description": "Selects a value from the context.", "oneOf": types })
}

impl<'a> Reader<'a> {
    pub(super) fn selector(&self) -> Option<Selector> {
        let object = self.object()?;
        let Some(kind) = object.get("type") else {
            let hint = "add `type`: key, keys, path, template, full, static or expr".to_owned();
            self.error("missing", "has no `type`: Required", Some(hint));
            return None;
        };
        let name = kind.text()?;
        let Some(known) = SELECTORS.iter().find(|known| known.name == name) else {
            let names = SELECTORS.iter().map(|known| known.name);
            let hint = suggest(name, names.clone())
                .unwrap_or_else(|| format!("known are {}", names.collect::<Vec<_>>().join(", ")));
            kind.error("unknown-selector", &format!("names the unknown selector `{name}`"), Some(hint));
            return None;
        };
        // `template` may be null, which is a value there.
        if name == "template" && object.map().get("template").is_some_and(Value::is_null) {
            return object.get_or_null("template")?.template().map(Selector::Template);
        }
        (known.read)(&self.shaped(&known.shape)?)
    }

    /// A selector, or a text that is a template.
    pub(super) fn selector_or_template(&self) -> Option<Selector> {
        if self.value().is_string() { self.template().map(Selector::Template) } else { self.selector() }
    }

    pub(super) fn template(&self) -> Option<Template> {
        Template::parse(self.value())
            .map_err(|error| {
                let place = self.within(&error.pointer);
                let hint = "write `${path}` or `${path:-default}`, such as `${order.items.0.id}`".to_owned();
                place.error("bad-template", &format!("is not a template: {}", error.reason), Some(hint));
            })
            .ok()
    }

    pub(super) fn path(&self) -> Option<Path> {
        Path::parse(self.text()?)
            .map_err(|error| {
                let hint = "write keys and indexes with dots between them, such as `items.0.id`".to_owned();
                self.error("bad-path", &format!("is not a path: {error}"), Some(hint));
            })
            .ok()
    }

    pub(super) fn expression(&self) -> Option<Expression> {
        Expression::parse(self.text()?)
            .map_err(|error| {
                self.error("bad-expression", &format!("is not a CEL expression: {}", error.message), None)
            })
            .ok()
    }

    pub(super) fn schema(&self) -> Option<Schema> {
        Schema::compile(self.value())
            .map_err(|error| {
                self.within(&error.pointer).error(
                    "bad-schema",
                    &format!("is not a JSON Schema: {}", error.message),
                    None,
                );
            })
            .ok()
    }

    pub(super) fn duration(&self) -> Option<u64> {
        if let Some(millis) = self.value().as_str().and_then(millis_of_words) {
            let text = format!("must be a whole number of milliseconds, not {}", describe(self.value()));
            self.error("wrong-type", &text, Some(format!("write {millis}")));
            return None;
        }
        self.whole(0, DURATION_MAX_MS, "a whole number of milliseconds, 0 or more")
    }

    pub(super) fn version(&self) -> Option<Version> {
        let hint = || Some("write three numbers in quotes, such as \"1.0.0\" (SemVer 2)".to_owned());
        let Some(text) = self.value().as_str() else {
            self.error("bad-version", "must be a text with a SemVer version", hint());
            return None;
        };
        Version::parse(text)
            .map_err(|error| self.error("bad-version", &format!("is not a SemVer version: {error}"), hint()))
            .ok()
    }

    pub(super) fn version_requirement(&self) -> Option<VersionReq> {
        VersionReq::parse(self.text()?)
            .map_err(|error| {
                let hint = Some("write a requirement such as \"^1.2\" or \">=1.2, <3\"".to_owned());
                self.error("bad-version", &format!("is not a SemVer requirement: {error}"), hint);
            })
            .ok()
    }

    /// The step that is named; the inner none: null or empty, the end.
    pub(super) fn target(&self, steps: &BTreeSet<&'a str>) -> Option<Option<StepId>> {
        if self.value().is_null() {
            return Some(None);
        }
        let name = self.text()?;
        if name.is_empty() {
            return Some(None);
        }
        if steps.contains(name) {
            return Some(Some(Arc::from(name)));
        }
        let hint = suggest(name, steps.iter().copied());
        self.error("unknown-step", &format!("names step \"{name}\", which was not found"), hint);
        None
    }

    /// The step that is named, where the end makes no sense.
    pub(super) fn step(&self, steps: &BTreeSet<&'a str>) -> Option<StepId> {
        self.name()?;
        self.target(steps)?
    }
}

/// What a text such as `5s` or `10 min` means in milliseconds: for the hint only, the language has numbers.
fn millis_of_words(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit = match text.get(digits..)?.trim() {
        "" | "ms" => 1,
        "s" | "sec" | "second" | "seconds" => 1000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit)
}
