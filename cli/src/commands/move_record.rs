//! `flowmonkey move`: an embedded installation becomes a distributed one, running executions included.

use std::path::{Path, PathBuf};

use flowmonkey_engine::store::{
    PostgresOptions, SqliteOptions, SqliteStore, StoreError, TransferError, TransferProgress,
    TransferredTable, transfer, verify,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::tell;
use crate::args::{DatabaseArgs, MoveArgs};
use crate::distributed::connect;
use crate::embedded::data_dir::{self, DataDir, Ownership, owned};
use crate::errors::{CliError, Exit};
use crate::output::Output;
use crate::show;

/// Begins the name of a source.
const SQLITE: &str = "sqlite:";
/// Added to the name of a record that has been moved, so that nothing goes on in it by mistake.
const MOVED: &str = ".moved";
const BAR: &str = "{bar:40} {human_pos} of {human_len} rows  {msg}";

pub(crate) async fn move_record(args: MoveArgs, output: Output) -> Result<Exit, CliError> {
    let source = Source::open(&args.from).await?;
    let database = DatabaseArgs { database: args.to.clone(), pooler: args.pooler, no_migrate: false };
    let carried = carry(&source, connect::database_options(&database)).await;
    let kept = match &carried {
        Ok(_) => source.retire().await,
        Err(_) => {
            source.close().await;
            Ok(None)
        }
    };
    let tables = carried?;
    let rows: serde_json::Map<_, _> =
        tables.iter().map(|moved| (moved.table.to_owned(), json!(moved.rows))).collect();
    output.print(&json!({ "rows": rows }), |_| {
        let rows = tables.iter().map(|moved| vec![moved.table.to_owned(), moved.rows.to_string()]);
        show::table(&["table", "rows"], rows)
    })?;
    if let Some(kept) = kept? {
        tell(&format!("the old record is kept as {}; nothing goes on in it", kept.display()));
    }
    tell(
        "\nNext, with the handlers that `dev` had:\n  flowmonkey engine --database URL --redis URL\n  flowmonkey worker \
         --engine URL --redis URL\nWhat was unfinished goes on then; tasks that were out are published again.",
    );
    Ok(Exit::Done)
}

/// Where the record comes from.
struct Source {
    database: PathBuf,
    /// The data directory, which nobody else may use meanwhile, and its record; none: the file is a backup.
    owned: Option<(DataDir, SqliteStore)>,
}

impl Source {
    async fn open(from: &str) -> Result<Self, CliError> {
        let path =
            from.strip_prefix(SQLITE).filter(|path| !path.is_empty()).map(Path::new).ok_or_else(|| {
                CliError::Usage(format!(
                    "--from {from}: give sqlite:DIR, a data directory, or sqlite:FILE, a backup"
                ))
            })?;
        // The record of a data directory, named by itself, is used as the directory is.
        let is_record = data_dir::database(path.parent().unwrap_or(Path::new("."))) == path;
        let dir = match path.parent() {
            Some(parent) if is_record && parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) if is_record => parent,
            Some(_) | None => path,
        };
        if !dir.is_dir() {
            if !path.is_file() {
                return Err(CliError::Usage(format!("{} does not exist", path.display())));
            }
            verify(path).await?;
            return Ok(Self { database: path.to_owned(), owned: None });
        }
        let database = data_dir::database(dir);
        if !database.is_file() {
            return Err(CliError::Usage(format!(
                "{} holds no record{}",
                dir.display(),
                moved_hint(&database)
            )));
        }
        let lock = match DataDir::take_existing(dir)? {
            Ownership::Ours(lock) => lock,
            Ownership::Theirs(owner) => {
                return Err(owned(dir, &owner, "stop it first: what it does meanwhile would be lost"));
            }
        };
        verify(&database).await?;
        // Brings an older schema up to date.
        let store = SqliteStore::open(&database, SqliteOptions::default()).await?;
        Ok(Self { database, owned: Some((lock, store)) })
    }

    async fn close(self) {
        if let Some((_lock, store)) = self.owned {
            store.close().await;
        }
    }

    /// Gives the record of a data directory another name, which is returned: in two places at once, its executions would run
    /// twice.
    async fn retire(self) -> Result<Option<PathBuf>, CliError> {
        let Some((lock, store)) = self.owned else { return Ok(None) };
        // What the log holds goes into the file with the last connection.
        store.close().await;
        let kept = moved_name(&self.database);
        let dir = lock.path().to_owned();
        let renamed = std::fs::rename(&self.database, &kept)
            .and_then(|()| std::fs::File::open(&dir)?.sync_all())
            .map_err(CliError::io(format!(
                "the record has been moved, but {} cannot be renamed: never start `flowmonkey dev` on it again",
                self.database.display()
            )));
        renamed.map(|()| Some(kept))
    }
}

fn moved_name(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(MOVED);
    name.into()
}

/// Says where a record went that has been moved.
fn moved_hint(database: &Path) -> String {
    let moved = moved_name(database);
    if moved.is_file() {
        format!("; it has been moved, and is kept as {}", moved.display())
    } else {
        String::new()
    }
}

async fn carry(source: &Source, to: PostgresOptions) -> Result<Vec<TransferredTable>, CliError> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    let show = |progress: TransferProgress| {
        bar.set_length(progress.total);
        bar.set_position(progress.rows);
        bar.set_message(progress.table);
    };
    let carried = transfer(&source.database, to, &show).await;
    bar.finish_and_clear();
    carried.map_err(explained)
}

/// What a person can do about it.
fn explained(error: TransferError) -> CliError {
    match error {
        TransferError::Store(error) => error.into(),
        TransferError::NotEmpty { .. } => CliError::Usage(format!(
            "{error}; nothing was moved. Two records cannot be merged: versions, keys and numbers of one could be those of \
             the other. Give an empty database (createdb), one on which no engine has run. If an earlier move of this record \
             got that far, it has arrived: start the engines on it, and never `flowmonkey dev` on the old one"
        )),
        TransferError::Differs { .. } => {
            CliError::Store(StoreError::Internal { reason: format!("{error}; nothing was moved") })
        }
        TransferError::Uncertain(_) => CliError::Unreachable(format!(
            "{error}. Run the same again: it goes through when nothing has arrived, and says that the target is not empty \
             when everything has"
        )),
    }
}
