//! What a person sees while an execution runs: a live tree on standard error, when that is a terminal.

mod drawing;
mod remote;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use flowmonkey_core::execution::{Execution, Status};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::Engine;
use flowmonkey_engine::watch::{CommittedUpdate, Update};
use indicatif::{MultiProgress, ProgressDrawTarget};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use drawing::waits_for;
use drawing::{DEPTH_SHOWN_MAX, Drawing};
pub(crate) use remote::RemoteTree;

/// The lines at the bottom of the terminal. Log lines and messages go above them.
static LINES: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Writes a line for a person to standard error, above the tree.
pub(crate) fn tell(text: &str) {
    LINES.suspend(|| {
        // Nobody listens any more: there is nobody to tell that either.
        drop(writeln!(io::stderr().lock(), "{text}"));
    });
}

/// Where log lines go: standard error, above the tree.
pub(crate) fn above() -> impl Write {
    Above
}

struct Above;

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// A live tree of one execution; nothing when standard error is no terminal.
pub(crate) struct Tree {
    root: Arc<Mutex<Option<ExecutionId>>>,
    follower: TaskTracker,
    end: CancellationToken,
}

impl Tree {
    /// Begins to follow `engine`, for an execution of `flow` that is about to start.
    pub(crate) fn new(engine: &Engine, flow: &Flow) -> Self {
        let tree = Self { root: Arc::default(), follower: TaskTracker::new(), end: CancellationToken::new() };
        if io::stderr().is_terminal() {
            let title = format!("{}@{}", flow.id, flow.version);
            let mut follower = Follower { root: tree.root.clone(), drawing: Drawing::new(title) };
            let (mut updates, end) = (engine.watchers.follow(), tree.end.clone());
            tree.follower.spawn(async move {
                follower.follow(&mut updates, &end).await;
                follower.drawing.clear();
            });
        }
        tree
    }

    /// Names the execution at the root.
    pub(crate) fn root(&self, id: ExecutionId) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// Draws what is left to draw and gives the terminal back.
    pub(crate) async fn end(self) {
        self.end.cancel();
        self.follower.close();
        self.follower.wait().await;
    }
}

/// Draws what the engine of this process does.
struct Follower {
    root: Arc<Mutex<Option<ExecutionId>>>,
    drawing: Drawing,
}

impl Follower {
    async fn follow(&mut self, updates: &mut Receiver<Update>, end: &CancellationToken) {
        loop {
            let update = tokio::select! {
                biased;
                update = updates.recv() => update,
                () = end.cancelled() => return,
            };
            match update {
                Ok(update) => self.draw(&update),
                // What was missed is history; what comes next is drawn.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn draw(&mut self, update: &Update) {
        match update {
            Update::Committed(update) => self.committed(update),
            Update::Started { execution, task, attempt, worker: _ } => {
                self.drawing.started(*execution, *task, *attempt);
            }
            Update::Progress { execution, task: Some(task), progress, .. } => {
                if let Some(step) = self.drawing.step_of(*execution, *task) {
                    let message = progress.message.as_deref();
                    self.drawing.progress(*execution, step, progress.percent, message);
                }
            }
            // Of fan-outs the children that have ended are shown.
            Update::Progress { task: None, .. }
            | Update::Log { .. }
            | Update::Elsewhere { .. }
            | Update::Missed => {}
        }
    }

    /// Levels below the root; none: it is not of this tree, or too deep, or one of many.
    fn depth(&self, execution: &Execution) -> Option<u16> {
        let root = *self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = &execution.identity;
        if root.is_some_and(|root| root != identity.root) || identity.depth > DEPTH_SHOWN_MAX {
            return None;
        }
        match identity.parent {
            None => Some(0),
            Some(parent) => {
                self.drawing.shows_child(parent.execution, Some(parent.join)).then_some(identity.depth)
            }
        }
    }

    fn committed(&mut self, update: &CommittedUpdate) {
        let execution = &update.execution;
        if let Some(parent) = execution.identity.parent.filter(|_| execution.is_terminal()) {
            let has_failed = execution.status() == Status::Failed;
            self.drawing.child_ended(parent.execution, Some(parent.join), has_failed);
        }
        let Some(depth) = self.depth(execution) else {
            // Its steps are not shown, its fan-outs are followed no further.
            return;
        };
        for recorded in update.events.iter() {
            self.drawing.event(execution.id(), depth, &recorded.event);
        }
    }
}
