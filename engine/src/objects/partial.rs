//! What uploads leave in a folder when their process dies: the files in which they gathered what had come so far.

use std::fs;
use std::io;

use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::{Objects, ObjectsError};

/// What stands between the name of an object and the number of an upload of it, in the name of the file that it goes into
/// first. Names of objects do not have it: it is escaped in them.
const SEPARATOR: char = '#';

impl Objects {
    /// Removes what broken uploads of an object have left in a folder; elsewhere there is nothing that could be seen. Only
    /// for an object of which no upload is under way.
    pub(super) async fn delete_partial(&self, key: &str) -> Result<(), ObjectsError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let key = Path::from(key);
        let removed = tokio::task::spawn_blocking(move || remove(&folder, &key));
        match removed.await {
            Ok(done) => done.map_err(|error| ObjectsError::Store(generic(error))),
            Err(stopped) => Err(ObjectsError::Store(generic(io::Error::other(stopped)))),
        }
    }
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: error.into() }
}

fn remove(folder: &LocalFileSystem, key: &Path) -> io::Result<()> {
    let file = folder.path_to_filesystem(key).map_err(io::Error::other)?;
    let (Some(parent), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut is_left = false;
    let mut removed = false;
    for entry in entries {
        let entry = entry?;
        let other = entry.file_name();
        let upload = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix(SEPARATOR));
        if upload.is_none_or(|number| number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            is_left = true;
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => removed = true,
        }
    }
    if removed && !is_left {
        // A folder into which somebody writes meanwhile is not empty, and stays.
        match fs::remove_dir(parent) {
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
