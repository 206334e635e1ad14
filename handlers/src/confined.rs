//! Files below fixed roots. Every step of a path is opened relative to the one before, without following symbolic links:
//! there is no moment between a check and a use in which somebody could swap a directory for a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

/// Directories within directories that are entered.
const DEPTH_MAX: usize = 64;

/// Why a file cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("`{path}` is out of bounds: {why}")]
    Forbidden { path: String, why: &'static str },
    #[error("`{0}` does not exist")]
    NotFound(String),
    #[error("`{path}` is over {limit} bytes")]
    TooLarge { path: String, limit: u64 },
    #[error("`{path}`: {source}")]
    Io { path: String, source: io::Error },
}

/// A path below one of the roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confined {
    root: PathBuf,
    /// Plain names; empty: the root itself.
    names: Vec<std::ffi::OsString>,
    /// As the flow spells it.
    path: String,
}

/// An entry of a listing.
pub(crate) struct Entry {
    /// Below the listed directory.
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

impl Confined {
    /// The path of the flow: relative to the first root, or absolute and below any of them.
    pub(crate) fn new(roots: &[PathBuf], path: &str) -> Result<Self, FileError> {
        let forbidden = |why| FileError::Forbidden { path: path.into(), why };
        if path.contains('\0') {
            return Err(forbidden("the path has a NUL character"));
        }
        let asked = Path::new(path);
        let (root, below) = if asked.is_absolute() {
            let found = roots.iter().find_map(|root| Some((root, asked.strip_prefix(root).ok()?)));
            found.ok_or_else(|| forbidden("it is in none of the worker's file roots"))?
        } else {
            (roots.first().ok_or_else(|| forbidden("this worker has no file roots"))?, asked)
        };
        let mut names = Vec::new();
        for component in below.components() {
            match component {
                Component::Normal(name) => names.push(name.to_owned()),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(forbidden("`..` is not allowed"));
                }
            }
        }
        if names.len() > DEPTH_MAX {
            return Err(forbidden("it is too deep"));
        }
        Ok(Self { root: root.clone(), names, path: path.into() })
    }

    /// An entry of the same directory.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        let mut sibling = self.clone();
        sibling.names.pop();
        sibling.path = match self.path.rsplit_once('/') {
            Some((directory, _)) => format!("{directory}/{name}"),
            None => name.to_owned(),
        };
        sibling.names.push(name.into());
        sibling
    }

    /// An entry of the directory at this path.
    pub(crate) fn child(&self, name: &str) -> Self {
        let mut child = self.clone();
        child.path = format!("{}/{name}", self.path);
        child.names.push(name.into());
        child
    }

    /// Whether both are the same place, however they are spelled.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        (&self.root, &self.names) == (&other.root, &other.names)
    }

    /// The place, with its root; for messages and for systems where an open directory has no path.
    pub(crate) fn whole(&self) -> PathBuf {
        let mut whole = self.root.clone();
        whole.extend(&self.names);
        whole
    }

    fn error(&self, errno: Errno) -> FileError {
        match errno {
            Errno::NOENT => FileError::NotFound(self.path.clone()),
            // What opening a symbolic link without following it gives.
            Errno::LOOP => self.forbidden("symbolic links are not followed"),
            errno => FileError::Io { path: self.path.clone(), source: errno.into() },
        }
    }

    fn forbidden(&self, why: &'static str) -> FileError {
        FileError::Forbidden { path: self.path.clone(), why }
    }

    pub(crate) fn io(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), source }
    }

    fn root(&self) -> Result<OwnedFd, FileError> {
        openat(CWD, &self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| self.error(errno))
    }

    fn enter(&self, directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::empty()).map_err(|errno| {
            // For a link, some systems say that it is no directory.
            let is_link = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            if is_link { Errno::LOOP } else { errno }
        })
    }

    /// The directory that holds the path, and the path's last name.
    fn parent(&self, create: bool) -> Result<(OwnedFd, &OsStr), FileError> {
        let (name, parents) = self.names.split_last().ok_or_else(|| self.forbidden("it is a root itself"))?;
        let mut directory = self.root()?;
        for parent in parents {
            directory = match self.enter(&directory, parent) {
                Err(Errno::NOENT) if create => {
                    match mkdirat(&directory, parent, Mode::from_raw_mode(0o755)) {
                        // Somebody else may have been faster.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(self.error(errno)),
                    }
                    self.enter(&directory, parent).map_err(|errno| self.error(errno))?
                }
                entered => entered.map_err(|errno| self.error(errno))?,
            };
        }
        Ok((directory, name))
    }

    /// Opens a regular file for reading.
    pub(crate) fn open(&self) -> Result<(File, Stat), FileError> {
        let (directory, name) = self.parent(false)?;
        // Without NONBLOCK, opening a pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty()).map_err(|errno| self.error(errno))?;
        let stat = self.regular(&file)?;
        Ok((File::from(file), stat))
    }

    fn regular(&self, file: impl AsFd) -> Result<Stat, FileError> {
        let stat = fstat(file).map_err(|errno| self.error(errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.io(io::Error::other("not a regular file")));
        }
        Ok(stat)
    }

    /// Writes the whole file: readers see the old content or the new, also after a crash.
    pub(crate) fn write(&self, content: &[u8], temporary: &str) -> Result<(), FileError> {
        let (directory, name) = self.parent(true)?;
        // Left over from an attempt that was cut off.
        match unlinkat(&directory, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.error(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, temporary, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| self.error(errno))?;
        let mut file = File::from(file);
        let written = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .and_then(|()| renameat(&directory, temporary, &directory, name).map_err(io::Error::from));
        if let Err(source) = written {
            // The first error is the one to tell of.
            unlinkat(&directory, temporary, AtFlags::empty()).ok();
            return Err(self.io(source));
        }
        fsync(&directory).map_err(|errno| self.error(errno))
    }

    /// Opens the directory at the path, which is made when it is missing.
    pub(crate) fn make_directory(&self) -> Result<OwnedFd, FileError> {
        let (directory, name) = self.parent(true)?;
        match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.error(errno)),
        }
        self.enter(&directory, name).map_err(|errno| self.error(errno))
    }

    /// Moves the file `name` of `directory`, which must be on the same file system, to this place: readers see what was here
    /// before or the new file, also after a crash.
    pub(crate) fn replace_with(&self, directory: &OwnedFd, name: &str) -> Result<(), FileError> {
        let (parent, own) = self.parent(true)?;
        renameat(directory, name, &parent, own)
            .and_then(|()| fsync(&parent))
            .map_err(|errno| self.error(errno))
    }

    /// Adds to the end of the file, and returns its size.
    pub(crate) fn append(&self, content: &[u8]) -> Result<u64, FileError> {
        let (directory, name) = self.parent(true)?;
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let file =
            openat(&directory, name, flags, Mode::from_raw_mode(0o644)).map_err(|errno| self.error(errno))?;
        self.regular(&file)?;
        let mut file = File::from(file);
        file.write_all(content).and_then(|()| file.sync_all()).map_err(|source| self.io(source))?;
        file.metadata().map(|metadata| metadata.len()).map_err(|source| self.io(source))
    }

    /// What is at the path; a symbolic link is described, not followed.
    pub(crate) fn stat(&self) -> Result<Stat, FileError> {
        if self.names.is_empty() {
            return fstat(self.root()?).map_err(|errno| self.error(errno));
        }
        let (directory, name) = self.parent(false)?;
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.error(errno))
    }

    /// Deletes a file, a link, or a directory: with all that is in it when `recursive`. False: nothing was there.
    pub(crate) fn delete(&self, recursive: bool) -> Result<bool, FileError> {
        let (directory, name) = match self.parent(false) {
            Ok(found) => found,
            Err(FileError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.delete_in(&directory, name, recursive, 0) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error(errno)),
        }
    }

    fn delete_in(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        recursive: bool,
        depth: usize,
    ) -> Result<(), Errno> {
        match unlinkat(directory, name, AtFlags::empty()) {
            // What unlinking a directory gives, on Linux and elsewhere.
            Err(Errno::ISDIR | Errno::PERM) => {}
            other => return other,
        }
        if recursive && depth < DEPTH_MAX {
            let inner = self.enter(directory, name)?;
            for name in names(&inner)? {
                self.delete_in(&inner, &name, recursive, depth + 1)?;
            }
        }
        unlinkat(directory, name, AtFlags::REMOVEDIR)
    }

    /// The entries below a directory, sorted, at most `max` of those that `keep` keeps. True: there are more.
    pub(crate) fn list(
        &self,
        recursive: bool,
        max: usize,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<(Vec<Entry>, bool), FileError> {
        let directory = if self.names.is_empty() {
            self.root()?
        } else {
            let (directory, name) = self.parent(false)?;
            self.enter(&directory, name).map_err(|errno| self.error(errno))?
        };
        let mut listing = Listing { entries: Vec::new(), max, keep, recursive };
        let more = listing.add(self, &directory, "", 0).map_err(|errno| self.error(errno))?;
        Ok((listing.entries, more))
    }
}

struct Listing<'a> {
    entries: Vec<Entry>,
    max: usize,
    keep: &'a dyn Fn(&str) -> bool,
    recursive: bool,
}

impl Listing<'_> {
    fn add(
        &mut self,
        confined: &Confined,
        directory: &OwnedFd,
        prefix: &str,
        depth: usize,
    ) -> Result<bool, Errno> {
        for name in names(directory)? {
            // Gone since the directory was read.
            let Ok(stat) = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let path = format!("{prefix}{}", name.to_string_lossy());
            if (self.keep)(&path) {
                if self.entries.len() == self.max {
                    return Ok(true);
                }
                self.entries.push(Entry { path: path.clone(), stat });
            }
            if self.recursive
                && depth < DEPTH_MAX
                && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            {
                match confined.enter(directory, &name) {
                    Ok(inner) if self.add(confined, &inner, &format!("{path}/"), depth + 1)? => {
                        return Ok(true);
                    }
                    // Gone, replaced by a link, or closed to this worker: it is listed, and not entered.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(false)
    }
}

fn names(directory: &OwnedFd) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_roots_are_forbidden() {
        let roots = [PathBuf::from("/srv/a"), PathBuf::from("/srv/b")];
        for path in ["../x", "x/../../y", "/etc/passwd", "/srv/ab/x", "/srv/a/../b", "x\0y", "/"] {
            assert!(matches!(Confined::new(&roots, path), Err(FileError::Forbidden { .. })), "{path:?}");
        }
        assert!(matches!(Confined::new(&[], "x"), Err(FileError::Forbidden { .. })));
        let names = |path| {
            let confined = Confined::new(&roots, path).unwrap();
            (confined.root, confined.names.join(OsStr::new("/")))
        };
        assert_eq!(names("x/./y//z"), ("/srv/a".into(), "x/y/z".into()));
        assert_eq!(names("/srv/b/q"), ("/srv/b".into(), "q".into()));
        assert_eq!(names("~/x"), ("/srv/a".into(), "~/x".into()));
    }
}
