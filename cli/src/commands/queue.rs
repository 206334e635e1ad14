//! `flowmonkey queue …`, `flowmonkey worker list` and `flowmonkey worker drain`.

use serde_json::{Value, json};

use super::place::Asking;
use crate::args::{QueueCommand, WorkersCommand};
use crate::client::segment;
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::show;

pub(crate) async fn queue(command: QueueCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        QueueCommand::List { place } => Asking { settings, place: &place }.look("/v1/queues", queues).await,
        QueueCommand::Pause { pool, reason, place } => {
            let path = format!("/v1/queues/{}:pause", segment(&pool));
            Asking { settings, place: &place }.act(&path, &json!({ "reason": reason }), held).await?;
            Ok(Exit::Done)
        }
        QueueCommand::Resume { pool, place } => {
            let path = format!("/v1/queues/{}:resume", segment(&pool));
            Asking { settings, place: &place }.act(&path, &json!({}), held).await?;
            Ok(Exit::Done)
        }
    }
}

pub(crate) async fn workers(command: WorkersCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        WorkersCommand::List { place } => {
            Asking { settings, place: &place }.look("/v1/workers", list_of_workers).await
        }
        WorkersCommand::Drain { worker, place } => {
            let path = format!("/v1/workers/{}:drain", segment(&worker));
            let drained = |_: &Value| {
                format!(
                    "{worker} is asked to leave: it takes nothing new, and ends or gives back what it runs"
                )
            };
            Asking { settings, place: &place }.act(&path, &json!({}), drained).await?;
            Ok(Exit::Done)
        }
    }
}

/// What became of pausing or resuming a pool or a flow.
pub(super) fn held(answer: &Value) -> String {
    let name = show::cell(if answer["pool"].is_null() { &answer["flowId"] } else { &answer["pool"] });
    let state = if answer["paused"] == true { "paused" } else { "not paused" };
    let before = if answer["changed"] == false { ", as it was before" } else { "" };
    format!("{name} is {state}{before}{}", why(&answer["pause"]))
}

/// Who paused it, and why; empty when nobody has.
pub(super) fn why(pause: &Value) -> String {
    if !pause.is_object() {
        return String::new();
    }
    let reason = pause["reason"].as_str().map_or_else(String::new, |reason| format!(": {reason}"));
    show::cell(
        &format!(" (since {} by {}{reason})", show::line(&pause["since"]), show::line(&pause["by"])).into(),
    )
}

fn queues(list: &Value) -> String {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = items.iter().map(|queue| {
        let age = queue["oldestAgeMs"].as_u64().map_or_else(String::new, show::duration);
        let paused = if queue["paused"].is_object() { "paused" } else { "" };
        let cells = ["pool", "ready.high", "ready.normal", "ready.low", "inFlight", "results"];
        let cells = cells.map(|key| show::cell(show::at(queue, key)));
        cells.into_iter().chain([age, format!("{paused}{}", why(&queue["paused"]))]).collect()
    });
    show::table(&["pool", "high", "normal", "low", "in flight", "results", "oldest", "state"], rows)
}

fn list_of_workers(list: &Value) -> String {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = items.iter().map(|worker| {
        let words = |key: &str| {
            let words = worker[key].as_array().map_or(&[][..], Vec::as_slice);
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            show::cell(&words.join(", ").into())
        };
        let state = if worker["draining"] == true { "draining" } else { "works" };
        vec![
            show::cell(&worker["worker"]),
            state.to_owned(),
            format!("{}/{}", show::cell(&worker["running"]), show::cell(&worker["slots"])),
            words("pools"),
            show::cell(&worker["region"]),
            show::cell(&worker["version"]),
            worker["silentMs"].as_u64().map_or_else(String::new, show::duration),
        ]
    });
    show::table(&["worker", "state", "busy", "pools", "region", "version", "silent for"], rows)
}
