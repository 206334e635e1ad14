//! `flowmonkey execution logs`.

use std::time::Duration;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use serde_json::Value;

use super::place::{Access, Session};
use super::{print, tell};
use crate::args::{Output, Place};
use crate::client::{Client, query};
use crate::errors::{CliError, Exit};
use crate::show;

/// Lines that are asked for at once.
const PAGE: usize = 500;
/// How often a follower asks for more.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Whose lines, and how.
pub(super) struct Asked {
    pub(super) id: ExecutionId,
    pub(super) follow: bool,
    pub(super) task: Option<u32>,
    pub(super) attempt: Option<u32>,
}

pub(super) async fn logs(asked: &Asked, place: &Place, server: Option<&str>) -> Result<Exit, CliError> {
    let session = Session::open(place, server, Access::Look).await?;
    // Where nobody works on the record, no line will come.
    let follow = asked.follow && !session.is_opened_here();
    if asked.follow && !follow {
        tell("nobody works on this record now: these are all the lines there are");
    }
    let shown = show_lines(&session.client, asked, follow, place.output).await;
    session.close(place).await?;
    shown?;
    Ok(Exit::Done)
}

async fn show_lines(client: &Client, asked: &Asked, follow: bool, output: Output) -> Result<(), CliError> {
    let mut after = None;
    loop {
        // First whether it has ended: results bring their lines before they count.
        let has_ended = !follow || has_ended(client, asked.id).await?;
        loop {
            let lines = page(client, asked, after.as_deref()).await?;
            let Some(last) = lines.last() else { break };
            after = Some(format!("{}.{}.{}", last["task"], last["attempt"], last["line"]));
            let text = lines.iter().map(|line| match output {
                Output::Json => line.to_string() + "\n",
                Output::Table => readable(line) + "\n",
            });
            print(&text.collect::<String>())?;
            if lines.len() < PAGE {
                break;
            }
        }
        if has_ended {
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn page(client: &Client, asked: &Asked, after: Option<&str>) -> Result<Vec<Value>, CliError> {
    let mut pairs = vec![("limit", PAGE.to_string())];
    pairs.extend(asked.task.map(|task| ("task", task.to_string())));
    pairs.extend(asked.attempt.map(|attempt| ("attempt", attempt.to_string())));
    pairs.extend(after.map(|after| ("after", after.to_owned())));
    let mut page = client.get(&format!("/v1/executions/{}/logs{}", asked.id, query(pairs))).await?;
    match page["items"].take() {
        Value::Array(items) => Ok(items),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Ok(Vec::new())
        }
    }
}

async fn has_ended(client: &Client, id: ExecutionId) -> Result<bool, CliError> {
    let record = client.get(&format!("/v1/executions/{id}")).await?;
    Ok(record["status"].as_str().and_then(Status::parse).is_some_and(Status::is_terminal))
}

/// One line for people.
fn readable(line: &Value) -> String {
    let text = |key: &str| show::line(&line[key]);
    let attempt = match line["attempt"].as_u64() {
        None | Some(1) => String::new(),
        Some(attempt) => format!("#{attempt}"),
    };
    format!("{}  {:5}  {}{attempt}  {}", text("at"), text("level"), text("stepId"), text("message"))
}
