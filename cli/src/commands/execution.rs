//! `flowmonkey execution …`.

use serde_json::{Value, json};

use super::place::{Access, Session};
use super::{print, print_json};
use crate::args::{ExecutionCommand, Output, Place};
use crate::client::{query, segment};
use crate::errors::{CliError, Exit};
use crate::{show, source};

/// Columns of a list.
const COLUMNS: [(&str, &str); 6] = [
    ("id", "id"),
    ("flow", "flowId"),
    ("status", "status"),
    ("step", "currentStepId"),
    ("waits for", "waitingReason"),
    ("updated", "updatedAt"),
];

pub(crate) async fn execution(command: ExecutionCommand, server: Option<&str>) -> Result<Exit, CliError> {
    match command {
        ExecutionCommand::List { status, flow, label, limit, cursor, place } => {
            let mut pairs = vec![("limit", limit.to_string())];
            pairs.extend(status.into_iter().map(|status| ("status", status)));
            pairs.extend(flow.map(|flow| ("flowId", flow)));
            pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
            let mut named = Vec::with_capacity(label.len());
            for label in label {
                let Some((name, value)) = label.split_once('=') else {
                    return Err(CliError::Usage(format!("--label {label}: give NAME=VALUE")));
                };
                named.push((format!("label.{name}"), value.to_owned()));
            }
            let labels = named.iter().map(|(name, value)| (name.as_str(), value.clone()));
            let path = format!("/v1/executions{}", query(pairs.into_iter().chain(labels)));
            look(&place, server, &path, list).await
        }
        ExecutionCommand::Show { id, place } => {
            look(&place, server, &format!("/v1/executions/{}", segment(&id)), show::record).await
        }
        ExecutionCommand::History { id, place } => {
            let path = format!("/v1/executions/{}", segment(&id));
            let session = Session::open(&place, server, Access::Look).await?;
            let record = session.client.get(&path).await;
            session.close(&place).await?;
            let history = &record?["history"];
            match place.output {
                Output::Json => print_json(history)?,
                Output::Table => print(&show::history(history))?,
            }
            Ok(Exit::Done)
        }
        ExecutionCommand::Explain { id, place } => {
            let path = format!("/v1/executions/{}:explain", segment(&id));
            look(&place, server, &path, explain).await
        }
        ExecutionCommand::Cancel { id, reason, place } => {
            act(&place, server, &id, "cancel", &json!({ "reason": reason })).await
        }
        ExecutionCommand::Pause { id, reason, place } => {
            act(&place, server, &id, "pause", &json!({ "reason": reason })).await
        }
        ExecutionCommand::Resume { id, place } => act(&place, server, &id, "resume", &json!({})).await,
        ExecutionCommand::Retry { id, place } => act(&place, server, &id, "retry", &json!({})).await,
        ExecutionCommand::Signal { id, name, data, place } => {
            let mut body = json!({ "name": name });
            if let Some(data) = data {
                body["data"] = source::read_json(&data, "--data")?;
            }
            act(&place, server, &id, "signal", &body).await
        }
        ExecutionCommand::Rerun { id, from, input, place } => {
            let mut body = json!({ "fromStep": from });
            if input.is_some() {
                body["input"] = source::read_input(input.as_deref())?;
            }
            act(&place, server, &id, "rerun", &body).await
        }
    }
}

/// Asks for `path` and prints the answer.
pub(crate) async fn look(
    place: &Place,
    server: Option<&str>,
    path: &str,
    shown: impl Fn(&Value) -> String,
) -> Result<Exit, CliError> {
    let session = Session::open(place, server, Access::Look).await?;
    let answer = session.client.get(path).await;
    session.close(place).await?;
    let answer = answer?;
    match place.output {
        Output::Json => print_json(&answer)?,
        Output::Table => print(&shown(&answer))?,
    }
    Ok(Exit::Done)
}

/// Tells an execution `verb` and prints how it stands after what followed from that.
async fn act(
    place: &Place,
    server: Option<&str>,
    id: &str,
    verb: &str,
    body: &Value,
) -> Result<Exit, CliError> {
    let path = format!("/v1/executions/{}", segment(id));
    let session = Session::open(place, server, Access::Act).await?;
    let told = session.client.post(&format!("{path}:{verb}"), body).await;
    let told = session.close(place).await.and(told)?;
    match place.output {
        Output::Json => print_json(&told)?,
        Output::Table => {
            let rows = json!([told]);
            print(&show::rows(&rows, &[("id", "id"), ("status", "status"), ("waits for", "waitingReason")]))?;
        }
    }
    Ok(Exit::Done)
}

fn list(page: &Value) -> String {
    let mut text = show::rows(&page["items"], &COLUMNS);
    if let Some(next) = page["nextCursor"].as_str() {
        text.push_str(&format!("\nmore: --cursor {next}"));
    }
    text
}

/// An explanation in sentences.
fn explain(why: &Value) -> String {
    let mut lines = vec![format!("{}  {}", show::cell(&why["id"]), show::cell(&why["status"]))];
    if let Some(step) = why["currentStepId"].as_str() {
        lines.push(format!("at step: {step}"));
    }
    if let Some(reason) = why["waitingReason"].as_str() {
        lines.push(format!("waits for: {reason}"));
    }
    if let Some(cause) = why["liveCause"].as_object() {
        for (key, value) in cause.iter().filter(|(_, value)| !value.is_null()) {
            lines.push(format!("  {key}: {}", show::cell(value)));
        }
    }
    if let Some(wake) = why["nextWakeAt"].as_str() {
        lines.push(format!("time moves it at: {wake}"));
    }
    if let Some(queue) = why["queue"].as_object() {
        lines.push("queue:".into());
        lines.extend(queue.iter().map(|(key, value)| format!("  {key}: {}", show::cell(value))));
    }
    lines.join("\n")
}
