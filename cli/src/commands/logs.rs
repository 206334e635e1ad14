//! `flowmonkey execution logs`.

use std::time::Duration;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use serde_json::Value;

use super::place::{Access, Asking};
use super::tell;
use crate::client::{Client, query};
use crate::errors::{CliError, Exit};
use crate::output::{Output, write};
use crate::show;
use crate::signals::Signals;

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

pub(super) async fn logs(asked: &Asked, asking: &Asking<'_>) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    let session = asking.open(Access::Look).await?;
    // Where nobody works on the record, no line will come.
    let follow = asked.follow && !session.is_opened_here();
    if asked.follow && !follow {
        tell("nobody works on this record now: these are all the lines there are");
    }
    let shown = tokio::select! {
        shown = show_lines(&session.client, asked, follow, asking.settings.output) => shown,
        () = signals.next() => Ok(Exit::Interrupted),
    };
    session.close(asking.place).await?;
    shown
}

async fn show_lines(client: &Client, asked: &Asked, follow: bool, output: Output) -> Result<Exit, CliError> {
    let mut after: Option<String> = None;
    let mut is_away = false;
    let mut has_answered = false;
    loop {
        let looked = async {
            // First whether it has ended: results bring their lines before they count.
            let has_ended = !follow || has_ended(client, asked.id).await?;
            Ok::<_, CliError>((has_ended, page(client, asked, after.as_deref()).await?))
        };
        let (has_ended, lines) = match looked.await {
            Ok(found) => found,
            // A server that was there comes again: its lines are in the record.
            Err(CliError::Unreachable(_) | CliError::Refused { status: 429 | 500.., .. })
                if follow && has_answered =>
            {
                if !std::mem::replace(&mut is_away, true) {
                    tell(&format!("{} does not answer; asking again until it does", client.base()));
                }
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        has_answered = true;
        if std::mem::take(&mut is_away) {
            tell(&format!("{} answers again", client.base()));
        }
        if let Some(last) = lines.last() {
            after = Some(format!("{}.{}.{}", last["task"], last["attempt"], last["line"]));
        }
        let text: String = lines.iter().map(|line| output.one(line, readable)).collect();
        if !write(&text)? {
            return Ok(Exit::Done);
        }
        if lines.len() < PAGE {
            if has_ended {
                return Ok(Exit::Done);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
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

/// Whether an execution has ended. Asked of the list, which reads no history.
async fn has_ended(client: &Client, id: ExecutionId) -> Result<bool, CliError> {
    let pairs = [("id", id.to_string()), ("children", "true".to_owned()), ("limit", "1".to_owned())];
    let list = client.get(&format!("/v1/executions{}", query(pairs))).await?;
    let found = &list["items"][0];
    if found.is_null() {
        // It is not there, or not for us: that is told as always.
        client.get(&format!("/v1/executions/{id}")).await?;
    }
    Ok(found["status"].as_str().and_then(Status::parse).is_some_and(Status::is_terminal))
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
