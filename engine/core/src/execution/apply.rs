//! Applies facts to the state. Total: what was recorded can be applied for ever.
//!
//! Architecture invariant: `apply` decides nothing. Whatever it needs is in the event.

use serde_json::{Map, Value};

use super::command::ContextChange;
use super::event::{Event, RecordedEvent, WaitEnd};
use super::state::{Activity, ChildStacks, Cost, Execution, Pause, Phase, Undoable, WaitOn};
use crate::context::{self, ContextSize};
use crate::flow::path::Path;
use crate::limits::ContextLimits;
use crate::time::Timestamp;

/// Ids of accepted signals that are remembered.
const SIGNAL_IDS_MAX: usize = 100;

/// Applies `event`, which was decided at `at`.
pub fn apply(execution: &mut Execution, event: &Event, at: Timestamp) {
    execution.events += 1;
    execution.updated_at = at;
    match event {
        Event::Created { execution: created } => {
            let events = execution.events;
            *execution = (**created).clone();
            execution.events = events;
        }
        Event::Entered { step } => {
            if execution.cursor != *step {
                execution.iteration = 0;
            }
            execution.cursor = step.clone();
            *execution.visits.entry(step.clone()).or_insert(0) += 1;
            execution.activity = Activity::Ready;
        }
        Event::Yielded { step } => {
            execution.cursor = step.clone();
            execution.activity = Activity::Ready;
        }
        Event::TaskScheduled { task } => {
            execution.tasks = execution.tasks.max(task.run.task);
            execution.cost.attempts = execution.cost.attempts.saturating_add(1);
            execution.activity = Activity::Task(task.clone());
        }
        Event::AttemptEnded(ended) => {
            execution.step_count = execution.step_count.saturating_add(1);
            execution.cost = execution.cost.plus(Cost { attempts: 0, ..ended.cost });
            // Whatever comes next, this attempt is not out any more, and this wait or back-off is over.
            execution.activity = Activity::Ready;
        }
        Event::ContextChanged { changes, bytes } => {
            for change in changes {
                write_change(&mut execution.context, change);
            }
            execution.context_bytes = *bytes;
        }
        Event::StepSucceeded { output, .. } => {
            execution.last_error = None;
            execution.iteration = 0;
            execution.last_output.clone_from(output);
            execution.activity = Activity::Ready;
        }
        Event::StepFailed { error, .. } => {
            execution.last_error = Some(error.to_value());
            execution.iteration = 0;
            execution.activity = Activity::Ready;
        }
        Event::RetryScheduled { run, until, error } => {
            execution.activity = Activity::Backoff { task: run.clone(), until: *until, error: error.clone() };
        }
        Event::LeaseLost { .. } => {}
        Event::BudgetWarned { .. } => execution.budget_warned = true,
        Event::StartConfirmed => {
            if let Activity::Task(task) = &mut execution.activity {
                task.start_by = None;
            }
        }
        Event::WaitBegan(wait) => execution.activity = Activity::Wait(wait.clone()),
        Event::WaitEnded { by, .. } => {
            if let WaitEnd::Resume { data } = by {
                execution.resume_data.clone_from(data);
            }
            execution.activity = Activity::Ready;
        }
        Event::Escalated { assignees } => {
            if let Activity::Wait(wait) = &mut execution.activity
                && let WaitOn::Approval { assignees: asked, escalate_at, .. } = &mut wait.on
            {
                asked.clone_from(assignees);
                *escalate_at = None;
            }
        }
        Event::FanOpened(fan) => {
            execution.joins = execution.joins.max(fan.join);
            execution.activity = Activity::Children(fan.clone());
        }
        Event::FanClosing { closing } => {
            if let Activity::Children(fan) = &mut execution.activity {
                fan.closing = Some(*closing);
            }
        }
        Event::FanEnded { cost, .. } => {
            execution.cost = execution.cost.plus(*cost);
            execution.activity = Activity::Ready;
        }
        Event::IterationDone { iteration } => execution.iteration = *iteration,
        Event::ErrorsTolerated => execution.has_errors = true,
        Event::SignalBuffered(signal) => execution.signals.push(signal.clone()),
        Event::SignalTaken { index } => {
            if *index < execution.signals.len() {
                execution.signals.remove(*index);
            }
        }
        Event::SignalAccepted { id } => {
            if execution.signal_ids.len() >= SIGNAL_IDS_MAX {
                execution.signal_ids.remove(0);
            }
            execution.signal_ids.push(id.clone());
        }
        Event::TaskFenced { .. } | Event::IncidentResolved { .. } => execution.activity = Activity::Ready,
        Event::IncidentRaised(incident) => execution.activity = Activity::Incident(incident.clone()),
        Event::CompensationAdded(compensation) => {
            execution.compensations.push(Undoable::Visit(compensation.clone()));
        }
        Event::ChildStacksAdded(stacks) => add_child_stacks(&mut execution.compensations, *stacks),
        Event::ChildStacksRead { left, entries } => {
            if let Some(Undoable::Children(_)) = execution.compensations.last() {
                execution.compensations.pop();
            }
            execution.compensations.extend(left.map(Undoable::Children));
            execution.compensations.extend(entries.iter().cloned());
        }
        Event::CompensationBegan => {
            execution.undoing = match execution.compensations.pop() {
                Some(Undoable::Visit(visit)) => Some(*visit),
                // References are followed first; it stays.
                Some(stacks @ Undoable::Children(_)) => {
                    execution.compensations.push(stacks);
                    None
                }
                None => None,
            };
            execution.iteration = 0;
            execution.compensated = true;
            execution.activity = Activity::Ready;
        }
        Event::CompensationEnded => {
            execution.undoing = None;
            execution.activity = Activity::Ready;
        }
        Event::EndingBegan { why, stage, run } => {
            execution.phase = Phase::Ending { why: why.clone(), stage: *stage, run: run.clone() };
            // From here on `_error` is why the execution ends, not a failure that was handled before.
            execution.last_error = None;
        }
        Event::StageReached { stage: reached } => {
            if let Phase::Ending { stage, .. } = &mut execution.phase {
                *stage = *reached;
            }
            // What was in flight has ended.
            execution.activity = Activity::Ready;
        }
        Event::Paused { reason } => {
            execution.pause = Some(Pause { since: at, reason: reason.clone(), held: None });
        }
        Event::ReportHeld(report) => {
            if let Some(pause) = &mut execution.pause {
                pause.held = Some(report.clone());
            }
        }
        Event::Unpaused => execution.pause = None,
        Event::Completed { output } => {
            execution.phase = Phase::Completed;
            execution.output.clone_from(output);
            rest(execution);
        }
        Event::Failed => {
            if let Phase::Ending { why: super::state::Why::Failure(error), run, .. } = &execution.phase {
                execution.phase = Phase::Failed { error: error.clone(), run: run.clone() };
            }
            rest(execution);
        }
        Event::Cancelled { cancellation } => {
            execution.phase = Phase::Cancelled { cancellation: cancellation.clone() };
            rest(execution);
        }
        Event::Reopened { .. } => {
            execution.phase = Phase::Running;
            execution.run += 1;
            execution.activity = Activity::Ready;
            execution.deadline = None;
        }
    }
}

/// Puts a reference on the stack, as one with the reference before it where they can be one.
fn add_child_stacks(stack: &mut Vec<Undoable>, stacks: ChildStacks) {
    if let Some(Undoable::Children(last)) = stack.last_mut()
        && let Some(joined) = last.joined_with(&stacks)
    {
        *last = joined;
    } else {
        stack.push(Undoable::Children(stacks));
    }
}

/// What an ended execution does not need any more.
fn rest(execution: &mut Execution) {
    execution.activity = Activity::Nothing;
    execution.pause = None;
    execution.signals.clear();
    execution.last_output = None;
}

/// Applies one change of a context. Its limits were checked when it was decided; a change that does not fit the state
/// (which only a damaged record can hold) changes nothing.
pub(super) fn write_change(current: &mut Map<String, Value>, change: &ContextChange) {
    let size = ContextSize::default();
    let written = match change {
        ContextChange::Set { path, value } => Path::parse(path).ok().map(|path| {
            context::set_path(current, &path, value.clone(), &ContextLimits::UNLIMITED, size).map(drop)
        }),
        ContextChange::Merge { value } => {
            Some(context::merge(current, value.clone(), &ContextLimits::UNLIMITED, size).map(drop))
        }
        ContextChange::Delete { path } => Path::parse(path).ok().map(|path| {
            context::remove_path(current, &path, size);
            Ok(())
        }),
    };
    debug_assert!(matches!(written, Some(Ok(()))), "a recorded change fits: {change:?}");
}

/// The state that `events` give, from the first one on. None when they do not begin with a creation.
#[must_use]
pub fn replay(events: &[RecordedEvent]) -> Option<Execution> {
    let (first, rest) = events.split_first()?;
    let Event::Created { execution } = &first.event else { return None };
    let mut execution = (**execution).clone();
    execution.events = first.sequence;
    for recorded in rest {
        apply(&mut execution, &recorded.event, recorded.at);
    }
    Some(execution)
}
