//! `flowmonkey event …`.

use serde_json::{Value, json};

use super::execution::EVENTS;
use super::place::{Asking, page};
use crate::args::EventCommand;
use crate::client::query;
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::{show, source};

pub(crate) async fn event(command: EventCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        EventCommand::Publish { name, data, event_id, tenant, place } => {
            let mut body = json!({ "name": name });
            if let Some(data) = data {
                body["data"] = source::read_json(&data, "--data")?;
            }
            if let Some(id) = event_id {
                body["id"] = json!(id);
            }
            let path = format!("/v1/events{}", query(tenant.map(|tenant| ("tenantId", tenant))));
            Asking { settings, place: &place }.act(&path, &body, published).await?;
            Ok(Exit::Done)
        }
        EventCommand::List { name, source, since, until, limit, cursor, place } => {
            let mut pairs = vec![("limit", limit.to_string())];
            let given =
                [("name", name), ("source", source), ("since", since), ("until", until), ("cursor", cursor)];
            pairs.extend(given.into_iter().filter_map(|(key, value)| Some((key, value?))));
            let path = format!("/v1/events{}", query(pairs));
            Asking { settings, place: &place }.look(&path, |list| page(list, &EVENTS)).await
        }
    }
}

fn published(answer: &Value) -> String {
    let id = show::cell(&answer["id"]);
    if answer["created"] == false {
        return format!("event {id} was published before: it counts once");
    }
    format!("event {id} is published")
}
