//! Results on disk, while the queue does not take them: they hold no memory, and outlive the process.
//!
//! Each process has a folder of its own in the spill directory, named at random, and beside it a lock file that it keeps
//! locked as long as it lives. A folder whose lock is free belongs to a process that has died: whoever gets the lock adopts it. So
//! workers may share a directory, and no result is sent by two of them.

mod file;
mod send;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowmonkey_plumbing::wire::WireError;
use tokio::sync::Notify;

pub(crate) use send::run;

use crate::metrics::WorkerMetrics;
use crate::route::UnsentResult;

/// Results on disk, whatever their size: each takes some memory for its name.
const SPILL_FILES_MAX: usize = 100_000;
/// Where files go that cannot be read.
const CORRUPT: &str = "corrupt";
const RESULT_SUFFIX: &str = ".result";
const UNFINISHED_SUFFIX: &str = ".tmp";
const LOCK_SUFFIX: &str = ".lock";

/// Why a result was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpillError {
    #[error("the spill directory holds as much as it may")]
    Full,
    #[error("the result cannot be encoded")]
    Encode(#[source] WireError),
    #[error("the spill directory cannot be written")]
    Io(#[source] io::Error),
}

/// To whom results go, and in whose name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) pool: Arc<str>,
    pub(crate) worker: Arc<str>,
}

/// A result on disk.
#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    bytes: u64,
}

/// A folder of results that this process alone may touch.
struct Held {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Locked.
    _lock: File,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// By file name, which sorts by time.
    groups: BTreeMap<Group, BTreeMap<String, Entry>>,
    files: usize,
    bytes: u64,
    is_full: bool,
}

/// The results that this process has on disk.
pub(crate) struct Spill {
    root: PathBuf,
    own: PathBuf,
    bytes_max: u64,
    written: AtomicU64,
    state: Mutex<State>,
    metrics: Arc<WorkerMetrics>,
    /// Rung when there is something to send.
    bell: Notify,
}

impl Spill {
    /// Makes a folder `name` in `root`, which is made too, for its owner's eyes only.
    pub(crate) fn open(
        root: &Path,
        name: &str,
        bytes_max: u64,
        metrics: Arc<WorkerMetrics>,
    ) -> io::Result<Self> {
        make_folder(root)?;
        let own = root.join(name);
        let lock_path = root.join(format!("{name}{LOCK_SUFFIX}"));
        // Locked before the folder is there: nobody finds the folder without its owner.
        let lock = open_lock(&lock_path)?;
        lock.try_lock().map_err(io::Error::from)?;
        make_folder(&own)?;
        let held = vec![Held { folder: own.clone(), lock_path, _lock: lock }];
        Ok(Self {
            root: root.to_owned(),
            own,
            bytes_max,
            written: AtomicU64::new(0),
            state: Mutex::new(State { held, ..State::default() }),
            metrics,
            bell: Notify::new(),
        })
    }

    /// Writes a result. It survives the process and the machine from here on.
    pub(crate) fn write(&self, unsent: &UnsentResult, now_ms: i64) -> Result<(), SpillError> {
        let bytes = file::encode(unsent).map_err(SpillError::Encode)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.make_room(size)?;
        let number = self.written.fetch_add(1, Ordering::SeqCst);
        let name = format!("{:016}-{number:012}{RESULT_SUFFIX}", now_ms.max(0));
        let path = self.own.join(&name);
        let unfinished = self.own.join(format!("{name}{UNFINISHED_SUFFIX}"));
        let write = || {
            let mut file = create_new(&unfinished)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.own)?.sync_all()
        };
        if let Err(error) = write() {
            self.give_room_back(size);
            for left in [&unfinished, &path] {
                if let Err(error) = remove_if_there(left) {
                    tracing::debug!(path = %left.display(), %error, "half a spilled result stays behind");
                }
            }
            return Err(SpillError::Io(error));
        }
        let group = Group { pool: unsent.pool.as_str().into(), worker: unsent.worker.as_str().into() };
        self.state().groups.entry(group).or_default().insert(name, Entry { path, bytes: size });
        self.bell.notify_one();
        Ok(())
    }

    fn make_room(&self, bytes: u64) -> Result<(), SpillError> {
        let mut state = self.state();
        if state.files >= SPILL_FILES_MAX || state.bytes.saturating_add(bytes) > self.bytes_max {
            if !state.is_full {
                state.is_full = true;
                let (files, held) = (state.files, state.bytes);
                tracing::error!(
                    files, bytes = held, limit = self.bytes_max, root = %self.root.display(),
                    "the spill directory is full: results stay in memory, and no more tasks are claimed than fit"
                );
            }
            return Err(SpillError::Full);
        }
        state.files += 1;
        state.bytes += bytes;
        Ok(())
    }

    fn give_room_back(&self, bytes: u64) {
        let mut state = self.state();
        state.files = state.files.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(bytes);
        state.is_full = false;
    }

    /// Takes over the folders of processes that have died. What cannot be read is left for the next time.
    fn adopt(&self) {
        let folders = fs::read_dir(&self.root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let folders = match folders {
            Ok(folders) => folders,
            Err(error) => {
                tracing::warn!(root = %self.root.display(), %error, "the spill directory cannot be read");
                return;
            }
        };
        for folder in folders {
            let path = folder.path();
            let is_ours = self.state().held.iter().any(|held| held.folder == path);
            let is_folder = folder.file_type().is_ok_and(|kind| kind.is_dir());
            if is_ours || !is_folder || folder.file_name() == CORRUPT {
                continue;
            }
            if let Err(error) = self.adopt_folder(&path) {
                tracing::warn!(folder = %path.display(), %error, "spilled results were not adopted");
            }
        }
    }

    fn adopt_folder(&self, folder: &Path) -> io::Result<()> {
        let mut lock_path = folder.as_os_str().to_owned();
        lock_path.push(LOCK_SUFFIX);
        let lock_path = PathBuf::from(lock_path);
        let lock = open_lock(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            // Its owner lives.
            Err(fs::TryLockError::WouldBlock) => return Ok(()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // From here on ours; given up with `held`.
        let held = Held { folder: folder.to_owned(), lock_path, _lock: lock };
        let mut found = 0_usize;
        match fs::read_dir(folder) {
            Ok(files) => {
                for file in files {
                    found += usize::from(self.adopt_file(&file?.path()));
                }
            }
            // Somebody else has adopted and emptied it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if found == 0 {
            give_up(&held);
            return Ok(());
        }
        tracing::info!(folder = %folder.display(), results = found, "results of a dead worker were adopted");
        self.state().held.push(held);
        self.bell.notify_one();
        Ok(())
    }

    /// True: it is a result.
    fn adopt_file(&self, path: &Path) -> bool {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
        if name.ends_with(UNFINISHED_SUFFIX) {
            // Never renamed: its worker had the result in memory, and the task runs again.
            if let Err(error) = remove_if_there(path) {
                tracing::debug!(path = %path.display(), %error, "half a spilled result stays behind");
            }
            return false;
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let header = match opened {
            Ok((bytes, mut file)) => file::read_header(&mut file).map(|header| (header, bytes)),
            Err(error) => Err(error.to_string()),
        };
        match header {
            Err(reason) => {
                self.put_aside(path, &reason);
                false
            }
            Ok((header, bytes)) => {
                let group = Group { pool: header.pool.into(), worker: header.worker.into() };
                let mut state = self.state();
                state.files += 1;
                state.bytes = state.bytes.saturating_add(bytes);
                let entry = Entry { path: path.to_owned(), bytes };
                state.groups.entry(group).or_default().insert(name.to_owned(), entry);
                true
            }
        }
    }

    /// Moves a file that is no result out of the way.
    fn put_aside(&self, path: &Path, reason: &str) {
        let corrupt = self.root.join(CORRUPT);
        let moved = make_folder(&corrupt).and_then(|()| {
            let owner = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            fs::rename(path, corrupt.join(format!("{owner}-{name}")))
        });
        match moved {
            Ok(()) => tracing::error!(path = %path.display(), reason, "a spilled result was put aside"),
            Err(error) => {
                tracing::error!(path = %path.display(), reason, %error, "a spilled result is left where it is");
            }
        }
        self.metrics.spill_corrupt.add(1);
    }

    /// To whom there is something to send.
    fn groups(&self) -> Vec<Group> {
        self.state().groups.keys().cloned().collect()
    }

    fn is_empty(&self) -> bool {
        self.state().groups.is_empty()
    }

    /// The oldest results of a group: at most `files`, and no more once they are `bytes` together. What cannot be read is put
    /// aside.
    fn oldest(&self, group: &Group, files: usize, bytes: u64) -> Vec<(String, UnsentResult)> {
        let entries: Vec<(String, Entry)> = {
            let state = self.state();
            let entries = state.groups.get(group).into_iter().flatten().take(files);
            entries.map(|(name, entry)| (name.clone(), entry.clone())).collect()
        };
        let mut oldest = Vec::new();
        let mut total = 0_u64;
        for (name, entry) in entries {
            if total >= bytes {
                break;
            }
            total = total.saturating_add(entry.bytes);
            let read = fs::read(&entry.path).map_err(|error| error.to_string());
            match read.and_then(|bytes| file::decode(&bytes)) {
                Ok(unsent) => oldest.push((name, unsent)),
                Err(reason) => {
                    self.put_aside(&entry.path, &reason);
                    self.forget(group, &name);
                }
            }
        }
        oldest
    }

    /// Deletes results that somebody has taken.
    fn delete(&self, group: &Group, names: &[String]) {
        for name in names {
            if let Some(entry) = self.forget(group, name)
                && let Err(error) = remove_if_there(&entry.path)
            {
                // The next process sends it once more: harmless.
                tracing::warn!(path = %entry.path.display(), %error, "a result that was sent stays on disk");
            }
        }
    }

    /// Puts results aside that the queue cannot read.
    fn reject(&self, group: &Group, names: &[String], reason: &str) {
        for name in names {
            if let Some(entry) = self.forget(group, name) {
                self.put_aside(&entry.path, reason);
            }
        }
    }

    fn forget(&self, group: &Group, name: &str) -> Option<Entry> {
        let entry = {
            let mut state = self.state();
            let files = state.groups.get_mut(group)?;
            let entry = files.remove(name);
            if files.is_empty() {
                state.groups.remove(group);
            }
            entry?
        };
        self.give_room_back(entry.bytes);
        Some(entry)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        for held in &self.state().held {
            give_up(held);
        }
    }
}

/// Removes a folder that is empty, and then its lock.
fn give_up(held: &Held) {
    if fs::remove_dir(&held.folder).is_ok()
        && let Err(error) = remove_if_there(&held.lock_path)
    {
        tracing::debug!(path = %held.lock_path.display(), %error, "a lock file stays behind");
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// For its owner's eyes only: results may hold anything.
fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
