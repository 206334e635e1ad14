//! Dotted paths into JSON values, with JavaScript's rules.

use std::borrow::Cow;
use std::fmt;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::dataset::{DatasetReads, DatasetTooLarge};

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

    /// As [`Path::get`], through references to `datasets` too.
    ///
    /// # Errors
    /// More is read than may be held in memory.
    pub fn read<'a>(
        &self,
        value: &'a Value,
        datasets: &DatasetReads<'_>,
    ) -> Result<Option<Cow<'a, Value>>, DatasetTooLarge> {
        read(value, &self.segments, Strings::Entered, Some(datasets))
    }

    /// As [`Path::get_in_map`], through references to `datasets` too.
    ///
    /// # Errors
    /// As [`Path::read`].
    pub fn read_in_map<'a>(
        &self,
        map: &'a Map<String, Value>,
        datasets: &DatasetReads<'_>,
    ) -> Result<Option<Cow<'a, Value>>, DatasetTooLarge> {
        let Some((root, rest)) = self.segments.split_first() else { return Ok(None) };
        match map.get(root.as_ref()) {
            Some(value) => read(value, rest, Strings::Entered, Some(datasets)),
            None => Ok(None),
        }
    }

    /// As [`Path::read`], but never enters a string: the lookup of `conditional` and `switch`. Without `datasets`,
    /// references are data like any other.
    ///
    /// # Errors
    /// As [`Path::read`].
    pub fn read_in_objects<'a>(
        &self,
        value: &'a Value,
        datasets: Option<&DatasetReads<'_>>,
    ) -> Result<Option<Cow<'a, Value>>, DatasetTooLarge> {
        read(value, &self.segments, Strings::Closed, datasets)
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

/// Whether a path finds the characters and the length of strings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strings {
    Entered,
    Closed,
}

/// How far a path got.
enum Reached<'v, 's> {
    /// To its end.
    End(Option<Cow<'v, Value>>),
    /// To a reference: the rest of it goes on in these rows.
    Dataset(Arc<Value>, &'s [Box<str>]),
}

/// Follows `segments` from `value`, through references to `datasets`. A loop, not a recursion: rows may hold references,
/// to whatever a handler has put there.
pub(super) fn read<'a>(
    value: &'a Value,
    segments: &[Box<str>],
    strings: Strings,
    datasets: Option<&DatasetReads<'_>>,
) -> Result<Option<Cow<'a, Value>>, DatasetTooLarge> {
    let (mut rows, mut rest) = match advance(value, segments, strings, datasets)? {
        Reached::End(found) => return Ok(found),
        Reached::Dataset(rows, rest) => (rows, rest),
    };
    loop {
        let next = match advance(&rows, rest, strings, datasets)? {
            Reached::End(found) => return Ok(found.map(|found| Cow::Owned(found.into_owned()))),
            Reached::Dataset(rows, rest) => (rows, rest),
        };
        (rows, rest) = next;
    }
}

fn advance<'v, 's>(
    value: &'v Value,
    segments: &'s [Box<str>],
    strings: Strings,
    datasets: Option<&DatasetReads<'_>>,
) -> Result<Reached<'v, 's>, DatasetTooLarge> {
    let mut here = Cow::Borrowed(value);
    let mut rest = segments;
    while let Some((segment, behind)) = rest.split_first() {
        if let Some(datasets) = datasets
            && let Some(rows) = datasets.rows_of(&here)?
        {
            return Ok(Reached::Dataset(rows, rest));
        }
        if strings == Strings::Closed && !here.is_object() && !here.is_array() {
            return Ok(Reached::End(None));
        }
        match step(here, segment) {
            Some(found) => here = found,
            None => return Ok(Reached::End(None)),
        }
        rest = behind;
    }
    Ok(Reached::End(Some(here)))
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
        let find = |path: &str| {
            Path::parse(path).unwrap().read_in_objects(&value, None).unwrap().map(Cow::into_owned)
        };
        assert_eq!(find("text"), Some(json!("abc")));
        assert_eq!(find("text.length"), None);
        assert_eq!(find("items.length"), Some(json!(2)));
        assert_eq!(find("items.1"), Some(json!(2)));
        assert_eq!(Path::parse("length").unwrap().read_in_objects(&json!("abc"), None), Ok(None));
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
