//! The lines of a tree: steps with their progress, and fan-outs with how many of their children have ended.

use std::collections::HashMap;
use std::time::Duration;

use flowmonkey_core::execution::event::{AttemptOutcome, Event};
use flowmonkey_core::execution::state::{Fan, Wait, WaitOn};
use flowmonkey_core::ids::ExecutionId;
use indicatif::{ProgressBar, ProgressStyle};

use super::LINES;
use crate::show;

/// Steps that are shown at a time; the rest of a long execution is in its history.
const LINES_MAX: usize = 40;
/// Fan-outs with more children than this show a bar instead of their children's steps.
const CHILDREN_SHOWN_MAX: u32 = 8;
/// Levels below the root that are shown.
pub(super) const DEPTH_SHOWN_MAX: u16 = 3;
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// One line: a step of an execution.
struct Line {
    bar: ProgressBar,
    depth: u16,
    label: String,
}

pub(super) struct Drawing {
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
    pub(super) fn new(title: String) -> Self {
        let bar = LINES.add(ProgressBar::new_spinner());
        bar.set_style(style("{msg}  {elapsed}"));
        bar.set_message(title);
        bar.enable_steady_tick(SPINNER_TICK);
        Self { title: bar, lines: HashMap::new(), tasks: HashMap::new(), fans: HashMap::new() }
    }

    pub(super) fn clear(&self) {
        for line in self.lines.values() {
            line.bar.finish_and_clear();
        }
        self.title.finish_and_clear();
    }

    /// A handler began.
    pub(super) fn started(&self, execution: ExecutionId, task: u32, attempt: u32) {
        if let Some(line) = self.tasks.get(&(execution, task)).and_then(|step| self.line(execution, step)) {
            line.bar.set_message(if attempt > 1 { format!("attempt {attempt}") } else { String::new() });
        }
    }

    /// The step of a task.
    pub(super) fn step_of(&self, execution: ExecutionId, task: u32) -> Option<&str> {
        self.tasks.get(&(execution, task)).map(String::as_str)
    }

    /// How far a task is. Of fan-outs the children that have ended are shown.
    pub(super) fn progress(&self, execution: ExecutionId, step: &str, percent: f64, message: Option<&str>) {
        if self.fans.iter().any(|((of, _), (fan, _))| *of == execution && fan == step) {
            return;
        }
        if let Some(line) = self.line(execution, step) {
            line.bar.set_style(style("{prefix} {bar:24} {percent}% {msg}"));
            line.bar.set_length(100);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
            line.bar.set_position(percent.clamp(0.0, 100.0) as u64);
            line.bar.set_message(show::cell(&message.unwrap_or_default().into()));
        }
    }

    fn line(&self, execution: ExecutionId, step: &str) -> Option<&Line> {
        self.lines.get(&(execution, step.to_owned()))
    }

    /// The fan-out that a child belongs to; without its number, the one that is open.
    fn fan(&self, parent: ExecutionId, join: Option<u32>) -> Option<&(String, u32)> {
        match join {
            Some(join) => self.fans.get(&(parent, join)),
            None => self.fans.iter().find(|((of, _), _)| *of == parent).map(|(_, fan)| fan),
        }
    }

    /// Whether the steps of a child are shown: it is not one of many.
    pub(super) fn shows_child(&self, parent: ExecutionId, join: Option<u32>) -> bool {
        self.fan(parent, join).is_some_and(|(_, total)| *total <= CHILDREN_SHOWN_MAX)
    }

    /// A child has ended.
    pub(super) fn child_ended(&self, parent: ExecutionId, join: Option<u32>, has_failed: bool) {
        let Some((step, _)) = self.fan(parent, join) else { return };
        if let Some(line) = self.line(parent, step) {
            line.bar.inc(1);
            if has_failed {
                line.bar.set_message("some failed");
            }
        }
    }

    /// An execution has ended, and it is not known how: what it had begun is over.
    pub(super) fn is_over(&self, execution: ExecutionId) {
        for line in self.lines.iter().filter(|((of, _), _)| *of == execution).map(|(_, line)| line) {
            if !line.bar.is_finished() {
                line.bar.set_style(style("{prefix} {msg}"));
                line.bar.finish_with_message("-");
            }
        }
    }

    /// Something was committed, `depth` levels below the root.
    pub(super) fn event(&mut self, id: ExecutionId, depth: u16, event: &Event) {
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
}

/// What a wait is for, in words.
pub(crate) fn waits_for(wait: &Wait) -> String {
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
