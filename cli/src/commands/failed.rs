//! `flowmonkey failed …` and `flowmonkey task …`.

use serde_json::{Value, json};

use super::place::{Asking, page};
use crate::args::{FailedCommand, TaskCommand};
use crate::client::{query, segment};
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::show;

/// Columns of parked tasks.
const COLUMNS: [(&str, &str); 7] = [
    ("task", "taskId"),
    ("state", "state"),
    ("step", "stepId"),
    ("handler", "handlerType"),
    ("failed", "failedAt"),
    ("code", "error.code"),
    ("error", "error.message"),
];

pub(crate) async fn failed(command: FailedCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        FailedCommand::List { all, handler, flow, code, execution, since, until, limit, cursor, place } => {
            let mut pairs = vec![("limit", limit.to_string())];
            let given = [
                ("state", all.then(|| "all".to_owned())),
                ("handler", handler),
                ("flow", flow),
                ("code", code),
                ("execution", execution),
                ("since", since),
                ("until", until),
                ("cursor", cursor),
            ];
            pairs.extend(given.into_iter().filter_map(|(key, value)| Some((key, value?))));
            let path = format!("/v1/failed-tasks{}", query(pairs));
            Asking { settings, place: &place }.look(&path, |list| page(list, &COLUMNS)).await
        }
        FailedCommand::Show { id, place } => {
            let path = format!("/v1/failed-tasks/{}", segment(&id));
            Asking { settings, place: &place }.look(&path, show::fields).await
        }
        FailedCommand::Replay { id, place } => {
            let path = format!("/v1/failed-tasks/{}:replay", segment(&id));
            Asking { settings, place: &place }.act(&path, &json!({}), settled).await?;
            Ok(Exit::Done)
        }
        FailedCommand::Discard { id, reason, place } => {
            let path = format!("/v1/failed-tasks/{}:discard", segment(&id));
            Asking { settings, place: &place }.act(&path, &json!({ "reason": reason }), settled).await?;
            Ok(Exit::Done)
        }
    }
}

pub(crate) async fn task(command: TaskCommand, settings: &Settings) -> Result<Exit, CliError> {
    let TaskCommand::Show { id, place } = command;
    let path = format!("/v1/tasks/{}", segment(&id));
    Asking { settings, place: &place }.look(&path, show::fields).await
}

fn settled(task: &Value) -> String {
    let columns = [
        ("task", "taskId"),
        ("state", "state"),
        ("execution", "executionId"),
        ("status", "executionStatus"),
        ("waits for", "waitingReason"),
    ];
    show::rows(&json!([task]), &columns)
}
