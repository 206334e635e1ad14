//! One row on its way: read from SQLite by the types of its columns, written as Postgres takes it in `COPY … FROM STDIN`.

use std::fmt::{Display, Write};

use flowmonkey_core::execution::Execution;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};
use uuid::Uuid;

use super::tables::{Column, Kind, Table};
use crate::store::StoreError;
use crate::store::encode;

/// How `COPY` spells a value that is missing.
const NULL: &str = "\\N";

/// Appends the row to `lines`.
///
/// # Errors
/// [`StoreError::Corrupt`] names the table and the column that cannot be understood.
pub(super) fn append(lines: &mut String, table: &Table, row: &SqliteRow) -> Result<(), StoreError> {
    for (index, column) in table.columns.iter().enumerate() {
        if index > 0 {
            lines.push('\t');
        }
        value(lines, table, column, row, index)?;
    }
    lines.push('\n');
    Ok(())
}

fn value(
    lines: &mut String,
    table: &Table,
    column: &Column,
    row: &SqliteRow,
    index: usize,
) -> Result<(), StoreError> {
    let wrong =
        |reason: String| StoreError::Corrupt { what: format!("{}.{}", table.name, column.name), reason };
    match column.kind {
        Kind::Id => {
            let bytes: Option<&[u8]> = get(row, index).map_err(wrong)?;
            let id = bytes.map(Uuid::from_slice).transpose().map_err(|error| wrong(error.to_string()))?;
            show(lines, id);
        }
        Kind::Integer => show(lines, get::<Option<i64>>(row, index).map_err(wrong)?),
        Kind::Real => show(lines, get::<Option<f64>>(row, index).map_err(wrong)?),
        Kind::Flag => show(lines, get::<Option<bool>>(row, index).map_err(wrong)?),
        Kind::Text => escape(lines, get(row, index).map_err(wrong)?),
        Kind::Bytes => {
            let bytes: Option<&[u8]> = get(row, index).map_err(wrong)?;
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            // In `COPY` a backslash is two.
            show(lines, bytes.map(|bytes| format!("\\\\x{}", hex(bytes))));
        }
        Kind::Pool => {
            let state: Option<&str> = get(row, index).map_err(wrong)?;
            let execution: Option<Execution> =
                state.map(serde_json::from_str).transpose().map_err(|error| wrong(error.to_string()))?;
            let pool = match &execution {
                Some(execution) => {
                    let task = execution.task();
                    Some(task.ok_or_else(|| wrong("no task is out in its state".into()))?.pool.as_str())
                }
                None => None,
            };
            escape(lines, pool);
        }
    }
    Ok(())
}

fn get<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, index: usize) -> Result<T, String> {
    row.try_get(index).map_err(|error| error.to_string())
}

/// A value whose text needs no escapes.
fn show(lines: &mut String, value: Option<impl Display>) {
    match value {
        // Writing to a string cannot fail.
        Some(value) => drop(write!(lines, "{value}")),
        None => lines.push_str(NULL),
    }
}

fn escape(lines: &mut String, text: Option<&str>) {
    let Some(text) = text else {
        lines.push_str(NULL);
        return;
    };
    // Postgres holds no zero characters; ours are in JSON, where they are escaped.
    for character in encode::text(text).chars() {
        match character {
            '\\' => lines.push_str("\\\\"),
            '\t' => lines.push_str("\\t"),
            '\n' => lines.push_str("\\n"),
            '\r' => lines.push_str("\\r"),
            other => lines.push(other),
        }
    }
}
