//! The handler `package-audit`: reads all sources of one package and says what is in them.
//!
//! It is also an example of a handler. It declares a [`Manifest`], reads its typed input and configuration, works on a thread
//! of its own because it is busy rather than waiting, reports progress, and stops when it is told to.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cargo_manifest::CargoManifest;
use super::packages::Package;
use super::{licence, rust_source};

/// Files of one package.
const FILES_MAX: usize = 200_000;
/// Bytes of one file that is read; a larger one counts with its size only.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Directories that hold no sources.
const NO_SOURCES: [&str; 3] = ["target", ".git", "node_modules"];
/// Endings of C, C++ and assembler sources.
const C_ENDINGS: [&str; 9] = ["c", "h", "cc", "cpp", "cxx", "hpp", "s", "S", "asm"];

/// What was found in one package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Audit {
    /// The package's name.
    pub(crate) name: String,
    /// The package's version.
    pub(crate) version: String,
    /// Whether it is a member of the project.
    pub(crate) own: bool,
    /// SPDX expression; empty: none is given.
    pub(crate) licence: String,
    /// Whether the allowed licences alone meet that expression.
    pub(crate) licence_allowed: bool,
    /// Licence texts, as `FILE: what it looks like`.
    pub(crate) licence_files: Vec<String>,
    /// Whether a build script runs when it is built.
    pub(crate) build_script: bool,
    /// Whether it runs inside the compiler.
    pub(crate) proc_macro: bool,
    /// Files of all kinds.
    pub(crate) files: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Lines of Rust.
    pub(crate) rust_lines: u64,
    /// Lines of Rust that hold more than space and comments.
    pub(crate) rust_code_lines: u64,
    /// Lines of C, C++ and assembler.
    pub(crate) c_lines: u64,
    /// `unsafe { … }` in Rust.
    pub(crate) unsafe_blocks: u64,
    /// Unsafe functions, implementations, traits and extern blocks in Rust.
    pub(crate) unsafe_items: u64,
    /// SHA-256 of the Cargo.toml, in hex.
    pub(crate) manifest_sha256: String,
    /// SHA-256 over the paths and contents of all files, in hex.
    pub(crate) content_sha256: String,
    /// Milliseconds that this took.
    pub(crate) duration_ms: u64,
}

/// The step's configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    allowed_licences: Vec<String>,
}

/// The handler.
#[derive(Debug)]
pub(crate) struct PackageAudit {
    manifest: Manifest,
}

impl Default for PackageAudit {
    fn default() -> Self {
        let manifest = super::manifest("package-audit", "Reads all sources of one package");
        let input_schema = Some(json!({
            "type": "object",
            "required": ["name", "version", "manifestPath"],
            "properties": { "name": { "type": "string" }, "manifestPath": { "type": "string" } },
        }));
        Self { manifest: Manifest { input_schema, ..manifest } }
    }
}

/// Why a package could not be audited.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error("the task was stopped")]
    Stopped,
    #[error("the package has more than {FILES_MAX} files")]
    TooManyFiles,
    #[error("`{path}` cannot be read")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl AuditError {
    fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        |source| Self::Unreadable { path, source }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        let message = format!("{error}{cause}");
        match error {
            AuditError::Stopped => Self::new("ABORTED", message),
            AuditError::TooManyFiles => Self::terminal("PACKAGE_TOO_LARGE", message),
            AuditError::Unreadable { .. } => Self::new("PACKAGE_UNREADABLE", message),
        }
    }
}

#[async_trait]
impl Handler for PackageAudit {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let package: Package = super::input(task)?;
        let Config { allowed_licences } = super::config(task)?;
        // Reading and counting keeps a processor busy, which must not hold up what shares this thread. The guard stops the
        // work when this future is dropped, too.
        let stopped = task.cancelled.child_token();
        let _stop = stopped.clone().drop_guard();
        let (sender, mut progress) = watch::channel((0_usize, 0_usize));
        let mut work =
            tokio::task::spawn_blocking(move || audit(&package, &allowed_licences, &stopped, &sender));
        let mut reporting = true;
        let audit = loop {
            tokio::select! {
                ended = &mut work => break ended,
                changed = progress.changed(), if reporting => match changed {
                    Ok(()) => report_progress(task, *progress.borrow_and_update()),
                    // The work is done, and its result is on the way.
                    Err(_) => reporting = false,
                },
            }
        };
        let audit = audit
            .map_err(|error| Failure::new("HANDLER_ERROR", format!("the audit broke off: {error}")))??;
        Ok(Completion::output(json!(audit)))
    }
}

fn report_progress(task: &Task, (done, all): (usize, usize)) {
    #[expect(clippy::cast_precision_loss, reason = "there are at most 200,000 files")]
    let percent = 100.0 * done as f64 / all.max(1) as f64;
    task.progress(percent, format!("{done} of {all} files"));
}

/// Audits a package, file by file.
fn audit(
    package: &Package,
    allowed_licences: &[String],
    stopped: &CancellationToken,
    progress: &watch::Sender<(usize, usize)>,
) -> Result<Audit, AuditError> {
    let started = Instant::now();
    let manifest = read(&package.manifest_path, &mut Vec::new())?.unwrap_or_default();
    let described = CargoManifest::parse(&String::from_utf8_lossy(&manifest));
    let root = package.manifest_path.parent().unwrap_or(Path::new("."));
    let files = files_below(root, stopped)?;
    let licence = package.licence.clone().or(described.licence).unwrap_or_default();
    let mut audit = Audit {
        name: package.name.clone(),
        version: package.version.clone(),
        own: package.member_of.is_some(),
        licence_allowed: licence::is_met(&licence, allowed_licences),
        licence,
        licence_files: licence_files(root, package.member_of.as_deref())?,
        build_script: described.build_script.unwrap_or_else(|| root.join("build.rs").is_file()),
        proc_macro: described.proc_macro,
        manifest_sha256: hex(Sha256::digest(&manifest)),
        ..Audit::default()
    };
    let mut contents = Sha256::new();
    let mut buffer = Vec::new();
    for (index, path) in files.iter().enumerate() {
        if stopped.is_cancelled() {
            return Err(AuditError::Stopped);
        }
        let relative = path.strip_prefix(root).unwrap_or(path);
        contents.update(relative.as_os_str().as_encoded_bytes());
        contents.update([0]);
        audit.files += 1;
        match read(path, &mut buffer)? {
            Some(content) => {
                audit.bytes += content.len() as u64;
                contents.update(&content);
                count(&mut audit, path, &content);
                buffer = content;
            }
            None => audit.bytes += fs::metadata(path).map_err(AuditError::reading(path))?.len(),
        }
        progress.send_replace((index + 1, files.len()));
    }
    audit.content_sha256 = hex(contents.finalize());
    audit.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(audit)
}

fn count(audit: &mut Audit, path: &Path, content: &[u8]) {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if ending == "rs" {
        let counts = rust_source::count(content);
        audit.rust_lines += counts.lines;
        audit.rust_code_lines += counts.code_lines;
        audit.unsafe_blocks += counts.unsafe_blocks;
        audit.unsafe_items += counts.unsafe_items;
    } else if C_ENDINGS.contains(&ending) {
        audit.c_lines += rust_source::lines(content);
    }
}

/// A file's content, in `buffer`'s memory; none when it is too large.
fn read(path: &Path, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, AuditError> {
    let file = File::open(path).map_err(AuditError::reading(path))?;
    buffer.clear();
    let size = file.take(FILE_BYTES_MAX + 1).read_to_end(buffer).map_err(AuditError::reading(path))?;
    Ok((size as u64 <= FILE_BYTES_MAX).then(|| std::mem::take(buffer)))
}

/// The files of the package at `root`, in the order of their paths. Links are not followed. A directory with a Cargo.toml of
/// its own is another package.
fn files_below(root: &Path, stopped: &CancellationToken) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = Vec::new();
    let mut directories = VecDeque::from([root.to_owned()]);
    while let Some(directory) = directories.pop_front() {
        if stopped.is_cancelled() {
            return Err(AuditError::Stopped);
        }
        for entry in fs::read_dir(&directory).map_err(AuditError::reading(&directory))? {
            let entry = entry.map_err(AuditError::reading(&directory))?;
            let kind = entry.file_type().map_err(AuditError::reading(&directory))?;
            let path = entry.path();
            if kind.is_file() {
                files.push(path);
            } else if kind.is_dir() {
                let name = entry.file_name();
                let no_sources = NO_SOURCES.iter().any(|no_sources| name == *no_sources);
                if !no_sources && !path.join("Cargo.toml").is_file() {
                    directories.push_back(path);
                }
            }
        }
        if files.len() + directories.len() > FILES_MAX {
            return Err(AuditError::TooManyFiles);
        }
    }
    files.sort();
    Ok(files)
}

/// The licence texts beside the manifest; those of a project's members are often at the project's root.
fn licence_files(root: &Path, project: Option<&Path>) -> Result<Vec<String>, AuditError> {
    for directory in [Some(root), project].into_iter().flatten() {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(AuditError::reading(directory))? {
            let entry = entry.map_err(AuditError::reading(directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if licence::is_licence_file(&name)
                && path.is_file()
                && let Some(text) = read(&path, &mut Vec::new())?
            {
                found.push(format!("{name}: {}", licence::looks_like(&String::from_utf8_lossy(&text))));
            }
        }
        if !found.is_empty() {
            found.sort();
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(root: &Path) -> Package {
        Package {
            name: "sample".into(),
            version: "1.0.0".into(),
            licence: None,
            manifest_path: root.join("Cargo.toml"),
            member_of: None,
        }
    }

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_package_is_read_whole_and_other_packages_in_it_are_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "Cargo.toml", "[package]\nlicense = \"MIT AND Other\"\n");
        write(root, "build.rs", "fn main() {}\n");
        write(root, "src/lib.rs", "// unsafe {}\nfn f() { unsafe { g() } }\n");
        write(root, "csrc/x.c", "int x;\nint y;");
        write(root, "LICENSE-MIT", "Permission is hereby granted, free of charge");
        write(root, "inner/Cargo.toml", "[package]\n");
        write(root, "inner/src/lib.rs", "unsafe fn f() {}\n");
        write(root, "target/x.rs", "unsafe fn f() {}\n");
        let (sender, progress) = watch::channel((0, 0));
        let audited = audit(&package(root), &["MIT".into()], &CancellationToken::new(), &sender).unwrap();
        let expected = Audit {
            name: "sample".into(),
            version: "1.0.0".into(),
            licence: "MIT AND Other".into(),
            licence_files: vec!["LICENSE-MIT: MIT".into()],
            build_script: true,
            files: 5,
            bytes: 36 + 13 + 39 + 13 + 44,
            rust_lines: 3,
            rust_code_lines: 2,
            c_lines: 2,
            unsafe_blocks: 1,
            manifest_sha256: hex(Sha256::digest("[package]\nlicense = \"MIT AND Other\"\n")),
            content_sha256: audited.content_sha256.clone(),
            duration_ms: audited.duration_ms,
            ..Audit::default()
        };
        assert_eq!(audited, expected);
        assert_eq!(*progress.borrow(), (5, 5));
        let again = audit(&package(root), &["MIT".into()], &CancellationToken::new(), &sender).unwrap();
        assert_eq!(again.content_sha256, audited.content_sha256);
        write(root, "csrc/x.c", "int x;\nint z;");
        let changed = audit(&package(root), &["MIT".into()], &CancellationToken::new(), &sender).unwrap();
        assert_ne!(changed.content_sha256, audited.content_sha256);
    }

    #[test]
    fn a_stopped_audit_ends_at_once_and_a_missing_package_says_which() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "Cargo.toml", "[package]\n");
        let (sender, _progress) = watch::channel((0, 0));
        let stopped = CancellationToken::new();
        stopped.cancel();
        let failure = Failure::from(audit(&package(root.path()), &[], &stopped, &sender).unwrap_err());
        assert_eq!(failure.error.code, "ABORTED");
        let nowhere = package(&root.path().join("nowhere"));
        let failure = Failure::from(audit(&nowhere, &[], &CancellationToken::new(), &sender).unwrap_err());
        assert_eq!(failure.error.code, "PACKAGE_UNREADABLE");
        assert!(failure.error.message.contains("nowhere/Cargo.toml"), "{}", failure.error.message);
    }
}
