//! For those who read the file beside a store.

use std::path::Path;

use sqlx::SqliteConnection;

use super::error;
use super::schema::{self, SchemaError};
use crate::store::StoreError;

/// What SQLite says about the file at `path`, in the words of the record.
pub(in crate::store) fn failed(path: &Path, error: sqlx::Error) -> StoreError {
    error::classify(path, error)
}

/// The schema version of the file; 0: it is empty.
pub(in crate::store) async fn schema_version(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<i64, StoreError> {
    schema::version(connection, &path.display().to_string()).await.map_err(|error| match error {
        SchemaError::Database(error) => failed(path, error),
        SchemaError::Unfit(error) => error,
    })
}
