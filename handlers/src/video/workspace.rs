//! The folder of one task: the segments that are done, and what is being made. Another attempt may be at work in it at the
//! same time, one that does not know yet that it was given up: every file has the number of its attempt in its name, so that
//! nobody touches what another attempt has made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::confined::{Confined, FileError};
use crate::digest::hex;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Content that passes by.
#[derive(Debug, Default)]
pub(super) struct Passing {
    bytes: u64,
    digest: Sha256,
}

impl Passing {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.digest.update(bytes);
    }

    pub(super) fn content(self) -> Content {
        Content { bytes: self.bytes, sha256: hex(&self.digest.finalize()) }
    }
}

/// What a file holds, from where it is read on.
pub(super) fn content_of(mut file: impl Read) -> io::Result<Content> {
    let (mut passing, mut buffer) = (Passing::default(), vec![0_u8; CHUNK_BYTES]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(passing.content()),
            Ok(read) => passing.take(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The folder of one task.
#[derive(Clone, Debug)]
pub(super) struct Workspace {
    place: Confined,
    directory: Arc<OwnedFd>,
}

impl Workspace {
    /// Opens the folder, which is made when it is missing.
    pub(super) fn open(place: &Confined) -> Result<Self, FileError> {
        Ok(Self { place: place.clone(), directory: Arc::new(place.make_directory()?) })
    }

    /// A path to the folder itself for a program that is started, whatever happens to the folders above it meanwhile.
    pub(super) fn path(&self) -> PathBuf {
        if cfg!(target_os = "linux") {
            PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
        } else {
            self.place.whole()
        }
    }

    /// An empty file of that name; one that is there is given up.
    pub(super) fn create(&self, name: &str) -> Result<File, FileError> {
        self.remove(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*self.directory, name, flags, Mode::from_raw_mode(0o644));
        file.map(File::from).map_err(|errno| self.error(name, errno))
    }

    /// Writes a whole file.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), FileError> {
        let mut file = self.create(name)?;
        file.write_all(content.as_bytes()).map_err(|source| self.place.child(name).io(source))
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: &str) -> Result<File, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&*self.directory, name, flags, Mode::empty());
        file.map(File::from).map_err(|errno| self.error(name, errno))
    }

    /// Whether a file holds this.
    pub(super) fn holds(&self, name: &str, content: &Content) -> bool {
        let is_as_long = |file: &File| file.metadata().is_ok_and(|found| found.len() == content.bytes);
        self.read(name)
            .is_ok_and(|file| is_as_long(&file) && content_of(file).is_ok_and(|found| found == *content))
    }

    /// Gives a finished file its name, for good.
    pub(super) fn settle(&self, temporary: &str, name: &str) -> Result<(), FileError> {
        renameat(&*self.directory, temporary, &*self.directory, name)
            .and_then(|()| fsync(&*self.directory))
            .map_err(|errno| self.error(name, errno))
    }

    /// Moves a finished file out of the folder.
    pub(super) fn publish(&self, name: &str, place: &Confined) -> Result<(), FileError> {
        place.replace_with(&self.directory, name)
    }

    fn remove(&self, name: &str) -> Result<(), FileError> {
        match unlinkat(&*self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error(name, errno)),
        }
    }

    fn error(&self, name: &str, errno: Errno) -> FileError {
        self.place.child(name).io(errno.into())
    }
}
