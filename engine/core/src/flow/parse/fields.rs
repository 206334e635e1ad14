//! Tables of fields: one table says which keys an object may have, which it must have, and what the JSON Schema says.

use serde_json::{Value, json};

/// One field of an object of the language.
pub(crate) struct Field {
    /// The key.
    pub(crate) name: &'static str,
    /// What it means: unit and default.
    pub(crate) doc: &'static str,
    /// Whether it must be there.
    pub(crate) required: bool,
    /// What the message says when it is missing.
    pub(crate) missing: &'static str,
    /// What the JSON Schema says about its value.
    pub(crate) schema: fn() -> Value,
    /// Refused in this version, because the feature behind it does not exist.
    pub(crate) unavailable: bool,
}

/// FlowMonkey's word for a missing field.
const REQUIRED: &str = "Required";

/// A field that may be left out.
pub(super) const fn optional(name: &'static str, schema: fn() -> Value, doc: &'static str) -> Field {
    Field { name, doc, required: false, missing: REQUIRED, schema, unavailable: false }
}

/// A field that must be there.
pub(super) const fn required(name: &'static str, schema: fn() -> Value, doc: &'static str) -> Field {
    Field { name, doc, required: true, missing: REQUIRED, schema, unavailable: false }
}

/// A field whose feature does not exist yet: refused, never ignored.
pub(super) const fn unavailable(name: &'static str) -> Field {
    Field {
        name,
        doc: "Not available in this version.",
        required: false,
        missing: REQUIRED,
        schema: || json!({ "not": {} }),
        unavailable: true,
    }
}

/// A kind of object: its fields, and whether other keys are errors.
pub(crate) struct Shape {
    /// The fields.
    pub(crate) fields: &'static [Field],
    /// What an unknown key is: an error in what is new, a warning in what FlowMonkey has too.
    pub(crate) strict: bool,
}

/// The JSON Schema of an object with the fields of `shape`.
pub(crate) fn schema_of(shape: &Shape) -> Value {
    let mut properties = serde_json::Map::new();
    for field in shape.fields {
        let mut schema = (field.schema)();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), Value::from(field.doc));
        }
        if !field.required && !field.unavailable {
            schema = nullable(schema);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let required: Vec<&str> =
        shape.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if shape.strict {
        schema["additionalProperties"] = json!(false);
    }
    schema
}

/// `null` means the same as a missing field.
fn nullable(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type")
        && let Some(name) = kind.as_str()
    {
        *kind = json!([name, "null"]);
        if let Some(names) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            names.push(Value::Null);
        }
        return schema;
    }
    let description = schema.as_object_mut().and_then(|map| map.remove("description"));
    if schema.as_object().is_some_and(serde_json::Map::is_empty) {
        return json!({ "description": description });
    }
    json!({ "anyOf": [schema, { "type": "null" }], "description": description })
}

pub(super) fn anything() -> Value {
    json!({})
}

pub(super) fn object() -> Value {
    json!({ "type": "object" })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn name() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

pub(super) fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

pub(super) fn texts_of_values() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn milliseconds() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": crate::limits::DURATION_MAX_MS })
}

pub(super) fn amount() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

pub(super) fn selector() -> Value {
    json!({ "$ref": "#/$defs/selector" })
}

pub(super) fn selector_or_template() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/selector" }] })
}

pub(super) fn expression() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": crate::limits::EXPRESSION_BYTES_MAX })
}

pub(super) fn schema() -> Value {
    json!({ "type": ["object", "boolean"] })
}

pub(super) fn target() -> Value {
    json!({ "type": ["string", "null"] })
}
