//! The data directory: who owns it, and where the owner can be asked.
//!
//! `lock` is locked by the operating system as long as its owner lives, however it ends; what `lock` and `address` say is
//! only believed while the lock is held.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::errors::CliError;

/// Name of the database in a data directory.
const DATABASE: &str = "flowmonkey.db";
/// Where checkpoints are that are too large for the record.
const OBJECTS: &str = "objects";
const LOCK: &str = "lock";
const ADDRESS: &str = "address";
/// Bytes of a lock or address file that are read.
const NOTE_BYTES_MAX: u64 = 4096;
/// How long an owner that has just started may take to say where it can be asked.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
const ADDRESS_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A data directory that this process owns. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked.
    lock: File,
}

/// Who owns a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Its process id.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// Where its HTTP API is.
    #[serde(default)]
    pub(crate) address: Option<String>,
}

/// What became of an attempt to own a data directory.
#[derive(Debug)]
pub(crate) enum Ownership {
    /// It is ours now.
    Ours(DataDir),
    /// Another process owns it.
    Theirs(Owner),
}

/// Where the database of the data directory `path` is.
pub(crate) fn database(path: &Path) -> PathBuf {
    path.join(DATABASE)
}

/// Where the objects of the data directory `path` are.
pub(crate) fn objects(path: &Path) -> PathBuf {
    path.join(OBJECTS)
}

impl DataDir {
    /// Takes possession of the directory, which is made (for its owner's eyes only) when it does not exist.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(crate) fn take(path: &Path) -> Result<Ownership, CliError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(CliError::io(format!("cannot make {}", path.display())))?;
        Self::take_existing(path)
    }

    /// As [`Self::take`], for a directory that must be there.
    ///
    /// # Errors
    /// When it is not there or cannot be written.
    pub(crate) fn take_existing(path: &Path) -> Result<Ownership, CliError> {
        let at = path.join(LOCK);
        let failed = || format!("cannot lock {}", at.display());
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&at);
        let mut lock = opened.map_err(CliError::io(failed()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_note(&at).and_then(|text| text.trim().parse().ok());
                return Ok(Ownership::Theirs(Owner { pid, address: None }));
            }
            Err(TryLockError::Error(error)) => return Err(CliError::io(failed())(error)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(CliError::io(failed()))?;
        // What an owner that was killed has left behind is not true any more.
        let dir = Self { path: path.to_owned(), lock };
        dir.forget_address()?;
        Ok(Ownership::Ours(dir))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells others where this process can be asked.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn tell_address(&self, url: &str) -> Result<(), CliError> {
        let owner = Owner { pid: Some(std::process::id()), address: Some(url.to_owned()) };
        let at = self.path.join(ADDRESS);
        let fresh = self.path.join(format!("{ADDRESS}.new"));
        let text = serde_json::to_string(&owner).unwrap_or_default();
        // Renamed into place, so that nobody reads half of it.
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, &at))
            .map_err(CliError::io(format!("cannot write {}", at.display())))
    }

    fn forget_address(&self) -> Result<(), CliError> {
        let at = self.path.join(ADDRESS);
        match std::fs::remove_file(&at) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(CliError::io(format!("cannot remove {}", at.display()))(error)),
        }
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if let Err(error) = self.forget_address() {
            tracing::debug!(%error, "the address file stays behind");
        }
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the lock ends with the process");
        }
    }
}

/// Takes the existing directory at `path`; when somebody else owns it, waits until they have told their address.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) async fn take_or_ask(path: &Path) -> Result<Ownership, CliError> {
    let deadline = Instant::now() + ADDRESS_WAIT;
    loop {
        let mut owner = match DataDir::take_existing(path)? {
            ours @ Ownership::Ours(_) => return Ok(ours),
            Ownership::Theirs(owner) => owner,
        };
        owner.address = told_address(path, &owner);
        if owner.address.is_some() || Instant::now() >= deadline {
            return Ok(Ownership::Theirs(owner));
        }
        tokio::time::sleep(ADDRESS_LOOK_EVERY).await;
    }
}

/// The address that `owner` has told; what another process has left behind does not count.
fn told_address(path: &Path, owner: &Owner) -> Option<String> {
    let told: Owner = serde_json::from_str(&read_note(&path.join(ADDRESS))?).ok()?;
    told.address.filter(|_| told.pid.is_some() && told.pid == owner.pid)
}

/// Where the owner of `path` can be asked, as far as it has said so.
pub(crate) fn address_of(path: &Path, owner: &Owner) -> Option<String> {
    owner.address.clone().or_else(|| told_address(path, owner))
}

/// Why `path` cannot be used here: another process owns it.
pub(crate) fn owned(path: &Path, owner: &Owner, advice: &str) -> CliError {
    let address = address_of(path, owner);
    let pid = owner.pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let place = address.map_or_else(String::new, |address| format!(", which serves {address}"));
    CliError::Owned(format!("{} is in use by {pid}{place}; {advice}", path.display()))
}

fn read_note(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(path: &Path) -> DataDir {
        match DataDir::take(path).unwrap() {
            Ownership::Ours(dir) => dir,
            Ownership::Theirs(owner) => panic!("owned by {owner:?}"),
        }
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let dir = ours(&path);
        dir.tell_address("http://127.0.0.1:1").unwrap();
        let Ownership::Theirs(owner) = DataDir::take(&path).unwrap() else { panic!("two owners") };
        assert_eq!(owner.pid, Some(std::process::id()));
        let message = owned(&path, &owner, "wait").to_string();
        assert!(message.contains("http://127.0.0.1:1") && message.contains("process "), "{message}");
        drop(dir);
        assert!(!path.join(ADDRESS).exists());
        drop(ours(&path));
    }

    #[test]
    fn what_a_killed_owner_left_behind_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(ADDRESS), r#"{"pid":1,"address":"http://127.0.0.1:1"}"#).unwrap();
        drop(ours(temp.path()));
        assert!(!temp.path().join(ADDRESS).exists());
    }
}
