//! How results are printed: the one place where JSON, YAML and text for people are told apart.

use std::borrow::Cow;
use std::io::Write;

use clap::ValueEnum;
use saphyr::{Mapping, Scalar, ScalarStyle, Yaml, YamlEmitter};
use serde::Deserialize;
use serde_json::Value;

use crate::errors::CliError;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Output {
    /// One JSON value on standard output; of what is followed, one a line
    Json,
    /// For people
    #[default]
    Table,
    /// One YAML document on standard output; of what is followed, one for each
    Yaml,
}

impl Output {
    /// Its name, as it is given.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Table => "table",
            Self::Yaml => "yaml",
        }
    }

    /// Prints a result; `text` is for people.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn print(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), CliError> {
        match self {
            Self::Json => print(&json(value)),
            Self::Table => print(&text(value)),
            Self::Yaml => print(&yaml(value)),
        }
    }

    /// One of many results, as they are printed one after the other; `text` is a line for people.
    pub(crate) fn one(self, value: &Value, text: impl FnOnce(&Value) -> String) -> String {
        match self {
            Self::Json => format!("{value}\n"),
            Self::Table => format!("{}\n", text(value)),
            Self::Yaml => format!("---\n{}\n", yaml(value)),
        }
    }
}

/// Prints a result. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// When it cannot be written for another reason.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    write(text).map(|_| ())
}

/// As [`print`]; says whether the reader is still there.
///
/// # Errors
/// When it cannot be written for another reason than that.
pub(crate) fn write(text: &str) -> Result<bool, CliError> {
    let mut stdout = std::io::stdout().lock();
    let ending = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{ending}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::io("cannot write the result")(error)),
    }
}

fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// A value as YAML, without a line that begins the document.
pub(crate) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    let dumped = YamlEmitter::new(&mut text).dump(&node(value));
    match (dumped, text.strip_prefix("---\n")) {
        (Ok(()), Some(text)) => text.to_owned(),
        // JSON is YAML, too.
        (Ok(()), None) | (Err(_), _) => json(value),
    }
}

fn node(value: &Value) -> Yaml<'_> {
    match value {
        Value::Null => Yaml::Representation(Cow::Borrowed("null"), ScalarStyle::Plain, None),
        Value::Bool(value) => Yaml::Value(Scalar::Boolean(*value)),
        // As JSON writes them: no number is too large and none loses digits.
        Value::Number(number) => {
            Yaml::Representation(Cow::Owned(number.to_string()), ScalarStyle::Plain, None)
        }
        Value::String(text) => string(text),
        Value::Array(items) => Yaml::Sequence(items.iter().map(node).collect()),
        Value::Object(fields) => {
            let mut mapping = Mapping::new();
            for (key, value) in fields {
                mapping.insert(string(key), node(value));
            }
            Yaml::Mapping(mapping)
        }
    }
}

fn string(text: &str) -> Yaml<'_> {
    Yaml::Value(Scalar::String(Cow::Borrowed(text)))
}

#[cfg(test)]
mod tests {
    use saphyr::LoadableYamlNode;
    use serde_json::json;

    use super::*;

    fn read(node: &Yaml<'_>) -> Value {
        match node {
            Yaml::Value(Scalar::Null) => Value::Null,
            Yaml::Value(Scalar::Boolean(value)) => json!(value),
            Yaml::Value(Scalar::Integer(value)) => json!(value),
            Yaml::Value(Scalar::FloatingPoint(value)) => json!(**value),
            Yaml::Value(Scalar::String(text)) => json!(text),
            Yaml::Sequence(items) => items.iter().map(read).collect(),
            Yaml::Mapping(fields) => {
                let pair = |(key, value): (&Yaml<'_>, &Yaml<'_>)| {
                    (read(key).as_str().unwrap().to_owned(), read(value))
                };
                Value::Object(fields.iter().map(pair).collect())
            }
            other @ (Yaml::Representation(..) | Yaml::Tagged(..) | Yaml::Alias(_) | Yaml::BadValue) => {
                panic!("{other:?}")
            }
        }
    }

    #[test]
    fn what_is_written_as_yaml_is_read_as_it_was() {
        let texts = [
            "",
            " ",
            "a",
            "a b",
            " a",
            "a ",
            "null",
            "Null",
            "~",
            "true",
            "no",
            "off",
            "Yes",
            "1",
            "-1",
            "1.5",
            "1e3",
            "0x1f",
            "0o7",
            ".inf",
            ".nan",
            "2026-11-21",
            "a: b",
            "a:",
            ": a",
            "a #b",
            "#a",
            "- a",
            "-",
            "---",
            "...",
            "? a",
            "!a",
            "&a",
            "*a",
            "%a",
            "@a",
            "`a",
            "|",
            ">",
            "[a]",
            "{a}",
            "a, b",
            "'a'",
            "\"a\"",
            "a\"b\\c",
            "a\nb",
            "a\n",
            "\n",
            "\ta",
            "a\tb",
            "\r\n",
            "\u{0}\u{1b}[31m",
            "é ü 猿 🐒",
            "=",
            "<<",
            "a\u{85}b",
            "a\u{2028}b",
        ];
        let keyed: serde_json::Map<String, Value> =
            texts.iter().map(|text| ((*text).to_owned(), json!(text))).collect();
        let value = json!({
            "texts": texts.as_slice(), "keyed": keyed, "none": null, "yes": true, "numbers": [0, -7, 1.5, 1e300, i64::MAX],
            "empty": { "list": [], "object": {} }, "deep": [[1, [2, { "a": [{ "b": [] }] }]], [[]]],
        });
        let text = yaml(&value);
        let documents = Yaml::load_from_str(&text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        assert_eq!(read(&documents[0]), value, "{text}");
        assert_eq!(yaml(&json!({ "large": u64::MAX })), "large: 18446744073709551615");
    }

    #[test]
    fn one_of_many_is_a_line_or_a_document() {
        let value = json!({ "a": [1] });
        assert_eq!(Output::Json.one(&value, |_| String::new()), "{\"a\":[1]}\n");
        assert_eq!(Output::Yaml.one(&value, |_| String::new()), "---\na:\n  - 1\n");
        assert_eq!(Output::Table.one(&value, |value| value["a"].to_string()), "[1]\n");
    }
}
