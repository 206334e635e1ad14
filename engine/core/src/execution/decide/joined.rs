//! Fan-outs come together: when enough is known, and what the parent takes of its children.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::codes;
use super::super::command::{ChildOutput, JoinOutputs, JoinReport, NextStep};
use super::super::decision::{Effect, Record};
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{AttemptOutcome, Event};
use super::super::state::{Activity, ChildStacks, Closing, Fan, Phase, Stage, Status, StepRun};
use super::step::Done;
use super::turn::Turn;
use crate::flow::dataset::DatasetReference;
use crate::flow::definition::{JoinRule, OnItemError, Step, StepKind};

/// Code of a child that was cancelled.
const CANCELLED: &str = "CANCELLED";

impl Turn<'_> {
    fn fan(&self, join: u32) -> Result<Fan, Rejection> {
        match &self.execution.activity {
            Activity::Children(fan) if fan.join == join => Ok(fan.clone()),
            Activity::Ready
            | Activity::Task(_)
            | Activity::Backoff { .. }
            | Activity::Wait(_)
            | Activity::Children(_)
            | Activity::Incident(_)
            | Activity::Nothing => Err(Rejection::StaleJoin),
        }
    }

    fn close(&mut self, fan: &Fan, closing: Closing) {
        self.record(Record::CloseJoin { join: fan.join });
        self.emit(Event::FanClosing { closing });
        self.wish(Effect::CancelChildren { join: fan.join });
    }

    /// Enough children have ended: the others are cancelled.
    pub(super) fn join_decided(&mut self, join: u32) -> Result<(), Rejection> {
        let fan = self.fan(join)?;
        if fan.closing.is_some() {
            return Err(Rejection::NothingDue);
        }
        self.close(&fan, Closing::Decided);
        Ok(())
    }

    /// The step has run out of time.
    pub(super) fn fan_timed_out(&mut self, fan: &Fan) {
        self.close(fan, Closing::TimedOut);
    }

    /// All children are terminal: the parent goes on.
    pub(super) fn join_ended(&mut self, report: JoinReport) -> Result<(), Rejection> {
        let fan = self.fan(report.join)?;
        if self.execution.pause.is_some() {
            return Err(Rejection::Paused);
        }
        self.record(Record::EndJoin { join: fan.join });
        if report.undoable > 0 && !self.execution.is_cleaning_up() {
            let stacks = ChildStacks::of(self.execution.id(), fan.join, report.undoable);
            self.emit(Event::ChildStacksAdded(stacks));
        }
        if report.has_errors {
            self.emit(Event::ErrorsTolerated);
        }
        self.emit(Event::FanEnded {
            join: fan.join,
            succeeded: report.succeeded,
            failed: report.failed,
            cost: report.cost,
        });
        if matches!(self.execution.phase, Phase::Ending { stage: Stage::Draining { .. }, .. }) {
            self.next_stage();
            return Ok(());
        }
        let Some(step) = self.step_of(&fan.run) else {
            self.step_is_gone(fan.run);
            return Ok(());
        };
        if fan.closing == Some(Closing::TimedOut) {
            let message = format!("the children of step \"{}\" ran past totalTimeoutMs", step.id);
            let error = self.error(codes::TIMEOUT, message, Some(&step));
            self.fan_failed(&step, fan.run, error, false);
            return Ok(());
        }
        match self.joined(&step, &fan, report) {
            Ok(output) => self.fan_succeeded(&step, fan, output),
            Err(error) => self.fan_failed(&step, fan.run, error, true),
        }
        Ok(())
    }

    fn fan_failed(&mut self, step: &Arc<Step>, run: StepRun, error: ExecutionError, retryable: bool) {
        self.note_outcome(step, &run, AttemptOutcome::Failure, Some(error.clone()));
        self.run_pipes(step, &run, None, false);
        self.step_failed(step, run, error, retryable, None, NextStep::Transition);
    }

    fn fan_succeeded(&mut self, step: &Arc<Step>, fan: Fan, output: Value) {
        let StepKind::Loop(config) = &step.kind else {
            return self.step_succeeded(step, fan.run, Some(output), NextStep::Transition);
        };
        // The result of an iteration is visible to the condition of the next one.
        if let Err(error) = self.write_output(step, &output) {
            return self.fan_failed(step, fan.run, error, false);
        }
        let iteration = self.execution.iteration + 1;
        self.emit(Event::IterationDone { iteration });
        match self.begin_iteration(step, &fan.run, config) {
            Done::UnderWay => {}
            Done::Success { next, .. } => {
                let checked = self
                    .check_output(step, Some(&output))
                    .and_then(|()| self.check_pipes(step, Some(&output)));
                if let Err(error) = checked {
                    return self.fan_failed(step, fan.run, error, false);
                }
                self.note_outcome(step, &fan.run, AttemptOutcome::Success, None);
                self.settle_success(step, &fan.run, Some(output), next);
            }
            Done::Failure(error) => {
                let retryable = error.code != codes::DATASET_TOO_LARGE;
                self.fan_failed(step, fan.run, error, retryable);
            }
        }
    }

    /// What the fan-out gives, or why the step fails.
    fn joined(&mut self, step: &Step, fan: &Fan, report: JoinReport) -> Result<Value, ExecutionError> {
        let (join, on_item_error) = match &step.kind {
            StepKind::Map(map) => (map.join, map.on_item_error),
            StepKind::Parallel(parallel) => (parallel.join, parallel.on_item_error),
            StepKind::Task(_)
            | StepKind::Delay(_)
            | StepKind::WaitSignal(_)
            | StepKind::WaitEvent(_)
            | StepKind::Approval(_)
            | StepKind::Conditional(_)
            | StepKind::Switch(_)
            | StepKind::Branch(_)
            | StepKind::Loop(_)
            | StepKind::SubFlow(_)
            | StepKind::Emit(_)
            | StepKind::Set(_)
            | StepKind::Echo
            | StepKind::Fail(_)
            | StepKind::Succeed => (JoinRule::All, OnItemError::FailFast),
        };
        let enough = match join {
            JoinRule::All => match on_item_error {
                OnItemError::FailFast => report.failed == 0,
                OnItemError::Tolerate(tolerated) => report.failed <= tolerated,
                OnItemError::Continue => true,
            },
            JoinRule::Any => report.succeeded >= 1,
            JoinRule::N(wanted) => report.succeeded >= wanted,
            JoinRule::Settled => true,
        };
        if !enough {
            return Err(self.child_failed(step, fan, &report));
        }
        if report.failed > 0 && matches!(join, JoinRule::All) {
            self.emit(Event::ErrorsTolerated);
            self.write_item_errors(step, &report)?;
        }
        Ok(match report.outputs {
            JoinOutputs::Dataset { count, bytes } => {
                let settled = matches!(join, JoinRule::Settled);
                DatasetReference { execution: self.execution.id(), join: fan.join, settled }
                    .to_value(count, bytes)
            }
            JoinOutputs::Inline(outputs) => shape(step, outputs, fan.total, join, &report.errors),
        })
    }

    /// `<outputKey>Errors`: what failed, beside the `null` in its place.
    fn write_item_errors(&mut self, step: &Step, report: &JoinReport) -> Result<(), ExecutionError> {
        let Some(key) = step.output_key.as_ref().filter(|_| self.execution.undoing.is_none()) else {
            return Ok(());
        };
        let errors: Vec<Value> = report
            .errors
            .iter()
            .map(|failed| match branch_name(step, failed.index) {
                Some(branch) => json!({ "branch": branch, "error": failed.error.to_value() }),
                None => json!({ "index": failed.index, "error": failed.error.to_value() }),
            })
            .collect();
        let change = super::super::command::ContextChange::Set {
            path: format!("{}Errors", key.as_str()),
            value: Value::Array(errors),
        };
        self.change_context(vec![change])
            .map_err(|error| self.error(error.code(), error.to_string(), Some(step)))
    }

    fn child_failed(&self, step: &Step, fan: &Fan, report: &JoinReport) -> ExecutionError {
        // The failure that decided, not one of the children that were cancelled because of it.
        let first =
            report.errors.iter().find(|failed| failed.error.code != CANCELLED).or(report.errors.first());
        let message = match first {
            Some(failed) if fan.total == 1 => format!("the child failed: {}", failed.error.message),
            Some(failed) => {
                let place = branch_name(step, failed.index)
                    .map_or_else(|| failed.index.to_string(), ToOwned::to_owned);
                format!(
                    "{} of {} children failed or were cancelled; first {place}: {}",
                    report.failed, fan.total, failed.error.message
                )
            }
            None => format!("{} of {} children failed", report.failed, fan.total),
        };
        let details = first.map(|failed| {
            let mut details = failed.error.to_value();
            if let Value::Object(map) = &mut details {
                map.insert("index".into(), failed.index.into());
                if let Some(branch) = branch_name(step, failed.index) {
                    map.insert("branch".into(), branch.into());
                }
            }
            details
        });
        ExecutionError { details, ..self.error(codes::CHILD_FAILED, message, Some(step)) }
    }
}

fn branch_name(step: &Step, index: u32) -> Option<&str> {
    step.kind.bodies().nth(index as usize)?.0
}

/// The children's results in the shape that the step promises.
fn shape(
    step: &Step,
    outputs: Vec<ChildOutput>,
    total: u32,
    join: JoinRule,
    errors: &[super::super::command::ChildError],
) -> Value {
    let errors: BTreeMap<usize, _> = errors.iter().map(|failed| (failed.index as usize, failed)).collect();
    let result = |index: usize, child: ChildOutput| match join {
        JoinRule::Settled => match errors.get(&index) {
            Some(failed) => json!({ "status": child.status, "error": failed.error.to_value() }),
            None => json!({ "status": child.status, "output": child.output }),
        },
        JoinRule::All | JoinRule::Any | JoinRule::N(_) => child.output.unwrap_or(Value::Null),
    };
    match &step.kind {
        StepKind::Parallel(parallel) => {
            // Branches that were not begun, because enough others had ended, are null as well.
            let mut children = outputs.into_iter();
            let mut map = Map::new();
            for (index, (name, _)) in parallel.branches.iter().enumerate() {
                map.insert(name.clone(), children.next().map_or(Value::Null, |child| result(index, child)));
            }
            Value::Object(map)
        }
        StepKind::SubFlow(sub_flow) => outputs.into_iter().next().map_or(Value::Null, |child| {
            let mut value = json!({
                "childExecutionId": child.execution,
                "flowId": sub_flow.flow_id,
                "status": Status::Completed,
                "context": child.context,
            });
            if let (Some(output), Value::Object(map)) = (child.output, &mut value) {
                map.insert("output".into(), output);
            }
            value
        }),
        StepKind::Loop(_) => outputs.into_iter().next().and_then(|child| child.output).unwrap_or(Value::Null),
        StepKind::Map(_)
        | StepKind::Task(_)
        | StepKind::Delay(_)
        | StepKind::WaitSignal(_)
        | StepKind::WaitEvent(_)
        | StepKind::Approval(_)
        | StepKind::Conditional(_)
        | StepKind::Switch(_)
        | StepKind::Branch(_)
        | StepKind::Emit(_)
        | StepKind::Set(_)
        | StepKind::Echo
        | StepKind::Fail(_)
        | StepKind::Succeed => {
            let mut results: Vec<Value> =
                outputs.into_iter().enumerate().map(|(index, child)| result(index, child)).collect();
            // Items that were not begun, because enough others had ended.
            results.resize(total as usize, Value::Null);
            Value::Array(results)
        }
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
