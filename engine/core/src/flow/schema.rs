//! JSON Schema (2020-12) for inputs, outputs and forms. Nothing is ever fetched: a reference must be within the schema.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::context::{depth, json_size};
use crate::limits::FLOW_DOCUMENT_DEPTH_MAX;

/// Violations that one check reports; more are not looked for.
pub const VIOLATIONS_MAX: usize = 20;
/// Characters of one violation's message; it may quote the value.
pub const VIOLATION_MESSAGE_CHARS_MAX: usize = 300;
/// Bytes of one schema as JSON.
pub const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// Steps back that one `pattern` may take before it counts as not matching.
const PATTERN_BACKTRACK_MAX: usize = 100_000;

/// A JSON Schema, compiled.
pub struct Schema {
    source: Value,
    validator: Validator,
}

/// The value is no schema that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON Schema at `{pointer}`: {message}")]
pub struct InvalidSchema {
    /// JSON Pointer within the schema.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

/// One place where a value breaks a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer within the value; empty for the value itself.
    pub pointer: String,
    /// For people; at most [`VIOLATION_MESSAGE_CHARS_MAX`] characters.
    pub message: String,
}

/// One place where a value breaks a schema, for those who report it in their own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenRule {
    /// JSON Pointer within the value; empty for the value itself.
    pub pointer: String,
    /// What is wrong there.
    pub kind: Break,
}

/// In which way a value breaks a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// An object has properties that the schema excludes.
    Unknown {
        /// Their names.
        keys: Vec<String>,
        /// The names that the schema knows there.
        known: Vec<String>,
    },
    /// An object lacks a property.
    Missing {
        /// Its name.
        key: String,
    },
    /// Anything else.
    Other {
        /// For people; at most [`VIOLATION_MESSAGE_CHARS_MAX`] characters.
        message: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Not a valid schema of draft 2020-12, too large, too deep, or it refers to something outside itself.
    pub fn compile(source: &Value) -> Result<Self, InvalidSchema> {
        let whole = |message| InvalidSchema { pointer: String::new(), message };
        if depth(source) > FLOW_DOCUMENT_DEPTH_MAX {
            return Err(whole(format!("nested deeper than {FLOW_DOCUMENT_DEPTH_MAX}")));
        }
        if json_size(source) > SCHEMA_BYTES_MAX {
            return Err(whole(format!("larger than {SCHEMA_BYTES_MAX} bytes")));
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(PatternOptions::fancy_regex().backtrack_limit(PATTERN_BACKTRACK_MAX))
            .build(source)
            .map_err(|error| InvalidSchema {
                pointer: error.instance_path().to_string(),
                message: shortened(&error.to_string()),
            })?;
        Ok(Self { source: source.clone(), validator })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The first [`VIOLATIONS_MAX`] violations; at least one.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let violations: Vec<_> = self
            .validator
            .iter_errors(value)
            .take(VIOLATIONS_MAX)
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: shortened(&error.to_string()),
            })
            .collect();
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the validator's rules, of which few have words of their own"
    )]
    /// How a value breaks the schema: the first [`VIOLATIONS_MAX`] places; none when it keeps to it.
    #[must_use]
    pub fn breaks(&self, value: &Value) -> Vec<BrokenRule> {
        let broken = |error: ValidationError<'_>| {
            let kind = match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected } => Break::Unknown {
                    keys: unexpected.clone(),
                    known: self.beside(error.schema_path().as_str()),
                },
                ValidationErrorKind::Required { property: Value::String(key) } => {
                    Break::Missing { key: key.clone() }
                }
                // Which of the choices was meant cannot be told; the whole list would hide the value.
                ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::Pattern { .. } => {
                    Break::Other { message: shortened(&format!("{} is not accepted", error.instance())) }
                }
                _ => Break::Other { message: shortened(&error.to_string()) },
            };
            BrokenRule { pointer: error.instance_path().to_string(), kind }
        };
        self.validator.iter_errors(value).take(VIOLATIONS_MAX).map(broken).collect()
    }

    /// The names of the properties beside the keyword at `path`.
    fn beside(&self, path: &str) -> Vec<String> {
        let around = path.rsplit_once('/').and_then(|(around, _)| self.source.pointer(around));
        let properties = around.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
        properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
    }

    /// The schema as written.
    #[must_use]
    pub const fn source(&self) -> &Value {
        &self.source
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.source).finish()
    }
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(VIOLATION_MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_point_into_the_value() {
        let source = json!({
            "type": "object", "required": ["items"],
            "properties": {"items": {"type": "array", "prefixItems": [{"type": "integer"}]}, "a/b": {"type": "string"}},
        });
        let schema = Schema::compile(&source).unwrap();
        assert_eq!(schema.source(), &source);
        assert_eq!(schema.check(&json!({"items": [1, "x"]})), Ok(()));
        let violations = schema.check(&json!({"items": ["x"], "a/b": 1})).unwrap_err();
        let pointers: Vec<_> = violations.iter().map(|violation| violation.pointer.as_str()).collect();
        assert_eq!(pointers, ["/items/0", "/a~1b"]);
        let missing = schema.check(&json!({})).unwrap_err();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].to_string(), "/: \"items\" is a required property");
    }

    #[test]
    fn violations_have_limits() {
        let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
        let violations = schema.check(&json!(vec![1; 1000])).unwrap_err();
        assert_eq!(violations.len(), VIOLATIONS_MAX);
        let schema = Schema::compile(&json!({"type": "number"})).unwrap();
        let violations = schema.check(&json!("é".repeat(10_000))).unwrap_err();
        assert_eq!(violations[0].message.chars().count(), VIOLATION_MESSAGE_CHARS_MAX + 1);
    }

    #[test]
    fn schemas_that_cannot_be_used_are_refused() {
        for source in [
            json!(5),
            json!({"type": "no such type"}),
            json!({"minLength": -1}),
            json!({"pattern": "("}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}),
            (0..=FLOW_DOCUMENT_DEPTH_MAX).fold(json!(true), |inner, _| json!({"not": inner})),
        ] {
            assert!(Schema::compile(&source).is_err(), "{:.80}", source.to_string());
        }
        assert!(Schema::compile(&json!(true)).is_ok());
    }

    #[test]
    fn references_within_the_schema_work() {
        let tree = json!({"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["n"]});
        let schema = Schema::compile(&tree).unwrap();
        assert_eq!(schema.check(&json!({"n": 1, "child": {"n": 2}})), Ok(()));
        assert_eq!(schema.check(&json!({"n": 1, "child": {}})).unwrap_err()[0].pointer, "/child");
    }
}
