//! Manifest files: one handler, several, or the short form, in YAML or JSON.

mod yaml;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use flowmonkey_plumbing::manifest::Manifest;
use semver::Version;
use serde_json::{Map, Value, json};

use crate::child::ChildHandler;
use crate::registry::is_valid_type;

/// Bytes of a manifest file.
pub const MANIFEST_FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a manifest file cannot be used.
#[derive(Debug)]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// All that is wrong with it; never empty.
    pub problems: Vec<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.problems.as_slice() {
            [problem] => write!(formatter, "{file}: {problem}"),
            problems => {
                write!(formatter, "{file}: {} problems", problems.len())?;
                problems.iter().try_for_each(|problem| write!(formatter, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ManifestError {}

/// Reads the manifests of a file, and the directory in which their programs run unless they say otherwise: the file's own.
///
/// The file is JSON when its name ends in `.json`, else YAML. It has one manifest, several documents, a list, or either of
/// them under `handlers:`, where the short form is an object of handler type to manifest (without `type`) or to the list of
/// program and arguments.
///
/// # Errors
/// When the file cannot be read, has unknown fields, bad values or a type twice. All problems are told at once, save that a
/// file that is not YAML or JSON at all has only that one.
pub fn load_manifests(path: &Path) -> Result<Vec<(Manifest, PathBuf)>, ManifestError> {
    let failed = |problems| ManifestError { file: path.to_owned(), problems };
    let text = read(path).map_err(|problem| failed(vec![problem]))?;
    let absolute =
        std::path::absolute(path).map_err(|error| failed(vec![format!("cannot be resolved: {error}")]))?;
    let directory = absolute.parent().unwrap_or(&absolute).to_owned();
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let documents = if is_json {
        serde_json::from_str(&text)
            .map(|document| vec![document])
            .map_err(|error| format!("this is not JSON: {error}"))
    } else {
        yaml::read(&text)
    };
    let documents = documents.map_err(|problem| failed(vec![problem]))?;
    let mut found = Found { directory, ..Found::default() };
    for document in documents {
        found.document(document);
    }
    if found.manifests.is_empty() && found.problems.is_empty() {
        found.problems.push("there is no handler in it".into());
    }
    if found.problems.is_empty() {
        let Found { directory, manifests, .. } = found;
        Ok(manifests.into_iter().map(|manifest| (manifest, directory.clone())).collect())
    } else {
        Err(failed(found.problems))
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // Not by its metadata: the size of a pipe or of a growing file shows only while reading.
    file.take(MANIFEST_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MANIFEST_FILE_BYTES_MAX {
        return Err(format!("is larger than {MANIFEST_FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))
}

/// What a file has.
#[derive(Default)]
struct Found {
    directory: PathBuf,
    manifests: Vec<Manifest>,
    types: BTreeSet<String>,
    problems: Vec<String>,
}

impl Found {
    fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    fn document(&mut self, document: Value) {
        match document {
            Value::Array(items) => self.list(items),
            Value::Object(mut fields) => match fields.remove("handlers") {
                None => self.manifest(fields, "the manifest"),
                Some(handlers) => {
                    for name in fields.keys() {
                        self.problem(format!("unknown field `{name}` beside `handlers`"));
                    }
                    match handlers {
                        Value::Array(items) => self.list(items),
                        Value::Object(handlers) => {
                            for (handler_type, handler) in handlers {
                                self.short(handler_type, handler);
                            }
                        }
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                            self.problem(
                                "`handlers` must be a list of manifests or an object of type to manifest",
                            );
                        }
                    }
                }
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.problem("a document must be a manifest, a list of manifests, or have `handlers`");
            }
        }
    }

    fn list(&mut self, items: Vec<Value>) {
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Object(fields) => self.manifest(fields, &format!("handler {}", index + 1)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    self.problem(format!("handler {} must be an object", index + 1));
                }
            }
        }
    }

    /// An entry of an object of type to manifest.
    fn short(&mut self, handler_type: String, handler: Value) {
        let place = format!("handler `{handler_type}`");
        let mut fields = Map::new();
        match handler {
            Value::Array(command) => {
                fields.insert("command".into(), Value::Array(command));
            }
            Value::Object(given) => fields = given,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return self.problem(format!(
                    "{place} must be a list of program and arguments, or a manifest without `type`"
                ));
            }
        }
        let handler_type = Value::String(handler_type);
        if fields.get("type").is_some_and(|given| *given != handler_type) {
            return self.problem(format!("{place} has another `type`: leave it out"));
        }
        fields.insert("type".into(), handler_type);
        self.manifest(fields, &place);
    }

    fn manifest(&mut self, fields: Map<String, Value>, place: &str) {
        let place = match fields.get("type") {
            Some(Value::String(handler_type)) => format!("handler `{handler_type}`"),
            _other => place.to_owned(),
        };
        let before = self.problems.len();
        // Field by field, so that all problems show at once, each with its name.
        for (name, value) in &fields {
            let mut alone = Map::new();
            alone.insert("type".into(), json!("x"));
            alone.insert(name.clone(), value.clone());
            if let Err(error) = serde_json::from_value::<Manifest>(Value::Object(alone)) {
                self.problem(format!("{place}: `{name}`: {error}"));
            }
        }
        if self.problems.len() > before {
            return;
        }
        match serde_json::from_value::<Manifest>(Value::Object(fields)) {
            Ok(manifest) => self.check(manifest, &place),
            Err(error) => self.problem(format!("{place}: {error}")),
        }
    }

    fn check(&mut self, manifest: Manifest, place: &str) {
        let handler_type = &manifest.handler_type;
        if !is_valid_type(handler_type) {
            self.problem(format!("{place}: `type` is not valid: use a to z, 0 to 9, `.`, `_` and `-`"));
        }
        if !self.types.insert(handler_type.clone()) {
            self.problem(format!("{place} occurs twice"));
        }
        if let Err(error) = Version::parse(&manifest.version) {
            let version = &manifest.version;
            self.problem(format!("{place}: `version` `{version}` is not a semantic version: {error}"));
        }
        if manifest.concurrency == Some(0) {
            self.problem(format!("{place}: `concurrency` must not be 0"));
        }
        // Without a command it is for a container, or a Rust handler.
        if !manifest.command.is_empty()
            && let Err(error) = ChildHandler::new(manifest.clone(), &self.directory)
        {
            self.problem(error.to_string());
        }
        self.manifests.push(manifest);
    }
}
