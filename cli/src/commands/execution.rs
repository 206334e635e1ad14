//! `flowmonkey execution …`.

use std::path::Path;

use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};

use super::explain::{Asked, explain, shell_word};
use super::logs;
use super::place::{Access, Session};
use super::{print, print_json, tell};
use crate::args::{DEV_DATA_DIR, ExecutionCommand, Output, Place};
use crate::client::query;
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
            look(&place, server, &format!("/v1/executions/{}", execution_id(&id)?), show::record).await
        }
        ExecutionCommand::History { id, place } => {
            let path = format!("/v1/executions/{}", execution_id(&id)?);
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
        ExecutionCommand::Logs { id, follow, task, attempt, place } => {
            let asked = logs::Asked { id: execution_id(&id)?, follow, task, attempt };
            logs::logs(&asked, &place, server).await
        }
        ExecutionCommand::Explain { id, place } => {
            let path = format!("/v1/executions/{}:explain", execution_id(&id)?);
            let session = Session::open(&place, server, Access::Look).await?;
            let asked = Asked { place: place_options(&place, server), idle: session.is_opened_here() };
            let why = session.client.get(&path).await;
            session.close(&place).await?;
            match place.output {
                Output::Json => print_json(&why?)?,
                Output::Table => print(&explain(&why?, &asked))?,
            }
            Ok(Exit::Done)
        }
        ExecutionCommand::Cancel { id, reason, place } => {
            act(&place, server, &id, "cancel", &json!({ "reason": reason })).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Pause { id, reason, place } => {
            act(&place, server, &id, "pause", &json!({ "reason": reason })).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Resume { id, place } => {
            act(&place, server, &id, "resume", &json!({})).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Retry { id, place } => {
            act(&place, server, &id, "retry", &json!({})).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Signal { id, name, data, place } => {
            let mut body = json!({ "name": name });
            if let Some(data) = data {
                body["data"] = source::read_json(&data, "--data")?;
            }
            let told = act(&place, server, &id, "signal", &body).await?;
            if told["kept"] == true {
                tell(&format!("kept: nothing waits for `{name}` now"));
            }
            Ok(Exit::Done)
        }
        ExecutionCommand::Rerun { id, from, input, place } => {
            let mut body = json!({ "fromStep": from });
            if input.is_some() {
                body["input"] = source::read_input(input.as_deref())?;
            }
            act(&place, server, &id, "rerun", &body).await?;
            Ok(Exit::Done)
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

/// Tells an execution `verb`, prints how it stands after what followed from that, and gives that.
async fn act(
    place: &Place,
    server: Option<&str>,
    id: &str,
    verb: &str,
    body: &Value,
) -> Result<Value, CliError> {
    let path = format!("/v1/executions/{}", execution_id(id)?);
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
    Ok(told)
}

/// `text` as an execution's id.
fn execution_id(text: &str) -> Result<ExecutionId, CliError> {
    text.parse().map_err(|_| {
        CliError::Usage(format!("`{text}` is no execution id: those are `ex_` and 32 hexadecimal digits"))
    })
}

/// Options that name the place for another command, each with a space before it.
fn place_options(place: &Place, server: Option<&str>) -> String {
    match server {
        Some(server) => format!(" --server {}", shell_word(server)),
        None if place.data_dir == Path::new(DEV_DATA_DIR) => String::new(),
        None => format!(" --data-dir {}", shell_word(&place.data_dir.to_string_lossy())),
    }
}

fn list(page: &Value) -> String {
    let mut text = show::rows(&page["items"], &COLUMNS);
    if let Some(next) = page["nextCursor"].as_str() {
        text.push_str(&format!("\nmore: --cursor {next}"));
    }
    text
}
