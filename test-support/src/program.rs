//! A program of ours, as a process.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Farewell, Process};
use crate::wait::{blocking, look_for};

/// From the start until it is ready. Generous: machines that run tests are busy.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A clean stop may take as long as what runs.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// A process with a folder of its own, in which it runs. Dropping it kills it; it cannot outlive us.
#[derive(Debug)]
pub struct Program {
    name: String,
    // Before the folder: fields are dropped in order, and the process must be gone first.
    process: Process,
    log: PathBuf,
    _folder: TempDir,
}

impl Program {
    /// Starts `command`; its output goes to its log.
    ///
    /// Panics when it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("fm-{name}-"))
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a folder for {name}: {error}"));
        command.current_dir(folder.path());
        let log = folder.path().join("log");
        let process = Process::spawn(command, folder.path(), &log, Farewell::Kill);
        Self { name: name.to_owned(), process, log, _folder: folder }
    }

    /// Looks at its log until `ready` finds there what it waits for.
    ///
    /// Panics with the log when it ends first, or takes too long.
    pub async fn until<T: Send + 'static>(
        mut self,
        ready: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        blocking(move || {
            let found = look_for(READY_WITHIN, || {
                let ended = self.process.has_ended();
                let log = self.log();
                if let Some(found) = ready(&log) {
                    return Some(found);
                }
                assert!(!ended, "{} has ended. Its log:\n{log}", self.name);
                None
            });
            let found =
                found.unwrap_or_else(|| panic!("{} is not ready. Its log:\n{}", self.name, self.log()));
            (self, found)
        })
        .await
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(self) {
        blocking(move || self.process.stop(Signal::TERM, STOP_WITHIN)).await;
    }
}
