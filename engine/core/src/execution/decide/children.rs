//! Fan-outs: parallel, map, loop, sub-flow. The parent opens a join, and takes its result when all children are terminal.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::codes;
use super::super::command::NextStep;
use super::super::decision::{ChildStart, Effect, Inherited, JoinKind, JoinSpec, Record, SubFlowStart};
use super::super::error::ExecutionError;
use super::super::event::Event;
use super::super::state::{Fan, ParentLink, StepRun};
use super::joined::kind_of;
use super::step::Done;
use super::turn::Turn;
use crate::flow::definition::{
    JoinRule, LoopCondition, LoopStep, MapStep, OnItemError, Parallel, ParentClose, Step, SubFlow,
};
use crate::flow::scope::Snapshot;

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
        let own = &self.execution.identity.tenant_id;
        if own.is_some() && config.tenant_id.is_some() && *own != config.tenant_id {
            let message = format!("sub-flow \"{}\" names another tenant than that of the execution", step.id);
            return Done::Failure(self.error(codes::FOREIGN_TENANT, message, Some(step)));
        }
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
}
