//! The handler `audit-report`: writes what an audit found, as one HTML page and as CSV.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::package_audit::Audit;
use super::packages::Package;
use super::page;

/// Where the page is written, in the report's directory.
const PAGE: &str = "index.html";
/// Where the table is written, in the report's directory.
const TABLE: &str = "packages.csv";

/// What the flow gives the handler.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Findings {
    /// Directory of the report; it is made.
    pub(crate) directory: PathBuf,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// All packages.
    pub(crate) packages: Vec<Package>,
    /// Packages that are not on this machine.
    pub(crate) not_here: Vec<String>,
    /// Where the list of packages comes from.
    pub(crate) from: String,
    /// The audit of each package, in the order of the packages; none where it failed.
    pub(crate) audits: Vec<Option<Audit>>,
    /// Sums over all packages.
    pub(crate) totals: Totals,
    /// `accepted` or `needs a look`.
    pub(crate) verdict: String,
}

/// Sums over all packages, as the flow made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) rust_lines: u64,
    pub(crate) rust_code_lines: u64,
    pub(crate) c_lines: u64,
    pub(crate) unsafe_blocks: u64,
    pub(crate) unsafe_items: u64,
    /// Milliseconds that the audits took, one after the other.
    pub(crate) duration_ms: u64,
}

impl Findings {
    /// The packages that were audited.
    pub(crate) fn audited(&self) -> impl Iterator<Item = &Audit> {
        self.audits.iter().flatten()
    }

    /// Packages whose audit failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Package> {
        let pairs = self.packages.iter().zip(&self.audits);
        pairs.filter(|(_, audit)| audit.is_none()).map(|(package, _)| package)
    }

    /// Licence expressions by the number of packages, most frequent first.
    pub(crate) fn licences(&self) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for audit in self.audited() {
            *counts
                .entry(if audit.licence.is_empty() { "none given" } else { &audit.licence })
                .or_default() += 1;
        }
        let mut counts: Vec<_> =
            counts.into_iter().map(|(licence, count)| (licence.to_owned(), count)).collect();
        counts.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        counts
    }
}

/// The handler.
#[derive(Debug)]
pub(crate) struct AuditReport {
    manifest: Manifest,
}

impl Default for AuditReport {
    fn default() -> Self {
        Self { manifest: super::manifest("audit-report", "Writes the report of an audit as HTML and CSV") }
    }
}

#[async_trait]
impl Handler for AuditReport {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let findings: Findings = super::input(task)?;
        let (html, csv) = (page::html(&findings), csv(&findings));
        let directory = &findings.directory;
        let written = async {
            tokio::fs::create_dir_all(directory).await?;
            write(&directory.join(PAGE), &html).await?;
            write(&directory.join(TABLE), &csv).await
        };
        written.await.map_err(|error| {
            Failure::new(
                "REPORT_NOT_WRITTEN",
                format!("`{}` cannot be written: {error}", directory.display()),
            )
        })?;
        Ok(Completion::output(json!({
            "html": directory.join(PAGE),
            "csv": directory.join(TABLE),
            "packages": findings.audited().count(),
            "failed": findings.failed().map(|package| format!("{} {}", package.name, package.version)).collect::<Vec<_>>(),
            "licences": findings.licences(),
        })))
    }
}

/// Writes beside the file and then in its place: whoever looks meanwhile sees the report before or this one, whole. A second
/// attempt does the same again.
async fn write(path: &Path, content: &str) -> io::Result<()> {
    let beside = path.with_added_extension("part");
    tokio::fs::write(&beside, content).await?;
    tokio::fs::rename(&beside, path).await
}

/// The audited packages as CSV (RFC 4180).
fn csv(findings: &Findings) -> String {
    let mut csv = String::from(
        "name,version,own,licence,licence_allowed,licence_files,build_script,proc_macro,files,bytes,rust_lines,\
         rust_code_lines,c_lines,unsafe_blocks,unsafe_items,manifest_sha256,content_sha256,duration_ms\r\n",
    );
    for audit in findings.audited() {
        let fields = [
            quoted(&audit.name),
            quoted(&audit.version),
            audit.own.to_string(),
            quoted(&audit.licence),
            audit.licence_allowed.to_string(),
            quoted(&audit.licence_files.join("; ")),
            audit.build_script.to_string(),
            audit.proc_macro.to_string(),
            audit.files.to_string(),
            audit.bytes.to_string(),
            audit.rust_lines.to_string(),
            audit.rust_code_lines.to_string(),
            audit.c_lines.to_string(),
            audit.unsafe_blocks.to_string(),
            audit.unsafe_items.to_string(),
            audit.manifest_sha256.clone(),
            audit.content_sha256.clone(),
            audit.duration_ms.to_string(),
        ];
        csv.push_str(&fields.join(","));
        csv.push_str("\r\n");
    }
    csv
}

/// A field of CSV. A text that a spreadsheet would take for a formula gets a quote in front.
fn quoted(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    if guard.is_empty() && !text.contains([',', '"', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(quoted("plain 1.0"), "plain 1.0");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
    }
}
