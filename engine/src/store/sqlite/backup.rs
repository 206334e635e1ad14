//! Copies of the record, and whether one is whole.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::schema::{self, SchemaError};
use super::{BUSY_TIMEOUT, SqliteStore, error};
use crate::store::StoreError;

/// Added to the name of a copy while it is written.
const UNFINISHED: &str = ".unfinished";
/// Problems of a damaged file that are named.
const PROBLEMS: usize = 5;

impl SqliteStore {
    /// Copies the record to a new file while work goes on. The copy is one moment of the record, and appears under its
    /// name only once it is whole and on the disk.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file exists or cannot be written, [`StoreError::Full`] without space.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let cannot = |error| error::classify(to, sqlx::Error::Io(error));
        if tokio::fs::try_exists(to).await.map_err(cannot)? {
            return Err(StoreError::Unavailable {
                reason: format!("{} exists already", to.display()),
                source: None,
            });
        }
        let unfinished = unfinished(to);
        if tokio::fs::try_exists(&unfinished).await.map_err(cannot)? {
            tokio::fs::remove_file(&unfinished).await.map_err(cannot)?;
        }
        let name = unfinished.to_str().ok_or_else(|| StoreError::Unavailable {
            reason: format!("{} is not a name in Unicode", to.display()),
            source: None,
        })?;
        let copied = self.copy(name).await;
        if copied.is_err() {
            let removed = tokio::fs::remove_file(&unfinished).await;
            drop(removed);
        }
        copied?;
        let file = tokio::fs::File::open(&unfinished).await.map_err(cannot)?;
        file.sync_all().await.map_err(cannot)?;
        tokio::fs::rename(&unfinished, to).await.map_err(cannot)?;
        if let Some(directory) = to.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            let directory = tokio::fs::File::open(directory).await.map_err(cannot)?;
            directory.sync_all().await.map_err(cannot)?;
        }
        Ok(())
    }

    async fn copy(&self, name: &str) -> Result<(), StoreError> {
        // A connection of its own: the readers may only read, and the writer must not wait for the copy.
        let options = SqliteConnectOptions::new().filename(&self.path).busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options.disable_statement_logging())
            .await
            .map_err(|error| self.classify(error))?;
        let copied = sqlx::query("VACUUM INTO ?1").bind(name.to_owned()).execute(&mut connection).await;
        connection.close().await.map_err(|error| self.classify(error))?;
        copied.map(drop).map_err(|error| error::classify(Path::new(name), error))
    }
}

fn unfinished(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Checks that the file at `path` is a whole record which this program can open. Returns its schema version.
///
/// # Errors
/// [`StoreError::Corrupt`] names the damage, [`StoreError::Schema`] a newer schema that is not for it, [`StoreError::Unavailable`] a file
/// that cannot be read.
pub async fn verify(path: &Path) -> Result<i64, StoreError> {
    let fail = |error| error::classify(path, error);
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
    let mut connection =
        SqliteConnection::connect_with(&options.disable_statement_logging()).await.map_err(fail)?;
    let checked = check(&mut connection, path).await;
    connection.close().await.map_err(fail)?;
    checked
}

async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    let fail = |error| error::classify(path, error);
    let corrupt = |reason: String| StoreError::Corrupt { what: path.display().to_string(), reason };
    let version = match schema::version(connection, &path.display().to_string()).await {
        Ok(0) => return Err(corrupt("it is an empty database".into())),
        Ok(version) => version,
        Err(SchemaError::Unfit(error)) => return Err(error),
        Err(SchemaError::Database(error)) => return Err(fail(error)),
    };
    let problems: Vec<String> =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut *connection).await.map_err(fail)?;
    if problems != ["ok"] {
        return Err(corrupt(problems.into_iter().take(PROBLEMS).collect::<Vec<_>>().join("; ")));
    }
    let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_optional(connection).await.map_err(fail)?;
    match dangling {
        Some(_) => Err(corrupt("rows refer to others that are missing".into())),
        None => Ok(version),
    }
}
