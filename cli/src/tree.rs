//! What a person sees while an execution runs: a live tree on standard error, when that is a terminal.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use flowmonkey_core::execution::event::{AttemptOutcome, Event};
use flowmonkey_core::execution::state::{Fan, Wait, WaitOn};
use flowmonkey_core::execution::{Execution, RecordedEvent, Status};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::Engine;
use flowmonkey_engine::watch::{CommittedUpdate, Update};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::show;

/// Steps that are shown at a time; the rest of a long execution is in its history.
const LINES_MAX: usize = 40;
/// Fan-outs with more children than this show a bar instead of their children's steps.
const CHILDREN_SHOWN_MAX: u32 = 8;
/// Levels below the root that are shown.
const DEPTH_SHOWN_MAX: u16 = 3;
const SPINNER_TICK: Duration = Duration::from_millis(120);

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
            let mut drawing = Drawing::new(tree.root.clone(), title);
            let (mut updates, end) = (engine.watchers.follow(), tree.end.clone());
            tree.follower.spawn(async move {
                drawing.follow(&mut updates, &end).await;
                drawing.clear();
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

/// One line: a step of an execution.
struct Line {
    bar: ProgressBar,
    depth: u16,
    label: String,
}

struct Drawing {
    root: Arc<Mutex<Option<ExecutionId>>>,
    title: ProgressBar,
    /// By execution and step.
    lines: HashMap<(ExecutionId, String), Line>,
    /// The step that a task belongs to, by its number.
    tasks: HashMap<(ExecutionId, u32), String>,
    /// The step and the number of children of open fan-outs.
    fans: HashMap<(ExecutionId, u32), (String, u32)>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drawing {
    fn new(root: Arc<Mutex<Option<ExecutionId>>>, title: String) -> Self {
        let bar = LINES.add(ProgressBar::new_spinner());
        bar.set_style(style("{msg}  {elapsed}"));
        bar.set_message(title);
        bar.enable_steady_tick(SPINNER_TICK);
        Self { root, title: bar, lines: HashMap::new(), tasks: HashMap::new(), fans: HashMap::new() }
    }

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

    fn clear(&self) {
        for line in self.lines.values() {
            line.bar.finish_and_clear();
        }
        self.title.finish_and_clear();
    }

    fn draw(&mut self, update: &Update) {
        match update {
            Update::Committed(update) => self.committed(update),
            Update::Started { execution, task, attempt, worker: _ } => {
                if let Some(line) = self.line_of(*execution, *task) {
                    line.bar.set_message(if *attempt > 1 {
                        format!("attempt {attempt}")
                    } else {
                        String::new()
                    });
                }
            }
            Update::Progress { execution, task: Some(task), progress, .. } => {
                if let Some(line) = self.line_of(*execution, *task) {
                    line.bar.set_style(style("{prefix} {bar:24} {percent}% {msg}"));
                    line.bar.set_length(100);
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
                    line.bar.set_position(progress.percent.clamp(0.0, 100.0) as u64);
                    line.bar.set_message(progress.message.clone().unwrap_or_default());
                }
            }
            // Of fan-outs the children that have ended are shown.
            Update::Progress { task: None, .. }
            | Update::Log { .. }
            | Update::Elsewhere { .. }
            | Update::Missed => {}
        }
    }

    fn line_of(&self, execution: ExecutionId, task: u32) -> Option<&Line> {
        let step = self.tasks.get(&(execution, task))?;
        self.lines.get(&(execution, step.clone()))
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
                let (_, total) = self.fans.get(&(parent.execution, parent.join))?;
                (*total <= CHILDREN_SHOWN_MAX).then_some(identity.depth)
            }
        }
    }

    fn committed(&mut self, update: &CommittedUpdate) {
        let execution = &update.execution;
        if execution.is_terminal() {
            self.child_ended(execution);
        }
        let Some(depth) = self.depth(execution) else {
            // Its steps are not shown, its fan-outs are followed no further.
            return;
        };
        for RecordedEvent { event, .. } in &update.events {
            self.event(execution, depth, event);
        }
    }

    fn event(&mut self, execution: &Execution, depth: u16, event: &Event) {
        let id = execution.id();
        match event {
            Event::Entered { step } => self.begin(id, depth, step.as_ref()),
            Event::TaskScheduled { task } => {
                self.tasks.insert((id, task.run.task), task.run.step.to_string());
                self.say(id, task.run.step.as_ref(), &format!("queued for {}", task.pool));
            }
            Event::AttemptEnded(ended) => {
                let took = show::duration(ended.duration_ms);
                match ended.outcome {
                    AttemptOutcome::Success => self.finish(id, ended.step_id.as_ref(), "✓", &took),
                    AttemptOutcome::Skipped => self.finish(id, ended.step_id.as_ref(), "-", "skipped"),
                    AttemptOutcome::Failure => {
                        let reason =
                            ended.error.as_ref().map_or_else(String::new, |error| error.message.clone());
                        self.finish(id, ended.step_id.as_ref(), "✗", &show::cell(&reason.into()));
                    }
                    AttemptOutcome::Wait => {}
                }
            }
            Event::RetryScheduled { run, until, error } => {
                self.begin(id, depth, run.step.as_ref());
                let why = show::cell(&error.message.clone().into());
                self.say(id, run.step.as_ref(), &format!("retry {} at {until}: {why}", run.retry));
            }
            Event::WaitBegan(wait) => self.say(id, wait.run.step.as_ref(), &waits_for(wait)),
            Event::WaitEnded { step, .. } => self.finish(id, step.as_ref(), "✓", ""),
            Event::FanOpened(fan) => self.fan_opened(id, fan),
            Event::FanEnded { join, succeeded, failed, .. } => {
                if let Some((step, _)) = self.fans.remove(&(id, *join)) {
                    let failures = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
                    self.finish(
                        id,
                        &step,
                        if *failed > 0 { "!" } else { "✓" },
                        &format!("{succeeded} done{failures}"),
                    );
                }
            }
            Event::IncidentRaised(incident) => {
                self.say(id, incident.run.step.as_ref(), &format!("incident {}", incident.error.code));
            }
            Event::EndingBegan { .. } => self.title.set_message("ending: undoing and cleaning up"),
            Event::Created { .. }
            | Event::Yielded { .. }
            | Event::ContextChanged { .. }
            | Event::StepSucceeded { .. }
            | Event::StepFailed { .. }
            | Event::LeaseLost { .. }
            | Event::StartConfirmed
            | Event::Escalated { .. }
            | Event::FanClosing { .. }
            | Event::IterationDone { .. }
            | Event::ErrorsTolerated
            | Event::SignalBuffered(_)
            | Event::SignalTaken { .. }
            | Event::SignalAccepted { .. }
            | Event::TaskFenced { .. }
            | Event::IncidentResolved { .. }
            | Event::CompensationAdded(_)
            | Event::ChildStacksAdded(_)
            | Event::ChildStacksRead { .. }
            | Event::CompensationBegan
            | Event::CompensationEnded
            | Event::StageReached { .. }
            | Event::Paused { .. }
            | Event::ReportHeld(_)
            | Event::Unpaused
            | Event::BudgetWarned { .. }
            | Event::Completed { .. }
            | Event::Failed
            | Event::Cancelled { .. }
            | Event::Reopened { .. } => {}
        }
    }

    fn begin(&mut self, execution: ExecutionId, depth: u16, step: &str) {
        self.make_room();
        let key = (execution, step.to_owned());
        let bar = match self.lines.get(&key) {
            Some(line) => line.bar.clone(),
            None => LINES.add(ProgressBar::new_spinner()),
        };
        bar.reset();
        bar.set_style(style("{prefix} {spinner} {msg}"));
        let label = format!("{}{step}", "  ".repeat(usize::from(depth) + 1));
        bar.set_prefix(label.clone());
        bar.set_message("");
        bar.enable_steady_tick(SPINNER_TICK);
        self.lines.insert(key, Line { bar, depth, label });
    }

    /// Old finished lines give way to new ones, the deepest first.
    fn make_room(&mut self) {
        while self.lines.len() >= LINES_MAX {
            let oldest = self
                .lines
                .iter()
                .filter(|(_, line)| line.bar.is_finished())
                .max_by_key(|(_, line)| line.depth)
                .map(|(key, _)| key.clone());
            let Some(line) = oldest.and_then(|key| self.lines.remove(&key)) else { return };
            line.bar.finish_and_clear();
            LINES.remove(&line.bar);
        }
    }

    fn say(&self, execution: ExecutionId, step: &str, text: &str) {
        if let Some(line) = self.lines.get(&(execution, step.to_owned())) {
            line.bar.set_message(text.to_owned());
        }
    }

    fn finish(&self, execution: ExecutionId, step: &str, mark: &str, text: &str) {
        if let Some(line) = self.lines.get(&(execution, step.to_owned())) {
            line.bar.set_style(style("{prefix} {msg}"));
            line.bar.set_prefix(line.label.clone());
            line.bar.finish_with_message(format!("{mark} {text}"));
        }
    }

    fn fan_opened(&mut self, execution: ExecutionId, fan: &Fan) {
        let step = fan.run.step.to_string();
        self.fans.insert((execution, fan.join), (step.clone(), fan.total));
        if let Some(line) = self.lines.get(&(execution, step)) {
            line.bar.set_style(style("{prefix} {bar:24} {pos}/{len}"));
            line.bar.set_length(fan.total.into());
            line.bar.set_position(0);
        }
    }

    fn child_ended(&self, child: &Execution) {
        let Some(parent) = child.identity.parent else { return };
        let Some((step, _)) = self.fans.get(&(parent.execution, parent.join)) else { return };
        if let Some(line) = self.lines.get(&(parent.execution, step.clone())) {
            line.bar.inc(1);
            if child.status() == Status::Failed {
                line.bar.set_message("some failed");
            }
        }
    }
}

fn waits_for(wait: &Wait) -> String {
    let limit = wait.deadline.map_or_else(String::new, |deadline| format!(", at most until {deadline}"));
    let what = match &wait.on {
        WaitOn::Timer { until } | WaitOn::Handler { until: Some(until), .. } => format!("until {until}"),
        WaitOn::Signal { signal } => format!("for signal {signal}{limit}"),
        WaitOn::Event { event } => format!("for event {event}{limit}"),
        WaitOn::Approval { signal, .. } => format!("for approval {signal}{limit}"),
        WaitOn::Handler { until: None, event: Some(event), .. } => format!("for event {}{limit}", event.name),
        WaitOn::Handler { until: None, event: None, .. } => format!("for a resume{limit}"),
    };
    format!("waits {what}")
}
