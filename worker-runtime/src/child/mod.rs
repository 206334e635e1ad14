//! Handlers in any language: each is a child process that speaks the child protocol on its standard input and output.

mod attempt;
mod conversation;
mod launch;
mod output;
pub mod process;
mod protocol;
mod request;
mod requests;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;

use crate::handler::{Completion, Failure, Handler, Task};
use attempt::{Attempt, Ended};
use conversation::Conversation;
use launch::{HANDLER_ERROR, Launch};

/// Why a manifest cannot be run as a child process.
#[derive(Debug, thiserror::Error)]
pub enum ChildHandlerError {
    /// A field of the manifest has a value that cannot be used.
    #[error("handler `{handler_type}`: `{field}` {problem}")]
    Invalid {
        /// The type.
        handler_type: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The manifest's directory cannot be told.
    #[error("handler `{handler_type}`: the directory cannot be resolved")]
    Directory {
        /// The type.
        handler_type: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A handler that runs the program of its manifest, one task at a time in each process.
///
/// A process inherits `PATH`, `HOME`, `LANG` and what the manifest names, and is the leader of its own process group, which
/// ends with the attempt. With `reuse` it stays for the next task, as long as it keeps to the protocol. Dropping the
/// handler kills the processes that are idle.
#[derive(Debug)]
pub struct ChildHandler {
    manifest: Manifest,
    launch: Launch,
    idle: Mutex<Vec<Conversation>>,
    timeout: Option<Duration>,
}

impl ChildHandler {
    /// A handler that runs `manifest.command` in `directory`, the folder of the manifest, or in the manifest's
    /// `workingDirectory` within it.
    ///
    /// # Errors
    /// When the manifest names no program, or a value of it cannot be used. Whether the program exists shows when it is
    /// started.
    pub fn new(manifest: Manifest, directory: impl AsRef<Path>) -> Result<Self, ChildHandlerError> {
        let launch = Launch::new(&manifest, directory.as_ref())?;
        Ok(Self { manifest, launch, idle: Mutex::default(), timeout: None })
    }

    /// The same handler, whose attempts are told to stop after `timeout` and then fail with the code `TIMEOUT`. Without it
    /// only the worker and the step limit them.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Conversation>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle child that is still alive.
    fn reused(&self) -> Option<Conversation> {
        loop {
            // Those that have ended are dropped here.
            let mut idle = self.idle().pop()?;
            if idle.is_alive() {
                return Some(idle);
            }
        }
    }

    fn started(&self) -> Result<Conversation, Box<Failure>> {
        let group = self.launch.start()?;
        let broken =
            || Box::new(Failure::new(HANDLER_ERROR, format!("`{}` has no pipes", self.launch.name())));
        Conversation::new(group, &self.manifest.limits).ok_or_else(broken)
    }
}

#[async_trait]
impl Handler for ChildHandler {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let checkpoint = attempt::load_checkpoint(task).await?;
        let execute = protocol::execute(&task.message, checkpoint.as_ref());
        let attempt = |conversation| {
            let name = self.launch.name();
            Attempt::new(task, &self.manifest, name, conversation, self.timeout).run(execute.as_bytes())
        };
        let ended = match self.reused() {
            None => attempt(self.started().map_err(|failure| *failure)?).await,
            Some(conversation) => match attempt(conversation).await {
                // It was on its way out when it got the task: another one takes it.
                Ended::Unheard(_) => attempt(self.started().map_err(|failure| *failure)?).await,
                ended @ (Ended::Done(..) | Ended::Failed(_)) => ended,
            },
        };
        match ended {
            Ended::Done(result, conversation) => {
                if let Some(conversation) = conversation {
                    self.idle().push(*conversation);
                }
                *attempt::leave_behind(task, *result)
            }
            Ended::Unheard(failure) | Ended::Failed(failure) => Err(failure),
        }
    }
}
