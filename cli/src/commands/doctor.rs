//! `flowmonkey doctor`: is what is used here in good order? A data directory and this machine; Postgres, Redis and engines.

mod database;
mod engines;
mod queues;
mod tasks;

use std::path::{Path, PathBuf};

use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::{SqliteOptions, SqliteStore, Store, verify};
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::args::{DEV_DATA_DIR, DatabaseArgs, DoctorArgs};
use crate::client::Client;
use crate::embedded::data_dir::{self, Ownership};
use crate::embedded::handlers;
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::show;

/// Free bytes below which a person should look.
const FREE_BYTES_WARN: u64 = 1 << 30;
/// Free bytes below which nothing more should be started.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// A clock before this instant is not set: 2025-01-01.
const CLOCK_MIN_MS: i64 = 1_735_689_600_000;
/// How far the record may be ahead of the clock.
const CLOCK_BEHIND_MAX_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Warning,
    Bad,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "error",
        }
    }
}

struct Finding {
    check: &'static str,
    state: State,
    text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, state: State, text: impl Into<String>) {
        self.0.push(Finding { check, state, text: text.into() });
    }
}

pub(crate) async fn doctor(args: DoctorArgs, settings: &Settings) -> Result<Exit, CliError> {
    let mut findings = Findings::default();
    let now = Timestamp::from_millis(SystemClock.now_ms());
    clock(&mut findings, now);
    let is_distributed = args.database.is_some() || args.redis.is_some() || !args.engines.is_empty();
    let here = || (!is_distributed).then(|| PathBuf::from(DEV_DATA_DIR));
    if let Some(path) = args.data_dir.clone().or_else(here) {
        directory(&mut findings, &path, now).await;
    }
    distributed(&mut findings, &args, settings, now).await;
    for file in &args.manifests {
        manifests(&mut findings, file);
    }
    let is_bad = findings.0.iter().any(|finding| finding.state == State::Bad);
    let checks: Vec<Value> = findings
        .0
        .iter()
        .map(|Finding { check, state, text }| json!({ "check": check, "state": state.as_str(), "message": text }))
        .collect();
    settings.output.print(&json!({ "healthy": !is_bad, "checks": checks }), |report| {
        show::lines(&report["checks"], &[("state", "state"), ("check", "check"), ("finding", "message")])
    })?;
    Ok(if is_bad { Exit::Failed } else { Exit::Done })
}

/// A data directory.
async fn directory(findings: &mut Findings, path: &Path, now: Timestamp) {
    if path.is_dir() {
        permissions(findings, path);
        disk(findings, path);
        record(findings, path, now).await;
    } else {
        findings.add("directory", State::Warning, format!("{} does not exist yet", path.display()));
    }
}

/// The servers that engines and workers share, and the engines.
async fn distributed(findings: &mut Findings, args: &DoctorArgs, settings: &Settings, now: Timestamp) {
    let mut inspection = match &args.database {
        Some(url) => {
            let database = DatabaseArgs { database: url.clone(), pooler: args.pooler, no_migrate: true };
            database::look(findings, &database, now).await
        }
        None => None,
    };
    let queue = match &args.redis {
        Some(url) => queues::look(findings, url, &args.redis_settings).await,
        None => None,
    };
    if let (Some(inspection), Some(queue)) = (&mut inspection, &queue) {
        tasks::compare(findings, inspection, queue, now).await;
    }
    if let Some(inspection) = inspection {
        inspection.end().await;
    }
    if let Some(queue) = queue {
        queue.close(queues::CLOSE_MAX).await;
    }
    for engine in &args.engines {
        engines::look(findings, engine, settings).await;
    }
}

fn clock(findings: &mut Findings, now: Timestamp) {
    if now.as_millis() < CLOCK_MIN_MS {
        findings.add("clock", State::Bad, format!("the clock says {now}: set it, timers depend on it"));
    } else {
        findings.add("clock", State::Good, now.to_rfc3339());
    }
}

#[cfg(unix)]
fn permissions(findings: &mut Findings, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let probe = tempfile::Builder::new().prefix(".doctor-").tempfile_in(path);
    if let Err(error) = probe {
        findings.add("permissions", State::Bad, format!("{} cannot be written: {error}", path.display()));
        return;
    }
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 == 0 {
        findings.add("permissions", State::Good, format!("only its owner can read it (mode {mode:o})"));
    } else {
        let cure = format!("chmod 700 {}", path.display());
        findings.add("permissions", State::Warning, format!("others can read it (mode {mode:o}): {cure}"));
    }
}

fn disk(findings: &mut Findings, path: &Path) {
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB free", free >> 20);
            let state = match free {
                ..FREE_BYTES_MIN => State::Bad,
                FREE_BYTES_MIN..FREE_BYTES_WARN => State::Warning,
                FREE_BYTES_WARN.. => State::Good,
            };
            findings.add("disk", state, text);
        }
        Err(error) => findings.add("disk", State::Bad, format!("free space is unknown: {error}")),
    }
}

async fn record(findings: &mut Findings, path: &Path, now: Timestamp) {
    let database = data_dir::database(path);
    let taken = match data_dir::take_or_ask(path).await {
        Ok(taken) => taken,
        Err(error) => return findings.add("lock", State::Bad, error.to_string()),
    };
    let dir = match taken {
        Ownership::Ours(dir) => {
            findings.add("lock", State::Good, "nobody uses it now");
            Some(dir)
        }
        Ownership::Theirs(owner) => {
            let pid = owner.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            findings.add("lock", State::Good, format!("in use by {pid}"));
            answers(findings, owner.address.as_deref()).await;
            None
        }
    };
    if !database.is_file() {
        findings.add("record", State::Warning, "there is no record yet");
        return;
    }
    match verify(&database).await {
        Ok(version) => findings.add("record", State::Good, format!("whole, schema version {version}")),
        Err(error) => return findings.add("record", State::Bad, error.to_string()),
    }
    // Only an owner may open it to write; what an owner does with it is said by its flags.
    if dir.is_some() {
        match SqliteStore::open(&database, SqliteOptions::default()).await {
            Ok(store) => {
                contents(findings, &store, now).await;
                store.close().await;
            }
            Err(error) => findings.add("record", State::Bad, error.to_string()),
        }
    }
    let durability = "every commit waits for the disk, unless `--durability relaxed` is given to run or dev";
    findings.add("durability", State::Good, durability);
}

/// Whether the owner says that it is well.
async fn answers(findings: &mut Findings, address: Option<&str>) {
    let Some(address) = address else {
        return findings.add("owner", State::Warning, "it does not say where it can be asked");
    };
    let ready = match Client::local(address) {
        Ok(client) => client.get("/readyz").await,
        Err(error) => Err(error),
    };
    match ready {
        Ok(_) => findings.add("owner", State::Good, format!("{address} is ready")),
        Err(error) => findings.add("owner", State::Bad, error.to_string()),
    }
}

async fn contents(findings: &mut Findings, store: &SqliteStore, now: Timestamp) {
    match store.counts().await {
        Ok(counts) => {
            let words: Vec<String> = counts
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(status, count)| format!("{count} {}", status.as_str()))
                .collect();
            let text = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
            findings.add("executions", State::Good, text);
        }
        Err(error) => findings.add("executions", State::Bad, error.to_string()),
    }
    let newest = flowmonkey_engine::store::ExecutionFilter { max: 1, ..Default::default() };
    let newest = store.list(&newest).await.ok().and_then(|page| page.items.into_iter().next());
    if let Some(newest) = newest
        && newest.created_at.since(now) > CLOCK_BEHIND_MAX_MS
    {
        let text = format!(
            "the record is ahead of the clock: {} (a run with --skip-time, or a clock set back)",
            newest.created_at
        );
        findings.add("clock", State::Warning, text);
    }
    if store.corrupt_rows() > 0 {
        findings.add("record", State::Bad, format!("{} rows cannot be understood", store.corrupt_rows()));
    }
}

fn manifests(findings: &mut Findings, file: &Path) {
    match handlers::manifests(file) {
        Ok(found) => {
            let mut missing: Vec<String> = found
                .iter()
                .filter_map(|handler| handler.manifest().command.first())
                .filter(|program| !is_program(program, file))
                .cloned()
                .collect();
            missing.dedup();
            if missing.is_empty() {
                let text = format!("{}: {} found, their programs too", file.display(), found.len());
                findings.add("handlers", State::Good, text);
            } else {
                let text = format!("{}: not found: {}", file.display(), missing.join(", "));
                findings.add("handlers", State::Bad, text);
            }
        }
        Err(error) => findings.add("handlers", State::Bad, error.to_string()),
    }
}

/// Whether `program` can be found as a child process would: by `PATH`, or beside its manifest.
fn is_program(program: &str, manifest: &Path) -> bool {
    if program.contains('/') {
        let folder = if manifest.is_dir() { Some(manifest) } else { manifest.parent() };
        return folder.is_some_and(|folder| folder.join(program).is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
