//! YAML 1.2 text to values, within bounds: what JSON cannot say is refused, and so are aliases, by which a small text could
//! become a large value.

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Levels of lists and objects.
const DEPTH_MAX: usize = 64;

/// Reads all documents of a text; an empty document is left out.
///
/// # Errors
/// The first problem and its place.
pub(super) fn read(text: &str) -> Result<Vec<Value>, String> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| at(*error.marker(), &format!("this is not YAML: {}", error.info())))?;
        builder.event(event).map_err(|problem| at(span.start, &problem))?;
    }
    Ok(builder.documents)
}

fn at(mark: Marker, problem: &str) -> String {
    format!("line {}, column {}: {problem}", mark.line(), mark.col() + 1)
}

/// A list or an object that is being read. Kept on a stack of our own, so that depth costs no recursion.
enum Frame {
    List(Vec<Value>),
    Object(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Value>,
    stack: Vec<Frame>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(_) => Err("aliases (`*…`) are not read here: write the value out".into()),
            Event::Scalar(.., Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                Err("tags (`!…`) are not read here: leave the tag out".into())
            }
            Event::Scalar(text, style, _, None) => {
                if let Some(Frame::Object(map, key @ None)) = self.stack.last_mut() {
                    if style == ScalarStyle::Plain && (text == "<<" || text.is_empty()) {
                        return Err(format!("`{text}` is not a key"));
                    }
                    if map.contains_key(&*text) {
                        return Err(format!("the key `{text}` occurs twice in one object"));
                    }
                    *key = Some(text.into_owned());
                    return Ok(());
                }
                let value = scalar(&text, style).ok_or_else(|| format!("`{text}` is not a finite number"))?;
                self.place(value);
                Ok(())
            }
            Event::SequenceStart(_, None) => self.open(Frame::List(Vec::new())),
            Event::MappingStart(_, None) => self.open(Frame::Object(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                match self.stack.pop() {
                    Some(Frame::List(items)) => self.place(Value::Array(items)),
                    Some(Frame::Object(map, _)) => self.place(Value::Object(map)),
                    None => {}
                }
                Ok(())
            }
        }
    }

    fn open(&mut self, frame: Frame) -> Result<(), String> {
        if matches!(self.stack.last(), Some(Frame::Object(_, None))) {
            return Err("a list or an object cannot be a key".into());
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(format!("there are more than {DEPTH_MAX} levels of lists and objects"));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn place(&mut self, value: Value) {
        match self.stack.last_mut() {
            None if value.is_null() => {}
            None => self.documents.push(value),
            Some(Frame::List(items)) => items.push(value),
            Some(Frame::Object(map, key)) => {
                map.insert(key.take().unwrap_or_default(), value);
            }
        }
    }
}

/// The value of a scalar by the core schema of YAML 1.2; none when JSON has no such number.
fn scalar(text: &str, style: ScalarStyle) -> Option<Value> {
    if style != ScalarStyle::Plain {
        return Some(Value::from(text));
    }
    if text.is_empty() {
        return Some(Value::Null);
    }
    match Scalar::parse_from_cow(text.into()) {
        Scalar::Null => Some(Value::Null),
        Scalar::Boolean(value) => Some(Value::Bool(value)),
        Scalar::Integer(value) => Some(Value::from(value)),
        Scalar::FloatingPoint(value) => Number::from_f64(value.into_inner()).map(Value::Number),
        Scalar::String(text) => Some(Value::String(text.into_owned())),
    }
}
