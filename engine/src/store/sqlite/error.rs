//! What SQLite says, in the words of the record. One function.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::store::StoreError;

/// SQLite's result codes that callers can do something about; extended codes carry theirs in the low byte.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const NOLFS: i32 = 22;
    pub(super) const NOTADB: i32 = 26;
    /// A file could not be written; a full disk has a code of its own.
    pub(super) const IOERR_WRITE: i32 = IOERR | (3 << 8);
    /// The shared-memory file of the write-ahead log cannot grow: the disk is full.
    pub(super) const IOERR_SHMSIZE: i32 = IOERR | (19 << 8);
}

/// Bytes of SQLite's longest single write: a page, of any size.
const WRITE_BYTES_MAX: u64 = 65_536;

/// Whether the database refused what was to be stored, rather than being unable to store anything.
pub(super) fn is_constraint(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|extended| extended & 0xff == code::CONSTRAINT)
}

/// Classifies `error`, which the database at `path` gave.
#[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors may become more")]
pub(super) fn classify(path: &Path, error: sqlx::Error) -> StoreError {
    let place = path.display();
    let unavailable =
        |reason: String, error: sqlx::Error| StoreError::Unavailable { reason, source: Some(error.into()) };
    let extended = match &error {
        sqlx::Error::Database(database) => database.code().and_then(|code| code.parse::<i32>().ok()),
        sqlx::Error::Io(_) => return unavailable(format!("{place} cannot be read or written"), error),
        sqlx::Error::PoolTimedOut => return unavailable(format!("no connection to {place} is free"), error),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            return unavailable(format!("the connection to {place} is closed"), error);
        }
        _ => None,
    };
    let Some(extended) = extended else { return StoreError::Internal { reason: error.to_string() } };
    let reason = error.to_string();
    let is_full = match extended {
        code::IOERR_SHMSIZE => true,
        // The system says whether it was for the limit of a file's size; SQLite does not pass that on.
        code::IOERR_WRITE => is_at_file_size_limit(path),
        _ => false,
    };
    if is_full {
        return StoreError::Full { reason: format!("{place}: {reason}") };
    }
    match extended & 0xff {
        code::FULL => StoreError::Full { reason: format!("{place}: {reason}") },
        code::BUSY | code::LOCKED | code::PROTOCOL => {
            unavailable(format!("{place} is locked by another process"), error)
        }
        code::READONLY | code::PERM => unavailable(format!("{place} cannot be written"), error),
        code::CANTOPEN => unavailable(format!("{place} cannot be opened"), error),
        code::IOERR | code::NOMEM | code::INTERRUPT | code::NOLFS => {
            unavailable(format!("{place}: {reason}"), error)
        }
        code::CORRUPT | code::NOTADB => StoreError::Corrupt { what: place.to_string(), reason },
        _ => StoreError::Internal { reason },
    }
}

/// Whether one of the files of the database has grown to the size that this process may give a file.
fn is_at_file_size_limit(path: &Path) -> bool {
    let Some(limit) = getrlimit(Resource::Fsize).current else { return false };
    ["", "-wal", "-shm", "-journal"].iter().any(|suffix| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        std::fs::metadata(file).is_ok_and(|file| file.len().saturating_add(WRITE_BYTES_MAX) > limit)
    })
}
