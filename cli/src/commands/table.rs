//! `flowmonkey table …`.

use reqwest::Method;
use serde_json::Value;

use super::place::{Access, Asking, Session};
use crate::args::TableCommand;
use crate::client::{query, segment};
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::{show, source};

pub(crate) async fn table(command: TableCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        TableCommand::List { place } => Asking { settings, place: &place }.look("/v1/tables", tables).await,
        TableCommand::Rows { table, after, limit, place } => {
            let mut pairs = vec![("limit", limit.to_string())];
            pairs.extend(after.map(|after| ("cursor", after.to_string())));
            let path = format!("/v1/tables/{}/rows{}", segment(&table), query(pairs));
            let session = Session::open(settings, &place, Access::Look).await?;
            let page = rows_of(&session, &table, &path).await;
            session.close(&place).await?;
            settings.output.print(&page?, rows)?;
            Ok(Exit::Done)
        }
        TableCommand::Define { definition, place } => {
            let definition = source::read_json(&definition, "the definition")?;
            let Some(id) = definition["id"].as_str() else {
                return Err(CliError::Usage("the definition must be an object with an `id`".into()));
            };
            let path = format!("/v1/tables/{}", segment(id));
            let asking = Asking { settings, place: &place };
            let defined = asking.send(Method::PUT, &path, Some(&definition)).await?;
            settings.output.print(&defined, |_| format!("table {id} is defined"))?;
            Ok(Exit::Done)
        }
    }
}

/// A page of rows. A table without any must at least be defined.
async fn rows_of(session: &Session, table: &str, path: &str) -> Result<Value, CliError> {
    let page = session.client.get(path).await?;
    if page["items"].as_array().is_some_and(|items| !items.is_empty()) {
        return Ok(page);
    }
    let defined = session.client.get("/v1/tables").await?;
    let defined = defined["items"].as_array().map_or(&[][..], Vec::as_slice);
    let ids: Vec<&str> = defined.iter().filter_map(|table| table["id"].as_str()).collect();
    if ids.contains(&table) {
        return Ok(page);
    }
    let known =
        if ids.is_empty() { "none is defined".into() } else { format!("defined are {}", ids.join(", ")) };
    Err(CliError::Usage(format!("there is no table `{table}` with rows; {known}")))
}

fn tables(page: &Value) -> String {
    let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
    let columns = |table: &Value| {
        let columns = table["columns"].as_array().map_or(&[][..], Vec::as_slice);
        let named = columns.iter().map(|column| {
            let required = if column["required"] == true { "!" } else { "" };
            format!("{}: {}{required}", show::cell(&column["id"]), show::cell(&column["type"]))
        });
        named.collect::<Vec<_>>().join(", ")
    };
    show::table(
        &["table", "columns"],
        items.iter().map(|table| vec![show::cell(&table["id"]), columns(table)]),
    )
}

fn rows(page: &Value) -> String {
    let mut text = show::rows(
        &page["items"],
        &[("id", "id"), ("row", "row"), ("execution", "executionId"), ("inserted", "insertedAt")],
    );
    if let Some(next) = page["nextCursor"].as_str() {
        text.push_str(&format!("\nmore: --after {next}"));
    }
    text
}
