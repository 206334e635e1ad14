//! What follows when a step succeeds or fails: the context, the compensation stack, the transitions, the retries.

use std::sync::Arc;

use serde_json::Value;

use super::super::codes;
use super::super::command::NextStep;
use super::super::decision::{FailedTask, Record};
use super::super::error::ExecutionError;
use super::super::event::{AttemptOutcome, Event};
use super::super::state::{Compensation, Incident, StepRun};
use super::turn::{Next, Turn};
use crate::flow::definition::{ContextNeeds, Jitter, OnExhausted, RetryPolicy, Step, StepId, StepKind};
use crate::flow::scope::ITEM_KEY;
use crate::flow::selector::Needs;

impl Turn<'_> {
    /// A step that the engine does itself succeeded.
    pub(super) fn step_succeeded(
        &mut self,
        step: &Arc<Step>,
        run: StepRun,
        output: Option<Value>,
        next: NextStep,
    ) {
        if let Err(error) = self.accept_output(step, output.as_ref()) {
            self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
            self.run_pipes(step, &run, None, false);
            return self.step_failed(step, run, error, false, None, NextStep::Transition);
        }
        self.note_outcome(step, &run, AttemptOutcome::Success, None);
        self.settle_success(step, &run, output, next);
    }

    /// Checks the output and writes it into the context.
    pub(super) fn accept_output(
        &mut self,
        step: &Step,
        output: Option<&Value>,
    ) -> Result<(), ExecutionError> {
        self.check_output(step, output)?;
        self.check_pipes(step, output)?;
        output.map_or(Ok(()), |output| self.write_output(step, output))
    }

    /// Checks the output against the step's `outputSchema`.
    pub(super) fn check_output(&self, step: &Step, output: Option<&Value>) -> Result<(), ExecutionError> {
        if let Some(schema) = &step.output_schema
            && let Err(violations) = schema.check(output.unwrap_or(&Value::Null))
        {
            let places: Vec<String> = violations.iter().map(ToString::to_string).collect();
            let message = format!("the output does not match outputSchema: {}", places.join("; "));
            return Err(self.error(codes::OUTPUT_INVALID, message, Some(step)));
        }
        Ok(())
    }

    /// The outcome is noted and the output written: what else a success means.
    pub(super) fn settle_success(
        &mut self,
        step: &Arc<Step>,
        run: &StepRun,
        output: Option<Value>,
        next: NextStep,
    ) {
        self.run_pipes(step, run, output.as_ref(), true);
        if run.compensates {
            return self.compensation_done();
        }
        self.remember_compensation(step, run, false);
        let keep = if self.runs_whole_flow() { None } else { output };
        self.emit(Event::StepSucceeded { step: step.id.clone(), output: keep });
        self.follow(step, run, next);
    }

    /// Pushes the visit on the compensation stack, with what undoing it will read.
    pub(super) fn remember_compensation(&mut self, step: &Step, run: &StepRun, uncertain: bool) {
        let Some(with) = step.compensate_with.as_ref().filter(|_| !self.execution.is_cleaning_up()) else {
            return;
        };
        let needs = self.step(with).map_or(Needs::Roots(Default::default()), |with| undo_needs(&with));
        // A body's own context is not all that it sees: what it inherits is kept too, for the undoing may run in its
        // parent, or in its parent's parent.
        let context = self.with_scope(None, |scope| match &needs {
            Needs::All => scope.visible(),
            Needs::Roots(roots) => roots
                .iter()
                .filter(|root| !OF_THE_MOMENT.contains(&root.as_str()) || scope.context.contains_key(*root))
                .filter_map(|root| {
                    // Undone, the visit may have left the map, whose name for the item is then not known.
                    let item = || scope.item().filter(|_| root == ITEM_KEY);
                    Some((root.clone(), scope.key(root).or_else(item)?.into_owned()))
                })
                .collect(),
        });
        self.emit(Event::CompensationAdded(Box::new(Compensation {
            step: step.id.clone(),
            visit: run.visit,
            execution: self.execution.id(),
            uncertain,
            flow: self.execution.identity.flow.clone(),
            graph: self.execution.identity.graph.clone(),
            with: with.clone(),
            context,
        })));
    }

    /// Moves the cursor after a success or a skip.
    pub(super) fn follow(&mut self, step: &Arc<Step>, run: &StepRun, next: NextStep) {
        let target = match next {
            NextStep::Transition => step.transitions.on_success.clone(),
            NextStep::To(target) => match self.known_step(&target) {
                Some(target) => Some(target),
                None => return self.invalid_transition(step, run, &target),
            },
            NextStep::End => None,
        };
        match target {
            Some(target) => self.enter(target),
            None => self.complete(),
        }
    }

    pub(super) fn known_step(&self, id: &str) -> Option<StepId> {
        self.graph()?.steps.get_key_value(id).map(|(id, _)| id.clone())
    }

    fn invalid_transition(&mut self, step: &Step, run: &StepRun, target: &str) {
        let message = format!("step \"{}\" names the next step \"{target}\", which does not exist", step.id);
        let error = self.error(codes::INVALID_TRANSITION, message, Some(step));
        self.fail_execution(error, Some(run.clone()));
    }

    /// An attempt failed (already noted): a retry, an incident, the `onFailure` step, or the end.
    pub(super) fn step_failed(
        &mut self,
        step: &Arc<Step>,
        mut run: StepRun,
        error: ExecutionError,
        retryable: bool,
        retry_after_ms: Option<u64>,
        next: NextStep,
    ) {
        if retryable && let Some(delay) = self.retry_delay(step, &run, &error.code, retry_after_ms) {
            run.retry += 1;
            run.attempt += 1;
            if delay == 0 {
                let now = self.now();
                self.emit(Event::RetryScheduled { run: run.clone(), until: now, error });
                self.next = Some(Next::Attempt(run));
                return;
            }
            let until = self.now().plus(delay);
            return self.emit(Event::RetryScheduled { run, until, error });
        }
        if run.compensates || step.on_exhausted == OnExhausted::Incident {
            return self.raise_incident(step, run, error);
        }
        self.unknown_outcome(&run, &error.code);
        let target = match next {
            NextStep::Transition => step.transitions.on_failure.clone(),
            NextStep::To(target) => match self.known_step(&target) {
                Some(target) => Some(target),
                None => return self.invalid_transition(step, &run, &target),
            },
            NextStep::End => None,
        };
        match target {
            Some(target) => {
                self.emit(Event::StepFailed { step: step.id.clone(), error });
                self.enter(target);
            }
            None => self.fail_execution(error, Some(run)),
        }
    }

    /// Milliseconds until the next attempt; none: no retry.
    ///
    /// The back-off is FlowMonkey's, `min(backoffMs * multiplier^retry, maxBackoffMs)`, with the jitter of
    /// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
    fn retry_delay(
        &self,
        step: &Step,
        run: &StepRun,
        code: &str,
        retry_after_ms: Option<u64>,
    ) -> Option<u64> {
        let policy = step.retry.as_ref()?;
        if run.retry >= policy.max_attempts
            || policy.retry_on.as_ref().is_some_and(|codes| !codes.iter().any(|wanted| wanted == code))
            || policy.no_retry_on.iter().any(|unwanted| unwanted == code)
        {
            return None;
        }
        let delay = jittered(policy, run.retry, self.moment.chance).max(retry_after_ms.unwrap_or(0));
        let starts_at = self.now().plus(delay);
        let in_time = [policy.total_ms, step.total_timeout_ms]
            .into_iter()
            .flatten()
            .all(|total| starts_at < run.began_at.plus(total));
        in_time.then_some(delay)
    }

    /// Parks the execution for a person; what is needed to replay the task is kept.
    pub(super) fn raise_incident(&mut self, step: &Arc<Step>, run: StepRun, error: ExecutionError) {
        if matches!(step.kind, StepKind::Task(_)) {
            self.record(Record::FailedTask(Box::new(FailedTask {
                run: run.clone(),
                handler_type: step.type_name.to_string(),
                error: error.clone(),
                input: self.input_of(step).ok().flatten(),
            })));
        }
        let since = self.now();
        self.emit(Event::IncidentRaised(Incident { run, error, since }));
    }

    /// The back-off is over: the next attempt.
    pub(super) fn backoff_over(&mut self, run: StepRun) {
        match self.step_of(&run) {
            Some(step) => self.attempt(&step, run),
            None => self.step_is_gone(run),
        }
    }

    /// The step that `run` counts: of the graph, or the one that undoes another.
    pub(super) fn step_of(&self, run: &StepRun) -> Option<Arc<Step>> {
        super::super::encode::step_of(&self.execution, self.world, run)
    }

    /// The flow does not have the step that the record names: only a damaged record or flow can do that.
    pub(super) fn step_is_gone(&mut self, run: StepRun) {
        let message = format!("Step \"{}\" not found", run.step);
        let error = self.error(codes::STEP_NOT_FOUND, message, None);
        self.fail_execution(ExecutionError { step_id: Some(run.step.clone()), ..error }, Some(run));
    }
}

/// Keys whose value is that of the undoing, not of the visit that is undone.
const OF_THE_MOMENT: [&str; 3] = ["_error", "_resume", "_resumeUrl"];

/// The top-level keys that undoing by `with` reads.
fn undo_needs(with: &Step) -> Needs {
    let mut needs = with.input.as_ref().map_or(Needs::Roots(Default::default()), |input| input.needs());
    if let Some(condition) = &with.when {
        needs = needs.union(condition.needs());
    }
    match &with.kind {
        StepKind::Task(task) => {
            if let Some(key) = &task.idempotency_key {
                needs = needs.union(key.needs());
            }
            match &task.context {
                ContextNeeds::Paths(paths) => {
                    needs = needs.union(Needs::roots(paths.iter().map(|path| path.root())));
                }
                ContextNeeds::Full | ContextNeeds::None => {}
            }
            needs
        }
        StepKind::Set(_) | StepKind::Echo | StepKind::Fail(_) | StepKind::Succeed | StepKind::SubFlow(_) => {
            needs
        }
        StepKind::WaitSignal(_) | StepKind::Approval(_) => needs,
        // These read the context by selectors and expressions of their own, or in their bodies.
        StepKind::Delay(_)
        | StepKind::WaitEvent(_)
        | StepKind::Conditional(_)
        | StepKind::Switch(_)
        | StepKind::Branch(_)
        | StepKind::Parallel(_)
        | StepKind::Map(_)
        | StepKind::Loop(_)
        | StepKind::Emit(_) => Needs::All,
    }
}

fn jittered(policy: &RetryPolicy, retry: u32, chance: u64) -> u64 {
    if policy.backoff_ms == 0 {
        // Not left to the arithmetic: 0 times a power that has become infinite is not a number.
        return 0;
    }
    let exponent = i32::try_from(retry).unwrap_or(i32::MAX);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a back-off are far below 2^52")]
    let grown = policy.backoff_ms as f64 * policy.backoff_multiplier.powi(exponent);
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let capped = grown.min(policy.max_backoff_ms as f64).max(0.0);
    #[expect(clippy::cast_precision_loss, reason = "53 bits of chance are enough")]
    let fraction = (chance >> 11) as f64 / (1_u64 << 53) as f64;
    let drawn = match policy.jitter {
        Jitter::None => capped,
        Jitter::Equal => capped / 2.0 + capped / 2.0 * fraction,
        Jitter::Full => capped * fraction,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= max_backoff_ms")]
    let millis = drawn as u64;
    millis
}
