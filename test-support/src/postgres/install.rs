//! Where Postgres is, and an empty data folder of it, made once for each version and account.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::user::User;

const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
/// Raised when the way of `initdb` below changes, so that older archives are not used.
const ARCHIVE_VERSION: u32 = 1;

/// The programs of the newest installed version: Debian keeps them in a folder for each major version, outside the PATH.
pub(super) fn programs() -> PathBuf {
    let debian = std::fs::read_dir(DEBIAN_FOLDER).into_iter().flatten().filter_map(|entry| {
        let folder = entry.ok()?.path();
        let major: u32 = folder.file_name()?.to_str()?.parse().ok()?;
        Some((major, folder.join("bin")))
    });
    let is_whole = |folder: &Path| folder.join("postgres").is_file() && folder.join("initdb").is_file();
    let newest = debian.filter(|(_, bin)| is_whole(bin)).max_by_key(|(major, _)| *major).map(|(_, bin)| bin);
    newest
        .or_else(|| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).find(|path| is_whole(path))
        })
        .unwrap_or_else(|| {
            panic!("this test needs the Postgres server; install it; on Debian: apt-get install postgresql")
        })
}

/// Unpacks an empty data folder into `folder/data`.
///
/// `initdb` takes a second; its result is kept as one archive in the folder for temporary files. One file, renamed into
/// place, is whole or not there, whatever other processes and cleaners of that folder do at the same time.
pub(super) fn data_folder(programs: &Path, user: User, folder: &Path) -> PathBuf {
    let version = run(user.command(&programs.join("postgres")).arg("--version"));
    let version: String = String::from_utf8_lossy(&version.stdout)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
        .collect();
    let name = format!(
        "flowmonkey-test-postgres-{}-{ARCHIVE_VERSION}-{}.tar",
        version.trim_end_matches('_'),
        user.uid
    );
    let archive = std::env::temp_dir().join(name);
    let data = folder.join("data");
    // A file that somebody else put there is not ours to trust.
    if archive.metadata().is_ok_and(|file| file.uid() == user.uid) {
        let unpacked = user.command(Path::new("tar")).arg("-xf").arg(&archive).arg("-C").arg(folder).output();
        if unpacked.is_ok_and(|output| output.status.success()) {
            return data;
        }
        // It went away while we read it.
        drop(std::fs::remove_dir_all(&data));
    }
    run(user
        .command(&programs.join("initdb"))
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        // Segments of 1 MB instead of 16: a folder is copied in a third of the time.
        .args(["--wal-segsize=1", "--pgdata"])
        .arg(&data));
    let packed = folder.join("data.tar");
    run(user.command(Path::new("tar")).arg("-cf").arg(&packed).arg("-C").arg(folder).arg("data"));
    // The rename needs one file system; where it fails, the next process makes its own folder as we did.
    drop(std::fs::rename(&packed, &archive));
    data
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", command.get_program().display()));
    assert!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
