//! Looking after fan-outs: making children as there is room, telling the parent when it has enough or all have ended.

use std::sync::Arc;

use flowmonkey_core::execution::command::{
    ChildError, ChildOutput, Command, ITEM_ERRORS_MAX, JoinOutputs, JoinReport,
};
use flowmonkey_core::execution::decision::{Inherited, JoinKind, SubFlowStart};
use flowmonkey_core::execution::error::{ExecutionError, codes};
use flowmonkey_core::execution::{Creation, Effect, JoinSpec, Record, children, decide};
use flowmonkey_plumbing::crash;

use crate::apply::create_row;
use crate::config::SPAWN_CHUNK_MAX;
use crate::effects::Aftermath;
use crate::engine::{Engine, EngineError};
use crate::flows::{LoadedFlow, SubFlows};
use crate::store::{Batch, Create, CreateOutcome, JoinState, Spawn, number};

/// Children that are read at a time.
const CHILDREN_PAGE: usize = 1000;

impl Engine {
    /// Does what a fan-out needs now: its result is taken, its rest is cancelled, or children are made.
    pub(crate) async fn tend_join(&self, state: &JoinState, next: &mut Aftermath) -> Result<(), EngineError> {
        if state.is_complete() {
            crash::point("engine/join-complete");
            let report = self.join_report(state).await?;
            self.forget_join(state.parent, state.join);
            next.commands.push((state.parent, Command::JoinEnded(Box::new(report))));
        } else if state.is_decided() {
            next.commands.push((state.parent, Command::JoinDecided { join: state.join }));
        } else if state.room() > 0 {
            self.spawn(state, next).await?;
        }
        Ok(())
    }

    /// Makes one chunk of children; the answer of the commit says whether there is room for more.
    async fn spawn(&self, state: &JoinState, next: &mut Aftermath) -> Result<(), EngineError> {
        let Some(spec) = self.join_spec(state.parent, state.join).await? else { return Ok(()) };
        let flow = match &spec.kind {
            JoinKind::SubFlow(start) => match self.sub_flow(&spec, start).await? {
                Some(flow) => flow,
                None => {
                    let message = format!("Flow \"{}\" not found", start.flow_id);
                    self.refuse(&spec, codes::FLOW_NOT_FOUND, message, next);
                    return Ok(());
                }
            },
            JoinKind::Map { .. } | JoinKind::Parallel { .. } | JoinKind::Loop { .. } => {
                self.flows.get(&*self.store, &spec.inherited.flow.hash).await?
            }
        };
        let now = self.now();
        let to = state.spawned + state.room().min(SPAWN_CHUNK_MAX);
        let mut batch = Batch { now, ..Batch::default() };
        batch.spawns.push(Spawn { parent: state.parent, join: state.join, from: state.spawned, to });
        let mut effects = Vec::new();
        let mut flows = SubFlows::default();
        for index in state.spawned..to {
            let creation = match children::child(&spec, index, &flow.flow, &self.config.limits, now) {
                Ok(creation) => creation,
                Err(error) => {
                    self.refuse(&spec, error.code(), error.to_string(), next);
                    return Ok(());
                }
            };
            let (create, wishes) = self.begun(creation, &mut flows).await?;
            effects.push((create.execution.clone(), wishes));
            batch.creates.push(Create { spawn: Some(0), ..create });
        }
        let shown: Vec<_> = batch.creates.iter().map(|create| create.events.clone()).collect();
        let opened: Vec<_> = batch.creates.iter().flat_map(|create| opened_joins(&create.records)).collect();
        let committed = self.committer.commit(&*self.store, batch).await?;
        crash::point("engine/children-stored");
        if committed.creates.iter().all(|outcome| *outcome == CreateOutcome::Created) {
            for spec in opened {
                self.keep_join(&spec);
            }
            for ((execution, wishes), events) in effects.into_iter().zip(shown) {
                self.note_commit(&execution, events);
                next.add_effects(self, &execution, wishes, now);
            }
        }
        self.note_shared(&committed, next);
        Ok(())
    }

    /// A new execution with its first decision taken, so that both are one row to write.
    pub(crate) async fn begun(
        &self,
        creation: Creation,
        flows: &mut SubFlows,
    ) -> Result<(Create, Vec<Effect>), EngineError> {
        let mut around = self.load_around(Arc::new(creation.execution.clone()), flows).await?;
        let (decided, now) = loop {
            let moment = self.moment();
            let decided =
                self.with_world(&around, |world| decide(&creation.execution, world, Command::Begin, moment));
            if !around.fetch(self).await? {
                break (decided, moment.now);
            }
        };
        // A refusal is impossible for a new execution; unbegun, the timer begins it.
        let Ok(decision) = decided else { return Ok((create_row(creation, now), Vec::new())) };
        let mut events = vec![creation.event];
        events.extend(decision.events);
        let mut records = decision.records;
        let mut effects = decision.effects;
        if records.iter().any(|record| matches!(record, Record::StartChild(_))) {
            // A fire-and-forget child belongs into the same commit as its parent's update: begin in a commit of its own.
            records.clear();
            effects.clear();
            let id = creation.execution.id();
            let create = Create {
                events: number(&creation.execution, events.drain(..1).collect(), now),
                execution: Arc::new(creation.execution),
                records,
                idempotency: creation.idempotency,
                input_hash: String::new(),
                spawn: None,
                cause: None,
                flows: None,
            };
            return Ok((create, vec![Effect::BeginChild { child: id }]));
        }
        let create = Create {
            events: number(&decision.execution, events, now),
            execution: Arc::new(decision.execution),
            records,
            idempotency: creation.idempotency,
            input_hash: String::new(),
            spawn: None,
            cause: None,
            flows: None,
        };
        Ok((create, effects))
    }

    async fn sub_flow(
        &self,
        spec: &JoinSpec,
        start: &SubFlowStart,
    ) -> Result<Option<Arc<LoadedFlow>>, EngineError> {
        let Inherited { tenant_id, bundle, .. } = &spec.inherited;
        let version = start.version.as_deref();
        let found =
            self.flows.resolve(&*self.store, tenant_id.as_deref(), bundle, &start.flow_id, version).await?;
        Ok(match found {
            Some(reference) => Some(self.flows.get(&*self.store, &reference.hash).await?),
            None => None,
        })
    }

    /// The only child of a fan-out cannot be made: the parent is told as if it had failed.
    fn refuse(&self, spec: &JoinSpec, code: &str, message: String, next: &mut Aftermath) {
        let error = ExecutionError {
            code: code.into(),
            message,
            step_id: None,
            details: None,
            timestamp: self.now(),
        };
        next.commands.push((
            spec.parent,
            Command::JoinEnded(Box::new(JoinReport {
                join: spec.join,
                succeeded: 0,
                failed: 1,
                outputs: JoinOutputs::Inline(Vec::new()),
                errors: vec![ChildError { index: 0, error }],
                undoable: 0,
                cost: flowmonkey_core::execution::state::Cost::default(),
                has_errors: false,
            })),
        ));
    }

    /// Reads what the children gave, once.
    async fn join_report(&self, state: &JoinState) -> Result<JoinReport, EngineError> {
        let mut report = JoinReport {
            join: state.join,
            succeeded: state.succeeded,
            failed: state.failed,
            outputs: JoinOutputs::Inline(Vec::new()),
            errors: Vec::new(),
            undoable: 0,
            cost: state.cost,
            has_errors: false,
        };
        // Only of a map the results are many by nature; the others have a shape that a reference cannot stand for.
        let spec = self.join_spec(state.parent, state.join).await?;
        let is_map = spec.is_some_and(|spec| match spec.kind {
            JoinKind::Map { .. } => true,
            JoinKind::Parallel { .. } | JoinKind::Loop { .. } | JoinKind::SubFlow(_) => false,
        });
        let mut outputs = Vec::new();
        let mut bytes = 0;
        let mut from = 0;
        loop {
            let page = self.store.children(state.parent, state.join, from, CHILDREN_PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            let full = page.len() == CHILDREN_PAGE;
            for child in page {
                report.has_errors |= child.has_errors;
                if !child.compensations.is_empty() {
                    report.undoable = child.index + 1;
                }
                if let Some(error) = child.error
                    && report.errors.len() < ITEM_ERRORS_MAX
                {
                    report.errors.push(ChildError { index: child.index, error });
                }
                bytes += child.output.as_ref().map_or(4, flowmonkey_core::context::json_size);
                if bytes <= self.config.limits.inline_results_bytes || !is_map {
                    outputs.push(ChildOutput {
                        execution: child.id,
                        status: child.status,
                        output: child.output,
                        context: child.context,
                    });
                }
            }
            if !full {
                break;
            }
        }
        let inline = outputs.len() == state.spawned as usize;
        report.outputs = if inline {
            JoinOutputs::Inline(outputs)
        } else {
            JoinOutputs::Dataset { count: state.spawned, bytes }
        };
        Ok(report)
    }
}

/// The fan-outs that `records` open.
pub(crate) fn opened_joins(records: &[Record]) -> Vec<Arc<JoinSpec>> {
    records
        .iter()
        .filter_map(
            |record| {
                if let Record::OpenJoin(spec) = record { Some(Arc::new((**spec).clone())) } else { None }
            },
        )
        .collect()
}
