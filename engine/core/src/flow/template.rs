//! Templates: JSON with `${path}` in its texts, parsed once and filled many times.

use serde_json::{Map, Value};

use super::dataset::DatasetTooLarge;
use super::js;
use super::path::{InvalidPath, Path};
use super::pointer::escape;
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

/// A template cannot be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// It would become too large.
    #[error(transparent)]
    TooLarge(#[from] TemplateTooLarge),
    /// It reads more of datasets than may be held in memory.
    #[error(transparent)]
    Dataset(#[from] DatasetTooLarge),
}

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
    /// The result would be larger than [`TEMPLATE_OUTPUT_BYTES_MAX`], or too much of datasets is read.
    pub fn resolve(&self, scope: &Scope<'_>) -> Result<Option<Value>, FillError> {
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
                pointer.push(format!("/{}", escape(key)));
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

fn resolve_node(node: &Node, scope: &Scope<'_>, room: &mut Room) -> Result<Option<Value>, FillError> {
    Ok(match node {
        Node::Static(value) => Some(value.clone()),
        Node::Lone(placeholder) => match scope.get(&placeholder.path)? {
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

fn resolve_text(pieces: &[Piece], scope: &Scope<'_>, room: &mut Room) -> Result<String, FillError> {
    let mut text = String::new();
    for piece in pieces {
        let before = text.len();
        match piece {
            Piece::Literal(literal) => text.push_str(literal),
            Piece::Placeholder(placeholder) => match scope.get(&placeholder.path)? {
                Some(found) => js::write_text(Some(scope.whole(found)?.as_ref()), &mut text),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::ExecutionFacts;
    use super::*;
    use crate::time::Timestamp;

    fn fill(template: Value, context: &Value) -> Option<Value> {
        let facts =
            ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
        let url = |step: &str| format!("https://resume.example/{step}");
        let scope = Scope {
            context: context.as_object().unwrap(),
            outer: None,
            error: None,
            resume: None,
            resume_url: Some(&url),
            input: None,
            iteration: None,
            event: None,
            datasets: None,
            item_key: None,
            execution: &facts,
        };
        Template::parse(&template).unwrap().resolve(&scope).unwrap()
    }

    #[test]
    fn templates_follow_the_rules_of_section_1_3() {
        let context = json!({
            "user": {"name": "Alice", "n": 42}, "a": 1, "b": 2, "none": null, "list": [1, [null, 2], {}], "o": {},
            " a ": "spaces", "text": "${a}", "truth": true,
        });
        for (rule, template, wanted) in [
            ("6.4 (10) two names in a sentence", json!("${user.name} has ${a}"), Some(json!("Alice has 1"))),
            ("6.4 (11) lone expression keeps the type", json!("${user.n}"), Some(json!(42))),
            ("lone object", json!("${user}"), Some(json!({"name": "Alice", "n": 42}))),
            ("lone null stays null", json!("${none}"), Some(json!(null))),
            (
                "6.4 (12) nested object",
                json!({"x": {"text": "Hi ${user.name}", "n": "${user.n}"}}),
                Some(json!({"x": {"text": "Hi Alice", "n": 42}})),
            ),
            ("6.4 (13) array", json!(["${a}", "${b}", "literal"]), Some(json!([1, 2, "literal"]))),
            (
                "6.4 (14) missing name is empty",
                json!("Hello ${user.name}, age ${age}"),
                Some(json!("Hello Alice, age ")),
            ),
            ("6.4 (15) dotted path", json!("<${user.name}>"), Some(json!("<Alice>"))),
            ("6.4 (16) number", json!(42), Some(json!(42))),
            ("other scalars", json!([true, null]), Some(json!([true, null]))),
            ("lone absent stays absent", json!("${missing}"), None),
            ("absent in an object is left out", json!({"x": "${missing}", "y": 1}), Some(json!({"y": 1}))),
            ("absent in an array is null", json!(["${missing}"]), Some(json!([null]))),
            ("null in a text", json!("<${none}>"), Some(json!("<null>"))),
            ("object in a text", json!("<${o}>"), Some(json!("<[object Object]>"))),
            ("array in a text", json!("<${list}>"), Some(json!("<1,,2,[object Object]>"))),
            ("boolean in a text", json!("<${truth}>"), Some(json!("<true>"))),
            ("path is not trimmed", json!("<${ a }>"), Some(json!("<spaces>"))),
            ("keys are not filled", json!({"${a}": "${a}"}), Some(json!({"${a}": 1}))),
            ("values are not filled again", json!("<${text}>"), Some(json!("<${a}>"))),
            ("empty braces are text", json!("${} ${a}"), Some(json!("${} 1"))),
            ("open brace is text", json!("${a} ${b"), Some(json!("1 ${b"))),
            ("dollar alone is text", json!("$a {a} $${a}"), Some(json!("$a {a} $1"))),
            ("brace behind a lone expression", json!("${a}}"), Some(json!("1}"))),
            ("two expressions and nothing else", json!("${a}${b}"), Some(json!("12"))),
            ("an index", json!("${list.0} of ${list.length}"), Some(json!("1 of 3"))),
            ("default of an absent value", json!("<${missing:-none}>"), Some(json!("<none>"))),
            ("default is not used for null", json!("${none:-x}"), Some(json!(null))),
            ("lone default is a text", json!("${missing:-5}"), Some(json!("5"))),
            ("lone default is not used", json!("${user.n:-5}"), Some(json!(42))),
            ("empty default", json!("${missing:-}"), Some(json!(""))),
            ("resume URL", json!("at ${_resumeUrl.ship}"), Some(json!("at https://resume.example/ship"))),
            ("vault references are not handled here", json!("{{vault.x}}"), Some(json!("{{vault.x}}"))),
        ] {
            assert_eq!(fill(template, &context), wanted, "{rule}");
        }
    }

    #[test]
    fn templates_know_what_they_read() {
        let template =
            Template::parse(&json!({"a": ["${x.y} ${z}", 1], "b": "${w:-d}", "c": "text"})).unwrap();
        let paths: Vec<_> = template.paths().into_iter().map(Path::as_str).collect();
        assert_eq!(paths, ["x.y", "z", "w"]);
        assert!(!template.is_static());
        assert!(Template::parse(&json!({"a": ["b", 1, "${}"]})).unwrap().is_static());
    }

    #[test]
    fn errors_point_to_the_text() {
        for (template, pointer, reason) in [
            (json!("${a..b}"), "", "path `a..b` has an empty segment"),
            (json!({"a/b": ["x", {"~": "y ${.}"}]}), "/a~1b/1/~0", "path `.` has an empty segment"),
            (json!(["${:-x}"]), "/0", "a path must not be empty"),
        ] {
            let error = Template::parse(&template).unwrap_err();
            assert_eq!((error.pointer.as_str(), error.reason.to_string().as_str()), (pointer, reason));
        }
        let deep = (0..=FLOW_DOCUMENT_DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(Template::parse(&deep).unwrap_err().reason, InvalidTemplateReason::TooDeep);
    }

    #[test]
    fn a_small_template_cannot_become_a_huge_value() {
        let context = json!({"big": "x".repeat(1024 * 1024)});
        let facts =
            ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
        let scope = Scope {
            context: context.as_object().unwrap(),
            outer: None,
            error: None,
            resume: None,
            resume_url: None,
            input: None,
            iteration: None,
            event: None,
            datasets: None,
            item_key: None,
            execution: &facts,
        };
        for template in [json!("${big} ".repeat(64)), json!(vec!["${big}"; 64])] {
            assert_eq!(Template::parse(&template).unwrap().resolve(&scope), Err(TemplateTooLarge.into()));
        }
        assert!(Template::parse(&json!("${big} ".repeat(63))).unwrap().resolve(&scope).is_ok());
    }
}
