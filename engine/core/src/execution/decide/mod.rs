//! From a command to a decision. One file per thing that can happen.
mod children;
mod control;
mod ending;
mod joined;
mod outcome;
mod report;
mod step;
mod turn;
mod wait;

use super::command::Command;
use super::decision::{Decision, World};
use super::error::Rejection;
use super::state::{Activity, Execution, Phase, Stage};
use crate::time::Moment;
pub(super) use turn::with_scope;

use turn::Turn;

/// Decides what follows from `command`. Nothing has changed when it is refused.
///
/// The decision's execution is the state afterwards, with `version` raised by one; the caller stores it, guarded by the
/// version of `execution`.
///
/// # Errors
/// A [`Rejection`] says why the command makes no sense in this state. It is an answer, not a fault.
pub fn decide(
    execution: &Execution,
    world: &World<'_>,
    command: Command,
    moment: Moment,
) -> Result<Decision, Rejection> {
    if execution.is_terminal() && !matches!(command, Command::Retry { .. }) {
        return Err(Rejection::Finished(execution.status()));
    }
    let mut turn = Turn::new(execution, world, moment);
    match command {
        Command::Begin => turn.begin()?,
        Command::Report(report) => turn.report(report)?,
        Command::LeaseLost { attempt, saved_at } => turn.lease_lost(attempt, saved_at)?,
        Command::TimedOut(attempt) => turn.timed_out(attempt)?,
        Command::NotStarted(attempt) => turn.not_started(attempt)?,
        Command::Started(attempt) => turn.started(attempt)?,
        Command::Republish(attempt) => turn.republish(attempt)?,
        Command::Wake => turn.wake()?,
        Command::Signal(signal) => turn.signal(signal)?,
        Command::Resume { step, visit, data } => turn.resume(&step, visit, data)?,
        Command::ResumeByToken { token, data } => turn.resume_by_token(&token, data)?,
        Command::Event { id, name, data } => turn.event(&id, &name, &data)?,
        Command::JoinDecided { join } => turn.join_decided(join)?,
        Command::JoinEnded(report) => turn.join_ended(*report)?,
        Command::Cancel { source, reason } => turn.cancel(source, reason)?,
        Command::Terminate { reason } => turn.terminate(reason),
        Command::Pause { reason } => turn.pause(reason)?,
        Command::Unpause => turn.unpause()?,
        Command::Retry { by } => turn.retry(by)?,
        Command::BudgetExceeded { spent } => turn.budget_exceeded(spent)?,
        Command::BudgetWarning { spent } => turn.budget_warning(spent)?,
    }
    turn.run();
    Ok(turn.finish())
}

impl Turn<'_> {
    /// Time has passed: whatever is due happens, the execution's own limits first.
    fn wake(&mut self) -> Result<(), Rejection> {
        if self.execution.pause.is_some() {
            return Err(Rejection::Paused);
        }
        let now = self.moment.now;
        if self.execution.next_wake().is_none_or(|due| due > now) {
            return Err(Rejection::NothingDue);
        }
        match &self.execution.phase {
            Phase::Running if self.execution.deadline.is_some_and(|deadline| deadline <= now) => {
                self.execution_timed_out();
                return Ok(());
            }
            Phase::Ending { stage: Stage::Draining { until }, .. } if *until <= now => {
                self.drain_ran_out();
                return Ok(());
            }
            Phase::Ending { stage: Stage::Compensating { until }, .. } if *until <= now => {
                self.compensation_timed_out();
                return Ok(());
            }
            Phase::Running
            | Phase::Ending { .. }
            | Phase::Completed
            | Phase::Failed { .. }
            | Phase::Cancelled { .. } => {}
        }
        match self.execution.activity.clone() {
            Activity::Ready => self.go_on(),
            Activity::Task(task) => self.task_due(&task)?,
            Activity::Backoff { task, .. } => self.backoff_over(task),
            Activity::Wait(wait) => self.wait_due(wait),
            Activity::Children(fan) => self.fan_timed_out(&fan),
            Activity::Incident(_) | Activity::Nothing => return Err(Rejection::NothingDue),
        }
        Ok(())
    }
}
