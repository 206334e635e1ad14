//! Entering steps, and the steps that the engine does itself.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::codes;
use super::super::command::NextStep;
use super::super::decision::Effect;
use super::super::encode::{self, EncodeError};
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{AttemptOutcome, Event};
use super::super::state::{Activity, Phase, Stage, StepRun, TaskRun};
use super::turn::{Next, Turn};
use crate::flow::condition::ConditionError;
use crate::flow::dataset::DatasetReads;
use crate::flow::definition::{
    Branch, CaseCondition, Cases, DefaultTarget, Step, StepId, StepKind, Switch, TaskStep,
};
use crate::flow::expression::ExpressionError;
use crate::flow::js;
use crate::limits::DATASET_BYTES_MAX;

/// What a step that the engine does itself came to.
pub(super) enum Done {
    /// It succeeded.
    Success { output: Option<Value>, next: NextStep },
    /// It failed.
    Failure(ExecutionError),
    /// It is under way: something else goes on with it.
    UnderWay,
}

impl Turn<'_> {
    /// The first step of a new execution.
    pub(super) fn begin(&mut self) -> Result<(), Rejection> {
        if !matches!(self.execution.activity, Activity::Ready) || self.execution.step_count > 0 {
            return Err(Rejection::NothingDue);
        }
        if self.execution.pause.is_some() {
            return Err(Rejection::Paused);
        }
        self.go_on();
        Ok(())
    }

    /// The engine's turn: enters the step that the cursor names, or undoes the next one.
    pub(super) fn go_on(&mut self) {
        if matches!(self.execution.phase, Phase::Ending { stage: Stage::Compensating { .. }, .. }) {
            self.next = Some(Next::Undo);
        } else {
            self.enter(self.execution.cursor.clone());
        }
    }

    /// The cursor is to enter `id` next.
    pub(super) fn enter(&mut self, id: StepId) {
        self.next = Some(Next::Enter(id));
    }

    /// Does what is next until something has to be waited for, or this decision has done its share. A loop, not a
    /// recursion: a flow of any length needs the same stack.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        // What a decision has read, its shell holds in memory until the decision is made.
        let mut read: usize = 0;
        while let Some(next) = self.next.take() {
            // At least one, or no decision would ever get on.
            if steps >= self.limits().max_inline_steps.max(1) || read > DATASET_BYTES_MAX {
                // A retry or an undoing that is due stays due in the state; only an entry has to be noted.
                if let Next::Enter(step) = next {
                    self.emit(Event::Yielded { step });
                }
                return;
            }
            steps += 1;
            self.datasets = DatasetReads::new(self.world.datasets);
            match next {
                Next::Enter(step) => self.enter_now(step),
                Next::Attempt(run) => self.backoff_over(run),
                Next::Undo => self.undo_next(),
            }
            read = read.saturating_add(self.datasets.bytes());
        }
    }

    fn enter_now(&mut self, id: StepId) {
        let max_steps = encode::max_steps(self.world.flow, self.limits());
        // The clean-up of an execution that used up its steps still has to run; there, the limit holds for each step's
        // visits, so that a clean-up that goes in circles ends too.
        let used = if self.is_ending() {
            self.execution.visits.get(&id).copied().unwrap_or(0)
        } else {
            self.execution.step_count
        };
        if used >= max_steps {
            let error = self.error(codes::MAX_STEPS, format!("Exceeded {max_steps} steps"), None);
            return self.fail_execution(ExecutionError { step_id: Some(id), ..error }, None);
        }
        let Some(step) = self.step(&id) else {
            let error = self.error(codes::STEP_NOT_FOUND, format!("Step \"{id}\" not found"), None);
            return self.fail_execution(ExecutionError { step_id: Some(id), ..error }, None);
        };
        self.emit(Event::Entered { step: id.clone() });
        let run = StepRun {
            visit: self.execution.visits.get(&id).copied().unwrap_or(1),
            step: id,
            task: 0,
            attempt: 1,
            retry: 0,
            lost: 0,
            last_loss: None,
            began_at: self.now(),
            compensates: false,
            resumed: None,
        };
        self.attempt_if_wanted(&step, run);
    }

    /// The first attempt of a visit, unless the step's `when` does not hold.
    pub(super) fn attempt_if_wanted(&mut self, step: &Arc<Step>, run: StepRun) {
        if let Some(condition) = &step.when {
            match self.with_scope(None, |scope| condition.holds(scope)) {
                Ok(true) => {}
                Ok(false) => {
                    self.note_outcome(step, &run, AttemptOutcome::Skipped, None);
                    if run.compensates {
                        return self.compensation_done();
                    }
                    return self.follow(step, &run, NextStep::Transition);
                }
                Err(error) => {
                    let error = self.expression_error(&error, format!("`when`: {error}"), step);
                    self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
                    self.run_pipes(step, &run, None, false);
                    return self.step_failed(step, run, error, false, None, NextStep::Transition);
                }
            }
        }
        self.attempt(step, run);
    }

    /// Carries out one attempt of `step`; of a task, by scheduling it.
    pub(super) fn attempt(&mut self, step: &Arc<Step>, run: StepRun) {
        let input = match self.input_of(step) {
            Ok(input) => input,
            Err(error) if error.code == codes::DATASET_TOO_LARGE => {
                return self.failed_in_vain(step, run, error);
            }
            Err(error) => return self.pre_step_failure(step, run, error),
        };
        if let StepKind::Task(task) = &step.kind {
            return self.schedule(step, task, run, input);
        }
        match self.carry_out(step, &run, input) {
            Done::Success { output, next } => self.step_succeeded(step, run, output, next),
            Done::Failure(error) if error.code == codes::DATASET_TOO_LARGE => {
                self.failed_in_vain(step, run, error);
            }
            Done::Failure(error) => {
                self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
                self.run_pipes(step, &run, None, false);
                self.step_failed(step, run, error, true, None, NextStep::Transition);
            }
            Done::UnderWay => {}
        }
    }

    /// The step failed, and would fail again: no retry.
    fn failed_in_vain(&mut self, step: &Arc<Step>, run: StepRun, error: ExecutionError) {
        self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
        self.run_pipes(step, &run, None, false);
        self.step_failed(step, run, error, false, None, NextStep::Transition);
    }

    pub(super) fn expression_error(
        &self,
        error: &ExpressionError,
        message: String,
        step: &Step,
    ) -> ExecutionError {
        let code = if error.dataset.is_some() { codes::DATASET_TOO_LARGE } else { codes::EXPRESSION_ERROR };
        self.error(code, message, Some(step))
    }

    /// What no transition can catch: the execution fails (a compensation is parked).
    fn pre_step_failure(&mut self, step: &Arc<Step>, run: StepRun, error: ExecutionError) {
        if run.compensates {
            return self.raise_incident(step, run, error);
        }
        self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
        self.fail_execution(error, Some(run));
    }

    fn schedule(&mut self, step: &Arc<Step>, task: &TaskStep, mut run: StepRun, input: Option<Value>) {
        if !self.world.handlers.accepts(&step.type_name) {
            let message = format!("Handler \"{}\" not found", step.type_name);
            let error = self.error(codes::HANDLER_NOT_FOUND, message, Some(step));
            return self.pre_step_failure(step, run, error);
        }
        if run.task == 0 {
            run.task = self.execution.tasks + 1;
        }
        let scheduled_at = self.now();
        let task_run = TaskRun {
            pool: encode::pool(step, &self.execution, self.world),
            scheduled_at,
            start_by: task.schedule_to_start_ms.map(|millis| scheduled_at.plus(millis)),
            total_by: step.total_timeout_ms.map(|millis| run.began_at.plus(millis)),
            run: run.clone(),
        };
        match encode::draft(&self.execution, self.world, &self.datasets, step, task, &task_run, input) {
            Ok(draft) => {
                self.emit(Event::TaskScheduled { task: task_run });
                self.spend_attempt();
                // While paused nothing goes out; unpausing publishes what is out.
                if self.execution.pause.is_none() {
                    self.wish(Effect::PublishTask(Box::new(draft)));
                }
            }
            Err(EncodeError::Dataset(error)) => {
                let error = self.too_large(error, step);
                self.failed_in_vain(step, run, error);
            }
            Err(error @ (EncodeError::NoTask | EncodeError::NoSuchStep(_) | EncodeError::Selector(_))) => {
                let error = self.error(codes::INPUT_ERROR, error.to_string(), Some(step));
                self.pre_step_failure(step, run, error);
            }
        }
    }

    /// Carries out a step that the engine does itself.
    fn carry_out(&mut self, step: &Arc<Step>, run: &StepRun, input: Option<Value>) -> Done {
        match &step.kind {
            // Scheduled by the caller.
            StepKind::Task(_) => Done::UnderWay,
            StepKind::Delay(delay) => self.begin_delay(step, run, delay),
            StepKind::WaitSignal(wait) => self.begin_signal_wait(step, run, wait),
            StepKind::WaitEvent(wait) => self.begin_event_wait(step, run, wait),
            StepKind::Approval(approval) => self.begin_approval(step, run, approval),
            StepKind::Conditional(cases) => self.choose_case(step, cases, input.as_ref()),
            StepKind::Switch(switch) => self.choose_switch(step, switch, input.as_ref()),
            StepKind::Branch(branch) => self.choose_branch(step, branch),
            StepKind::Parallel(parallel) => self.begin_parallel(step, run, parallel),
            StepKind::Map(map) => self.begin_map(step, run, map),
            StepKind::Loop(config) => self.begin_iteration(step, run, config),
            StepKind::SubFlow(sub_flow) => self.begin_sub_flow(step, run, sub_flow, input),
            StepKind::Emit(emit) => {
                let data = match &emit.data {
                    Some(selector) => match self.select(selector, step) {
                        Ok(data) => data,
                        Err(error) => return Done::Failure(error),
                    },
                    None => input,
                };
                self.publish(&emit.event, data.clone().unwrap_or(Value::Null));
                Done::Success { output: data, next: NextStep::Transition }
            }
            StepKind::Set(value) => {
                Done::Success { output: value.clone().or(input), next: NextStep::Transition }
            }
            StepKind::Echo => Done::Success { output: input, next: NextStep::Transition },
            StepKind::Fail(failure) => {
                Done::Failure(self.error(&failure.code, failure.message.clone(), Some(step)))
            }
            StepKind::Succeed => Done::Success { output: input, next: NextStep::End },
        }
    }

    fn choose_case(&self, step: &Step, cases: &Cases, input: Option<&Value>) -> Done {
        for case in &cases.cases {
            let holds = match &case.condition {
                CaseCondition::Operator(condition) => {
                    condition.holds(input, Some(&self.datasets)).map_err(|error| match error {
                        ConditionError::Dataset(error) => self.too_large(error, step),
                        ConditionError::Regex { .. } => {
                            self.error(codes::EXPRESSION_ERROR, error.to_string(), Some(step))
                        }
                    })
                }
                CaseCondition::When(expression) => self
                    .with_scope(input, |scope| expression.holds(scope))
                    .map_err(|error| self.expression_error(&error, error.to_string(), step)),
            };
            match holds {
                Ok(false) => {}
                Ok(true) => {
                    let output = match &case.condition {
                        CaseCondition::Operator(condition) => json!({
                            "matched": condition.path.as_str(),
                            "op": condition.operator.name(),
                            "target": case.target,
                        }),
                        CaseCondition::When(expression) => {
                            json!({ "matched": expression.source(), "target": case.target })
                        }
                    };
                    return chosen(Some(output), case.target.as_ref());
                }
                Err(error) => return Done::Failure(error),
            }
        }
        match &cases.default {
            DefaultTarget::Target(target) => {
                chosen(Some(json!({ "matched": null, "target": target })), target.as_ref())
            }
            DefaultTarget::NoMatch => Done::Failure(self.error(
                codes::NO_MATCH,
                format!("no case of `{}` holds and there is no default", step.id),
                Some(step),
            )),
        }
    }

    fn choose_switch(&self, step: &Step, switch: &Switch, input: Option<&Value>) -> Done {
        let (path, cases, default) = match switch {
            Switch::Cases(cases) => return self.choose_case(step, cases, input),
            Switch::Value { path, cases, default } => (path, cases, default),
        };
        let found = match input {
            Some(input) => path.read_in_objects(input, Some(&self.datasets)),
            None => Ok(None),
        };
        // The output shows the value as it stands in the input, be it a reference.
        let shown = found.and_then(|value| {
            let whole = value.clone().map(|value| self.datasets.whole(value)).transpose()?;
            Ok((js::to_text(whole.as_deref()), value))
        });
        let (text, value) = match shown {
            Ok(shown) => shown,
            Err(error) => return Done::Failure(self.too_large(error, step)),
        };
        let target = match (cases.get(&text), default) {
            (Some(target), _) | (None, DefaultTarget::Target(target)) => target.as_ref(),
            (None, DefaultTarget::NoMatch) => {
                let message = format!("no case of `{}` is \"{text}\" and there is no default", step.id);
                return Done::Failure(self.error(codes::NO_MATCH, message, Some(step)));
            }
        };
        chosen(Some(json!({ "path": path.as_str(), "value": value, "target": target })), target)
    }

    fn choose_branch(&self, step: &Step, branch: &Branch) -> Done {
        for (path, wanted, target) in &branch.conditions {
            match path.read_in_map(&self.execution.context, &self.datasets) {
                Ok(Some(value)) if js::strict_equals(&value, wanted) => return chosen(None, Some(target)),
                Ok(Some(_) | None) => {}
                Err(error) => return Done::Failure(self.too_large(error, step)),
            }
        }
        match &branch.default {
            DefaultTarget::Target(target) => chosen(None, target.as_ref()),
            DefaultTarget::NoMatch => Done::Failure(self.error(
                codes::NO_MATCH,
                format!("no condition of `{}` matches and there is no default", step.id),
                Some(step),
            )),
        }
    }
}

fn chosen(output: Option<Value>, target: Option<&StepId>) -> Done {
    Done::Success { output, next: target.map_or(NextStep::End, |target| NextStep::To(target.to_string())) }
}
