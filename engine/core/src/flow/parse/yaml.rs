//! YAML 1.2 text to values: what JSON cannot say is an error, and aliases are counted as if they were written out.

use std::collections::HashMap;

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::limits::{FLOW_DOCUMENT_BYTES_MAX, FLOW_DOCUMENT_DEPTH_MAX, FLOW_DOCUMENT_NODES_MAX};

/// Why YAML text cannot be read, and where (from 1).
#[derive(Debug)]
pub(super) struct YamlError {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl YamlError {
    fn new(code: &'static str, message: impl Into<String>, hint: &str, mark: Marker) -> Self {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Self { code, message: message.into(), hint, line: mark.line(), column: mark.col() + 1 }
    }
}

/// Reads all documents of YAML text; an empty document is left out.
///
/// # Errors
/// Everything that JSON cannot say, and then the first syntax error or passed limit, which ends the reading.
pub(super) fn read(text: &str) -> Result<Vec<Value>, Vec<YamlError>> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let result = match event {
            Ok((event, span)) => builder.event(event, span),
            // The scanner's own limit on `[` and `{`, which it may meet first because it reads ahead.
            Err(error) if error.info().contains("recursion limit") => {
                Err(too_complex(false, *error.marker()))
            }
            Err(error) => {
                let message = format!("this is not YAML: {}", error.info());
                Err(YamlError::new("syntax", message, "", *error.marker()))
            }
        };
        if let Err(error) = result {
            builder.errors.push(error);
            break;
        }
    }
    if builder.errors.is_empty() { Ok(builder.documents) } else { Err(builder.errors) }
}

/// A list or an object that is being read. Kept on a stack of our own, so that depth costs no recursion.
enum Frame {
    List { anchor: usize, cost: Cost, items: Vec<Value> },
    Object { anchor: usize, cost: Cost, map: Map<String, Value>, key: Option<String> },
}

/// What a finished value weighs, for aliases to it.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Value>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Value, Cost)>,
    spent: Cost,
    errors: Vec<YamlError>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let mark = span.start;
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), mark);
                let cost = Cost { nodes: 1, bytes: text.len(), depth: 0 };
                self.spend(cost, mark)?;
                if self.wants_key() {
                    return self.key(&text, style, anchor, mark);
                }
                let value = match scalar(&text, style) {
                    Some(value) => value,
                    None => {
                        let message = format!("`{text}` is not a finite number");
                        let hint = "quote it when it is meant as text";
                        self.errors.push(YamlError::new("bad-number", message, hint, mark));
                        Value::Null
                    }
                };
                self.place(value, cost, anchor, mark)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(tag.is_some(), mark)?;
                self.stack.push(Frame::List {
                    anchor,
                    cost: Cost { nodes: 1, ..Cost::default() },
                    items: Vec::new(),
                });
                Ok(())
            }
            Event::MappingStart(anchor, tag) => {
                self.open(tag.is_some(), mark)?;
                let cost = Cost { nodes: 1, ..Cost::default() };
                self.stack.push(Frame::Object { anchor, cost, map: Map::new(), key: None });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { anchor, cost, items }) => {
                    self.place(Value::Array(items), cost, anchor, mark)
                }
                Some(Frame::Object { anchor, cost, map, .. }) => {
                    self.place(Value::Object(map), cost, anchor, mark)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some((_, cost)) = self.anchors.get(&id) else {
                    let hint = "an alias can only repeat a value that was finished before it";
                    return Err(YamlError::new(
                        "bad-alias",
                        "the alias refers to a value it is part of",
                        hint,
                        mark,
                    ));
                };
                let cost = *cost;
                self.spend(cost, mark)?;
                if self.stack.len() + cost.depth > FLOW_DOCUMENT_DEPTH_MAX {
                    return Err(too_complex(false, mark));
                }
                if self.wants_key() {
                    return Err(YamlError::new(
                        "bad-key",
                        "an alias cannot be a key",
                        "write the key out",
                        mark,
                    ));
                }
                let value = self.anchors.get(&id).map(|(value, _)| value.clone()).unwrap_or_default();
                self.place(value, cost, 0, mark)
            }
        }
    }

    fn refuse_tag(&mut self, tagged: bool, mark: Marker) {
        if tagged {
            let hint = "leave the tag out; quote a value that is meant as text";
            self.errors.push(YamlError::new(
                "tag",
                "tags (`!…`) are not part of the flow language",
                hint,
                mark,
            ));
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Object { key: None, .. }))
    }

    fn open(&mut self, tagged: bool, mark: Marker) -> Result<(), YamlError> {
        self.refuse_tag(tagged, mark);
        self.spend(Cost { nodes: 1, ..Cost::default() }, mark)?;
        if self.wants_key() {
            let message = "a list or an object cannot be a key";
            return Err(YamlError::new("bad-key", message, "keys are texts", mark));
        }
        if self.stack.len() >= FLOW_DOCUMENT_DEPTH_MAX {
            return Err(too_complex(false, mark));
        }
        Ok(())
    }

    /// Counts before anything is made or copied, so that a small text cannot become a large value.
    fn spend(&mut self, cost: Cost, mark: Marker) -> Result<(), YamlError> {
        self.spent.nodes = self.spent.nodes.saturating_add(cost.nodes);
        self.spent.bytes = self.spent.bytes.saturating_add(cost.bytes);
        // Anchored values are kept beside the document: twice the limit is what honest text can reach.
        if self.spent.nodes > FLOW_DOCUMENT_NODES_MAX || self.spent.bytes > 2 * FLOW_DOCUMENT_BYTES_MAX {
            return Err(too_complex(true, mark));
        }
        Ok(())
    }

    fn key(&mut self, text: &str, style: ScalarStyle, anchor: usize, mark: Marker) -> Result<(), YamlError> {
        if style == ScalarStyle::Plain && text == "<<" {
            let hint =
                "YAML 1.2 has no merge keys: write the fields out, or repeat a whole value by an alias";
            return Err(YamlError::new(
                "merge-key",
                "merge keys (`<<`) are not part of the flow language",
                hint,
                mark,
            ));
        }
        if style == ScalarStyle::Plain && text.is_empty() {
            return Err(YamlError::new("bad-key", "a key is missing", "write a text before the `:`", mark));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (Value::from(text), Cost { nodes: 1, bytes: text.len(), depth: 0 }));
        }
        if let Some(Frame::Object { map, key, cost, .. }) = self.stack.last_mut() {
            if map.contains_key(text) {
                let message = format!("the key `{text}` occurs twice in one object");
                self.errors.push(YamlError::new("duplicate-key", message, "keep one of the two", mark));
            }
            cost.bytes = cost.bytes.saturating_add(text.len());
            cost.nodes = cost.nodes.saturating_add(1);
            *key = Some(text.to_owned());
        }
        Ok(())
    }

    fn place(&mut self, value: Value, own: Cost, anchor: usize, mark: Marker) -> Result<(), YamlError> {
        if anchor > 0 {
            self.spend(own, mark)?;
            self.anchors.insert(anchor, (value.clone(), own));
        }
        let outer = match self.stack.last_mut() {
            None => {
                self.documents.push(value);
                return Ok(());
            }
            Some(Frame::List { items, cost, .. }) => {
                items.push(value);
                cost
            }
            Some(Frame::Object { map, key, cost, .. }) => {
                map.insert(key.take().unwrap_or_default(), value);
                cost
            }
        };
        outer.nodes = outer.nodes.saturating_add(own.nodes);
        outer.bytes = outer.bytes.saturating_add(own.bytes);
        outer.depth = outer.depth.max(own.depth + 1);
        Ok(())
    }
}

fn too_complex(large: bool, mark: Marker) -> YamlError {
    let (code, message, hint) = super::too_complex(large);
    YamlError { code, message, hint, line: mark.line(), column: mark.col() + 1 }
}

/// The value of a scalar by the core schema of YAML 1.2; none when JSON has no such number.
fn scalar(text: &str, style: ScalarStyle) -> Option<Value> {
    if style != ScalarStyle::Plain {
        return Some(Value::from(text));
    }
    if text.is_empty() {
        return Some(Value::Null);
    }
    // Beyond the signed range the core schema's parser would round to a float.
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse::<u64>()
    {
        return Some(Value::from(number));
    }
    match Scalar::parse_from_cow(text.into()) {
        Scalar::Null => Some(Value::Null),
        Scalar::Boolean(value) => Some(Value::Bool(value)),
        Scalar::Integer(value) => Some(Value::from(value)),
        Scalar::FloatingPoint(value) => Number::from_f64(value.into_inner()).map(Value::Number),
        Scalar::String(text) => Some(Value::String(text.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn codes(text: &str) -> Vec<(&'static str, usize, usize)> {
        read(text).unwrap_err().iter().map(|error| (error.code, error.line, error.column)).collect()
    }

    #[test]
    fn the_core_schema_of_yaml_1_2_decides_types() {
        let text = "on: yes\nno: off\n200: 1\nbig: 18446744073709551615\nf: 1.5\nn: ~\ne:\nq: '1'\nt: true\nv: 1.0.0\n";
        let wanted = json!([{ "on": "yes", "no": "off", "200": 1, "big": 18_446_744_073_709_551_615_u64, "f": 1.5,
            "n": null, "e": null, "q": "1", "t": true, "v": "1.0.0" }]);
        assert_eq!(Value::Array(read(text).unwrap()), wanted);
    }

    #[test]
    fn documents_and_aliases_are_read() {
        assert_eq!(read("a: &x [1]\nb: *x\n---\n- 2\n").unwrap(), [json!({"a": [1], "b": [1]}), json!([2])]);
    }

    #[test]
    fn what_json_cannot_say_is_refused_at_its_place() {
        assert_eq!(
            codes("a: 1\nb: .inf\nc: !x 1\na: 2\n"),
            [("bad-number", 2, 4), ("tag", 3, 4), ("duplicate-key", 4, 1)]
        );
        assert_eq!(codes("[1]: 2"), [("bad-key", 1, 1)]);
        assert_eq!(codes("a: &x\n  b: *x\n"), [("bad-alias", 2, 6)]);
        assert_eq!(codes("a: &x {b: 1}\nc:\n  <<: *x\n"), [("merge-key", 3, 3)]);
        assert_eq!(codes("a: [1\n")[0].0, "syntax");
    }

    #[test]
    fn bombs_are_refused_before_they_grow() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
        }
        assert_eq!(codes(&text)[0].0, "too-complex");
        assert_eq!(codes(&"[".repeat(100_000))[0].0, "too-complex");
        let long = "y".repeat(1_000_000);
        let text = format!("a: &a {long}\nb: [{}]", ["*a"; 20].join(", "));
        assert_eq!(codes(&text)[0].0, "too-complex");
    }
}
