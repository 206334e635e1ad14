//! Where a JSON pointer is in the text. Runs only when there are issues, as a second pass over the text.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser};

use super::Format;
use crate::flow::pointer::escape;

/// A place in the text: line and column, from 1, the column in characters.
pub(super) type Place = (usize, usize);

/// Places of the key and of the value at each wanted pointer, by document and pointer.
pub(super) struct Places {
    found: HashMap<(usize, String), (Place, Place)>,
}

impl Places {
    /// Looks up `wanted` (document, pointer) and everything around them in `text`, which has been read before.
    pub(super) fn find(format: Format, text: &str, wanted: impl Iterator<Item = (usize, String)>) -> Self {
        let mut walker =
            Walker { wanted: HashSet::new(), stack: Vec::new(), pointer: String::new(), ..Walker::default() };
        for (document, pointer) in wanted {
            let mut end = pointer.len();
            while walker.wanted.insert((document, pointer[..end].to_owned())) {
                let Some(parent) = pointer[..end].rfind('/') else { break };
                end = parent;
            }
        }
        match format {
            Format::Json => walk_json(text, &mut walker),
            Format::Yaml => walk_yaml(text, &mut walker),
        }
        Self { found: walker.found }
    }

    /// The place of the value at `pointer`, or of its key; of the nearest thing around it when there is no such value.
    pub(super) fn get(&self, document: usize, pointer: &str, key: bool) -> Place {
        let mut end = pointer.len();
        loop {
            if let Some((key_place, value_place)) = self.found.get(&(document, pointer[..end].to_owned())) {
                return if key && end == pointer.len() { *key_place } else { *value_place };
            }
            let Some(parent) = pointer[..end].rfind('/') else { return (1, 1) };
            end = parent;
        }
    }
}

enum Level {
    List(usize),
    Object(Option<(String, Place)>),
}

#[derive(Default)]
struct Walker {
    wanted: HashSet<(usize, String)>,
    found: HashMap<(usize, String), (Place, Place)>,
    stack: Vec<(Level, usize)>,
    pointer: String,
    document: usize,
}

impl Walker {
    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some((Level::Object(None), _)))
    }

    fn key(&mut self, text: &str, place: Place) {
        if let Some((Level::Object(key), _)) = self.stack.last_mut() {
            *key = Some((text.to_owned(), place));
        }
    }

    /// A value begins: moves the pointer onto it.
    fn begin(&mut self, place: Place) {
        let mut key_place = place;
        match self.stack.last_mut() {
            None => self.pointer.clear(),
            Some((Level::List(index), length)) => {
                self.pointer.truncate(*length);
                self.pointer += &format!("/{index}");
                *index += 1;
            }
            Some((Level::Object(key), length)) => {
                self.pointer.truncate(*length);
                if let Some((key, place)) = key.take() {
                    self.pointer.push('/');
                    self.pointer += &escape(&key);
                    key_place = place;
                }
            }
        }
        let entry = (self.document, self.pointer.clone());
        if self.wanted.contains(&entry) {
            self.found.insert(entry, (key_place, place));
        }
    }

    fn open(&mut self, level: Level, place: Place) {
        self.begin(place);
        self.stack.push((level, self.pointer.len()));
    }

    fn close(&mut self) {
        self.stack.pop();
        if self.stack.is_empty() {
            self.document += 1;
        }
    }

    fn scalar(&mut self, place: Place) {
        self.begin(place);
        if self.stack.is_empty() {
            self.document += 1;
        }
    }
}

fn walk_yaml(text: &str, walker: &mut Walker) {
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        let place = (span.start.line(), span.start.col() + 1);
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
            Event::Scalar(text, ..) if walker.wants_key() => walker.key(&text, place),
            Event::Scalar(..) | Event::Alias(_) => walker.scalar(place),
            Event::SequenceStart(..) => walker.open(Level::List(0), place),
            Event::MappingStart(..) => walker.open(Level::Object(None), place),
            Event::SequenceEnd | Event::MappingEnd => walker.close(),
        }
    }
}

fn walk_json(text: &str, walker: &mut Walker) {
    scan_json(text, walker);
    let mut offsets: Vec<usize> = walker.found.values().flat_map(|(key, value)| [key.0, value.0]).collect();
    offsets.sort_unstable();
    offsets.dedup();
    let mut places = HashMap::new();
    let mut chars = text.char_indices();
    let (mut line, mut column) = (1, 1);
    for offset in offsets {
        for (_, char) in chars.by_ref().take_while(|(at, _)| *at < offset) {
            (line, column) = if char == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        places.insert(offset, (line, column));
        // `take_while` has taken the character at the offset too.
        (line, column) = if text[offset..].starts_with('\n') { (line + 1, 1) } else { (line, column + 1) };
    }
    for (key, value) in walker.found.values_mut() {
        for place in [key, value] {
            *place = places.get(&place.0).copied().unwrap_or((1, 1));
        }
    }
}

fn scan_json(text: &str, walker: &mut Walker) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        // Offsets for now: to count lines and columns at every value would take quadratic time on a one-line text.
        let place = (start, 0);
        match byte {
            b'{' => walker.open(Level::Object(None), place),
            b'[' => walker.open(Level::List(0), place),
            b'}' | b']' => walker.close(),
            b' ' | b'\t' | b'\r' | b'\n' | b':' | b',' => {}
            b'"' => {
                while let Some(byte) = bytes.get(at) {
                    at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
                if walker.wants_key() {
                    let key =
                        text.get(start..at).and_then(|quoted| serde_json::from_str::<String>(quoted).ok());
                    walker.key(&key.unwrap_or_default(), place);
                } else {
                    walker.scalar(place);
                }
            }
            _ => {
                while bytes.get(at).is_some_and(|byte| !b" \t\r\n,:{}[]\"".contains(byte)) {
                    at += 1;
                }
                walker.scalar(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(format: Format, text: &str, pointer: &str, key: bool) -> Place {
        Places::find(format, text, [(0, pointer.to_owned())].into_iter()).get(0, pointer, key)
    }

    #[test]
    fn pointers_are_found_in_json() {
        let text = "{\"é\": {\"b\\n\": [1,\n  {\"c/d\": \"x\"}]}}";
        assert_eq!(at(Format::Json, text, "/é/b\n/1/c~1d", false), (2, 11));
        assert_eq!(at(Format::Json, text, "/é/b\n/1/c~1d", true), (2, 4));
        assert_eq!(at(Format::Json, text, "/é/b\n/0", false), (1, 16));
        assert_eq!(at(Format::Json, text, "/é/missing/x", false), (1, 7));
    }

    #[test]
    fn pointers_are_found_in_yaml() {
        let text = "# first\na:\n  - 1\n  - b: [x, 2]\n    200: y\n";
        assert_eq!(at(Format::Yaml, text, "/a/1/b/1", false), (4, 12));
        assert_eq!(at(Format::Yaml, text, "/a/1/200", true), (5, 5));
        assert_eq!(at(Format::Yaml, text, "/a/1/200", false), (5, 10));
        assert_eq!(at(Format::Yaml, text, "/a/7/z", false), (3, 3));
    }

    #[test]
    fn documents_are_counted() {
        let text = "a: 1\n---\na: 2\n";
        let places = Places::find(Format::Yaml, text, [(1, "/a".to_owned())].into_iter());
        assert_eq!(places.get(1, "/a", false), (3, 4));
    }
}
