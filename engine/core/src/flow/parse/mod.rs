//! Flow text to the validated types of [`super::definition`]: all problems at once, each with its place and its cure.
//!
//! The text is read into plain values first, under limits that are checked before anything can overflow or explode; then
//! each value is read field by field. The tables of fields that name what is known also make the JSON Schema
//! ([`super::json_schema`]), so that the two cannot drift.

mod canonical;
mod checks;
mod config;
mod fanout;
mod fields;
mod flow;
mod issue;
mod json;
mod locate;
mod orchestrated;
mod reader;
mod retry;
mod routing;
mod step;
mod values;
mod waits;
mod yaml;

use std::sync::Arc;

use semver::Version;
use serde_json::Value;

pub use self::config::ConfigSchemas;
pub(super) use self::fanout::BODY;
pub(super) use self::fields::schema_of;
pub(super) use self::flow::FLOW_FIELDS;
use self::issue::{Found, Issues, Part};
pub use self::issue::{Issue, Severity};
use self::locate::Places;
pub(super) use self::orchestrated::{KINDS, Kind};
pub(super) use self::step::STEP_FIELDS;
pub(super) use self::values::selector_schema;
use super::definition::Flow;
use crate::limits::{
    FLOW_DOCUMENT_BYTES_MAX, FLOW_DOCUMENT_DEPTH_MAX, FLOW_DOCUMENT_NODES_MAX, FLOW_ISSUES_MAX,
};

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259.
    Json,
    /// YAML 1.2, core schema.
    Yaml,
}

impl Format {
    /// The format that the ending of a file's name stands for: `.json`, `.yaml` or `.yml`, in any case.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (_, ending) = path.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }

    /// The format that a text without a name looks like: JSON when it starts with `{` or `[`, else YAML.
    #[must_use]
    pub fn guess(text: &str) -> Self {
        match text.trim_start_matches('\u{feff}').trim_start().chars().next() {
            Some('{' | '[') => Self::Json,
            Some(_) | None => Self::Yaml,
        }
    }
}

/// What a text holds.
#[derive(Debug, Default)]
pub struct Document {
    /// The flows, in the order of the text.
    pub flows: Vec<Arc<Flow>>,
    /// Definitions of tables, as written.
    pub tables: Vec<Value>,
    /// What was found that does not refuse the text.
    pub warnings: Vec<Issue>,
}

/// Reads a text with one flow or several: a JSON array, YAML documents separated by `---`, a YAML sequence. An entry
/// `{"table": …, "flow": …}` (either may be missing) gives a table definition too.
///
/// # Errors
/// All issues, warnings too, in the order of the text, when at least one of them is an error.
pub fn parse_document(text: &str, format: Format) -> Result<Document, Vec<Issue>> {
    read_with(text, format, Issues::default())
}

/// As [`parse_document`]; moreover checks the configurations of the handlers that `schemas` knows: what a handler refuses
/// is an error, a field that it does not know a warning.
///
/// # Errors
/// As [`parse_document`].
pub fn parse_document_with(
    text: &str,
    format: Format,
    schemas: Arc<dyn ConfigSchemas>,
) -> Result<Document, Vec<Issue>> {
    read_with(text, format, Issues::with_schemas(schemas))
}

fn read_with(text: &str, format: Format, issues: Issues) -> Result<Document, Vec<Issue>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let values = read_text(text, format)?;
    let mut document = Document::default();
    flow::read_document(&values, &issues, &mut document);
    let refused = issues.errors() > 0;
    let found = placed(issues.into_found(), format, text);
    if refused {
        return Err(found);
    }
    document.warnings = found;
    Ok(document)
}

/// Reads a flow that is a value already: the body of a request, a stored definition. Issues have line 0.
///
/// # Errors
/// All issues, warnings too, when at least one of them is an error.
pub fn parse_flow_value(value: &Value) -> Result<(Arc<Flow>, Vec<Issue>), Vec<Issue>> {
    let issues = Issues::default();
    let flow = match measure(value) {
        Ok(()) => flow::read_flow(value, "", &issues),
        Err((code, message, hint)) => {
            issues.error(code, "", message, hint);
            None
        }
    };
    let refused = issues.errors() > 0;
    let found = issues.into_found().into_iter().map(|found| found.issue).collect();
    match flow {
        Some(flow) if !refused => Ok((Arc::new(flow), found)),
        Some(_) | None => Err(found),
    }
}

/// The step types that the engine carries out itself: no handler can have such a type.
pub fn orchestrated_types() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// The latest of `versions` by the order of SemVer (not of text: 10.0.0 is after 9.0.0).
pub fn latest<'a>(versions: impl IntoIterator<Item = &'a Version>) -> Option<&'a Version> {
    versions.into_iter().max()
}

fn read_text(text: &str, format: Format) -> Result<Vec<Value>, Vec<Issue>> {
    let lines = std::cell::OnceCell::new();
    let error = |code, message, hint, line, column| {
        let (line, column) = lines.get_or_init(|| Lines::of(text)).nearest(line, column);
        Issue { severity: Severity::Error, code, pointer: String::new(), line, column, message, hint }
    };
    if text.len() > FLOW_DOCUMENT_BYTES_MAX {
        let message =
            format!("the document has {} bytes; at most {FLOW_DOCUMENT_BYTES_MAX} are accepted", text.len());
        let hint = Some("give the flows in several documents".to_owned());
        return Err(vec![error("too-large", message, hint, 1, 1)]);
    }
    match format {
        Format::Json if text.trim().is_empty() => Ok(Vec::new()),
        Format::Json => json::read(text)
            .map(|value| vec![value])
            .map_err(|e| vec![error(e.code, e.message, e.hint, e.line, e.column)]),
        Format::Yaml => yaml::read(text).map_err(|errors| {
            let shown = errors.into_iter().take(FLOW_ISSUES_MAX);
            shown.map(|e| error(e.code, e.message, e.hint, e.line, e.column)).collect()
        }),
    }
}

/// The code, message and hint for a document with too many values, or with too deep nesting.
fn too_complex(large: bool) -> (&'static str, String, Option<String>) {
    let message = if large {
        format!(
            "the document is too complex: more than {FLOW_DOCUMENT_NODES_MAX} values, aliases written out"
        )
    } else {
        format!("the document is too complex: nested more than {FLOW_DOCUMENT_DEPTH_MAX} deep")
    };
    ("too-complex", message, Some("give data as input when the flow starts, not in the flow".to_owned()))
}

/// The limits of text, for a value that never was one. Without recursion: nothing is known about the depth yet.
fn measure(value: &Value) -> Result<(), (&'static str, String, Option<String>)> {
    let mut stack = vec![(value, 0)];
    let (mut nodes, mut bytes) = (0_usize, 0_usize);
    while let Some((value, depth)) = stack.pop() {
        nodes += 1;
        if nodes > FLOW_DOCUMENT_NODES_MAX || depth > FLOW_DOCUMENT_DEPTH_MAX {
            return Err(too_complex(nodes > FLOW_DOCUMENT_NODES_MAX));
        }
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                stack.extend(map.values().map(|item| (item, depth + 1)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => bytes += 1,
        }
        if bytes > FLOW_DOCUMENT_BYTES_MAX {
            let message = format!("the flow has more than {FLOW_DOCUMENT_BYTES_MAX} bytes");
            return Err(("too-large", message, Some("give data as input when the flow starts".to_owned())));
        }
    }
    Ok(())
}

/// Looks up the places of issues, and sorts them by place.
fn placed(found: Vec<Found>, format: Format, text: &str) -> Vec<Issue> {
    if found.is_empty() {
        return Vec::new();
    }
    let wanted = found.iter().map(|found| (found.document, found.issue.pointer.clone()));
    let places = Places::find(format, text, wanted);
    let lines = Lines::of(text);
    let mut issues: Vec<Issue> = found
        .into_iter()
        .map(|Found { document, part, mut issue }| {
            let (line, column) = places.get(document, &issue.pointer, part == Part::Key);
            (issue.line, issue.column) = lines.nearest(line, column);
            issue
        })
        .collect();
    issues.sort_by_key(|issue| (issue.line, issue.column));
    issues
}

/// How wide each line of a text is, in characters.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.lines().map(|line| line.chars().count()).collect())
    }

    /// The nearest place that is in the text: readers report the end of the text as a line of its own.
    fn nearest(&self, line: usize, column: usize) -> (u32, u32) {
        let line = line.clamp(1, self.0.len().max(1));
        let width = self.0.get(line - 1).copied().unwrap_or(0);
        let column = column.clamp(1, width + 1);
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}
