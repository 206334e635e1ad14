//! Reads values: a reader knows where it is, what to call it, and where to put what is wrong.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::fields::{Field, Shape};
use super::issue::{Issues, Part, Severity};
use crate::flow::pointer::escape;
use crate::flow::schema::Schema;

/// Longest part of a value that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 40;

/// Longest list of known fields that a hint shows.
const LISTED_MAX: usize = 8;

/// Words that are compared to find the one that was meant.
const COMPARED_MAX: usize = 1000;

/// What messages call the thing being read: `flow`, ``step `pay` ``.
#[derive(Debug)]
struct Place {
    name: String,
    /// Bytes of the pointer that lead to it.
    base: usize,
}

/// A value, where it is, and where issues go. Its methods that read give none after reporting why.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    value: &'a Value,
    pointer: String,
    place: Rc<Place>,
    issues: &'a Issues,
}

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a Value, pointer: &str, name: &str, issues: &'a Issues) -> Self {
        let place = Rc::new(Place { name: name.to_owned(), base: pointer.len() });
        Self { value, pointer: pointer.to_owned(), place, issues }
    }

    /// The same value under a name of its own: what is in it is named from here.
    pub(super) fn named(&self, name: &str) -> Self {
        Self::new(self.value, &self.pointer, name, self.issues)
    }

    pub(super) const fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The reader of the entry `key`, whose value is `value`.
    pub(super) fn entry(&self, key: &str, value: &'a Value) -> Self {
        let pointer = format!("{}/{}", self.pointer, escape(key));
        Self { value, pointer, place: Rc::clone(&self.place), issues: self.issues }
    }

    /// The reader of what is at the JSON pointer `inner` of this value; of this value when there is nothing.
    pub(super) fn within(&self, inner: &str) -> Self {
        match self.value.pointer(inner) {
            Some(value) => Self { value, pointer: format!("{}{inner}", self.pointer), ..self.clone() },
            None => self.clone(),
        }
    }

    /// ``step `pay`: `config.timeoutMs` ``, or only the name for the thing itself.
    fn subject(&self) -> String {
        let inner = self.pointer.get(self.place.base..).unwrap_or_default();
        if inner.is_empty() {
            return self.place.name.clone();
        }
        let inner = inner.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~");
        format!("{}: `{inner}`", self.place.name)
    }

    /// Reports an error; `text` follows the name of the place.
    pub(super) fn error(&self, code: &'static str, text: &str, hint: Option<String>) {
        self.issues.error(code, &self.pointer, format!("{} {text}", self.subject()), hint);
    }

    /// Reports a warning; `text` follows the name of the place.
    pub(super) fn warning(&self, code: &'static str, text: &str, hint: Option<String>) {
        let message = format!("{} {text}", self.subject());
        self.issues.add(Severity::Warning, Part::Value, code, &self.pointer, message, hint);
    }

    /// Reports a warning about an entry itself, not its value.
    pub(super) fn warning_at_key(&self, code: &'static str, text: &str, hint: Option<String>) {
        let message = format!("{} {text}", self.subject());
        self.issues.add(Severity::Warning, Part::Key, code, &self.pointer, message, hint);
    }

    /// The handler types that are known; none when configurations are not checked.
    pub(super) fn handler_types(&self) -> Vec<&'a str> {
        self.issues.schemas().map_or_else(Vec::new, |schemas| schemas.handler_types())
    }

    /// The schema of the configuration of a handler type, when it is known.
    pub(super) fn config_schema(&self, handler_type: &str) -> Option<&'a Schema> {
        self.issues.schemas()?.config_schema(handler_type)
    }

    /// Reports that the value is not what it must be.
    pub(super) fn expected(&self, what: &str) {
        self.error("wrong-type", &format!("must be {what}, not {}", describe(self.value)), None);
    }

    pub(super) fn object(&self) -> Option<Object<'a>> {
        match self.value {
            Value::Object(map) => Some(Object { reader: self.clone(), map }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                self.expected("an object");
                None
            }
        }
    }

    /// The object with the fields of `shape`; says what is unknown, missing or not available.
    pub(super) fn shaped(&self, shape: &Shape) -> Option<Object<'a>> {
        let object = self.object()?;
        object.check(shape);
        Some(object)
    }

    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let Value::Array(items) = self.value else {
            self.expected("a list");
            return None;
        };
        Some(items.iter().enumerate().map(|(index, item)| self.entry(&index.to_string(), item)).collect())
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a text");
        }
        text
    }

    pub(super) fn name(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.error("empty", "is empty: Required", Some("give it a text".to_owned()));
            return None;
        }
        Some(text)
    }

    pub(super) fn texts(&self) -> Option<Vec<String>> {
        // All are read before the first failure counts, so that every bad one is reported.
        let texts: Vec<Option<String>> =
            self.list()?.iter().map(|item| item.text().map(str::to_owned)).collect();
        texts.into_iter().collect()
    }

    pub(super) fn flag(&self) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            self.expected("`true` or `false`");
        }
        flag
    }

    /// A whole number from `min` to `max`; `1.0` is whole.
    pub(super) fn whole(&self, min: u64, max: u64, what: &str) -> Option<u64> {
        let number = self.value.as_u64().or_else(|| {
            // Exact below 2^53; above, a float is refused.
            let float = self.value.as_f64()?;
            (float.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&float)).then_some(float as u64)
        });
        match number {
            Some(number) if (min..=max).contains(&number) => Some(number),
            Some(number) => {
                let limit = if number < min { format!("at least {min}") } else { format!("at most {max}") };
                self.error("out-of-range", &format!("must be {limit}, not {number}"), None);
                None
            }
            None => {
                self.expected(what);
                None
            }
        }
    }

    pub(super) fn whole_u32(&self, min: u32, max: u32) -> Option<u32> {
        let number = self.whole(u64::from(min), u64::from(max), "a whole number")?;
        u32::try_from(number).ok()
    }

    /// A finite number that is at least `min`.
    pub(super) fn number(&self, min: f64) -> Option<f64> {
        match self.value.as_f64() {
            Some(number) if number.is_finite() && number >= min => Some(number),
            Some(number) => {
                self.error("out-of-range", &format!("must be at least {min}, not {number}"), None);
                None
            }
            None => {
                self.expected("a number");
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let list = || words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let Some(text) = self.value.as_str() else {
            self.expected(&format!("one of {}", list()));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let hint = suggest(text, words.iter().map(|(word, _)| *word));
        self.error("unknown-word", &format!("must be one of {}, not {}", list(), describe(self.value)), hint);
        None
    }
}

/// An object being read.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    reader: Reader<'a>,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(super) const fn reader(&self) -> &Reader<'a> {
        &self.reader
    }

    pub(super) const fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The field `key`; none when it is missing or null.
    pub(super) fn get(&self, key: &str) -> Option<Reader<'a>> {
        self.get_or_null(key).filter(|reader| !reader.value.is_null())
    }

    /// The field `key`; none when it is missing.
    pub(super) fn get_or_null(&self, key: &str) -> Option<Reader<'a>> {
        self.map.get(key).map(|value| self.reader.entry(key, value))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Reader<'a>)> + use<'a, '_> {
        self.map.iter().map(|(key, value)| (key.as_str(), self.reader.entry(key, value)))
    }

    /// Says what is unknown, missing or not available.
    fn check(&self, shape: &Shape) {
        for (key, reader) in self.entries() {
            match shape.fields.iter().find(|field| field.name == key) {
                Some(Field { unavailable: true, .. }) if !reader.value.is_null() => reader.unavailable(),
                Some(_) => {}
                None => self.unknown(&reader, key, shape),
            }
        }
        for field in shape.fields.iter().filter(|field| field.required) {
            if self.get(field.name).is_none() {
                let text = format!("has no `{}`: {}", field.name, field.missing);
                self.reader.error(
                    "missing",
                    &text,
                    Some(format!("add `{}`: {}", field.name, field.doc.trim_end_matches('.'))),
                );
            }
        }
    }

    fn unknown(&self, reader: &Reader<'a>, key: &str, shape: &Shape) {
        let known = shape.fields.iter().filter(|field| !field.unavailable).map(|field| field.name);
        let (severity, text) = if shape.strict {
            (Severity::Error, "is not a known field")
        } else {
            (Severity::Warning, "is not a known field; it has no effect")
        };
        let near = if self.reader.issues.is_full() { None } else { suggest(key, known.clone()) };
        let hint = near.unwrap_or_else(|| {
            let names: Vec<String> = known.map(|name| format!("`{name}`")).collect();
            if names.is_empty() || names.len() > LISTED_MAX {
                "leave it out".to_owned()
            } else {
                format!("known are {}", names.join(", "))
            }
        });
        let message = format!("{} {text}", reader.subject());
        self.reader.issues.add(severity, Part::Key, "unknown-field", &reader.pointer, message, Some(hint));
    }
}

impl Reader<'_> {
    /// Reports a field of a feature that does not exist yet.
    fn unavailable(&self) {
        let message = format!("{} is not available in this version", self.subject());
        let hint = Some("leave it out; it would have no effect".to_owned());
        self.issues.add(Severity::Error, Part::Key, "not-available", &self.pointer, message, hint);
    }
}

/// The value in words, for messages.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > QUOTED_CHARS_MAX => {
            format!("the text {:?}…", text.chars().take(QUOTED_CHARS_MAX).collect::<String>())
        }
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// ``did you mean `x`?`` for the known word that is nearest to `word`, when one is near.
pub(super) fn suggest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    if word.chars().count() > QUOTED_CHARS_MAX {
        return None;
    }
    let near = known
        .take(COMPARED_MAX)
        .filter(|name| name.len() <= 2 * QUOTED_CHARS_MAX)
        .map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase()), name))
        .min()?;
    (near.0 <= 1 + word.chars().count() / 4 && near.0 < near.1.chars().count())
        .then(|| format!("did you mean `{}`?", near.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_when_it_is_near() {
        let known = || ["onSuccess", "onFailure", "onResume"].into_iter();
        assert_eq!(suggest("onSucess", known()).as_deref(), Some("did you mean `onSuccess`?"));
        assert_eq!(suggest("onsuccess", known()).as_deref(), Some("did you mean `onSuccess`?"));
        assert_eq!(suggest("banana", known()), None);
        assert_eq!(suggest("a", ["b"].into_iter()), None);
    }
}
