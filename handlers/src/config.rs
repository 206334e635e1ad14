//! Reads a step's `config` field by field, so that every complaint names its field.

use std::ops::RangeInclusive;

use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Failure, Task};
use serde_json::{Map, Value};

use crate::schema::{self, Table};

/// The failure code for a `config` that a handler cannot work with.
pub const BAD_CONFIG: &str = "BAD_CONFIG";

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.{field}: {problem}")]
pub(crate) struct ConfigError {
    field: String,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// As a failure with a code of the handler's own.
    pub(crate) fn into_failure(self, code: &str) -> Failure {
        let details = serde_json::json!({ "field": self.field });
        Failure::terminal(code, self.to_string()).details(details)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        error.into_failure(BAD_CONFIG)
    }
}

/// The fields of one object of the configuration. A field that is null counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    /// Of the object within the configuration: empty or ending in a dot.
    prefix: &'static str,
    fields: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// Of a whole configuration; null is an empty one.
    pub(crate) fn new(config: &'a Value) -> Result<Self, Failure> {
        match config {
            Value::Null => Ok(Self { prefix: "", fields: None }),
            Value::Object(fields) => Ok(Self { prefix: "", fields: Some(fields) }),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(Failure::terminal(BAD_CONFIG, format!("config must be an object, not {}", kind(config))))
            }
        }
    }

    /// Of an object in the configuration.
    pub(crate) const fn nested(prefix: &'static str, fields: &'a Map<String, Value>) -> Self {
        Self { prefix, fields: Some(fields) }
    }

    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(format!("{}{field}", self.prefix), problem)
    }

    fn wrong(&self, field: &str, expected: &str, value: &Value) -> ConfigError {
        self.error(field, format!("must be {expected}, not {}", kind(value)))
    }

    pub(crate) fn value(&self, field: &str) -> Option<&'a Value> {
        #[cfg(test)]
        crate::schema_tests::note_read(format!("{}{field}", self.prefix));
        self.fields?.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.value(field)
            .map(|value| value.as_str().ok_or_else(|| self.wrong(field, "a string", value)))
            .transpose()
    }

    pub(crate) fn required_text(&self, field: &str) -> Result<&'a str, ConfigError> {
        match self.text(field)? {
            Some("") => Err(self.error(field, "must not be empty")),
            Some(text) => Ok(text),
            None => Err(self.error(field, "is required")),
        }
    }

    pub(crate) fn flag(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        self.value(field).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| self.wrong(field, "true or false", value))
        })
    }

    pub(crate) fn number(
        &self,
        field: &str,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) => Err(self.error(field, format!("must be {}, not {number}", expected()))),
            None if value.is_number() => {
                Err(self.error(field, format!("must be {}, not {value}", expected())))
            }
            None => Err(self.wrong(field, &expected(), value)),
        }
    }

    pub(crate) fn list(&self, field: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        self.value(field)
            .map(|value| {
                value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(field, "an array", value))
            })
            .transpose()
    }

    pub(crate) fn texts(&self, field: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(list) = self.list(field)? else { return Ok(None) };
        list.iter()
            .enumerate()
            .map(|(index, item)| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| self.wrong(&format!("{field}[{index}]"), "a string", item))
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        self.value(field)
            .map(|value| value.as_object().ok_or_else(|| self.wrong(field, "an object", value)))
            .transpose()
    }

    /// The choice that the field's text names; `choices` are the names and what they stand for.
    pub(crate) fn choice<T: Copy>(
        &self,
        field: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(field, format!("`{text}` is not one of {}", names.join(", ")))
        })
    }

    /// Logs a warning for each field that the handler does not know: most are slips of the pen.
    pub(crate) fn warn_unknown(&self, task: &Task, known: Table) {
        for name in self.fields.into_iter().flat_map(Map::keys) {
            if !schema::knows(known, name) {
                task.log(
                    LogLevel::Warn,
                    format!("config.{}{name} is not known to this handler and does nothing", self.prefix),
                );
            }
        }
    }
}

/// The kind of a JSON value, for messages.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The value at a dotted path; a leading `$.` is passed over, numbers index arrays, the empty path is the value itself.
pub(crate) fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.strip_prefix("$.").unwrap_or(path);
    if path.is_empty() || path == "$" {
        return Some(value);
    }
    path.split('.').try_fold(value, |value, key| match value {
        Value::Object(fields) => fields.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// The longest beginning of `text` of at most `bytes` bytes.
pub(crate) fn excerpt(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn complaints_name_the_field_and_what_would_do() {
        let config = json!({ "n": 11, "s": 1, "l": ["a", 2], "c": "up", "e": "" });
        let fields = Fields::new(&config).unwrap();
        let messages = [
            fields.number("n", &(1..=10)).unwrap_err().to_string(),
            fields.text("s").unwrap_err().to_string(),
            fields.texts("l").unwrap_err().to_string(),
            fields.choice("c", &[("upper", 1), ("lower", 2)]).unwrap_err().to_string(),
            fields.required_text("e").unwrap_err().to_string(),
            fields.required_text("x").unwrap_err().to_string(),
        ];
        assert_eq!(
            messages,
            [
                "config.n: must be a whole number from 1 to 10, not 11",
                "config.s: must be a string, not a number",
                "config.l[1]: must be a string, not a number",
                "config.c: `up` is not one of upper, lower",
                "config.e: must not be empty",
                "config.x: is required",
            ]
        );
    }

    #[test]
    fn paths_enter_objects_and_arrays_but_never_scalars() {
        let value = json!({ "a": { "b": [10, { "c": 1 }] }, "s": "text" });
        assert_eq!(at_path(&value, "a.b.1.c"), Some(&json!(1)));
        assert_eq!(at_path(&value, "$.a.b.0"), Some(&json!(10)));
        assert_eq!(at_path(&value, ""), Some(&value));
        assert_eq!(at_path(&value, "s.length"), None);
        assert_eq!(at_path(&value, "a.b.9"), None);
    }

    #[test]
    fn an_excerpt_never_cuts_a_character() {
        assert_eq!(excerpt("aé", 2), "a");
        assert_eq!(excerpt("aé", 9), "aé");
    }
}
