//! Templates: JSON with `${path}` in its texts, parsed once and filled many times.

use serde_json::{Map, Value};

use super::js;
use super::path::{InvalidPath, Path};
use super::scope::Scope;
use crate::context::json_size;
use crate::limits::FLOW_DOCUMENT_DEPTH_MAX;

/// Bytes of JSON that one template may become. Guards against a small template that repeats a large value.
pub const TEMPLATE_OUTPUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A template cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at `{pointer}`: {reason}")]
pub struct InvalidTemplate {
    /// JSON Pointer from the template to the text; empty for the template itself.
    pub pointer: String,
    /// What is wrong.
    pub reason: InvalidTemplateReason,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplateReason {
    /// The text between `${` and `}` is no path.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// Deeper than a flow document may be.
    #[error("a template must not be nested deeper than {FLOW_DOCUMENT_DEPTH_MAX}")]
    TooDeep,
}

/// The filled template would be larger than [`TEMPLATE_OUTPUT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filled template is larger than {TEMPLATE_OUTPUT_BYTES_MAX} bytes")]
pub struct TemplateTooLarge;

/// JSON whose texts may hold `${path}` or `${path:-default}`.
///
/// A text that is exactly one `${path}` becomes the value itself, type kept; absent, it stays absent (left out of an
/// object, null in an array). In any other text each `${path}` is replaced by `String(value)` of JavaScript; absent is
/// empty. The default, a text, stands in for an absent value only (not for null). Keys are never filled, paths are not
/// trimmed, and `${}` is plain text.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Static(Value),
    Lone(Placeholder),
    Text(Vec<Piece>),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Placeholder(Placeholder),
}

#[derive(Clone, Debug, PartialEq)]
struct Placeholder {
    path: Path,
    default: Option<String>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A `${…}` holds no path, or the template is nested too deep.
    pub fn parse(source: &Value) -> Result<Self, InvalidTemplate> {
        let mut pointer = Vec::new();
        match parse_node(source, &mut pointer) {
            Ok(root) => Ok(Self { root }),
            Err(reason) => Err(InvalidTemplate { pointer: pointer.concat(), reason }),
        }
    }

    /// Fills the template. `None`: it is one `${path}` whose value is absent.
    ///
    /// # Errors
    /// The result would be larger than [`TEMPLATE_OUTPUT_BYTES_MAX`].
    pub fn resolve(&self, scope: &Scope<'_>) -> Result<Option<Value>, TemplateTooLarge> {
        resolve_node(&self.root, scope, &mut Room(TEMPLATE_OUTPUT_BYTES_MAX))
    }

    /// Every path that the template reads, in order of appearance, with repetitions.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        collect_paths(&self.root, &mut paths);
        paths
    }

    /// Whether the template reads nothing: it always becomes the same value.
    #[must_use]
    pub fn is_static(&self) -> bool {
        matches!(self.root, Node::Static(_))
    }
}

/// On an error, `pointer` names the place.
fn parse_node(source: &Value, pointer: &mut Vec<String>) -> Result<Node, InvalidTemplateReason> {
    if pointer.len() > FLOW_DOCUMENT_DEPTH_MAX {
        return Err(InvalidTemplateReason::TooDeep);
    }
    Ok(match source {
        Value::Null | Value::Bool(_) | Value::Number(_) => Node::Static(source.clone()),
        Value::String(text) => parse_text(text)?,
        Value::Array(items) => {
            let mut nodes = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                pointer.push(format!("/{index}"));
                nodes.push(parse_node(item, pointer)?);
                pointer.pop();
            }
            if nodes.iter().all(Node::is_static) { Node::Static(source.clone()) } else { Node::Array(nodes) }
        }
        Value::Object(map) => {
            let mut nodes = Vec::with_capacity(map.len());
            for (key, value) in map {
                pointer.push(format!("/{}", key.replace('~', "~0").replace('/', "~1")));
                nodes.push((key.clone(), parse_node(value, pointer)?));
                pointer.pop();
            }
            if nodes.iter().all(|(_, node)| node.is_static()) {
                Node::Static(source.clone())
            } else {
                Node::Object(nodes)
            }
        }
    })
}

fn parse_text(text: &str) -> Result<Node, InvalidPath> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, opened) = rest.split_at(start);
        literal.push_str(before);
        let inner = &opened[2..];
        let Some(end) = inner.find('}') else {
            rest = opened;
            break;
        };
        if end == 0 {
            literal.push_str("${");
            rest = inner;
            continue;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Placeholder(Placeholder::parse(&inner[..end])?));
        rest = &inner[end + 1..];
    }
    literal.push_str(rest);
    if pieces.is_empty() {
        return Ok(Node::Static(Value::String(literal)));
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(match <[Piece; 1]>::try_from(pieces) {
        Ok([Piece::Placeholder(lone)]) => Node::Lone(lone),
        Ok([piece @ Piece::Literal(_)]) => Node::Text(vec![piece]),
        Err(pieces) => Node::Text(pieces),
    })
}

impl Placeholder {
    fn parse(inner: &str) -> Result<Self, InvalidPath> {
        let (path, default) = match inner.split_once(":-") {
            Some((path, default)) => (path, Some(default.to_owned())),
            None => (inner, None),
        };
        Ok(Self { path: Path::parse(path)?, default })
    }
}

impl Node {
    const fn is_static(&self) -> bool {
        matches!(self, Self::Static(_))
    }
}

/// Bytes that may still be written.
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), TemplateTooLarge> {
        self.0 = self.0.checked_sub(bytes).ok_or(TemplateTooLarge)?;
        Ok(())
    }
}

fn resolve_node(node: &Node, scope: &Scope<'_>, room: &mut Room) -> Result<Option<Value>, TemplateTooLarge> {
    Ok(match node {
        Node::Static(value) => Some(value.clone()),
        Node::Lone(placeholder) => match scope.get(&placeholder.path) {
            Some(found) => {
                room.take(json_size(&found))?;
                Some(found.into_owned())
            }
            None => placeholder.default.clone().map(Value::String),
        },
        Node::Text(pieces) => Some(Value::String(resolve_text(pieces, scope, room)?)),
        Node::Array(nodes) => {
            let items: Result<Vec<_>, _> = nodes
                .iter()
                .map(|node| resolve_node(node, scope, room).map(|item| item.unwrap_or(Value::Null)))
                .collect();
            Some(Value::Array(items?))
        }
        Node::Object(nodes) => {
            let mut map = Map::with_capacity(nodes.len());
            for (key, node) in nodes {
                if let Some(value) = resolve_node(node, scope, room)? {
                    map.insert(key.clone(), value);
                }
            }
            Some(Value::Object(map))
        }
    })
}

fn resolve_text(pieces: &[Piece], scope: &Scope<'_>, room: &mut Room) -> Result<String, TemplateTooLarge> {
    let mut text = String::new();
    for piece in pieces {
        let before = text.len();
        match piece {
            Piece::Literal(literal) => text.push_str(literal),
            Piece::Placeholder(placeholder) => match scope.get(&placeholder.path) {
                Some(found) => js::write_text(Some(found.as_ref()), &mut text),
                None => text.push_str(placeholder.default.as_deref().unwrap_or_default()),
            },
        }
        room.take(text.len() - before)?;
    }
    Ok(text)
}

fn collect_paths<'t>(node: &'t Node, paths: &mut Vec<&'t Path>) {
    match node {
        Node::Static(_) => {}
        Node::Lone(placeholder) => paths.push(&placeholder.path),
        Node::Text(pieces) => paths.extend(pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Placeholder(placeholder) => Some(&placeholder.path),
        })),
        Node::Array(nodes) => nodes.iter().for_each(|node| collect_paths(node, paths)),
        Node::Object(nodes) => nodes.iter().for_each(|(_, node)| collect_paths(node, paths)),
    }
}
