//! What holds of every state that a decision leaves: used by property tests, by the simulation, and in debug builds.

use super::state::{Activity, Execution, Phase, Stage};

/// Checks the state of one execution.
///
/// # Errors
/// Names the first invariant that does not hold.
pub fn check(execution: &Execution) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{what}: {execution:?}"));
    let terminal = execution.is_terminal();
    if terminal != matches!(execution.activity, Activity::Nothing) {
        return fail("an execution does nothing exactly when it has ended");
    }
    if terminal && (execution.pause.is_some() || execution.next_wake().is_some()) {
        return fail("an ended execution is not paused and is not woken");
    }
    if let Some(task) = execution.task() {
        if task.run.task == 0 || task.run.attempt == 0 {
            return fail("a task that is out has a number and an attempt");
        }
        if task.run.task > execution.tasks {
            return fail("task numbers rise");
        }
    }
    let compensating = matches!(execution.phase, Phase::Ending { stage: Stage::Compensating { .. }, .. });
    if execution.undoing.is_some() && !compensating && !terminal {
        return fail("a step is undone only while compensating");
    }
    if let Activity::Children(fan) = &execution.activity
        && (fan.join == 0 || fan.join > execution.joins || fan.total == 0)
    {
        return fail("a fan-out has a number and children");
    }
    if !live(execution) {
        return fail("every execution that has not ended has a live cause");
    }
    Ok(())
}

/// Whether something can move the execution: a task, a timer, a signal, children, a pause, an incident. An execution that
/// has ended needs none.
#[must_use]
pub fn live(execution: &Execution) -> bool {
    if execution.is_terminal() || execution.pause.is_some() {
        return true;
    }
    match &execution.activity {
        Activity::Task(_) | Activity::Wait(_) | Activity::Children(_) | Activity::Incident(_) => true,
        Activity::Ready | Activity::Backoff { .. } => execution.next_wake().is_some(),
        Activity::Nothing => false,
    }
}
