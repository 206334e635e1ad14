//! Tables of the fields that handlers read. One table says which fields a handler knows, and makes its `configSchema`.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// One field of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    /// The key.
    pub(crate) name: &'static str,
    /// What it means, with unit and default.
    doc: &'static str,
    /// Whether only the configuration can give it, and must.
    required: bool,
    /// What its value may be.
    schema: fn() -> Value,
}

/// A field that may be left out; null counts as absent.
pub(crate) const fn optional(name: &'static str, schema: fn() -> Value, doc: &'static str) -> Field {
    Field { name, doc, required: false, schema }
}

/// A field that must be there.
pub(crate) const fn required(name: &'static str, schema: fn() -> Value, doc: &'static str) -> Field {
    Field { name, doc, required: true, schema }
}

/// The fields of one object, in parts that handlers share.
pub(crate) type Table = &'static [&'static [Field]];

/// Fields that the engine may fill in for any handler; handlers that do not use them pass over them.
pub(crate) const COMMON_FIELDS: [Field; 4] = [
    optional(
        "timeout",
        anything,
        "Another name of `timeoutMs` where the handler has that; else without effect.",
    ),
    optional("retries", anything, "Without effect: the step's `retry` counts."),
    optional("backoff", anything, "Without effect: the step's `retry` counts."),
    optional(
        "ignoreInput",
        anything,
        "`true`: the input does nothing, where the handler reads fields of it.",
    ),
];

/// Whether a table has a field of that name, or every handler has.
pub(crate) fn knows(table: Table, name: &str) -> bool {
    table.iter().copied().flatten().chain(&COMMON_FIELDS).any(|field| field.name == name)
}

/// The JSON Schema of a handler's configuration. Other fields do nothing; the schema refuses them, as slips of the pen.
pub(crate) fn config_schema(table: Table) -> Value {
    let mut schema = object_of(table.iter().copied().flatten().chain(&COMMON_FIELDS));
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["additionalProperties"] = false.into();
    schema
}

/// An object with these fields; the first of two with one name counts.
pub(crate) fn object_of<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Value {
    let (mut properties, mut needed) = (Map::new(), Vec::new());
    for field in fields {
        if properties.contains_key(field.name) {
            continue;
        }
        let mut schema = (field.schema)();
        if field.required {
            needed.push(field.name);
        } else {
            schema = nullable(schema);
        }
        schema["description"] = field.doc.into();
        properties.insert(field.name.to_owned(), schema);
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !needed.is_empty() {
        schema["required"] = json!(needed);
    }
    schema
}

/// A null counts as an absent field.
fn nullable(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type")
        && let Some(name) = kind.as_str()
    {
        if name != "null" {
            *kind = json!([name, "null"]);
        }
        return schema;
    }
    if schema.as_object().is_some_and(Map::is_empty) {
        return schema;
    }
    match schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        Some(choices) => choices.push(json!({ "type": "null" })),
        None => schema = json!({ "anyOf": [schema, { "type": "null" }] }),
    }
    schema
}

pub(crate) fn anything() -> Value {
    json!({})
}

/// A field that is there only to be refused with a word of advice.
pub(crate) fn refused() -> Value {
    json!({ "type": "null" })
}

pub(crate) fn text() -> Value {
    json!({ "type": "string" })
}

pub(crate) fn required_text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

pub(crate) fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub(crate) fn texts() -> Value {
    json!({ "type": "array", "items": text() })
}

pub(crate) fn object() -> Value {
    json!({ "type": "object" })
}

/// An object of names to values.
pub(crate) fn object_to(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

/// A string, a number or a boolean.
pub(crate) fn scalar() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

pub(crate) fn whole(range: &RangeInclusive<u64>) -> Value {
    json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
}

/// One of the names of `choices`, in any case.
pub(crate) fn words<T>(choices: &[(&str, T)]) -> Value {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let in_any_case = |name: &&str| {
        let letter = |c: char| match c {
            c if c.is_ascii_alphabetic() => format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase()),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => format!("\\{c}"),
        };
        name.chars().map(letter).collect::<String>()
    };
    let patterns: Vec<String> = names.iter().map(in_any_case).collect();
    // The names themselves are for editors, which offer them.
    json!({ "anyOf": [{ "enum": names }, { "type": "string", "pattern": format!("^(?:{})$", patterns.join("|")) }] })
}

/// A text, or an array of texts.
pub(crate) fn one_or_more_texts() -> Value {
    json!({ "anyOf": [text(), texts()] })
}
