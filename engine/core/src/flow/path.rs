//! Dotted paths into JSON values, with JavaScript's rules.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

/// The text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// The path has no text at all.
    #[error("a path must not be empty")]
    Empty,
    /// Two dots in a row, or a dot at the start or at the end.
    #[error("path `{path}` has an empty segment")]
    EmptySegment {
        /// The whole text.
        path: String,
    },
}

/// A dotted path (`checks.items.0.id`). Dots cannot be escaped: a key that has a dot can only be selected by `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: Box<str>,
    segments: Box<[Box<str>]>,
}

impl Path {
    /// Reads a path. Nothing is trimmed.
    ///
    /// # Errors
    /// The text is empty or has an empty segment.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        let segments: Box<[Box<str>]> = text.split('.').map(Box::from).collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return Err(InvalidPath::EmptySegment { path: text.into() });
        }
        Ok(Self { text: text.into(), segments })
    }

    /// The path as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parts between the dots; at least one, none of them empty.
    #[must_use]
    pub fn segments(&self) -> &[Box<str>] {
        &self.segments
    }

    /// The first segment: the top-level key that the path reads.
    #[must_use]
    pub fn root(&self) -> &str {
        self.segments.first().map_or("", |segment| segment)
    }

    /// The value at this path of `value`. Arrays are entered by index text; arrays and strings have a `length` (of
    /// strings: in UTF-16 units). A missing value or a null on the way gives `None`; a null at the end is a value.
    #[must_use]
    pub fn get<'a>(&self, value: &'a Value) -> Option<Cow<'a, Value>> {
        walk(value, &self.segments)
    }

    /// As [`Path::get`], from the top of a context.
    #[must_use]
    pub fn get_in_map<'a>(&self, map: &'a Map<String, Value>) -> Option<Cow<'a, Value>> {
        let (root, rest) = self.segments.split_first()?;
        walk(map.get(root.as_ref())?, rest)
    }

    /// As [`Path::get`], but never enters a string: the lookup of `conditional` and `switch`.
    #[must_use]
    pub fn get_in_objects<'a>(&self, value: &'a Value) -> Option<Cow<'a, Value>> {
        let mut here = Cow::Borrowed(value);
        for segment in &self.segments {
            if !here.is_object() && !here.is_array() {
                return None;
            }
            here = step(here, segment)?;
        }
        Some(here)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Follows `segments` from `value`, as [`Path::get`] does.
pub(super) fn walk<'a>(value: &'a Value, segments: &[Box<str>]) -> Option<Cow<'a, Value>> {
    segments.iter().try_fold(Cow::Borrowed(value), |here, segment| step(here, segment))
}

/// The index that `text` names, as JavaScript spells indexes: no sign, no leading zero.
pub(crate) fn array_index(text: &str) -> Option<usize> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

fn step<'a>(here: Cow<'a, Value>, segment: &str) -> Option<Cow<'a, Value>> {
    match here {
        Cow::Borrowed(value) => property(value, segment),
        // Only `length` and a character of a string are made on the way, and neither holds anything borrowed.
        Cow::Owned(value) => property(&value, segment).map(|found| Cow::Owned(found.into_owned())),
    }
}

fn property<'a>(value: &'a Value, name: &str) -> Option<Cow<'a, Value>> {
    match value {
        Value::Object(map) => map.get(name).map(Cow::Borrowed),
        Value::Array(items) if name == "length" => Some(Cow::Owned(items.len().into())),
        Value::Array(items) => items.get(array_index(name)?).map(Cow::Borrowed),
        Value::String(text) if name == "length" => Some(Cow::Owned(text.encode_utf16().count().into())),
        Value::String(text) => {
            let unit = text.encode_utf16().nth(array_index(name)?)?;
            let character = char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(Cow::Owned(character.to_string().into()))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get(value: &Value, path: &str) -> Option<Value> {
        Path::parse(path).unwrap().get(value).map(Cow::into_owned)
    }

    #[test]
    fn paths_follow_javascript() {
        let value = json!({
            "a": {"b": {"c": {"d": 1}}}, "none": null, "items": [{"id": 7}, null], "text": "a😀", "n": 5,
            "own": {"length": "mine"},
        });
        for (rule, path, wanted) in [
            ("two levels", "a.b", Some(json!({"c": {"d": 1}}))),
            ("four levels", "a.b.c.d", Some(json!(1))),
            ("missing branch", "a.x.c", None),
            ("through null", "none.a", None),
            ("null at the end is a value", "none", Some(Value::Null)),
            ("array index", "items.0.id", Some(json!(7))),
            ("index past the end", "items.2", None),
            ("index with a leading zero is a name", "items.00", None),
            ("index with a sign is a name", "items.+0", None),
            ("length of an array", "items.length", Some(json!(2))),
            ("length of a string in UTF-16 units", "text.length", Some(json!(3))),
            ("character of a string", "text.0", Some(json!("a"))),
            ("length of a number is nothing", "n.length", None),
            ("own key `length` of an object", "own.length", Some(json!("mine"))),
            ("never a prototype", "a.__proto__", None),
            ("never a method", "a.constructor", None),
            ("nothing behind a length", "items.length.length", None),
        ] {
            assert_eq!(get(&value, path), wanted, "{rule}");
        }
    }

    #[test]
    fn lookup_of_conditions_does_not_enter_strings() {
        let value = json!({"text": "abc", "items": [1, 2]});
        let find = |path: &str| Path::parse(path).unwrap().get_in_objects(&value).map(Cow::into_owned);
        assert_eq!(find("text"), Some(json!("abc")));
        assert_eq!(find("text.length"), None);
        assert_eq!(find("items.length"), Some(json!(2)));
        assert_eq!(find("items.1"), Some(json!(2)));
        assert_eq!(Path::parse("length").unwrap().get_in_objects(&json!("abc")), None);
    }

    #[test]
    fn empty_paths_and_segments_are_refused() {
        assert_eq!(Path::parse(""), Err(InvalidPath::Empty));
        for text in [".", "a.", ".a", "a..b"] {
            assert_eq!(Path::parse(text), Err(InvalidPath::EmptySegment { path: text.into() }));
        }
        let path = Path::parse(" a.b c ").unwrap();
        assert_eq!((path.as_str(), path.root(), path.segments().len()), (" a.b c ", " a", 2));
    }
}
