//! JSON text to a value: duplicate keys and limits are errors, which serde_json alone would not say.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{FLOW_DOCUMENT_DEPTH_MAX, FLOW_DOCUMENT_NODES_MAX};

/// Why JSON text cannot be read, and where (from 1).
#[derive(Debug)]
pub(super) struct JsonError {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Reads JSON text.
///
/// # Errors
/// On the first syntax error, repeated key or passed limit.
pub(super) fn read(text: &str) -> Result<Value, JsonError> {
    let nodes = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let result = Seed { nodes: &nodes, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    result.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        let (code, message, hint) = if let Some(key) = text.strip_prefix(DUPLICATE) {
            let hint = Some("keep one of the two".to_owned());
            ("duplicate-key", format!("the key `{key}` occurs twice in one object"), hint)
        } else if text.starts_with(TOO_LARGE)
            || text.starts_with(TOO_DEEP)
            || text.starts_with("recursion limit")
        {
            super::too_complex(text.starts_with(TOO_LARGE))
        } else {
            ("syntax", format!("this is not JSON: {text}"), None)
        };
        JsonError { code, message, hint, line, column }
    })
}

const DUPLICATE: &str = "duplicate key ";
const TOO_LARGE: &str = "too many values";
const TOO_DEEP: &str = "nested too deeply";

#[derive(Clone, Copy)]
struct Seed<'a> {
    nodes: &'a Cell<usize>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > FLOW_DOCUMENT_NODES_MAX {
            return Err(D::Error::custom(TOO_LARGE));
        }
        if self.depth > FLOW_DOCUMENT_DEPTH_MAX {
            return Err(D::Error::custom(TOO_DEEP));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = Self { nodes: self.nodes, depth: self.depth + 1 };
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = Self { nodes: self.nodes, depth: self.depth + 1 };
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{DUPLICATE}{key}")));
            }
            let value = access.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_is_an_error_at_its_place() {
        let error = read("{\"a\": 1,\n \"a\": 2}").unwrap_err();
        assert_eq!((error.code, error.line), ("duplicate-key", 2));
        assert_eq!(error.message, "the key `a` occurs twice in one object");
    }

    #[test]
    fn deep_nesting_and_many_nodes_are_refused_without_overflow() {
        assert_eq!(read(&"[".repeat(1_000_000)).unwrap_err().code, "too-complex");
        let many = format!("[{}0]", "0,".repeat(FLOW_DOCUMENT_NODES_MAX));
        assert_eq!(read(&many).unwrap_err().code, "too-complex");
    }

    #[test]
    fn all_kinds_of_values_are_read() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x"],"b":{}}"#;
        assert_eq!(read(text).unwrap().to_string(), text);
        assert_eq!(read("[1] 2").unwrap_err().code, "syntax");
    }
}
