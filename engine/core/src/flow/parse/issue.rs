//! What is wrong with a document, and where.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::config::ConfigSchemas;
use crate::limits::FLOW_ISSUES_MAX;

/// How bad an issue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted; it probably does not do what its author meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One problem of a document: where it is, what is wrong and what to do.
///
/// `Display` starts with `line:column: ` when the place in the text is known, so that `file:` put before it gives what
/// editors and terminals understand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Issue {
    /// Whether the document is refused.
    pub severity: Severity,
    /// Stable name of the rule, in kebab-case.
    pub code: &'static str,
    /// JSON pointer (RFC 6901) from the root of the JSON text or YAML document.
    pub pointer: String,
    /// Line in the text, from 1; 0 when there is no text.
    pub line: u32,
    /// Column in the line, in characters, from 1; 0 when there is no text.
    pub column: u32,
    /// The place and the reason.
    pub message: String,
    /// The cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        write!(f, "{}: {} [{}]", self.severity, self.message, self.code)?;
        if self.line == 0 && !self.pointer.is_empty() {
            write!(f, " at {}", self.pointer)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Which part of an entry an issue is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The key of an object's entry.
    Key,
    /// The value.
    Value,
}

/// An issue before its place in the text is looked up.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) document: usize,
    pub(super) part: Part,
    pub(super) issue: Issue,
}

/// Collects what readers find; shared by all readers of one text.
#[derive(Debug, Default)]
pub(super) struct Issues {
    found: RefCell<Vec<Found>>,
    /// Which YAML document is being read.
    document: std::cell::Cell<usize>,
    /// How many did not fit.
    dropped: std::cell::Cell<usize>,
    errors: std::cell::Cell<usize>,
    /// What handlers accept.
    schemas: Option<Arc<dyn ConfigSchemas>>,
}

impl Issues {
    /// No issues; configurations are checked by `schemas`.
    pub(super) fn with_schemas(schemas: Arc<dyn ConfigSchemas>) -> Self {
        Self { schemas: Some(schemas), ..Self::default() }
    }

    pub(super) fn schemas(&self) -> Option<&dyn ConfigSchemas> {
        self.schemas.as_deref()
    }

    pub(super) fn enter_document(&self, document: usize) {
        self.document.set(document);
    }

    pub(super) fn error(&self, code: &'static str, pointer: &str, message: String, hint: Option<String>) {
        self.add(Severity::Error, Part::Value, code, pointer, message, hint);
    }

    pub(super) fn add(
        &self,
        severity: Severity,
        part: Part,
        code: &'static str,
        pointer: &str,
        message: String,
        hint: Option<String>,
    ) {
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut found = self.found.borrow_mut();
        if found.len() >= FLOW_ISSUES_MAX {
            self.dropped.set(self.dropped.get() + 1);
            // An error must stay visible behind any number of warnings.
            if severity == Severity::Warning || self.errors.get() != 1 {
                return;
            }
            found.pop();
        }
        let issue = Issue { severity, code, pointer: pointer.to_owned(), line: 0, column: 0, message, hint };
        found.push(Found { document: self.document.get(), part, issue });
    }

    /// Whether further issues are counted only, so that their words need not be found.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= FLOW_ISSUES_MAX
    }

    /// Errors so far, also those that did not fit.
    pub(super) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// All that was found.
    pub(super) fn into_found(self) -> Vec<Found> {
        let mut found = self.found.into_inner();
        let dropped = self.dropped.get();
        if dropped > 0 {
            let severity = if self.errors.get() > 0 { Severity::Error } else { Severity::Warning };
            let message =
                format!("the document has {dropped} more issues than the {FLOW_ISSUES_MAX} reported");
            let hint = Some("mend these first, then check again".to_owned());
            let issue = Issue {
                severity,
                code: "too-many-issues",
                pointer: String::new(),
                line: 0,
                column: 0,
                message,
                hint,
            };
            found.push(Found { document: self.document.get(), part: Part::Value, issue });
        }
        found
    }
}
