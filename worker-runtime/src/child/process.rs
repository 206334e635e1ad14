//! Processes of handlers: what they inherit, groups that end as a whole, output that is kept within bounds.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Variables that a program inherits.
pub const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Time to read what is left in the pipes after a program has ended.
pub const DRAIN: Duration = Duration::from_secs(2);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Leaves a program nothing of this process' environment but [`INHERITED`] and the variables `names`.
pub fn inherit<'a>(command: &mut Command, names: impl IntoIterator<Item = &'a str>) {
    command.env_clear();
    for name in INHERITED.into_iter().chain(names) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// A process and all that it starts, as far as they stay in its process group. Dropping it kills them.
#[derive(Debug)]
pub struct Group {
    /// The process itself.
    pub child: Child,
    id: Option<Pid>,
}

impl Group {
    /// Starts a program as the leader of a new group.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, id })
    }

    /// Waits for the end of the process; the rest of its group may go on. Safe to drop and to repeat.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks all processes of the group to end (SIGTERM).
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills all processes of the group.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        // Once the group is gone its number may go to somebody else.
        self.id = None;
    }

    /// Asks the processes to end, and kills them after `grace`.
    pub async fn terminate(&mut self, grace: Duration) {
        self.ask_to_end();
        // Either it has ended or it has not: both end in the kill.
        drop(tokio::time::timeout(grace, self.child.wait()).await);
        self.kill();
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // An error means that nobody is left.
            kill_process_group(id, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is kept of an output.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// All of it, up to so many bytes; more is an error.
    First(usize),
    /// The last bytes.
    Last(usize),
}

/// More output than may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Output of a program, within bounds.
#[derive(Debug)]
pub struct Captured {
    keep: Keep,
    bytes: Vec<u8>,
}

impl Captured {
    /// Nothing yet.
    #[must_use]
    pub const fn new(keep: Keep) -> Self {
        Self { keep, bytes: Vec::new() }
    }

    /// Reads a pipe to its end.
    ///
    /// # Errors
    /// When there is more than may be kept.
    pub async fn read(&mut self, source: Option<impl AsyncRead + Unpin>) -> Result<(), Full> {
        let Some(mut source) = source else { return Ok(()) };
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        // A pipe that cannot be read has ended.
        while let Ok(read @ 1..) = source.read(&mut buffer).await {
            self.bytes.extend_from_slice(&buffer[..read]);
            match self.keep {
                Keep::First(limit) if self.bytes.len() > limit => return Err(Full),
                Keep::Last(limit) if self.bytes.len() > 2 * limit => {
                    self.bytes.drain(..self.bytes.len() - limit);
                }
                Keep::First(_) | Keep::Last(_) => {}
            }
        }
        Ok(())
    }

    /// What was kept; bytes that are no text are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.keep {
            Keep::First(_) => text.into_owned(),
            Keep::Last(limit) => tail(&text, limit).to_owned(),
        }
    }
}

/// The end of a text, at most so many bytes.
#[must_use]
pub fn tail(text: &str, bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
}
