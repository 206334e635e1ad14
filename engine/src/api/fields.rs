//! Reads the fields of a JSON body: all problems at once, each with its JSON pointer.

use std::collections::BTreeMap;

use flowmonkey_core::flow::pointer::escape;
use flowmonkey_core::limits::DURATION_MAX_MS;
use serde_json::{Map, Value};

use super::access::Access;
use super::problem::{Detail, Problem};

/// The fields of one object that have not been read yet, and what was wrong with the others.
pub(super) struct Fields {
    pointer: String,
    rest: Map<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<Detail>,
}

impl Fields {
    /// Of a whole body. An empty body has no fields.
    ///
    /// # Errors
    /// When the body is not an object.
    pub(super) fn of(body: Option<Value>) -> Result<Self, Problem> {
        match body {
            None => Ok(Self::new(String::new(), Map::new())),
            Some(Value::Object(map)) => Ok(Self::new(String::new(), map)),
            Some(other) => {
                let message = format!("the body must be an object, not {}", kind(&other));
                Err(Problem::invalid("INVALID_REQUEST", vec![Detail::at("", message, None)]))
            }
        }
    }

    fn new(pointer: String, rest: Map<String, Value>) -> Self {
        Self { pointer, rest, known: Vec::new(), errors: Vec::new() }
    }

    /// Notes something that is wrong with `field`.
    pub(super) fn error(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(Detail::at(format!("{}/{}", self.pointer, escape(field)), message, None));
    }

    /// Notes that a field which must be there is not, unless something else was wrong with it.
    pub(super) fn missing(&mut self, field: &str) {
        let pointer = format!("{}/{}", self.pointer, escape(field));
        if !self.errors.iter().any(|error| error.pointer.as_ref() == Some(&pointer)) {
            self.error(field, format!("`{field}` is missing"));
        }
    }

    /// Notes what was found wrong elsewhere.
    pub(super) fn errors(&mut self, errors: impl IntoIterator<Item = Detail>) {
        self.errors.extend(errors);
    }

    /// Any value; null is absent.
    pub(super) fn value(&mut self, field: &'static str) -> Option<Value> {
        self.known.push(field);
        self.rest.shift_remove(field).filter(|value| !value.is_null())
    }

    /// Any value, null too.
    pub(super) fn value_or_null(&mut self, field: &'static str) -> Option<Value> {
        self.known.push(field);
        self.rest.shift_remove(field)
    }

    /// A text.
    pub(super) fn text(&mut self, field: &'static str) -> Option<String> {
        let value = self.value(field)?;
        if let Value::String(text) = value { Some(text) } else { self.wrong(field, "a text", &value) }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required_text(&mut self, field: &'static str) -> Option<String> {
        match self.text(field) {
            Some(text) if !text.is_empty() => Some(text),
            Some(_) => {
                self.error(field, format!("`{field}` is empty"));
                None
            }
            None => {
                self.missing(field);
                None
            }
        }
    }

    /// A text that may be absent, but not empty.
    pub(super) fn required_if_given(&mut self, field: &'static str) -> Option<String> {
        let text = self.text(field)?;
        if text.is_empty() {
            self.error(field, format!("`{field}` is empty"));
            return None;
        }
        Some(text)
    }

    /// `tenantId`: whose what the request makes is to be.
    pub(super) fn tenant<S>(&mut self, access: &Access<S>) -> Option<String> {
        let named = self.text("tenantId");
        access.tenant(named).map_err(|refusal| self.error("tenantId", refusal)).ok().flatten()
    }

    /// True or false; absent is false.
    pub(super) fn flag(&mut self, field: &'static str) -> bool {
        match self.value(field) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.wrong(field, "true or false", &other).unwrap_or(false),
        }
    }

    /// Whole milliseconds, at least one.
    pub(super) fn millis(&mut self, field: &'static str) -> Option<u64> {
        let value = self.value(field)?;
        match value.as_u64() {
            Some(millis) if (1..=DURATION_MAX_MS).contains(&millis) => Some(millis),
            Some(_) => {
                self.error(field, format!("`{field}` must be between 1 and {DURATION_MAX_MS} milliseconds"));
                None
            }
            None => self.wrong(field, "a whole number of milliseconds", &value),
        }
    }

    /// Names to texts.
    pub(super) fn texts(&mut self, field: &'static str) -> BTreeMap<String, String> {
        let map = match self.value(field) {
            None => return BTreeMap::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return self.wrong(field, "an object of texts", &other).unwrap_or_default(),
        };
        let mut texts = BTreeMap::new();
        for (name, value) in map {
            if let Value::String(text) = value {
                texts.insert(name, text);
            } else {
                let pointer = format!("{}/{field}/{}", self.pointer, escape(&name));
                let message = format!("`{name}` must be a text, not {}", kind(&value));
                self.errors.push(Detail::at(pointer, message, None));
            }
        }
        texts
    }

    /// The fields of an object within; none when it is absent or no object. Give it back with [`Self::done_with`].
    pub(super) fn object(&mut self, field: &'static str) -> Option<Self> {
        let value = self.value(field)?;
        if let Value::Object(map) = value {
            return Some(Self::new(format!("{}/{field}", self.pointer), map));
        }
        self.wrong(field, "an object", &value)
    }

    /// The fields of each object of a list within.
    pub(super) fn objects(&mut self, field: &'static str) -> Option<Vec<Self>> {
        let value = self.value(field)?;
        let Value::Array(items) = value else { return self.wrong(field, "a list of objects", &value) };
        let mut objects = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let pointer = format!("{}/{field}/{index}", self.pointer);
            if let Value::Object(map) = item {
                objects.push(Self::new(pointer, map));
            } else {
                let message = format!("entry {index} must be an object, not {}", kind(&item));
                self.errors.push(Detail::at(pointer, message, None));
            }
        }
        Some(objects)
    }

    /// Takes over what was wrong within.
    pub(super) fn done_with(&mut self, mut inner: Self) {
        inner.refuse_the_rest();
        self.errors.append(&mut inner.errors);
    }

    /// All fields have been read.
    ///
    /// # Errors
    /// All that was wrong, and every field that is not known.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.refuse_the_rest();
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid("INVALID_REQUEST", self.errors)) }
    }

    fn refuse_the_rest(&mut self) {
        let hint = if self.known.is_empty() {
            "nothing is known here".to_owned()
        } else {
            format!("known here: {}", self.known.join(", "))
        };
        for field in self.rest.keys() {
            let pointer = format!("{}/{}", self.pointer, escape(field));
            self.errors.push(Detail::at(pointer, format!("unknown field `{field}`"), Some(hint.clone())));
        }
    }

    fn wrong<T>(&mut self, field: &str, wanted: &str, value: &Value) -> Option<T> {
        self.error(field, format!("`{field}` must be {wanted}, not {}", kind(value)));
        None
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
