//! `flowmonkey flow …`: everything about flow files that needs no engine.

use std::path::PathBuf;
use std::sync::Arc;

use flowmonkey_core::flow::parse::{Issue, Severity};
use flowmonkey_core::flow::{graph, json_schema};
use flowmonkey_core::limits::FLOW_DOCUMENT_BYTES_MAX;
use serde_json::{Value, json};

use super::{print, print_json, tell};
use crate::args::{FlowCommand, Output};
use crate::errors::{CliError, Exit};
use crate::schemas::HandlerSchemas;
use crate::source;

pub(crate) fn flow(command: FlowCommand) -> Result<Exit, CliError> {
    match command {
        FlowCommand::Validate { files, manifests, output } => validate(&files, &manifests, output),
        FlowCommand::Graph { file, flow } => {
            let document = source::read_document(&file)?;
            let (flow, _) = source::choose(&file, document.flows, flow.as_deref())?;
            print(&graph::mermaid(&flow))?;
            Ok(Exit::Done)
        }
        FlowCommand::Schema => {
            print_json(&json_schema::json_schema())?;
            Ok(Exit::Done)
        }
    }
}

fn validate(files: &[String], manifests: &[PathBuf], output: Output) -> Result<Exit, CliError> {
    let schemas = Arc::new(HandlerSchemas::new(manifests)?);
    let files = source::expanded(files)?;
    let mut reports = Vec::with_capacity(files.len());
    let mut lines = Vec::new();
    let mut all: Vec<Issue> = Vec::new();
    let mut flow_count = 0;
    for file in &files {
        let text = source::read_text(file, FLOW_DOCUMENT_BYTES_MAX)?;
        let (flows, issues) = match source::check_configs(file, &text, Arc::clone(&schemas)) {
            Ok(document) => (document.flows, document.warnings),
            Err(issues) => (Vec::new(), issues),
        };
        flow_count += flows.len();
        lines.extend(source::lines(file, &issues));
        let flows: Vec<Value> = flows
            .iter()
            .map(|flow| json!({ "id": flow.id, "version": flow.version.to_string(), "hash": flow.hash }))
            .collect();
        let valid = issues.iter().all(|issue| issue.severity != Severity::Error);
        reports.push(json!({ "file": file, "valid": valid, "flows": flows, "issues": issues }));
        all.extend(issues);
    }
    let valid = all.iter().all(|issue| issue.severity != Severity::Error);
    match output {
        Output::Json => print_json(&json!({ "valid": valid, "files": reports }))?,
        Output::Table => {
            if !lines.is_empty() {
                print(&lines.join("\n"))?;
            }
            if valid {
                let plural = if flow_count == 1 { "flow is" } else { "flows are" };
                let warned =
                    if all.is_empty() { String::new() } else { format!(" ({})", source::summary(&all)) };
                tell(&format!("{flow_count} {plural} valid{warned}"));
            } else {
                tell(&source::summary(&all));
            }
        }
    }
    Ok(if valid { Exit::Done } else { Exit::Invalid })
}
