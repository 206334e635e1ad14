//! Ends that are not completions: draining, undoing in reverse order, cleaning up. And completions.

use std::sync::Arc;

use serde_json::Value;

use super::super::codes;
use super::super::command::TaskReport;
use super::super::decision::{Effect, Record};
use super::super::encode;
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{Event, WaitEnd};
use super::super::state::{
    Activity, CancelSource, Cancellation, ChildStacks, Closing, Incident, Phase, Stage, Status, StepRun,
    Undoable, Why,
};
use super::turn::{Next, Turn};
use crate::flow::definition::Step;

impl Turn<'_> {
    /// The graph's end is reached.
    pub(super) fn complete(&mut self) {
        if self.is_ending() {
            // The clean-up is over.
            return self.end();
        }
        let output = match self.result() {
            Ok(output) => output,
            Err(error) => return self.fail_execution(error, None),
        };
        self.emit(Event::Completed { output });
        self.tell_parent(true);
        // Other endings always ask: what was undone before them may be of other flows.
        if self.world.flow.closes_children {
            self.wish(Effect::CancelDetached);
        }
    }

    /// The result of a flow, by its `output`; of a body, by its `output`, else that of its last step.
    fn result(&self) -> Result<Option<Value>, ExecutionError> {
        let flow = self.world.flow;
        let (selector, schema) = if self.runs_whole_flow() {
            (flow.output.as_ref(), flow.output_schema.as_ref())
        } else {
            match self.graph().as_deref() {
                Some(graph) if graph.output.is_some() => {
                    let selector = graph.output.as_ref();
                    return self.resolve_result(selector);
                }
                Some(_) | None => return Ok(self.execution.last_output.clone()),
            }
        };
        let output = self.resolve_result(selector)?;
        if let Some(schema) = schema
            && let Err(violations) = schema.check(output.as_ref().unwrap_or(&Value::Null))
        {
            let places: Vec<String> = violations.iter().map(ToString::to_string).collect();
            let message = format!("the flow's output does not match its outputSchema: {}", places.join("; "));
            return Err(self.error(codes::OUTPUT_INVALID, message, None));
        }
        Ok(output)
    }

    fn resolve_result(
        &self,
        selector: Option<&crate::flow::selector::Selector>,
    ) -> Result<Option<Value>, ExecutionError> {
        let Some(selector) = selector else { return Ok(None) };
        self.with_scope(None, |scope| selector.resolve(scope))
            .map_err(|error| self.error(error.code, format!("`output`: {error}"), None))
    }

    fn tell_parent(&mut self, succeeded: bool) {
        if let Some(parent) = self.execution.identity.parent
            && parent.is_joined()
        {
            self.record(Record::ChildEnded { parent, succeeded, cost: self.execution.cost });
        }
    }

    /// The execution fails, once what is in flight has ended and what can be undone is undone.
    pub(super) fn fail_execution(&mut self, error: ExecutionError, run: Option<StepRun>) {
        match &self.execution.phase {
            // A failure of the clean-up ends the clean-up; the reason of the ending stays.
            Phase::Ending { stage: Stage::CleaningUp, .. } => self.end(),
            // While undoing, whatever goes wrong is a person's business.
            Phase::Ending { stage: Stage::Compensating { .. }, .. } => {
                let run = run.unwrap_or_else(|| self.run_without_step());
                let since = self.now();
                self.emit(Event::IncidentRaised(Incident { run, error, since }));
            }
            Phase::Ending { stage: Stage::Draining { .. }, .. } => self.next_stage(),
            Phase::Running | Phase::Completed | Phase::Failed { .. } | Phase::Cancelled { .. } => {
                self.begin_ending(Why::Failure(error), run);
            }
        }
    }

    fn run_without_step(&self) -> StepRun {
        StepRun {
            step: self.execution.cursor.clone(),
            visit: self.execution.visits.get(&self.execution.cursor).copied().unwrap_or(1),
            task: 0,
            attempt: 1,
            retry: 0,
            lost: 0,
            last_loss: None,
            began_at: self.now(),
            compensates: self.execution.undoing.is_some(),
            resumed: None,
        }
    }

    /// Sets the course for the end: first, what is in flight is asked to end.
    fn begin_ending(&mut self, why: Why, run: Option<StepRun>) {
        let until = self.now().plus(self.limits().cancel_grace_ms);
        let why = match why {
            // Every failure names a step: where a reopening goes on.
            Why::Failure(error) => Why::Failure(ExecutionError {
                step_id: error.step_id.or_else(|| Some(self.execution.cursor.clone())),
                ..error
            }),
            Why::Cancel(_) => why,
        };
        // A visit that a limit cuts off goes on when the execution is reopened, under the same idempotency key.
        let run = run.or_else(|| self.visit_under_way());
        self.emit(Event::EndingBegan { why, stage: Stage::Draining { until }, run });
        match self.execution.activity.clone() {
            Activity::Task(_) => self.ask_to_cancel(),
            Activity::Children(fan) => {
                if fan.closing.is_none() {
                    self.record(Record::CloseJoin { join: fan.join });
                }
                self.emit(Event::FanClosing { closing: Closing::Ending });
                self.wish(Effect::CancelChildren { join: fan.join });
            }
            Activity::Wait(wait) => {
                // What a handler began and then waits for may have taken effect.
                if let Some(step) = self.step_of(&wait.run) {
                    self.remember_compensation(&step, &wait.run, true);
                }
                self.emit(Event::WaitEnded { step: wait.run.step, by: WaitEnd::Abandoned });
                self.next_stage();
            }
            Activity::Backoff { task, error, .. } => {
                self.unknown_outcome(&task, &error.code);
                self.next_stage();
            }
            Activity::Incident(incident) => {
                self.unknown_outcome(&incident.run, &incident.error.code);
                self.next_stage();
            }
            Activity::Ready | Activity::Nothing => self.next_stage(),
        }
    }

    fn visit_under_way(&self) -> Option<StepRun> {
        match &self.execution.activity {
            Activity::Task(task) => Some(task.run.clone()),
            Activity::Backoff { task, .. } => Some(task.clone()),
            Activity::Wait(wait) => Some(wait.run.clone()),
            Activity::Children(fan) => Some(fan.run.clone()),
            Activity::Incident(incident) => Some(incident.run.clone()),
            Activity::Ready | Activity::Nothing => None,
        }
    }

    /// The visit ends by a failure. Where it is not known whether the step took effect, it is undone too: its last
    /// attempt ran out of time, or a worker was lost with one. A failure that a handler reports says that it did not.
    pub(super) fn unknown_outcome(&mut self, run: &StepRun, code: &str) {
        let unknown = run.lost > 0 || code == codes::TIMEOUT || code == codes::WORKER_LOST;
        if unknown
            && run.task != 0
            && !run.compensates
            && let Some(step) = self.step_of(run)
        {
            self.remember_compensation(&step, run, true);
        }
    }

    /// Nothing is in flight any more: undo, clean up, end.
    pub(super) fn next_stage(&mut self) {
        let Phase::Ending { why, stage, .. } = &self.execution.phase else { return };
        let clean_up = if self.runs_whole_flow() {
            match why {
                Why::Failure(_) => self.world.flow.on_failure.clone(),
                Why::Cancel(_) => self.world.flow.on_cancel.clone(),
            }
        } else {
            None
        };
        match stage {
            Stage::Draining { .. } if !self.execution.compensations.is_empty() => {
                let until = self.now().plus(self.limits().compensation_ms);
                self.emit(Event::StageReached { stage: Stage::Compensating { until } });
                self.next = Some(Next::Undo);
            }
            Stage::Draining { .. } | Stage::Compensating { .. } => match clean_up {
                Some(step) => {
                    self.emit(Event::StageReached { stage: Stage::CleaningUp });
                    self.enter(step);
                }
                None => self.end(),
            },
            Stage::CleaningUp => self.end(),
        }
    }

    /// Undoes the last successful visit that is left.
    pub(super) fn undo_next(&mut self) {
        match self.execution.compensations.last() {
            None => return self.next_stage(),
            Some(Undoable::Children(stacks)) => return self.read_stacks(*stacks),
            Some(Undoable::Visit(_)) => {}
        }
        self.emit(Event::CompensationBegan);
        let Some(undoing) = self.execution.undoing.clone() else { return };
        let run = StepRun {
            step: undoing.with.clone(),
            visit: undoing.visit,
            task: 0,
            attempt: 1,
            retry: 0,
            lost: 0,
            last_loss: None,
            began_at: self.now(),
            compensates: true,
            resumed: None,
        };
        match self.undoing_step() {
            Some(step) => self.attempt_if_wanted(&step, run),
            None => {
                let message =
                    format!("Step \"{}\", which undoes \"{}\", not found", undoing.with, undoing.step);
                let error = self.error(codes::STEP_NOT_FOUND, message, None);
                let since = self.now();
                self.emit(Event::IncidentRaised(Incident { run, error, since }));
            }
        }
    }

    /// Takes over the next page of what children have left to undo. One page a decision: what is left stays due in the
    /// state, so that no decision holds, or has to be made again for, more than that.
    fn read_stacks(&mut self, stacks: ChildStacks) {
        if self.stacks_read {
            return;
        }
        let Some(page) = (self.world.stacks)(&stacks) else { return };
        self.stacks_read = true;
        self.emit(Event::ChildStacksRead { left: page.left(), entries: page.entries().cloned().collect() });
        self.next = Some(Next::Undo);
    }

    fn undoing_step(&self) -> Option<Arc<Step>> {
        encode::undoing_step(&self.execution, self.world)
    }

    /// One step is undone: the next.
    pub(super) fn compensation_done(&mut self) {
        self.emit(Event::CompensationEnded);
        self.next = Some(Next::Undo);
    }

    /// The terminal state of an ending.
    fn end(&mut self) {
        let Phase::Ending { why, .. } = self.execution.phase.clone() else { return };
        match why {
            Why::Failure(_) => self.emit(Event::Failed),
            Why::Cancel(cancellation) => self.emit(Event::Cancelled { cancellation }),
        }
        self.tell_parent(false);
        self.wish(Effect::CancelDetached);
    }

    /// Ends it, undoing and cleaning up. Beats retries.
    pub(super) fn cancel(&mut self, source: CancelSource, reason: Option<String>) -> Result<(), Rejection> {
        match &self.execution.phase {
            Phase::Ending { why: Why::Cancel(_), .. } => return Err(Rejection::AlreadyCancelling),
            Phase::Ending { stage: Stage::Compensating { .. }, .. } => return Err(Rejection::Compensating),
            Phase::Ending { .. } => return Err(Rejection::AlreadyCancelling),
            Phase::Running | Phase::Completed | Phase::Failed { .. } | Phase::Cancelled { .. } => {}
        }
        let held = self.take_held();
        let cancelled_at = self.now();
        self.begin_ending(Why::Cancel(Cancellation { source, reason, cancelled_at }), None);
        self.apply_held(held);
        Ok(())
    }

    /// Ends a pause; gives the report that was held back.
    pub(super) fn take_held(&mut self) -> Option<Box<TaskReport>> {
        let pause = self.execution.pause.clone()?;
        self.emit(Event::Unpaused);
        pause.held
    }

    /// A result that was held back counts as if it arrived now: recorded, and undone if it can be.
    pub(super) fn apply_held(&mut self, held: Option<Box<TaskReport>>) {
        if let (Some(report), Some(task)) = (held, self.execution.task().cloned()) {
            self.apply_report(task, *report);
        }
    }

    /// Ends it at once.
    pub(super) fn terminate(&mut self, reason: Option<String>) {
        match &self.execution.activity {
            Activity::Task(_) => {
                self.ask_to_cancel();
                self.withdraw();
            }
            Activity::Children(fan) => {
                let join = fan.join;
                self.record(Record::CloseJoin { join });
                self.wish(Effect::CancelChildren { join });
            }
            Activity::Ready
            | Activity::Backoff { .. }
            | Activity::Wait(_)
            | Activity::Incident(_)
            | Activity::Nothing => {}
        }
        let cancelled_at = self.now();
        let reason = Some(reason.unwrap_or_else(|| "terminated".into()));
        self.emit(Event::Cancelled {
            cancellation: Cancellation { source: CancelSource::User, reason, cancelled_at },
        });
        self.tell_parent(false);
        self.wish(Effect::CancelDetached);
    }

    pub(super) fn execution_timed_out(&mut self) {
        let message = "the execution ran past its time limit".to_owned();
        let error = self.error(codes::EXECUTION_TIMEOUT, message, None);
        let step_id = Some(self.execution.cursor.clone());
        self.fail_execution(ExecutionError { step_id, ..error }, None);
    }

    /// The grace time is over: the task in flight does not count any more.
    pub(super) fn drain_ran_out(&mut self) {
        if let Some(task) = self.execution.task().cloned() {
            let run = task.run;
            self.withdraw();
            self.emit(Event::TaskFenced { task: run.task, attempt: run.attempt });
            if let Some(step) = self.step_of(&run) {
                self.remember_compensation(&step, &run, true);
            }
        }
        self.next_stage();
    }

    pub(super) fn compensation_timed_out(&mut self) {
        self.ask_to_cancel();
        self.withdraw();
        let run = match &self.execution.activity {
            Activity::Task(task) => task.run.clone(),
            Activity::Backoff { task, .. } => task.clone(),
            Activity::Wait(wait) => wait.run.clone(),
            Activity::Children(_) | Activity::Incident(_) | Activity::Ready | Activity::Nothing => {
                self.run_without_step()
            }
        };
        let message = "undoing the steps ran past its time limit".to_owned();
        let error = self.error(codes::COMPENSATION_TIMEOUT, message, None);
        let since = self.now();
        self.emit(Event::IncidentRaised(Incident { run, error, since }));
    }

    /// Whether it may be reopened at all.
    pub(super) fn reopenable(&self) -> Result<Option<StepRun>, Rejection> {
        match &self.execution.phase {
            Phase::Failed { run, .. } => {
                if self.execution.compensated {
                    return Err(Rejection::Compensated);
                }
                if self.execution.identity.parent.is_some_and(|parent| parent.is_joined()) {
                    return Err(Rejection::CountedChild);
                }
                Ok(run.clone())
            }
            Phase::Completed => Err(Rejection::NotRetryable(Status::Completed)),
            Phase::Cancelled { .. } => Err(Rejection::NotRetryable(Status::Cancelled)),
            Phase::Running | Phase::Ending { .. } => Err(Rejection::NotRetryable(self.execution.status())),
        }
    }
}
