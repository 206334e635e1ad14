//! What all the servers have in common: a folder, a port, a process, and being ready.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Farewell, Process};
use crate::user::User;
use crate::wait::look_for;

/// From the start of a process until it answers. Generous: machines that run tests are busy.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A clean stop may write data.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Another process may take a port between our look and the server's.
const STARTS_MAX: u32 = 5;
const PORT_TAKEN: &str = "Address already in use";
/// Of the log, when a start fails.
const LOG_LINES_SHOWN: usize = 30;

type MakeCommand = Box<dyn Fn() -> Command + Send + Sync>;
type IsReady = Box<dyn Fn(u32) -> bool + Send + Sync>;

/// How a server is run: given its folder and port, what starts it and when it is ready.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) command: MakeCommand,
    /// Gets the process id. Must hold only when *this* process answers, not one that ran before it.
    pub(crate) is_ready: IsReady,
    pub(crate) farewell: Farewell,
}

/// A server with its folder. Dropping it ends the process and removes the folder.
pub(crate) struct Service {
    recipe: Recipe,
    port: Port,
    log: PathBuf,
    // Before the folder: fields are dropped in order, and the process must be gone first.
    process: Mutex<Option<Process>>,
    folder: TempDir,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.recipe.name).field("port", &self.port.number).finish_non_exhaustive()
    }
}

impl Service {
    /// Makes a folder, lets `prepare` fill it for a port, starts the server, and waits until it is ready.
    /// Panics with the end of the log when it does not become ready.
    pub(crate) fn start(
        name: &str,
        fixed_port: Option<u16>,
        user: User,
        prepare: impl Fn(&Path, u16) -> Recipe,
    ) -> Self {
        let mut starts = 0;
        loop {
            starts += 1;
            let port = fixed_port.map_or_else(Port::free, Port::fixed);
            let folder = tempfile::Builder::new()
                .prefix(&format!("fm-{name}-"))
                .tempdir()
                .unwrap_or_else(|error| panic!("cannot make a folder for {name}: {error}"));
            user.own(folder.path());
            let recipe = prepare(folder.path(), port.number);
            let log = folder.path().join("log");
            let service = Self { recipe, port, log, process: Mutex::new(None), folder };
            match service.launch() {
                Ok(()) => return service,
                Err(log) if fixed_port.is_none() && starts < STARTS_MAX && log.contains(PORT_TAKEN) => {}
                Err(log) => panic!("{name} did not become ready. The end of its log:\n{log}"),
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Panics when it is not running.
    pub(crate) fn pid(&self) -> u32 {
        self.with_running(Process::pid)
    }

    pub(crate) fn pause(&self) {
        self.with_running(Process::pause);
    }

    pub(crate) fn resume(&self) {
        self.with_running(Process::resume);
    }

    /// Nothing happens when it is not running.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.lock().take() {
            process.kill();
        }
    }

    /// Nothing happens when it is not running.
    pub(crate) fn stop(&self, signal: Signal) {
        if let Some(process) = self.lock().take() {
            process.stop(signal, STOP_WITHIN);
        }
    }

    /// Starts it again on its port and folder; kills it first when it runs. `between` is called while it is down.
    pub(crate) fn restart(&self, between: impl FnOnce()) {
        self.kill();
        between();
        if let Err(log) = self.launch() {
            panic!("{} did not come back. The end of its log:\n{log}", self.recipe.name);
        }
    }

    fn with_running<T>(&self, act: impl FnOnce(&Process) -> T) -> T {
        let process = self.lock();
        act(process.as_ref().unwrap_or_else(|| panic!("{} is not running", self.recipe.name)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails with the end of the log.
    fn launch(&self) -> Result<(), String> {
        let mut slot = self.lock();
        let mut process =
            Process::spawn((self.recipe.command)(), self.folder.path(), &self.log, self.recipe.farewell);
        let ready = look_for(READY_WITHIN, || {
            if process.has_ended() {
                return Some(false);
            }
            (self.recipe.is_ready)(process.pid()).then_some(true)
        });
        if ready == Some(true) {
            *slot = Some(process);
            return Ok(());
        }
        drop(process);
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        Err(lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"))
    }
}

/// The path of a program, or a panic that says how to get it: a test that needs a server is never skipped.
pub(crate) fn program(name: &str, debian_package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("this test needs {name}; install it; on Debian: apt-get install {debian_package}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(
        expected = "this test needs no-such-server; install it; on Debian: apt-get install its-package"
    )]
    fn a_missing_server_fails_the_test_and_says_how_to_get_it() {
        program("no-such-server", "its-package");
    }

    #[test]
    fn a_server_that_cannot_start_fails_the_test_and_shows_its_log() {
        let config = vec!["no-such-setting 1".to_owned()];
        let options = crate::RedisOptions { config, ..crate::RedisOptions::default() };
        let panic = std::panic::catch_unwind(|| crate::Redis::start_blocking(options)).unwrap_err();
        let message = panic.downcast::<String>().unwrap();
        assert!(message.contains("no-such-setting"), "{message}");
    }
}
