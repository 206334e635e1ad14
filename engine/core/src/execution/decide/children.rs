//! Fan-outs: parallel, map, loop, sub-flow. The parent opens a join, and takes its result when all children are terminal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::codes;
use super::super::command::{ChildOutput, JoinOutputs, JoinReport, NextStep};
use super::super::decision::{ChildStart, Effect, Inherited, JoinKind, JoinSpec, Record, SubFlowStart};
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{AttemptOutcome, Event};
use super::super::state::{Activity, Closing, Fan, ParentLink, Phase, Stage, Status, StepRun};
use super::step::Done;
use super::turn::Turn;
use crate::flow::dataset::DatasetReference;
use crate::flow::definition::{
    JoinRule, LoopCondition, LoopStep, MapStep, OnItemError, Parallel, ParentClose, Step, StepKind, SubFlow,
};
use crate::flow::scope::Snapshot;

/// Code of a child that was cancelled.
const CANCELLED: &str = "CANCELLED";

/// Failures and successes that decide a fan-out.
struct Thresholds {
    failed: Option<u32>,
    succeeded: Option<u32>,
}

fn thresholds(join: JoinRule, on_item_error: OnItemError, total: u32) -> Thresholds {
    match join {
        JoinRule::All => {
            let failed = match on_item_error {
                OnItemError::FailFast => Some(1),
                OnItemError::Tolerate(tolerated) => Some(tolerated.saturating_add(1)),
                OnItemError::Continue => None,
            };
            Thresholds { failed, succeeded: None }
        }
        JoinRule::Any => Thresholds { failed: None, succeeded: Some(1) },
        JoinRule::N(wanted) => Thresholds {
            failed: Some(total.saturating_sub(wanted).saturating_add(1)),
            succeeded: Some(wanted),
        },
        JoinRule::Settled => Thresholds { failed: None, succeeded: None },
    }
}

impl Turn<'_> {
    pub(super) fn begin_map(&mut self, step: &Arc<Step>, run: &StepRun, map: &MapStep) -> Done {
        let selected = match self.select(&map.items, step) {
            Ok(selected) => selected.map(|selected| self.datasets.whole(Cow::Owned(selected))).transpose(),
            Err(error) => return Done::Failure(error),
        };
        let items = match selected.map(|selected| selected.map(Cow::into_owned)) {
            Ok(Some(Value::Array(items))) => items,
            Ok(other) => {
                let shown = other.as_ref().map_or("nothing", kind_of);
                let message = format!("`items` of map \"{}\" must give an array, not {shown}", step.id);
                return Done::Failure(self.error(codes::INPUT_ERROR, message, Some(step)));
            }
            Err(error) => return Done::Failure(self.too_large(error, step)),
        };
        let limit = self.limits().max_fan_out;
        let Some(total) = u32::try_from(items.len()).ok().filter(|total| *total <= limit) else {
            let message = format!("map \"{}\" has {} items, more than {limit}", step.id, items.len());
            return Done::Failure(self.error(codes::FAN_OUT_LIMIT, message, Some(step)));
        };
        if let Some(error) = self.out_of_reach(step, map.join, total) {
            return Done::Failure(error);
        }
        if total == 0 {
            return Done::Success { output: Some(json!([])), next: NextStep::Transition };
        }
        let max_live = map.max_concurrency.unwrap_or(u32::MAX).min(self.limits().max_concurrency).max(1);
        let kind = JoinKind::Map { item_key: map.item_key.clone() };
        let thresholds = thresholds(map.join, map.on_item_error, total);
        self.open(step, run, kind, total, max_live, &thresholds, items)
    }

    pub(super) fn begin_parallel(&mut self, step: &Arc<Step>, run: &StepRun, parallel: &Parallel) -> Done {
        let branches: Vec<String> = parallel.branches.iter().map(|(name, _)| name.clone()).collect();
        let total = u32::try_from(branches.len()).unwrap_or(u32::MAX);
        if let Some(error) = self.out_of_reach(step, parallel.join, total) {
            return Done::Failure(error);
        }
        if total == 0 {
            return Done::Success { output: Some(json!({})), next: NextStep::Transition };
        }
        let thresholds = thresholds(parallel.join, parallel.on_item_error, total);
        self.open(step, run, JoinKind::Parallel { branches }, total, total, &thresholds, Vec::new())
    }

    /// More successes are wanted than there are children: that is known before any of them runs.
    fn out_of_reach(&self, step: &Step, join: JoinRule, total: u32) -> Option<ExecutionError> {
        let wanted = match join {
            JoinRule::All | JoinRule::Settled => 0,
            JoinRule::Any => 1,
            JoinRule::N(wanted) => wanted,
        };
        (wanted > total).then(|| {
            let message = format!("step \"{}\" wants {wanted} successes of {total} children", step.id);
            self.error(codes::CHILD_FAILED, message, Some(step))
        })
    }

    /// The next iteration of a loop, or its end.
    pub(super) fn begin_iteration(&mut self, step: &Arc<Step>, run: &StepRun, config: &LoopStep) -> Done {
        let iteration = self.execution.iteration;
        let goes_on = match &config.condition {
            LoopCondition::While(expression) => self.with_scope(None, |scope| expression.holds(scope)),
            LoopCondition::Until(_) if iteration == 0 => Ok(true),
            LoopCondition::Until(expression) => {
                self.with_scope(None, |scope| expression.holds(scope)).map(|reached| !reached)
            }
        };
        match goes_on {
            Ok(true) => {}
            Ok(false) => {
                // The last iteration's result is written already.
                return Done::Success { output: None, next: NextStep::Transition };
            }
            Err(error) => {
                let message = format!("the condition of loop \"{}\": {error}", step.id);
                return Done::Failure(self.expression_error(&error, message, step));
            }
        }
        if iteration >= config.max_iterations {
            let message = format!("loop \"{}\" has not ended after {iteration} iterations", step.id);
            return Done::Failure(self.error(codes::MAX_ITERATIONS, message, Some(step)));
        }
        let thresholds = thresholds(JoinRule::All, OnItemError::FailFast, 1);
        self.open(step, run, JoinKind::Loop { iteration }, 1, 1, &thresholds, Vec::new())
    }

    pub(super) fn begin_sub_flow(
        &mut self,
        step: &Arc<Step>,
        run: &StepRun,
        config: &SubFlow,
        input: Option<Value>,
    ) -> Done {
        let context = match input {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(context)) => context,
            Some(other) => {
                let message = format!(
                    "the input of sub-flow \"{}\" must be an object, not {}",
                    step.id,
                    kind_of(&other)
                );
                return Done::Failure(self.error(codes::INPUT_ERROR, message, Some(step)));
            }
        };
        let version = config.version.as_ref().map(ToString::to_string);
        if !(self.world.flow_exists)(&config.flow_id, version.as_deref()) {
            let wanted = version
                .map_or_else(|| config.flow_id.clone(), |version| format!("{}@{version}", config.flow_id));
            let message = format!("Flow \"{wanted}\" not found");
            return Done::Failure(self.error(codes::FLOW_NOT_FOUND, message, Some(step)));
        }
        let abandon = config.on_parent_close == ParentClose::Abandon;
        let start = SubFlowStart {
            flow_id: config.flow_id.clone(),
            version,
            context,
            metadata: config.metadata.clone(),
            tenant_id: config.tenant_id.clone(),
            abandon,
        };
        if config.wait_for_completion {
            let thresholds = thresholds(JoinRule::All, OnItemError::FailFast, 1);
            return self.open(step, run, JoinKind::SubFlow(start), 1, 1, &thresholds, Vec::new());
        }
        if let Some(error) = self.too_deep(step) {
            return Done::Failure(error);
        }
        // Fire and forget: no join; the visit numbers the child, so that each visit starts one.
        let index = self.execution.step_count;
        let id = self.execution.id().child(0, index, self.now());
        self.record(Record::StartChild(Box::new(ChildStart {
            id,
            parent: ParentLink::detached(self.execution.id(), index, config.on_parent_close),
            start,
            inherited: Inherited::from(&self.execution.identity),
        })));
        self.wish(Effect::BeginChild { child: id });
        let output = json!({ "childExecutionId": id, "flowId": config.flow_id, "mode": "fire-and-forget" });
        Done::Success { output: Some(output), next: NextStep::Transition }
    }

    fn too_deep(&self, step: &Step) -> Option<ExecutionError> {
        let limit = self.limits().max_depth;
        (self.execution.identity.depth >= limit).then(|| {
            let message = format!("step \"{}\" would nest executions more than {limit} deep", step.id);
            self.error(codes::DEPTH_LIMIT, message, Some(step))
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is one field of the join; a struct would name them twice"
    )]
    fn open(
        &mut self,
        step: &Arc<Step>,
        run: &StepRun,
        kind: JoinKind,
        total: u32,
        max_live: u32,
        thresholds: &Thresholds,
        items: Vec<Value>,
    ) -> Done {
        if let Some(error) = self.too_deep(step) {
            return Done::Failure(error);
        }
        let join = self.execution.joins + 1;
        let mut inherited = Inherited::from(&self.execution.identity);
        let snapshot = match &self.execution.undoing {
            // The undoing step may be of another graph, or of another flow; it sees what was seen at the visit.
            Some(undoing) => {
                inherited.flow = undoing.flow.clone();
                inherited.graph.clone_from(&undoing.graph);
                Snapshot { context: undoing.context.clone(), outer: None }
            }
            None => Snapshot {
                context: self.execution.context.clone(),
                outer: self.world.outer.map(|outer| Arc::new(outer.clone())),
            },
        };
        self.record(Record::OpenJoin(Box::new(JoinSpec {
            parent: self.execution.id(),
            join,
            step: step.id.clone(),
            kind,
            total,
            max_live,
            stop_at_failed: thresholds.failed,
            stop_at_succeeded: thresholds.succeeded,
            inherited,
            snapshot: Arc::new(snapshot),
            items: Arc::new(items),
        })));
        let since = self.now();
        self.emit(Event::FanOpened(Fan {
            run: run.clone(),
            join,
            total,
            since,
            closing: None,
            total_by: step.total_timeout_ms.map(|millis| run.began_at.plus(millis)),
        }));
        self.wish(Effect::SpawnChildren { join });
        Done::UnderWay
    }

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
        for compensation in &report.compensations {
            self.emit(Event::CompensationAdded(Box::new(compensation.clone())));
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

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
