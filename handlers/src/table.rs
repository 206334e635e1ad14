//! `table-insert`: inserts rows into a table. The rows travel with the result, so that each is inserted exactly once.

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::wire::TableRow;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Builder;

use crate::config::{ConfigError, Fields, at_path};
use crate::schema::{Table, anything, object, optional, required, required_text, text};

const TABLE_INSERT_FAILED: &str = "TABLE_INSERT_FAILED";
/// Rows that one step may insert.
const ROWS_MAX: usize = 10_000;
const FIELDS: Table = &[&[
    required("tableId", required_text, "The table."),
    required(
        "mappings",
        mappings_schema,
        "`{ sourcePath, column }`: a dotted path within the input, and the column.",
    ),
    optional("staticValues", object, "Column to value; mapped columns win."),
]];

fn mappings_schema() -> Value {
    let item = json!({
        "type": "object",
        "properties": { "sourcePath": text(), "column": anything(), "columnId": anything() },
        "required": ["sourcePath"],
        // Pipes call the column `columnId`; the first of the two that is a text counts.
        "anyOf": [
            { "required": ["column"], "properties": { "column": text() } },
            { "required": ["columnId"], "properties": { "columnId": text() } },
        ],
    });
    json!({ "type": "array", "items": item })
}

/// The handler `table-insert`.
#[derive(Debug)]
pub struct TableInsert(Manifest);

impl Default for TableInsert {
    fn default() -> Self {
        Self(crate::manifest("table-insert", "Inserts rows into a table", FIELDS))
    }
}

/// Which table, and where the columns' values come from.
#[derive(Debug)]
struct Insert<'a> {
    table_id: &'a str,
    /// Path within the input, and the column.
    mappings: Vec<(&'a str, &'a str)>,
    static_values: Option<&'a Map<String, Value>>,
}

impl<'a> Insert<'a> {
    fn parse(fields: &Fields<'a>) -> Result<Self, ConfigError> {
        let mappings = fields.list("mappings")?.ok_or_else(|| fields.error("mappings", "is required"))?;
        let mapping = |(index, value): (usize, &'a Value)| {
            let text = |name: &str| value.get(name).and_then(Value::as_str);
            let wrong = |name: &str| fields.error(&format!("mappings[{index}].{name}"), "must be a string");
            let path = text("sourcePath").ok_or_else(|| wrong("sourcePath"))?;
            // Pipes call the same thing `columnId`.
            let column = text("column").or_else(|| text("columnId")).ok_or_else(|| wrong("column"))?;
            Ok((path, column))
        };
        Ok(Self {
            table_id: fields.required_text("tableId")?,
            mappings: mappings.iter().enumerate().map(mapping).collect::<Result<_, ConfigError>>()?,
            static_values: fields.object("staticValues")?,
        })
    }

    /// The row of one source value; a path that leads nowhere leaves its column out.
    fn row(&self, source: &Value, row_id: String) -> TableRow {
        let mut row = self.static_values.cloned().unwrap_or_default();
        for (path, column) in &self.mappings {
            if let Some(value) = at_path(source, path) {
                row.insert((*column).to_owned(), value.clone());
            }
        }
        TableRow { table_id: self.table_id.into(), row_id, row }
    }
}

/// The id of the `index`-th row: the same in every attempt of one visit of the step.
fn row_id(idempotency_key: &str, index: usize) -> String {
    let mut digest = Sha256::new();
    digest.update(idempotency_key);
    digest.update([0]);
    digest.update(index.to_string());
    let digest = digest.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[async_trait]
impl Handler for TableInsert {
    fn manifest(&self) -> &Manifest {
        &self.0
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let insert = Insert::parse(&fields).map_err(|error| error.into_failure(TABLE_INSERT_FAILED))?;
        fields.warn_unknown(task, FIELDS);
        let sources = match task.input() {
            Value::Array(items) => items.as_slice(),
            one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                std::slice::from_ref(one)
            }
        };
        if sources.len() > ROWS_MAX {
            let message = format!("{} rows are over the limit of {ROWS_MAX} for one step", sources.len());
            return Err(Failure::terminal(TABLE_INSERT_FAILED, message));
        }
        let ids: Vec<String> =
            (0..sources.len()).map(|index| row_id(task.idempotency_key(), index)).collect();
        for (source, id) in sources.iter().zip(&ids) {
            task.insert_row(insert.row(source, id.clone()));
        }
        Ok(Completion::output(if task.input().is_array() {
            json!({ "rowIds": ids, "success": true })
        } else {
            json!({ "rowId": ids.first(), "success": true })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ids_are_stable_and_differ() {
        assert_eq!(row_id("key", 0), row_id("key", 0));
        assert_ne!(row_id("key", 0), row_id("key", 1));
        assert_ne!(row_id("key", 0), row_id("other", 0));
        // The parts cannot run into each other.
        assert_ne!(row_id("key1", 1), row_id("key", 11));
    }

    #[test]
    fn a_row_is_made_of_static_values_and_mapped_paths() {
        let config = json!({
            "tableId": "orders",
            "mappings": [{ "sourcePath": "order.id", "column": "id" }, { "sourcePath": "none", "column": "x" }],
            "staticValues": { "source": "web", "id": "overwritten" },
        });
        let insert = Insert::parse(&Fields::new(&config).unwrap()).unwrap();
        let row = insert.row(&json!({ "order": { "id": 7 } }), "r".into());
        assert_eq!(row.row.into_iter().collect::<Value>(), json!({ "source": "web", "id": 7 }));
        assert_eq!((row.table_id.as_str(), row.row_id.as_str()), ("orders", "r"));
    }
}
