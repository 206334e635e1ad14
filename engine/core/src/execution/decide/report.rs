//! What workers and queues tell of attempts. Each is fenced by (task, attempt).

use std::sync::Arc;

use super::super::codes;
use super::super::command::{NextStep, ReportedOutcome, TaskAttempt, TaskReport};
use super::super::decision::Record;
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{AttemptEnded, AttemptOutcome, Event};
use super::super::state::{Cost, Pause, Phase, Stage, StepRun, TaskRun, WaitOn};
use super::turn::Turn;
use crate::flow::definition::Step;
use crate::time::Timestamp;

impl Turn<'_> {
    /// The task that is out, when it is this attempt of it.
    fn fenced(&self, attempt: TaskAttempt) -> Result<TaskRun, Rejection> {
        match self.execution.task() {
            Some(task) if task.run.task == attempt.task && task.run.attempt == attempt.attempt => {
                Ok(task.clone())
            }
            Some(_) | None => Err(Rejection::StaleAttempt),
        }
    }

    /// As [`Self::fenced`]; an attempt whose end is held back by a pause has ended.
    fn unheld(&self, attempt: TaskAttempt) -> Result<TaskRun, Rejection> {
        match &self.execution.pause {
            Some(Pause { held: Some(_), .. }) => Err(Rejection::StaleAttempt),
            Some(Pause { held: None, .. }) | None => self.fenced(attempt),
        }
    }

    /// A pause moves nothing: what the engine itself finds out about an attempt is held back like a worker's report.
    fn hold_failure(&mut self, task: &TaskRun, code: &str, message: String) {
        let (task, attempt) = (task.run.task, task.run.attempt);
        self.ask_to_cancel();
        self.withdraw();
        self.emit(Event::ReportHeld(Box::new(TaskReport {
            task,
            attempt,
            outcome: ReportedOutcome::Failure {
                code: Some(code.into()),
                message,
                retryable: true,
                details: None,
                retry_after_ms: None,
                next: NextStep::Transition,
            },
            context_changes: Vec::new(),
            emitted: Vec::new(),
            rows: Vec::new(),
            cost: Cost::default(),
            started_at: None,
            duration_ms: 0,
            worker: None,
        })));
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.execution.phase, Phase::Ending { stage: Stage::Draining { .. }, .. })
    }

    /// A worker reports an attempt.
    pub(super) fn report(&mut self, report: Box<TaskReport>) -> Result<(), Rejection> {
        let task = self.fenced(TaskAttempt { task: report.task, attempt: report.attempt })?;
        if let Some(pause) = &self.execution.pause {
            if pause.held.is_some() {
                return Err(Rejection::StaleAttempt);
            }
            self.emit(Event::ReportHeld(report));
            return Ok(());
        }
        self.apply_report(task, *report);
        Ok(())
    }

    /// Applies a report whose fence was checked.
    pub(super) fn apply_report(&mut self, task: TaskRun, report: TaskReport) {
        let run = task.run;
        let Some(step) = self.step_of(&run) else { return self.step_is_gone(run) };
        for event in &report.emitted {
            self.record(Record::Publish(event.clone()));
        }
        for row in &report.rows {
            self.record(Record::InsertRow(row.clone()));
        }
        self.spend(Cost { attempts: 0, ..report.cost });
        if self.is_draining() {
            return self.report_while_draining(&step, run, report);
        }
        match report.outcome.clone() {
            ReportedOutcome::Released => self.reschedule(run),
            ReportedOutcome::Success { output, next } => {
                let accepted =
                    self.change(&step, &report).and_then(|()| self.accept_output(&step, output.as_ref()));
                match accepted {
                    Ok(()) => {
                        self.note_report(&step, &run, &report, AttemptOutcome::Success, None);
                        self.settle_success(&step, &run, output, next);
                    }
                    Err(error) => {
                        self.note_report(&step, &run, &report, AttemptOutcome::Failure, Some(error.clone()));
                        self.run_pipes(&step, &run, None, false);
                        self.step_failed(&step, run, error, false, None, NextStep::Transition);
                    }
                }
            }
            ReportedOutcome::Failure { code, message, retryable, details, retry_after_ms, next } => {
                let code = code.unwrap_or_else(|| codes::STEP_FAILED.into());
                let message = if message.is_empty() { "Step failed".into() } else { message };
                let error = ExecutionError { details, ..self.error(&code, message, Some(&step)) };
                self.note_report(&step, &run, &report, AttemptOutcome::Failure, Some(error.clone()));
                self.run_pipes(&step, &run, None, false);
                self.step_failed(&step, run, error, retryable, retry_after_ms, next);
            }
            ReportedOutcome::Wait { output, until, reason, token, again, event } => {
                let accepted = self
                    .check_awaited(&step, event.as_ref())
                    .and_then(|()| self.change(&step, &report))
                    .and_then(|()| match &output {
                        Some(output) if !run.compensates => self.write_output(&step, output),
                        Some(_) | None => Ok(()),
                    });
                if let Err(error) = accepted {
                    self.note_report(&step, &run, &report, AttemptOutcome::Failure, Some(error.clone()));
                    return self.step_failed(&step, run, error, false, None, NextStep::Transition);
                }
                self.note_report(&step, &run, &report, AttemptOutcome::Wait, None);
                self.run_pipes(&step, &run, output.as_ref(), false);
                self.begin_handler_wait(&step, run, WaitOn::Handler { until, token, again, event }, reason);
            }
        }
    }

    /// A worker's changes of the context. A failed attempt changes nothing; nor does a step that undoes another.
    fn change(&mut self, step: &Step, report: &TaskReport) -> Result<(), ExecutionError> {
        if self.execution.undoing.is_some() {
            return Ok(());
        }
        self.change_context(report.context_changes.clone())
            .map_err(|error| self.error(error.code(), error.to_string(), Some(step)))
    }

    /// The outcome is recorded, and pushed on the compensation stack when it is a success; it moves nothing but the end.
    fn report_while_draining(&mut self, step: &Arc<Step>, run: StepRun, report: TaskReport) {
        match &report.outcome {
            ReportedOutcome::Success { output, .. } => {
                // What cannot be written does not matter any more: the execution is ending.
                let written =
                    self.change(step, &report).and_then(|()| self.accept_output(step, output.as_ref()));
                self.note_report(step, &run, &report, AttemptOutcome::Success, written.err());
                self.remember_compensation(step, &run, false);
            }
            ReportedOutcome::Failure { code, message, details, .. } => {
                let code = code.as_deref().unwrap_or(codes::STEP_FAILED);
                let error = ExecutionError {
                    details: details.clone(),
                    ..self.error(code, message.clone(), Some(step))
                };
                self.note_report(step, &run, &report, AttemptOutcome::Failure, Some(error));
            }
            ReportedOutcome::Wait { .. } => {
                self.note_report(step, &run, &report, AttemptOutcome::Wait, None);
                self.remember_compensation(step, &run, true);
            }
            ReportedOutcome::Released => self.remember_compensation(step, &run, true),
        }
        self.emit(Event::TaskFenced { task: run.task, attempt: run.attempt });
        self.next_stage();
    }

    fn note_report(
        &mut self,
        step: &Step,
        run: &StepRun,
        report: &TaskReport,
        outcome: AttemptOutcome,
        error: Option<ExecutionError>,
    ) {
        let completed_at = self.now();
        let ended = AttemptEnded {
            step_id: step.id.clone(),
            handler_type: step.type_name.to_string(),
            outcome,
            visit: run.visit,
            attempt: run.attempt,
            task: run.task,
            started_at: report.started_at.unwrap_or(completed_at),
            completed_at,
            duration_ms: report.duration_ms,
            error,
            worker_id: report.worker.clone(),
            cost: report.cost,
            compensates: run.compensates,
        };
        self.emit(Event::AttemptEnded(Box::new(ended)));
    }

    /// The heartbeats stopped: another delivery, or an incident after `maxLost` of them in a row without a new checkpoint,
    /// or `maxLostTotal` in all. Free of the retry budget.
    pub(super) fn lease_lost(
        &mut self,
        attempt: TaskAttempt,
        saved_at: Option<Timestamp>,
    ) -> Result<(), Rejection> {
        let TaskRun { mut run, .. } = self.unheld(attempt)?;
        let Some(step) = self.step_of(&run) else {
            self.step_is_gone(run);
            return Ok(());
        };
        self.withdraw();
        self.emit(Event::LeaseLost { step: run.step.clone(), attempt: run.attempt });
        run.lose(saved_at, self.now());
        let total = run.last_loss.as_ref().map_or(run.lost, |loss| loss.total);
        if self.is_draining() {
            self.emit(Event::TaskFenced { task: run.task, attempt: run.attempt });
            self.remember_compensation(&step, &run, true);
            self.next_stage();
        } else if run.lost >= self.limits().max_lost || total >= self.limits().max_lost_total {
            let message = format!("{total} workers were lost while they ran this task");
            let error = self.error(codes::WORKER_LOST, message, Some(&step));
            self.raise_incident(&step, run, error);
        } else {
            self.reschedule(run);
        }
        Ok(())
    }

    /// The attempt ran past its hard end.
    pub(super) fn timed_out(&mut self, attempt: TaskAttempt) -> Result<(), Rejection> {
        let task = self.unheld(attempt)?;
        let message = "the attempt ran past its time limit".to_owned();
        if self.execution.pause.is_some() {
            self.hold_failure(&task, codes::TIMEOUT, message);
            return Ok(());
        }
        self.fail_attempt(task.run, codes::TIMEOUT, message, true);
        Ok(())
    }

    /// No worker took the attempt in time.
    pub(super) fn not_started(&mut self, attempt: TaskAttempt) -> Result<(), Rejection> {
        let task = self.unheld(attempt)?;
        if task.start_by.is_none_or(|due| due > self.now()) {
            return Err(Rejection::NothingDue);
        }
        let message = format!("no worker of pool {} took the task in time", task.pool);
        if self.execution.pause.is_some() {
            self.hold_failure(&task, codes::SCHEDULE_TO_START_TIMEOUT, message);
            return Ok(());
        }
        self.fail_attempt(task.run, codes::SCHEDULE_TO_START_TIMEOUT, message, true);
        Ok(())
    }

    /// The attempt was in a worker's hands in time.
    pub(super) fn started(&mut self, attempt: TaskAttempt) -> Result<(), Rejection> {
        if self.fenced(attempt)?.start_by.is_none() {
            return Err(Rejection::NothingDue);
        }
        self.emit(Event::StartConfirmed);
        Ok(())
    }

    /// The engine itself ends an attempt as a failure.
    pub(super) fn fail_attempt(&mut self, run: StepRun, code: &str, message: String, retryable: bool) {
        let Some(step) = self.step_of(&run) else { return self.step_is_gone(run) };
        self.ask_to_cancel();
        self.withdraw();
        let error = self.error(code, message, Some(&step));
        self.note_outcome(&step, &run, AttemptOutcome::Failure, Some(error.clone()));
        if self.is_draining() {
            self.emit(Event::TaskFenced { task: run.task, attempt: run.attempt });
            if code == codes::SCHEDULE_TO_START_TIMEOUT {
                // Nobody began it; only an earlier attempt can have taken effect.
                self.unknown_outcome(&run, code);
            } else {
                self.remember_compensation(&step, &run, true);
            }
            return self.next_stage();
        }
        self.run_pipes(&step, &run, None, false);
        self.step_failed(&step, run, error, retryable, None, NextStep::Transition);
    }

    /// The attempt is in no queue: it is delivered anew, without touching budgets.
    pub(super) fn republish(&mut self, attempt: TaskAttempt) -> Result<(), Rejection> {
        let TaskRun { run, .. } = self.unheld(attempt)?;
        if self.execution.pause.is_some() {
            // Unpausing publishes what is out.
            return Err(Rejection::Paused);
        }
        if self.is_draining() {
            // Nobody has it and nobody shall: it does not have to be waited for.
            let Some(step) = self.step_of(&run) else {
                self.step_is_gone(run);
                return Ok(());
            };
            self.emit(Event::TaskFenced { task: run.task, attempt: run.attempt });
            self.remember_compensation(&step, &run, true);
            self.next_stage();
            return Ok(());
        }
        self.reschedule(run);
        Ok(())
    }

    /// Another delivery of the same task.
    pub(super) fn reschedule(&mut self, mut run: StepRun) {
        let Some(step) = self.step_of(&run) else { return self.step_is_gone(run) };
        run.attempt += 1;
        self.attempt(&step, run);
    }

    /// A limit of the task that is out has come. `start_by` needs to know whether a worker has it: the timer asks the
    /// queue and sends `NotStarted` or `Started`.
    pub(super) fn task_due(&mut self, task: &TaskRun) -> Result<(), Rejection> {
        if task.total_by.is_none_or(|due| due > self.now()) {
            return Err(Rejection::NothingDue);
        }
        let message = "all attempts of the step together ran past totalTimeoutMs".to_owned();
        self.fail_attempt(task.run.clone(), codes::TIMEOUT, message, false);
        Ok(())
    }

    /// Counts a delivery against the root's budget.
    pub(super) fn spend_attempt(&mut self) {
        self.spend(Cost { attempts: 1, ..Cost::default() });
    }

    fn spend(&mut self, cost: Cost) {
        if self.execution.identity.budgeted && cost != Cost::default() {
            self.record(Record::Spend { root: self.execution.identity.root, cost });
        }
    }
}
