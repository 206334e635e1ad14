//! What the demo prints at its end.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use flowmonkey_core::execution::Execution;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::page::{bytes, grouped};
use super::report::Totals;
use crate::errors::CliError;

/// Licences that are printed; the rest is in the report.
const LICENCES_MAX: usize = 8;
/// Flagged packages that are printed; the rest is in the report.
const FLAGGED_MAX: usize = 10;
/// Characters of the longest bar.
const BAR_CHARS_MAX: usize = 30;

/// The output of the flow, as far as it is summed up here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    verdict: String,
    totals: Totals,
    flagged: Vec<Flagged>,
    not_here: Vec<String>,
    report: Report,
}

#[derive(Debug, Deserialize)]
struct Report {
    html: PathBuf,
    csv: PathBuf,
    packages: u64,
    failed: Vec<String>,
    licences: Vec<(String, u64)>,
}

/// A package whose licence is not on the list.
#[derive(Debug, Serialize, Deserialize)]
struct Flagged {
    name: String,
    version: String,
    licence: String,
}

/// The summary; as JSON it is what `demo --output json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    execution_id: String,
    verdict: String,
    packages: u64,
    failed: Vec<String>,
    not_here: Vec<String>,
    totals: Totals,
    licences: Vec<(String, u64)>,
    flagged: Vec<Flagged>,
    html: PathBuf,
    csv: PathBuf,
    /// Milliseconds from start to end.
    duration_ms: u64,
    /// Microseconds from start to end, for each package.
    micros_per_package: u64,
    /// Microseconds of the audits themselves, for each package. Audits run side by side.
    handler_micros_per_package: u64,
    /// Attempts of handlers, in all executions of the tree.
    attempts: u64,
}

impl Summary {
    /// Sums up an audit that completed.
    pub(crate) fn new(execution: &Execution, elapsed: Duration) -> Result<Self, CliError> {
        let output = execution.output.as_ref().unwrap_or(&Value::Null);
        let Outcome { verdict, totals, flagged, not_here, report } = Outcome::deserialize(output)
            .map_err(|error| CliError::Usage(format!("the audit's output cannot be read: {error}")))?;
        let packages = report.packages.max(1);
        Ok(Self {
            execution_id: execution.id().to_string(),
            verdict,
            packages: report.packages,
            failed: report.failed,
            not_here,
            totals,
            licences: report.licences,
            flagged,
            html: report.html,
            csv: report.csv,
            duration_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            micros_per_package: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX) / packages,
            handler_micros_per_package: totals.duration_ms.saturating_mul(1000) / packages,
            attempts: execution.cost.attempts,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let totals = &self.totals;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            writeln!(text, "{name:<10} {value}").ok();
        };
        line(
            "audited",
            format!("{} packages in {} s: {}", self.packages, tenths(self.duration_ms), self.verdict),
        );
        line("sources", format!("{} files, {}", grouped(totals.files), bytes(totals.bytes)));
        line(
            "Rust",
            format!("{} lines, {} of them code", grouped(totals.rust_lines), grouped(totals.rust_code_lines)),
        );
        line("C", format!("{} lines", grouped(totals.c_lines)));
        line(
            "unsafe",
            format!("{} blocks, {} items", grouped(totals.unsafe_blocks), grouped(totals.unsafe_items)),
        );
        let most = self.licences.first().map_or(1, |(_, count)| *count).max(1);
        for (index, (licence, count)) in self.licences.iter().take(LICENCES_MAX).enumerate() {
            let share =
                usize::try_from(count.saturating_mul(BAR_CHARS_MAX as u64) / most).unwrap_or(BAR_CHARS_MAX);
            let bar = "█".repeat(share.max(1));
            line(if index == 0 { "licences" } else { "" }, format!("{licence:<40} {count:>4} {bar}"));
        }
        if let Some(more) = self.licences.len().checked_sub(LICENCES_MAX).filter(|more| *more > 0) {
            line("", format!("and {more} more"));
        }
        for (index, flagged) in self.flagged.iter().take(FLAGGED_MAX).enumerate() {
            let licence = if flagged.licence.is_empty() { "no licence given" } else { &flagged.licence };
            let name = if index == 0 { "flagged" } else { "" };
            line(name, format!("{} {}: {licence}", flagged.name, flagged.version));
        }
        for (name, packages) in [("failed", &self.failed), ("not here", &self.not_here)] {
            if !packages.is_empty() {
                line(name, format!("{} packages; the report names them", packages.len()));
            }
        }
        line(
            "cost",
            format!(
                "{} ms a package from start to end; an audit takes {} ms, and they run side by side",
                thousandths(self.micros_per_package),
                thousandths(self.handler_micros_per_package),
            ),
        );
        line("report", self.html.display().to_string());
        line("table", self.csv.display().to_string());
        text
    }
}

fn tenths(millis: u64) -> String {
    format!("{}.{}", millis / 1000, millis % 1000 / 100)
}

fn thousandths(micros: u64) -> String {
    format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
}
