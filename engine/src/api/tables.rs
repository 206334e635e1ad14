//! Tables that steps write rows into.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Deployer, Viewer};
use super::fields::Fields;
use super::openapi::answers::{RowPage, Table, TablePage};
use super::openapi::bodies::TableBody;
use super::openapi::queries::{PageQuery, TenantQuery};
use super::problem::Problem;
use super::request::{JsonBody, Parameters, Segment};
use crate::store::{Column, TableDefinition};

/// Columns of one table.
const COLUMNS_MAX: usize = 1000;
/// Types of columns.
pub(super) const COLUMN_TYPES: [&str; 5] = ["string", "number", "boolean", "datetime", "json"];

#[utoipa::path(
    get, path = "/v1/tables", tag = "tables", operation_id = "listTables",
    summary = "Tables that are defined",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "all of them", body = TablePage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let tables = api.engine.store().tables(access.visibility()).await?;
    Ok(Json(json!({ "items": tables, "nextCursor": null })))
}

#[utoipa::path(
    put, path = "/v1/tables/{id}", tag = "tables", operation_id = "defineTable",
    summary = "Define a table, or replace its columns",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the table")),
    request_body = TableBody,
    responses((status = 200, description = "the table", body = Table)),
)]
pub(super) async fn define(
    State(api): State<Api>,
    access: Access<Deployer>,
    Segment(id): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let table = definition(&access, id, body)?;
    api.engine.store().define_table(&table, api.engine.now()).await?;
    Ok(Json(json!(table)))
}

/// Rows of a table. One that is not defined has rows, too, once steps have written some.
#[utoipa::path(
    get, path = "/v1/tables/{id}/rows", tag = "tables", operation_id = "listRows",
    summary = "Rows of a table, in the order of insertion",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the table"), TenantQuery, PageQuery),
    responses((status = 200, description = "a page", body = RowPage)),
)]
pub(super) async fn rows(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(table): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let after = parameters.parsed("cursor", "the cursor of a page before");
    let tenant = access.tenant_of(&mut parameters);
    let limit = parameters.limit();
    parameters.finish()?;
    let rows = api.engine.store().table_rows(tenant.as_deref(), &table, after, limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|last| last.sequence.to_string());
    let items: Vec<Value> = rows
        .into_iter()
        .map(|row| {
            json!({
                "id": row.id,
                "row": row.row,
                "executionId": row.execution,
                "insertedAt": row.at.to_rfc3339(),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

fn definition<S>(access: &Access<S>, id: String, body: Option<Value>) -> Result<TableDefinition, Problem> {
    let mut fields = Fields::of(body)?;
    if fields.text("id").is_some_and(|named| named != id) {
        fields.error("id", "`id` differs from the path");
    }
    let tenant = fields.tenant(access);
    let mut columns = Vec::new();
    let mut seen = BTreeSet::new();
    match fields.objects("columns") {
        Some(objects) if objects.len() <= COLUMNS_MAX => {
            for mut object in objects {
                let column = column(&mut object);
                if let Some(column) = &column
                    && !seen.insert(column.id.clone())
                {
                    object.error("id", format!("column `{}` occurs twice", column.id));
                }
                columns.extend(column);
                fields.done_with(object);
            }
        }
        Some(_) => fields.error("columns", format!("a table has at most {COLUMNS_MAX} columns")),
        None => fields.missing("columns"),
    }
    fields.finish()?;
    Ok(TableDefinition { id, tenant, columns })
}

fn column(fields: &mut Fields) -> Option<Column> {
    let id = fields.required_text("id");
    let name = fields.text("name").unwrap_or_default();
    let column_type = fields.required_text("type");
    let required = fields.flag("required");
    if column_type.as_deref().is_some_and(|word| !COLUMN_TYPES.contains(&word)) {
        fields.error("type", format!("`type` must be one of {}", COLUMN_TYPES.join(", ")));
    }
    Some(Column { id: id?, name, column_type: column_type?, required })
}
