//! `flowmonkey backup` and `flowmonkey restore`.

use std::io::Read;
use std::path::{Path, PathBuf};

use flowmonkey_engine::store::{SqliteOptions, SqliteStore, verify};

use super::tell;
use crate::args::{BackupArgs, RestoreArgs};
use crate::embedded::data_dir::{self, DataDir, Ownership, owned};
use crate::errors::{CliError, Exit};

pub(crate) async fn backup(args: BackupArgs) -> Result<Exit, CliError> {
    let BackupArgs { data_dir, file } = args;
    let database = data_dir::database(&data_dir);
    if !database.is_file() {
        return Err(CliError::Usage(format!("{} holds no record", data_dir.display())));
    }
    refuse_existing(&file)?;
    // The owner may go on meanwhile: the copy is one moment of the record.
    let store = SqliteStore::open(&database, SqliteOptions::default()).await?;
    let copied = store.backup(&file).await;
    store.close().await;
    copied?;
    verify(&file).await?;
    tell(&format!("{} is backed up in {}", data_dir.display(), file.display()));
    let objects = data_dir::objects(&data_dir);
    let has_objects = std::fs::read_dir(&objects).is_ok_and(|mut entries| entries.next().is_some());
    if has_objects {
        tell(&format!(
            "checkpoints over 1 MiB are not in it: copy {} too, or such jobs begin anew",
            objects.display()
        ));
    }
    Ok(Exit::Done)
}

pub(crate) async fn restore(args: RestoreArgs) -> Result<Exit, CliError> {
    let RestoreArgs { file, data_dir } = args;
    if !file.is_file() {
        return Err(CliError::Usage(format!("{} is no file", file.display())));
    }
    refuse_other(&file)?;
    let version = verify(&file).await?;
    let dir = match DataDir::take(&data_dir)? {
        Ownership::Ours(dir) => dir,
        Ownership::Theirs(owner) => return Err(owned(&data_dir, &owner, "stop it first")),
    };
    let database = data_dir::database(&data_dir);
    for part in [database.clone(), beside(&database, "-wal"), beside(&database, "-shm")] {
        refuse_existing(&part)?;
    }
    let fresh = beside(&database, ".restoring");
    let copied = copy(&file, &fresh).await;
    let checked = match copied {
        Ok(()) => verify(&fresh).await.map(|_| ()).map_err(CliError::from),
        Err(error) => Err(error),
    };
    // It gets its name only once it is whole and on the disk.
    let renamed = match checked {
        Ok(()) => std::fs::rename(&fresh, &database)
            .and_then(|()| std::fs::File::open(&data_dir)?.sync_all())
            .map_err(CliError::io(format!("cannot make {}", database.display()))),
        Err(error) => Err(error),
    };
    if let Err(error) = renamed {
        if let Err(left) = std::fs::remove_file(&fresh) {
            tracing::debug!(%left, "nothing to remove");
        }
        return Err(error);
    }
    drop(dir);
    tell(&format!("{} is restored from {} (schema {version})", data_dir.display(), file.display()));
    Ok(Exit::Done)
}

/// Copies a file and waits until the copy is on the disk.
async fn copy(from: &Path, to: &Path) -> Result<(), CliError> {
    let failed = || format!("cannot copy {} to {}", from.display(), to.display());
    tokio::fs::copy(from, to).await.map_err(CliError::io(failed()))?;
    let copied = tokio::fs::File::open(to).await.map_err(CliError::io(failed()))?;
    copied.sync_all().await.map_err(CliError::io(failed()))
}

/// Refuses a file that is no database at all.
fn refuse_other(path: &Path) -> Result<(), CliError> {
    /// How every database of this kind begins.
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut start = Vec::with_capacity(MAGIC.len());
    std::fs::File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start))
        .map_err(CliError::io(format!("cannot read {}", path.display())))?;
    if start == MAGIC {
        return Ok(());
    }
    let advice = "give a file that `flowmonkey backup` has made";
    Err(CliError::Usage(format!("{} is not a backup; {advice}", path.display())))
}

fn refuse_existing(path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Err(CliError::Usage(format!("{} exists already; nothing is overwritten", path.display())));
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
