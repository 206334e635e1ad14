//! What happens, a line for people each.

use flowmonkey_core::execution::ExecutionError;
use flowmonkey_core::execution::event::{AttemptOutcome, Event, WaitEnd};
use flowmonkey_core::execution::state::{Closing, Stage, Why};
use serde::Deserialize;
use serde_json::Value;

use crate::show;
use crate::tree::waits_for;

/// A message of the server: `when  sequence  what  more`; of other executions than the one that is watched, with their ids.
pub(super) fn line(message: &Value) -> String {
    let text = |key: &str| show::line(&message[key]);
    let kind = text("type");
    let at = if message["at"].is_null() { &message["progress"]["updatedAt"] } else { &message["at"] };
    let more = match kind.as_str() {
        "execution.progress" => {
            let progress = &message["progress"];
            let said = show::line(&progress["message"]);
            format!("{}: {}% {said}", text("stepId"), show::line(&progress["percent"]))
        }
        "step.started" => {
            format!("{}: attempt {} at {}", text("stepId"), text("attempt"), text("workerId"))
        }
        "task.log" => format!("{}: {} {}", text("stepId"), text("level"), text("message")),
        "snapshot" => format!("{} at {}", text("status"), text("currentStepId")),
        _ => match Event::deserialize(&message["event"]) {
            Ok(event) => words(&event),
            // Too long, or of a later release: the history has it.
            Err(_) => String::new(),
        },
    };
    let child =
        message["parentExecutionId"].as_str().map_or_else(String::new, |_| text("executionId") + "  ");
    // Of data, one line each, whatever is in it.
    let more = show::line(&more.into());
    format!("{}  {:>5}  {child}{kind}  {more}", show::line(at), text("seq")).trim_end().to_owned()
}

fn failure(error: &ExecutionError) -> String {
    format!("{} [{}]", error.message, error.code)
}

fn words(event: &Event) -> String {
    let by = |by: &Option<String>| by.as_ref().map_or_else(String::new, |by| format!("by {by}"));
    match event {
        Event::Created { execution } => {
            let flow = &execution.identity.flow;
            format!("{}@{}", flow.id, flow.version)
        }
        Event::Entered { step } | Event::Yielded { step } | Event::StepSucceeded { step, .. } => {
            step.to_string()
        }
        Event::TaskScheduled { task } => {
            let run = &task.run;
            format!("{}: task {}, attempt {}, queued for {}", run.step, run.task, run.attempt, task.pool)
        }
        Event::AttemptEnded(ended) => {
            let outcome = match ended.outcome {
                AttemptOutcome::Success => "success",
                AttemptOutcome::Failure => "failure",
                AttemptOutcome::Wait => "wait",
                AttemptOutcome::Skipped => "skipped",
            };
            let error =
                ended.error.as_ref().map_or_else(String::new, |error| format!(": {}", failure(error)));
            format!("{}: {outcome} after {}{error}", ended.step_id, show::duration(ended.duration_ms))
        }
        Event::ContextChanged { changes, bytes } => {
            let plural = if changes.len() == 1 { "change" } else { "changes" };
            format!("{} {plural}, {bytes} bytes", changes.len())
        }
        Event::StepFailed { step, error } => format!("{step}: {}", failure(error)),
        Event::RetryScheduled { run, until, error } => {
            format!("{}: retry {} at {until}: {}", run.step, run.retry, failure(error))
        }
        Event::LeaseLost { step, attempt } => format!("{step}: attempt {attempt}"),
        Event::WaitBegan(wait) => format!("{}: {}", wait.run.step, waits_for(wait)),
        Event::WaitEnded { step, by } => {
            let by = match by {
                WaitEnd::Time => "time came",
                WaitEnd::Resume { .. } => "resumed",
                WaitEnd::Failed => "failed",
                WaitEnd::Abandoned => "abandoned",
            };
            format!("{step}: {by}")
        }
        Event::Escalated { assignees } => assignees.join(", "),
        Event::FanOpened(fan) => format!("{}: {} children", fan.run.step, fan.total),
        Event::FanClosing { closing } => match closing {
            Closing::Decided => "enough",
            Closing::TimedOut => "time is over",
            Closing::Ending => "ending",
        }
        .to_owned(),
        Event::FanEnded { succeeded, failed, .. } => format!("{succeeded} done, {failed} failed"),
        Event::IterationDone { iteration } => format!("iteration {iteration}"),
        Event::SignalBuffered(signal) => signal.name.clone(),
        Event::SignalAccepted { id } => id.clone(),
        Event::TaskFenced { task, attempt } => format!("task {task}, attempt {attempt}"),
        Event::IncidentRaised(incident) => format!("{}: {}", incident.run.step, failure(&incident.error)),
        Event::IncidentResolved { by: who } | Event::Reopened { by: who } => by(who),
        Event::EndingBegan { why, .. } => match why {
            Why::Failure(error) => failure(error),
            Why::Cancel(cancellation) => cancellation.reason.clone().unwrap_or_default(),
        },
        Event::StageReached { stage } => match stage {
            Stage::Draining { until } => format!("draining until {until}"),
            Stage::Compensating { until } => format!("undoing until {until}"),
            Stage::CleaningUp => "cleaning up".to_owned(),
        },
        Event::Paused { reason } => reason.clone().unwrap_or_default(),
        Event::Cancelled { cancellation } => cancellation.reason.clone().unwrap_or_default(),
        Event::StartConfirmed
        | Event::ErrorsTolerated
        | Event::SignalTaken { .. }
        | Event::CompensationAdded(_)
        | Event::ChildStacksAdded(_)
        | Event::ChildStacksRead { .. }
        | Event::CompensationBegan
        | Event::CompensationEnded
        | Event::ReportHeld(_)
        | Event::Unpaused
        | Event::BudgetWarned { .. }
        | Event::Completed { .. }
        | Event::Failed => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::line;

    #[test]
    fn a_line_says_when_what_and_more() {
        let entered = json!({
            "seq": 7, "type": "step.entered", "executionId": "ex_1", "at": "2026-11-21T08:00:00.000Z",
            "event": { "type": "entered", "step": "pay" },
        });
        assert_eq!(line(&entered), "2026-11-21T08:00:00.000Z      7  step.entered  pay");
        let log = json!({
            "type": "task.log", "executionId": "ex_2", "parentExecutionId": "ex_1", "stepId": "pay", "level": "info",
            "message": "two\nlines\u{1b}[2J", "at": "2026-11-21T08:00:00.000Z",
        });
        assert_eq!(line(&log), "2026-11-21T08:00:00.000Z         ex_2  task.log  pay: info two lines [2J");
        let unknown = json!({ "seq": 12, "type": "step.later", "at": "T", "event": { "type": "later" } });
        assert_eq!(line(&unknown), "T     12  step.later");
        let progress = json!({
            "type": "execution.progress", "stepId": "pay",
            "progress": { "percent": 45.5, "message": "half", "updatedAt": "T" },
        });
        assert_eq!(line(&progress), "T         execution.progress  pay: 45.5% half");
    }
}
