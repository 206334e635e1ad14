//! Sizes and nesting of JSON, without making its text.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// Bytes of one whole context as JSON text. Belongs to one context: made by [`ContextSize::of`], then replaced by what
/// each write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextSize(pub(super) usize);

impl ContextSize {
    /// Measures a whole context.
    #[must_use]
    pub fn of(context: &Map<String, Value>) -> Self {
        Self(map_size(context))
    }

    /// A size measured before, for a context read back from storage together with it.
    #[must_use]
    pub const fn from_bytes(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl Default for ContextSize {
    /// The empty context, `{}`.
    fn default() -> Self {
        Self(2)
    }
}

/// Bytes of `serde_json::to_string(value)`, without making the text. Not recursive.
#[must_use]
pub fn json_size(value: &Value) -> usize {
    let mut total = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        total += match value {
            Value::Null => "null".len(),
            Value::Bool(truth) => if *truth { "true" } else { "false" }.len(),
            Value::Number(number) => number_size(number),
            Value::String(text) => text_size(text),
            Value::Array(items) => {
                open.extend(items);
                brackets_and_commas(items.len())
            }
            Value::Object(map) => {
                open.extend(map.values());
                brackets_and_commas(map.len()) + map.keys().map(|key| text_size(key) + 1).sum::<usize>()
            }
        };
    }
    total
}

/// Nesting: a scalar has 0, `[]` and `{}` have 1, other containers one more than their deepest element. Not recursive.
#[must_use]
pub fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, level)) = open.pop() {
        let container = |child: &&Value| child.is_array() || child.is_object();
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
            Value::Array(items) => {
                open.extend(items.iter().filter(container).map(|child| (child, level + 1)))
            }
            Value::Object(map) => open.extend(map.values().filter(container).map(|child| (child, level + 1))),
        }
        deepest = deepest.max(level);
    }
    deepest
}

pub(super) fn map_size(map: &Map<String, Value>) -> usize {
    let entries: usize = map.iter().map(|(key, value)| entry_size(key) + json_size(value)).sum();
    brackets_and_commas(map.len()) + entries
}

const fn brackets_and_commas(elements: usize) -> usize {
    2 + elements.saturating_sub(1)
}

/// A key with its quotes and colon.
pub(super) fn entry_size(key: &str) -> usize {
    text_size(key) + 1
}

/// A text with its quotes and escapes, as serde_json writes it.
pub(super) fn text_size(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => "\\u0000".len(),
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

fn number_size(number: &Number) -> usize {
    struct Counter(usize);
    impl std::fmt::Write for Counter {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let written = write!(counter, "{number}");
    debug_assert!(written.is_ok());
    counter.0
}
