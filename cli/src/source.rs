//! What commands read: flow files, and JSON given as text, as a file, or on standard input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Document, Format, Issue, Severity, parse_document, parse_document_with};
use flowmonkey_core::limits::FLOW_DOCUMENT_BYTES_MAX;
use serde_json::Value;

use crate::errors::CliError;
use crate::schemas::HandlerSchemas;

/// Bytes of an input, of signal data, of a table definition: what a server accepts as well.
pub(crate) const JSON_BYTES_MAX: usize = flowmonkey_engine::api::BODY_BYTES_MAX;
/// Files of one flows directory.
const FILES_MAX: usize = 10_000;
/// Standard input, as a file name.
const STDIN: &str = "-";

/// The text of `name`, which may be `-`; at most `max` bytes.
pub(crate) fn read_text(name: &str, max: usize) -> Result<String, CliError> {
    let (shown, reader): (&str, Box<dyn Read>) = if name == STDIN {
        ("standard input", Box::new(std::io::stdin().lock()))
    } else {
        let file = File::open(name).map_err(|error| CliError::Usage(format!("{name}: {}", cause(&error))))?;
        (name, Box::new(file))
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = reader.take(limit).read_to_end(&mut bytes);
    read.map_err(|error| CliError::Usage(format!("{shown}: {}", cause(&error))))?;
    if bytes.len() > max {
        return Err(CliError::Usage(format!("{shown} has more than the {max} bytes that are accepted")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        CliError::Usage(format!("{shown} is not UTF-8 text (byte {place})"))
    })
}

fn cause(error: &std::io::Error) -> String {
    let kind = error.kind();
    if kind == std::io::ErrorKind::NotFound {
        "there is no such file".into()
    } else if kind == std::io::ErrorKind::PermissionDenied {
        "it may not be read".into()
    } else {
        error.to_string()
    }
}

/// A value given as JSON text, as `@FILE`, or as `-` for standard input. `what` names it in errors.
pub(crate) fn read_json(given: &str, what: &str) -> Result<Value, CliError> {
    let (text, place) = match given.strip_prefix('@') {
        Some(file) => (read_text(file, JSON_BYTES_MAX)?, file.to_owned()),
        None if given == STDIN => (read_text(STDIN, JSON_BYTES_MAX)?, "standard input".to_owned()),
        None => (given.to_owned(), what.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| {
        let hint = if given.starts_with(['@', '-']) { "" } else { " (give a file as @FILE)" };
        CliError::Usage(format!("{place} is not JSON: {error}{hint}"))
    })
}

/// The initial context of a run: an object, `{}` when nothing is given.
pub(crate) fn read_input(given: Option<&str>) -> Result<Value, CliError> {
    let Some(given) = given else { return Ok(Value::Object(serde_json::Map::new())) };
    let input = read_json(given, "--input")?;
    if input.is_object() {
        return Ok(input);
    }
    let message = "the input must be a JSON object: it becomes the initial context of the flow";
    Err(CliError::Usage(message.into()))
}

/// Reads a flow file.
///
/// # Errors
/// When it cannot be read, or has errors; then all issues are in the error, one line each.
pub(crate) fn read_document(name: &str) -> Result<Document, CliError> {
    let text = read_text(name, FLOW_DOCUMENT_BYTES_MAX)?;
    check_text(name, &text).map_err(|issues| CliError::Issues {
        lines: lines(name, &issues).join("\n"),
        summary: summary(&issues),
    })
}

/// All flow files below `folder`, with the times of their last change and their sizes.
pub(crate) fn flow_files(folder: &Path) -> std::io::Result<BTreeMap<PathBuf, (SystemTime, u64)>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if Format::of_path(&path.to_string_lossy()).is_some() && found.len() < FILES_MAX {
                // A file that vanishes while it is looked at is not there.
                if let Ok(metadata) = path.metadata() {
                    found.insert(path, (metadata.modified()?, metadata.len()));
                }
            }
        }
    }
    Ok(found)
}

/// The files that `names` mean: a directory means all flow files below it.
///
/// # Errors
/// When a directory cannot be read, or holds no flow file.
pub(crate) fn expanded(names: &[String]) -> Result<Vec<String>, CliError> {
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        if !Path::new(name).is_dir() {
            files.push(name.clone());
            continue;
        }
        let found = flow_files(Path::new(name))
            .map_err(|error| CliError::Usage(format!("{name}: {}", cause(&error))))?;
        if found.is_empty() {
            return Err(CliError::Usage(format!("{name} holds no flow file (.json, .yaml, .yml)")));
        }
        files.extend(found.into_keys().map(|path| path.to_string_lossy().into_owned()));
    }
    Ok(files)
}

/// Reads the text of a flow file.
///
/// # Errors
/// All issues, when one of them is an error.
pub(crate) fn check_text(name: &str, text: &str) -> Result<Document, Vec<Issue>> {
    parse_document(text, Format::of_path(name).unwrap_or_else(|| Format::guess(text)))
}

/// As [`check_text`]; checks the configurations of handlers too.
///
/// # Errors
/// All issues, when one of them is an error.
pub(crate) fn check_configs(
    name: &str,
    text: &str,
    schemas: Arc<HandlerSchemas>,
) -> Result<Document, Vec<Issue>> {
    parse_document_with(text, Format::of_path(name).unwrap_or_else(|| Format::guess(text)), schemas)
}

/// Issues as editors and terminals understand them: `file:line:column: severity: reason (hint)`.
pub(crate) fn lines(name: &str, issues: &[Issue]) -> Vec<String> {
    issues
        .iter()
        .map(|issue| {
            let Issue { severity, line, column, message, hint, .. } = issue;
            let hint = hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
            format!("{name}:{line}:{column}: {severity}: {message}{hint}")
        })
        .collect()
}

/// How many errors and warnings there are, in words.
pub(crate) fn summary(issues: &[Issue]) -> String {
    let count = |severity| issues.iter().filter(|issue| issue.severity == severity).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match (errors, warnings) {
        (errors, 0) => plural(errors, "error"),
        (0, warnings) => plural(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    }
}

/// The flow of a document with the id `wanted`, else the first; and the others.
pub(crate) fn choose(
    name: &str,
    flows: Vec<Arc<Flow>>,
    wanted: Option<&str>,
) -> Result<(Arc<Flow>, Vec<Arc<Flow>>), CliError> {
    let mut flows = flows;
    let place = match wanted {
        None if flows.is_empty() => return Err(CliError::Usage(format!("{name} holds no flow"))),
        None => 0,
        Some(id) => {
            let mut found: Vec<usize> = (0..flows.len()).filter(|at| flows[*at].id == id).collect();
            found.sort_by(|left, right| flows[*left].version.cmp(&flows[*right].version));
            found.last().copied().ok_or_else(|| {
                let known: Vec<&str> = flows.iter().map(|flow| flow.id.as_str()).collect();
                CliError::Usage(format!("{name} holds no flow `{id}`; it has {}", known.join(", ")))
            })?
        }
    };
    let flow = flows.remove(place);
    Ok((flow, flows))
}
