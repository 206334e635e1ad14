//! Fan-outs as the record keeps them: counters beside the parent, children made as there is room.

use flowmonkey_core::execution::command::{ChildError, ChildOutput, Command, JoinOutputs, JoinReport};
use flowmonkey_core::execution::decision::JoinKind;
use flowmonkey_core::execution::error::ExecutionError;
use flowmonkey_core::execution::state::{ChildStacks, Cost, Phase, StackPage, StackPageLimits};
use flowmonkey_core::execution::{Execution, JoinSpec, Status, children};
use flowmonkey_core::ids::ExecutionId;

use super::Bench;

/// Small, so that the ends of pages are met.
const SMALL_PAGE: StackPageLimits = StackPageLimits { entries: 2, bytes: 1000 };

/// A fan-out.
pub struct Join {
    pub spec: JoinSpec,
    pub spawned: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cost: Cost,
    pub closing: bool,
    pub taken: bool,
    /// Most children alive at a time so far.
    pub most_live: u32,
    /// Why a child could not be made.
    pub refused: Vec<ChildError>,
}

impl Join {
    pub fn new(spec: JoinSpec) -> Self {
        Self {
            spec,
            spawned: 0,
            succeeded: 0,
            failed: 0,
            cost: Cost::default(),
            closing: false,
            taken: false,
            most_live: 0,
            refused: Vec::new(),
        }
    }

    pub fn count(&mut self, succeeded: bool, cost: Cost) {
        if succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
        self.cost = self.cost.plus(cost);
        assert!(self.ended() <= self.spawned, "more children ended than were made");
    }

    pub fn ended(&self) -> u32 {
        self.succeeded + self.failed
    }

    /// All children are terminal and no more will be made.
    pub fn is_complete(&self) -> bool {
        self.ended() >= if self.closing { self.spawned } else { self.spec.total }
    }

    /// Enough children have ended, though some are left.
    pub fn is_decided(&self) -> bool {
        !self.closing
            && !self.is_complete()
            && (self.spec.stop_at_failed.is_some_and(|limit| self.failed >= limit)
                || self.spec.stop_at_succeeded.is_some_and(|limit| self.succeeded >= limit))
    }

    /// Whether another child may be made now.
    pub fn has_room(&self) -> bool {
        !self.closing
            && !self.is_decided()
            && self.spawned < self.spec.total
            && self.spawned - self.ended() < self.spec.max_live
    }
}

impl Bench {
    /// Does what a fan-out needs now.
    pub(super) fn tend(&mut self, parent: ExecutionId, number: u32) {
        loop {
            let Some(join) = self.joins.get(&(parent, number)) else { return };
            if join.taken || self.get(parent).is_terminal() {
                return;
            }
            if join.is_complete() {
                let report = self.join_report(parent, number);
                // Refused while paused; unpausing asks again.
                self.command(parent, Command::JoinEnded(Box::new(report))).unwrap_or_default();
                return;
            }
            if join.is_decided() {
                self.command(parent, Command::JoinDecided { join: number }).unwrap_or_default();
                return;
            }
            if !join.has_room() {
                return;
            }
            self.spawn(parent, number);
        }
    }

    fn spawn(&mut self, parent: ExecutionId, number: u32) {
        let join = &self.joins[&(parent, number)];
        let flow = match &join.spec.kind {
            JoinKind::SubFlow(start) => {
                self.flow(&start.flow_id, start.version.as_deref()).expect("the core asked before")
            }
            JoinKind::Map { .. } | JoinKind::Parallel { .. } | JoinKind::Loop { .. } => {
                self.flow_by_hash(&join.spec.inherited.flow.hash)
            }
        };
        let index = join.spawned;
        let child = children::child(&join.spec, index, &flow, &self.limits, self.now);
        let now = self.now;
        let join = self.joins.get_mut(&(parent, number)).unwrap();
        join.spawned += 1;
        match child {
            Ok(creation) => {
                join.most_live = join.most_live.max(join.spawned - join.ended());
                let id = self.admit(creation);
                self.command(id, Command::Begin).unwrap();
            }
            Err(error) => {
                join.failed += 1;
                join.refused.push(ChildError {
                    index,
                    error: ExecutionError {
                        code: error.code().into(),
                        message: error.to_string(),
                        step_id: None,
                        details: None,
                        timestamp: now,
                    },
                });
            }
        }
    }

    fn join_report(&self, parent: ExecutionId, number: u32) -> JoinReport {
        let join = &self.joins[&(parent, number)];
        let is_flow = matches!(join.spec.kind, JoinKind::SubFlow(_));
        let mut report = JoinReport {
            join: number,
            succeeded: join.succeeded,
            failed: join.failed,
            outputs: JoinOutputs::Inline(Vec::new()),
            errors: join.refused.clone(),
            undoable: 0,
            cost: join.cost,
            has_errors: false,
        };
        let mut outputs = Vec::new();
        for child in self.children(parent) {
            let child = self.get(child);
            let Some(link) = child.identity.parent.filter(|link| link.join == number) else { continue };
            assert!(child.is_terminal(), "the parent goes on only when all children are terminal");
            report.has_errors |= child.has_errors;
            if child.status() == Status::Completed && !child.compensations.is_empty() {
                report.undoable = link.index + 1;
            }
            if let Some(error) = error_of(child, self.now) {
                report.errors.push(ChildError { index: link.index, error });
            }
            outputs.push(ChildOutput {
                execution: child.id(),
                status: child.status(),
                output: child.output.clone(),
                context: is_flow.then(|| child.context.clone()),
            });
        }
        report.outputs = JoinOutputs::Inline(outputs);
        report
    }
}

impl Bench {
    /// The top of what children have left to undo, a little at a time.
    pub(super) fn stack_page(&self, stacks: ChildStacks) -> StackPage {
        let mut page = StackPage::new(stacks, SMALL_PAGE);
        while let Some(place) = page.wants() {
            let child = self.executions.values().map(|slot| &slot.execution).find(|child| {
                child.identity.parent.is_some_and(|link| {
                    (link.execution, link.join, link.index) == (place.parent, place.join, place.index)
                })
            });
            let left = child.filter(|child| child.status() == Status::Completed);
            assert!(page.take(left.map_or(&[], |child| &child.compensations)), "stacks stay as they are");
        }
        page
    }
}

fn error_of(child: &Execution, now: flowmonkey_core::time::Timestamp) -> Option<ExecutionError> {
    match &child.phase {
        Phase::Failed { error, .. } => Some(error.clone()),
        Phase::Cancelled { .. } => Some(ExecutionError {
            code: "CANCELLED".into(),
            message: "cancelled".into(),
            step_id: None,
            details: None,
            timestamp: now,
        }),
        Phase::Running | Phase::Ending { .. } | Phase::Completed => None,
    }
}
