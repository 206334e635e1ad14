//! `flowmonkey flow …`: flow files, and flows that are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowmonkey_core::flow::parse::{Document, Format, Issue, Severity, parse_document};
use flowmonkey_core::flow::{graph, json_schema};
use flowmonkey_core::limits::FLOW_DOCUMENT_BYTES_MAX;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::place::{Access, Asking, page};
use super::queue::{held, why};
use super::tell;
use crate::args::{FlowCommand, FlowPlace};
use crate::client::{Client, query, segment};
use crate::errors::{CliError, Exit};
use crate::output::{Output, print, yaml};
use crate::schemas::HandlerSchemas;
use crate::settings::Settings;
use crate::{show, source};

/// Columns of published flows.
const COLUMNS: [(&str, &str); 4] =
    [("flow", "id"), ("version", "version"), ("tenant", "tenantId"), ("hash", "hash")];
/// Columns of what was published.
const PUBLISHED: [(&str, &str); 5] =
    [("flow", "id"), ("version", "version"), ("outcome", "outcome"), ("hash", "hash"), ("file", "file")];

pub(crate) async fn flow(command: FlowCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        FlowCommand::Validate { files, manifests } => match settings.client()? {
            Some(client) => validate_there(&files, &client, settings.output).await,
            None => validate(&files, &manifests, settings.output),
        },
        FlowCommand::Graph { flow, of_file, version, at } => {
            let flow = if flow == "-" || Path::new(&flow).exists() || flow.contains(['/', '.']) {
                source::choose(&flow, source::read_document(&flow)?.flows, of_file.as_deref())?.0
            } else {
                let published = asking(settings, &at).get(&path(&flow, "", &at, version)).await?;
                let document = parse_document(&published["definition"].to_string(), Format::Json);
                let flows = document.map_err(|issues| CliError::Issues {
                    lines: source::lines(&flow, &issues).join("\n"),
                    summary: source::summary(&issues),
                })?;
                source::choose(&flow, flows.flows, None)?.0
            };
            print(&graph::mermaid(&flow))?;
            Ok(Exit::Done)
        }
        FlowCommand::Schema => {
            let output = if settings.output == Output::Yaml { Output::Yaml } else { Output::Json };
            output.print(&json_schema::json_schema(), ToString::to_string)?;
            Ok(Exit::Done)
        }
        FlowCommand::Publish { files, at } => publish(&files, &asking(settings, &at), &at).await,
        FlowCommand::List { place } => {
            Asking { settings, place: &place }.look("/v1/flows", |list| page(list, &COLUMNS)).await
        }
        FlowCommand::Show { id, version, at } => {
            asking(settings, &at).look(&path(&id, "", &at, version), whole).await
        }
        FlowCommand::Diff { id, from, to, at } => {
            let mut pairs = vec![("from", from), ("to", to)];
            pairs.extend(at.tenant.clone().map(|tenant| ("tenantId", tenant)));
            let path = format!("/v1/flows/{}:diff{}", segment(&id), query(pairs));
            asking(settings, &at).look(&path, differences).await
        }
        FlowCommand::Archive { id, version, at } => use_or_not(settings, &at, &id, version, "archive").await,
        FlowCommand::Restore { id, version, at } => use_or_not(settings, &at, &id, version, "restore").await,
        FlowCommand::Pause { id, reason, at } => {
            let path = path(&id, ":pause", &at, None);
            asking(settings, &at).act(&path, &json!({ "reason": reason }), held).await?;
            Ok(Exit::Done)
        }
        FlowCommand::Resume { id, at } => {
            asking(settings, &at).act(&path(&id, ":resume", &at, None), &json!({}), held).await?;
            Ok(Exit::Done)
        }
    }
}

fn asking<'a>(settings: &'a Settings, at: &'a FlowPlace) -> Asking<'a> {
    Asking { settings, place: &at.place }
}

/// The route of a flow, with a verb or none.
fn path(id: &str, verb: &str, at: &FlowPlace, version: Option<String>) -> String {
    let tenant = at.tenant.clone().map(|tenant| ("tenantId", tenant));
    let pairs = version.map(|version| ("version", version)).into_iter().chain(tenant);
    format!("/v1/flows/{}{verb}{}", segment(id), query(pairs))
}

/// Takes versions out of use, or back into it.
async fn use_or_not(
    settings: &Settings,
    at: &FlowPlace,
    id: &str,
    version: Option<String>,
    verb: &str,
) -> Result<Exit, CliError> {
    let body = version.map_or_else(|| json!({}), |version| json!({ "version": version }));
    let versions = |answer: &Value| {
        let columns = [("version", "version"), ("status", "status"), ("hash", "hash")];
        show::rows(&answer["versions"], &columns)
    };
    asking(settings, at).act(&path(id, &format!(":{verb}"), at, None), &body, versions).await?;
    Ok(Exit::Done)
}

/// Issues of some files, and how they are told.
#[derive(Default)]
struct Report {
    files: Vec<Value>,
    lines: Vec<String>,
    issues: Vec<Issue>,
    flows: usize,
}

impl Report {
    fn tell(self, output: Output) -> Result<Exit, CliError> {
        let Self { files, lines, issues, flows } = self;
        let valid = issues.iter().all(|issue| issue.severity != Severity::Error);
        if output == Output::Table {
            if !lines.is_empty() {
                print(&lines.join("\n"))?;
            }
            if valid {
                let plural = if flows == 1 { "flow is" } else { "flows are" };
                let warned = if issues.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", source::summary(&issues))
                };
                tell(&format!("{flows} {plural} valid{warned}"));
            } else {
                tell(&source::summary(&issues));
            }
        } else {
            output.print(&json!({ "valid": valid, "files": files }), |_| String::new())?;
        }
        Ok(if valid { Exit::Done } else { Exit::Invalid })
    }
}

fn validate(files: &[String], manifests: &[PathBuf], output: Output) -> Result<Exit, CliError> {
    let schemas = Arc::new(HandlerSchemas::new(manifests)?);
    let mut report = Report::default();
    for file in &source::expanded(files)? {
        let text = source::read_text(file, FLOW_DOCUMENT_BYTES_MAX)?;
        let (flows, issues) = match source::check_configs(file, &text, Arc::clone(&schemas)) {
            Ok(document) => (document.flows, document.warnings),
            Err(issues) => (Vec::new(), issues),
        };
        report.flows += flows.len();
        report.lines.extend(source::lines(file, &issues));
        let flows: Vec<Value> = flows
            .iter()
            .map(|flow| json!({ "id": flow.id, "version": flow.version.to_string(), "hash": flow.hash }))
            .collect();
        let valid = issues.iter().all(|issue| issue.severity != Severity::Error);
        report.files.push(json!({ "file": file, "valid": valid, "flows": flows, "issues": issues }));
        report.issues.extend(issues);
    }
    report.tell(output)
}

/// Asks a server, whose release may know more or less than this one.
async fn validate_there(files: &[String], client: &Client, output: Output) -> Result<Exit, CliError> {
    let mut reports = Vec::new();
    let mut lines = Vec::new();
    let mut valid = true;
    for file in &source::expanded(files)? {
        let text = source::read_text(file, FLOW_DOCUMENT_BYTES_MAX)?;
        let media = match Format::of_path(file).unwrap_or_else(|| Format::guess(&text)) {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        };
        let mut report = client.post_text("/v1/flows:validate", text, media).await?;
        valid &= report["valid"] == true;
        for issue in report["issues"].as_array().map_or(&[][..], Vec::as_slice) {
            let number = |key: &str| issue[key].as_u64().unwrap_or(1);
            let hint = issue["hint"].as_str().map_or_else(String::new, |hint| format!(" ({hint})"));
            let (severity, message) = (show::line(&issue["severity"]), show::line(&issue["message"]));
            lines.push(format!(
                "{file}:{}:{}: {severity}: {message}{hint}",
                number("line"),
                number("column")
            ));
        }
        report["file"] = json!(file);
        reports.push(report);
    }
    if output == Output::Table && !lines.is_empty() {
        print(&lines.join("\n"))?;
    }
    if output == Output::Table {
        let count: usize = reports.iter().map(|report| report["flows"].as_array().map_or(0, Vec::len)).sum();
        let verdict = if valid { format!("{count} valid") } else { "not valid".to_owned() };
        tell(&format!("flows: {verdict}, says {}", client.base()));
    } else {
        output.print(&json!({ "valid": valid, "files": reports }), |_| String::new())?;
    }
    Ok(if valid { Exit::Done } else { Exit::Invalid })
}

/// Publishes what files hold: all that can be, also when some of it is refused.
async fn publish(files: &[String], asking: &Asking<'_>, at: &FlowPlace) -> Result<Exit, CliError> {
    let mut documents: Vec<(String, Document)> = Vec::new();
    let (mut wrong, mut issues) = (Vec::new(), Vec::new());
    for file in source::expanded(files)? {
        let text = source::read_text(&file, FLOW_DOCUMENT_BYTES_MAX)?;
        match source::check_text(&file, &text) {
            Ok(document) => {
                for line in source::lines(&file, &document.warnings) {
                    tell(&line);
                }
                documents.push((file, document));
            }
            Err(found) => {
                wrong.extend(source::lines(&file, &found));
                issues.extend(found);
            }
        }
    }
    if !issues.is_empty() {
        return Err(CliError::Issues { lines: wrong.join("\n"), summary: source::summary(&issues) });
    }
    let session = asking.open(Access::Act).await?;
    let published = publish_all(&session.client, &documents, at).await;
    let published = session.close(asking.place).await.and(published)?;
    let is_refused = published.iter().any(|row| row["outcome"] == "refused");
    asking.settings.output.print(&json!({ "items": published }), |list| page(list, &PUBLISHED))?;
    Ok(if is_refused { Exit::Failed } else { Exit::Done })
}

async fn publish_all(
    client: &Client,
    documents: &[(String, Document)],
    at: &FlowPlace,
) -> Result<Vec<Value>, CliError> {
    let flows = format!("/v1/flows{}", query(at.tenant.clone().map(|tenant| ("tenantId", tenant))));
    let mut rows = Vec::new();
    for (file, document) in documents {
        for table in &document.tables {
            let mut table = table.clone();
            if let (Some(tenant), true) = (&at.tenant, table.is_object()) {
                table["tenantId"] = json!(tenant);
            }
            let id = show::line(&table["id"]);
            let defined =
                client.ask(Method::PUT, &format!("/v1/tables/{}", segment(&id)), Some(&table)).await;
            let outcome = outcome(defined.map(|_| "defined"), &format!("{file}: table {id}"))?;
            rows.push(json!({ "table": id, "id": format!("table {id}"), "outcome": outcome, "file": file }));
        }
        for flow in &document.flows {
            let name = format!("{file}: {}@{}", flow.id, flow.version);
            let answer = client.ask_for_status(Method::POST, &flows, Some(&flow.source)).await;
            let outcome = outcome(
                answer
                    .map(|(status, _)| if status == StatusCode::CREATED { "published" } else { "unchanged" }),
                &name,
            )?;
            rows.push(json!({
                "id": flow.id, "version": flow.version.to_string(), "hash": flow.hash, "outcome": outcome,
                "file": file,
            }));
        }
    }
    Ok(rows)
}

/// What became of one of several: a refusal of it alone is told and leaves the others as they are.
fn outcome(done: Result<&'static str, CliError>, what: &str) -> Result<&'static str, CliError> {
    match done {
        Ok(word) => Ok(word),
        Err(error @ CliError::Refused { status: 409 | 413 | 422, .. }) => {
            tell(&format!("{what} is refused: {error}"));
            Ok("refused")
        }
        Err(error) => Err(error),
    }
}

/// A published flow, for people.
fn whole(flow: &Value) -> String {
    let versions = flow["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let versions: Vec<String> = versions.iter().map(show::cell).collect();
    let paused =
        if flow["paused"].is_object() { format!("\npaused{}", why(&flow["paused"])) } else { String::new() };
    format!(
        "{}@{}  {}\nhash: {}\nversions: {}{paused}\n\n{}",
        show::cell(&flow["id"]),
        show::cell(&flow["version"]),
        show::cell(&flow["status"]),
        show::cell(&flow["hash"]),
        versions.join(", "),
        yaml(&flow["definition"]),
    )
}

/// What changed, a line each: `+` is new, `-` is gone, `~` is different.
fn differences(diff: &Value) -> String {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let change = |change: &Value| {
        let pointer = show::cell(&change["pointer"]);
        let shown = |key: &str| show::cell(&change[key]);
        match change["kind"].as_str() {
            Some("added") => format!("  + {pointer}: {}", shown("to")),
            Some("removed") => format!("  - {pointer}: {}", shown("from")),
            Some(_) | None => format!("  ~ {pointer}: {} -> {}", shown("from"), shown("to")),
        }
    };
    let steps = &diff["steps"];
    let mut lines = Vec::new();
    lines.extend(list(&steps["added"]).iter().map(|step| format!("+ step {}", show::cell(step))));
    lines.extend(list(&steps["removed"]).iter().map(|step| format!("- step {}", show::cell(step))));
    for changed in list(&steps["changed"]) {
        lines.push(format!("~ step {}", show::cell(&changed["step"])));
        lines.extend(list(&changed["changes"]).iter().map(change));
    }
    let fields = list(&diff["fields"]);
    if !fields.is_empty() {
        lines.push("~ flow".to_owned());
        lines.extend(fields.iter().map(change));
    }
    if lines.is_empty() { "no difference".to_owned() } else { lines.join("\n") }
}
