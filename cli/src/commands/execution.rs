//! `flowmonkey execution …`.

use std::path::Path;

use flowmonkey_core::ids::ExecutionId;
use reqwest::Method;
use serde_json::{Value, json};

use super::explain::{self, explain};
use super::place::{Access, Asking, Session, page};
use super::{logs, tell, watch};
use crate::args::{DEV_DATA_DIR, ExecutionCommand, Filter, Place};
use crate::client::query;
use crate::errors::{CliError, Exit};
use crate::settings::{Settings, shell_word};
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
/// Columns of how an execution stands.
const STATE: [(&str, &str); 3] = [("id", "id"), ("status", "status"), ("waits for", "waitingReason")];
/// Columns of published events.
pub(super) const EVENTS: [(&str, &str); 4] =
    [("id", "id"), ("name", "type"), ("published", "time"), ("data", "data")];

pub(crate) async fn execution(command: ExecutionCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        ExecutionCommand::List { filter, limit, cursor, place } => {
            let mut pairs = pairs(*filter)?;
            pairs.push(("limit".into(), limit.to_string()));
            pairs.extend(cursor.map(|cursor| ("cursor".into(), cursor)));
            let path = format!("/v1/executions{}", searched(&pairs));
            Asking { settings, place: &place }.look(&path, |list| page(list, &COLUMNS)).await
        }
        ExecutionCommand::Count { filter, by_status, place } => {
            let mut pairs = pairs(*filter)?;
            pairs.extend(by_status.then(|| ("by".into(), "status".into())));
            let path = format!("/v1/executions:count{}", searched(&pairs));
            Asking { settings, place: &place }.look(&path, counts).await
        }
        ExecutionCommand::Show { id, place } => {
            Asking { settings, place: &place }.look(&path(&id)?, show::record).await
        }
        ExecutionCommand::History { id, place } => {
            let record = Asking { settings, place: &place }.get(&path(&id)?).await?;
            settings.output.print(&record["history"], show::history)?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Tasks { id, place } => {
            Asking { settings, place: &place }.look(&format!("{}/tasks", path(&id)?), tasks).await
        }
        ExecutionCommand::Children { id, place } => {
            let path = format!("{}/children", path(&id)?);
            Asking { settings, place: &place }.look(&path, |list| page(list, &COLUMNS)).await
        }
        ExecutionCommand::Events { id, place } => {
            let path = format!("{}/events", path(&id)?);
            Asking { settings, place: &place }.look(&path, |list| page(list, &EVENTS)).await
        }
        ExecutionCommand::Logs { id, follow, task, attempt, place } => {
            let asked = logs::Asked { id: execution_id(&id)?, follow, task, attempt };
            logs::logs(&asked, &Asking { settings, place: &place }).await
        }
        ExecutionCommand::Watch { id, children, place } => {
            let asked = watch::Asked { id: execution_id(&id)?, children };
            watch::watch(&asked, &Asking { settings, place: &place }).await
        }
        ExecutionCommand::Explain { id, place } => {
            let path = format!("{}:explain", path(&id)?);
            let session = Session::open(settings, &place, Access::Look).await?;
            let asked =
                explain::Asked { place: place_options(&place, settings), idle: session.is_opened_here() };
            let why = session.client.get(&path).await;
            session.close(&place).await?;
            settings.output.print(&why?, |why| explain(why, &asked))?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Cancel { id, reason, place } => {
            tell_it(settings, &place, &id, "cancel", &json!({ "reason": reason })).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Terminate { id, reason, place } => {
            tell_it(settings, &place, &id, "terminate", &json!({ "reason": reason })).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Pause { id, reason, place } => {
            tell_it(settings, &place, &id, "pause", &json!({ "reason": reason })).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Resume { id, place } => {
            tell_it(settings, &place, &id, "resume", &json!({})).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Retry { id, place } => {
            tell_it(settings, &place, &id, "retry", &json!({})).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Signal { id, name, data, signal_id, place } => {
            let mut body = json!({ "name": name });
            if let Some(data) = data {
                body["data"] = source::read_json(&data, "--data")?;
            }
            if let Some(id) = signal_id {
                body["id"] = json!(id);
            }
            let told = tell_it(settings, &place, &id, "signal", &body).await?;
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
            tell_it(settings, &place, &id, "rerun", &body).await?;
            Ok(Exit::Done)
        }
        ExecutionCommand::Delete { id, terminate, place } => {
            let path = format!("{}?terminate={terminate}", path(&id)?);
            let gone = Asking { settings, place: &place }.send(Method::DELETE, &path, None).await?;
            settings.output.print(&gone, |gone| {
                let count = gone["deleted"].as_u64().unwrap_or(0);
                let more = if count == 1 { String::new() } else { format!(", {count} with its children") };
                format!("{id} is deleted{more}")
            })?;
            Ok(Exit::Done)
        }
    }
}

/// Tells an execution `verb`, prints how it stands after what followed from that, and gives that.
async fn tell_it(
    settings: &Settings,
    place: &Place,
    id: &str,
    verb: &str,
    body: &Value,
) -> Result<Value, CliError> {
    let path = format!("{}:{verb}", path(id)?);
    Asking { settings, place }.act(&path, body, |told| show::rows(&json!([told]), &STATE)).await
}

/// The route of an execution.
fn path(id: &str) -> Result<String, CliError> {
    Ok(format!("/v1/executions/{}", execution_id(id)?))
}

/// `text` as an execution's id.
fn execution_id(text: &str) -> Result<ExecutionId, CliError> {
    text.parse().map_err(|_| {
        CliError::Usage(format!("`{text}` is no execution id: those are `ex_` and 32 hexadecimal digits"))
    })
}

/// What executions are searched by, as the API names it.
fn pairs(filter: Filter) -> Result<Vec<(String, String)>, CliError> {
    let Filter {
        status,
        flow,
        flow_version,
        label,
        tenant,
        created_after,
        created_before,
        updated_after,
        updated_before,
        ended_after,
        ended_before,
        error_code,
        step,
        waiting,
        id_prefix,
        parent,
        children,
    } = filter;
    let named = [
        ("flowId", flow),
        ("version", flow_version),
        ("tenantId", tenant),
        ("createdAfter", created_after),
        ("createdBefore", created_before),
        ("updatedAfter", updated_after),
        ("updatedBefore", updated_before),
        ("endedAfter", ended_after),
        ("endedBefore", ended_before),
        ("errorCode", error_code),
        ("currentStepId", step),
        ("waitingReason", waiting),
        ("id", id_prefix),
        ("parent", parent),
        ("children", children.then(|| "true".to_owned())),
        ("status", (!status.is_empty()).then(|| status.join(","))),
    ];
    let mut pairs: Vec<(String, String)> =
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    for label in label {
        let Some((name, value)) = label.split_once('=') else {
            return Err(CliError::Usage(format!("--label {label}: give NAME=VALUE")));
        };
        pairs.push((format!("label.{name}"), value.to_owned()));
    }
    Ok(pairs)
}

fn searched(pairs: &[(String, String)]) -> String {
    query(pairs.iter().map(|(name, value)| (name.as_str(), value.clone())))
}

/// Options that name the place for another command, each with a space before it.
fn place_options(place: &Place, settings: &Settings) -> String {
    match settings.options() {
        Some(options) => options,
        None if place.data_dir == Path::new(DEV_DATA_DIR) => String::new(),
        None => format!(" --data-dir {}", shell_word(&place.data_dir.to_string_lossy())),
    }
}

fn counts(counted: &Value) -> String {
    let shown = |one: &Value| {
        let more = if one["exact"] == false { " or more" } else { "" };
        format!("{}{more}", show::cell(&one["count"]))
    };
    match counted["counts"].as_object() {
        Some(counts) => show::table(
            &["status", "executions"],
            counts.iter().map(|(status, one)| vec![show::cell(&status.as_str().into()), shown(one)]),
        ),
        None => shown(counted),
    }
}

/// Tasks with their attempts, one row each.
fn tasks(list: &Value) -> String {
    let tasks = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = tasks.iter().flat_map(|task| {
        let row = move |attempt: &Value, outcome: String, at: &Value, took: String, error: &Value| {
            let of_task = ["taskId", "stepId", "handlerType"].map(|key| show::cell(&task[key]));
            let rest = [show::cell(attempt), outcome, show::cell(at), took, show::cell(error)];
            of_task.into_iter().chain(rest).collect::<Vec<_>>()
        };
        let ended = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let ended = ended.iter().map(move |one| {
            let took = show::duration(one["durationMs"].as_u64().unwrap_or(0));
            row(
                &one["attempt"],
                show::cell(&one["outcome"]),
                &one["startedAt"],
                took,
                &one["error"]["message"],
            )
        });
        let out = &task["out"];
        let is_out = out.is_object().then(|| {
            let state = if out["paused"].is_null() { "out" } else { "out, paused" };
            row(&out["attempt"], state.to_owned(), &out["scheduledAt"], String::new(), &Value::Null)
        });
        ended.chain(is_out)
    });
    show::table(&["task", "step", "handler", "attempt", "outcome", "began", "took", "error"], rows)
}
