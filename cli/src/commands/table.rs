//! `flowmonkey table …`.

use serde_json::Value;

use super::execution::look;
use super::place::{Access, Session};
use super::{print, print_json};
use crate::args::{Output, TableCommand};
use crate::client::{query, segment};
use crate::errors::{CliError, Exit};
use crate::{show, source};

pub(crate) async fn table(command: TableCommand, server: Option<&str>) -> Result<Exit, CliError> {
    match command {
        TableCommand::List { place } => look(&place, server, "/v1/tables", tables).await,
        TableCommand::Rows { table, after, limit, place } => {
            let mut pairs = vec![("limit", limit.to_string())];
            pairs.extend(after.map(|after| ("cursor", after.to_string())));
            let path = format!("/v1/tables/{}/rows{}", segment(&table), query(pairs));
            look(&place, server, &path, rows).await
        }
        TableCommand::Define { definition, place } => {
            let definition = source::read_json(&definition, "the definition")?;
            let Some(id) = definition["id"].as_str() else {
                return Err(CliError::Usage("the definition must be an object with an `id`".into()));
            };
            let session = Session::open(&place, server, Access::Act).await?;
            let defined = session.client.put(&format!("/v1/tables/{}", segment(id)), &definition).await;
            let defined = session.close(&place).await.and(defined)?;
            match place.output {
                Output::Json => print_json(&defined)?,
                Output::Table => print(&format!("table {id} is defined"))?,
            }
            Ok(Exit::Done)
        }
    }
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
