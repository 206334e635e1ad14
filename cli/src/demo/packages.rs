//! The handler `cargo-packages`: which packages a Rust project is made of, and where their sources are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Bytes of cargo's answer, and of a lock file.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Bytes of cargo's complaints that are kept.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// One package, as the flow passes it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// SPDX expression; none: look into the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
    /// The root of the project that it is a member of; none: it comes from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) member_of: Option<PathBuf>,
}

/// What the flow gives the handler.
#[derive(Debug, Deserialize)]
struct Input {
    /// The directory of the project's Cargo.toml.
    project: PathBuf,
}

/// The part of cargo's answer that is read.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

impl Metadata {
    fn into_packages(self) -> Vec<Package> {
        let root = self.workspace_root;
        let package = |package: MetadataPackage| Package {
            name: package.name,
            version: package.version,
            licence: package.license,
            manifest_path: package.manifest_path,
            member_of: package.source.is_none().then(|| root.clone()),
        };
        self.packages.into_iter().map(package).collect()
    }
}

/// The handler.
#[derive(Debug)]
pub(crate) struct CargoPackages {
    manifest: Manifest,
}

impl Default for CargoPackages {
    fn default() -> Self {
        Self { manifest: super::manifest("cargo-packages", "Lists the packages of a Rust project") }
    }
}

/// Runs `cargo metadata`; an error is what cargo said.
async fn metadata(project: &Path, more: &[&str]) -> Result<Result<Metadata, String>, Failure> {
    // Set by `cargo run`: the very cargo that built this program.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut child = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(more)
        .current_dir(project)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let message = format!(
                "`{}` cannot be started ({error}); the audit asks cargo for the packages, so it must be on the PATH",
                cargo.display()
            );
            Failure::terminal("CARGO_NOT_FOUND", message)
        })?;
    let failed =
        |error: std::io::Error| Failure::new("CARGO_FAILED", format!("cargo cannot be read: {error}"));
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        let (mut stdout, mut stderr) = (stdout.take(ANSWER_BYTES_MAX), stderr.take(COMPLAINT_BYTES_MAX));
        tokio::try_join!(stdout.read_to_end(&mut answer), stderr.read_to_end(&mut complaint))
            .map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        return Ok(Err(String::from_utf8_lossy(&complaint).trim().to_owned()));
    }
    let metadata = serde_json::from_slice(&answer).map_err(|error| {
        Failure::terminal("CARGO_FAILED", format!("cargo's answer cannot be read: {error}"))
    })?;
    Ok(Ok(metadata))
}

/// What of a project is on this machine.
struct Found {
    packages: Vec<Package>,
    /// `name version` of packages that this machine never downloaded.
    not_here: Vec<String>,
    /// Where the list comes from.
    from: &'static str,
}

async fn find(project: &Path, task: &Task) -> Result<Found, Failure> {
    let complaint = match metadata(project, &[]).await? {
        Ok(metadata) => {
            let packages = metadata.into_packages();
            return Ok(Found { packages, not_here: Vec::new(), from: "cargo metadata" });
        }
        Err(complaint) => complaint,
    };
    // Cargo answers for all targets and tests or not at all. A build downloads less than that.
    task.log(LogLevel::Info, format!("reading Cargo.lock, since cargo says: {complaint}"));
    let members = metadata(project, &["--no-deps"]).await?.map_err(|complaint| {
        Failure::terminal("CARGO_FAILED", format!("cargo does not know the packages: {complaint}"))
    })?;
    let lock = members.workspace_root.join("Cargo.lock");
    let read = tokio::fs::read_to_string(&lock).await;
    let lock = read.map_err(|error| {
        Failure::terminal("SOURCES_MISSING", format!("`{}` cannot be read: {error}", lock.display()))
    })?;
    let sources = source_directories().await;
    let mut found = Found { packages: members.into_packages(), not_here: Vec::new(), from: "Cargo.lock" };
    for (name, version) in locked(&lock) {
        let candidates = sources.iter().map(|source| source.join(format!("{name}-{version}/Cargo.toml")));
        match candidates.into_iter().find(|path| path.is_file()) {
            Some(manifest_path) => found.packages.push(Package {
                name: name.to_owned(),
                version: version.to_owned(),
                licence: None,
                manifest_path,
                member_of: None,
            }),
            None => found.not_here.push(format!("{name} {version}")),
        }
    }
    Ok(found)
}

/// Where cargo keeps the sources that it has downloaded, one directory for each registry.
async fn source_directories() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut directories = Vec::new();
    let Some(home) = home else { return directories };
    if let Ok(mut entries) = tokio::fs::read_dir(home.join("registry/src")).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            directories.push(entry.path());
        }
    }
    directories.sort();
    directories
}

/// Name and version of the packages of a lock file that come from elsewhere. Cargo writes these files, always alike.
fn locked(lock: &str) -> Vec<(&str, &str)> {
    let blocks = lock.split("[[package]]").skip(1);
    let text = |block: &'_ str, key: &str| -> Option<(usize, usize)> {
        let start = block.find(&format!("\n{key} = \""))? + key.len() + 5;
        Some((start, start + block[start..].find('"')?))
    };
    let package = |block| {
        text(block, "source")?;
        let (name, version) = (text(block, "name")?, text(block, "version")?);
        Some((&block[name.0..name.1], &block[version.0..version.1]))
    };
    blocks.filter_map(package).collect()
}

#[async_trait]
impl Handler for CargoPackages {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let Input { project } = super::input(task)?;
        if !project.join("Cargo.toml").is_file() {
            let message = format!(
                "there is no Cargo.toml in `{}`: the audit reads a source tree; name one with --project",
                project.display()
            );
            return Err(Failure::terminal("SOURCES_MISSING", message));
        }
        let mut found = tokio::select! {
            found = find(&project, task) => found?,
            () = task.cancelled.cancelled() => return Err(Failure::new("ABORTED", "the task was stopped")),
        };
        found.packages.sort_by(|left, right| (&left.name, &left.version).cmp(&(&right.name, &right.version)));
        found.packages.dedup_by(|left, right| left.manifest_path == right.manifest_path);
        task.log(LogLevel::Info, format!("{} packages, by {}", found.packages.len(), found.from));
        Ok(Completion::output(json!({
            "packages": found.packages,
            "notHere": found.not_here,
            "from": found.from,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_files_give_the_packages_from_elsewhere() {
        let lock = "version = 4\n\n[[package]]\nname = \"aa\"\nversion = \"1.2.3\"\nsource = \"registry+x\"\n\
                    dependencies = [\n \"bb\",\n]\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n\
                    [[package]]\nname = \"bb\"\nversion = \"2.0.0-rc.1\"\nsource = \"registry+x\"\n";
        assert_eq!(locked(lock), [("aa", "1.2.3"), ("bb", "2.0.0-rc.1")]);
        assert_eq!(locked(""), []);
        assert_eq!(locked("[[package]]\nname = \"a"), []);
    }
}
