//! The working state of one decision: the execution as it becomes, and what is to be stored and wished.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::apply::apply;
use super::super::command::{ContextChange, EmittedEvent, TableRow};
use super::super::decision::{Decision, Effect, Record, World};
use super::super::encode;
use super::super::error::ExecutionError;
use super::super::event::{AttemptEnded, AttemptOutcome, Event};
use super::super::state::{Cost, Execution, Phase, StepRun};
use crate::context::{self, ContextError, ContextSize};
use crate::execution::children::ITERATION_KEY;
use crate::flow::dataset::{DatasetReads, DatasetTooLarge};
use crate::flow::definition::{Flow, Graph, PipeOn, Step, StepId, StepKind};
use crate::flow::path::Path;
use crate::flow::scope::{ExecutionFacts, Scope};
use crate::flow::selector::Selector;
use crate::limits::{ContextLimits, Limits};
use crate::time::{Moment, Timestamp};

/// The working state of one decision.
pub(super) struct Turn<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) moment: Moment,
    pub(super) execution: Execution,
    /// What the step that is being carried out reads of datasets.
    pub(super) datasets: DatasetReads<'a>,
    events: Vec<Event>,
    records: Vec<Record>,
    effects: Vec<Effect>,
    /// Whether a page of children's stacks was taken over.
    pub(super) stacks_read: bool,
    /// What is to be done before this decision is complete.
    pub(super) next: Option<Next>,
}

/// What is to be done next within a decision.
#[derive(Debug)]
pub(super) enum Next {
    /// Enter a step.
    Enter(StepId),
    /// Try a step again.
    Attempt(StepRun),
    /// Undo the last step that is left to undo.
    Undo,
}

impl<'a> Turn<'a> {
    pub(super) fn new(execution: &Execution, world: &'a World<'a>, moment: Moment) -> Self {
        Self {
            world,
            moment,
            execution: execution.clone(),
            datasets: DatasetReads::new(world.datasets),
            events: Vec::new(),
            records: Vec::new(),
            effects: Vec::new(),
            stacks_read: false,
            next: None,
        }
    }

    pub(super) fn finish(mut self) -> Decision {
        self.execution.version += 1;
        self.execution.updated_at = self.moment.now;
        debug_assert_eq!(super::super::invariants::check(&self.execution), Ok(()));
        Decision {
            execution: self.execution,
            events: self.events,
            records: self.records,
            effects: self.effects,
        }
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.moment.now
    }

    pub(super) fn limits(&self) -> &'a Limits {
        self.world.limits
    }

    /// A fact: the state changes at once, so that what follows is decided on it.
    pub(super) fn emit(&mut self, event: Event) {
        apply(&mut self.execution, &event, self.moment.now);
        self.events.push(event);
    }

    pub(super) fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(super) fn wish(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The worker that has the task, if one is out, is told to stop.
    pub(super) fn ask_to_cancel(&mut self) {
        if let Some(task) = self.execution.task() {
            let (attempt, pool) = (task.run.attempt, task.pool.clone());
            self.wish(Effect::CancelTask { task: task.run.task, attempt, pool });
        }
    }

    /// The attempt that is out, if one is, does not count any more.
    pub(super) fn withdraw(&mut self) {
        if let Some(task) = self.execution.task() {
            let (attempt, pool) = (task.run.attempt, task.pool.clone());
            self.wish(Effect::DropTask { task: task.run.task, attempt, pool });
        }
    }

    /// The graph that the execution runs.
    pub(super) fn graph(&self) -> Option<Arc<Graph>> {
        self.world.flow.graph_at(&self.execution.identity.graph).cloned()
    }

    /// A step of the execution's own graph.
    pub(super) fn step(&self, id: &str) -> Option<Arc<Step>> {
        self.graph()?.steps.get(id).cloned()
    }

    /// Whether the execution runs the flow itself, not a body in it.
    pub(super) fn runs_whole_flow(&self) -> bool {
        self.execution.identity.graph.is_empty()
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.execution.phase, Phase::Ending { .. })
    }

    pub(super) fn error(
        &self,
        code: &str,
        message: impl Into<String>,
        step: Option<&Step>,
    ) -> ExecutionError {
        ExecutionError {
            code: code.into(),
            message: message.into(),
            step_id: step.map(|step| step.id.clone()),
            details: None,
            timestamp: self.moment.now,
        }
    }

    /// Gives what the execution sees now to `see`. While a step is being undone, that is what was seen at its visit.
    pub(super) fn with_scope<T>(&self, input: Option<&Value>, see: impl FnOnce(&Scope<'_>) -> T) -> T {
        with_scope(&self.execution, self.world, &self.datasets, input, None, see)
    }

    /// As [`Self::with_scope`], with an event for `wait-event`.
    pub(super) fn with_event<T>(&self, event: &Value, see: impl FnOnce(&Scope<'_>) -> T) -> T {
        with_scope(&self.execution, self.world, &self.datasets, None, Some(event), see)
    }

    /// The step's input, for the record: without tokens.
    pub(super) fn input_of(&self, step: &Step) -> Result<Option<Value>, ExecutionError> {
        let Some(selector) = &step.input else { return Ok(None) };
        self.select(selector, step)
    }

    pub(super) fn select(&self, selector: &Selector, step: &Step) -> Result<Option<Value>, ExecutionError> {
        self.with_scope(None, |scope| selector.resolve(scope))
            .map_err(|error| self.error(error.code, error.to_string(), Some(step)))
    }

    fn context_limits(&self) -> ContextLimits {
        encode::context_limits(self.world.flow, self.limits())
    }

    /// Changes the context within its limits, all of `changes` or none.
    pub(super) fn change_context(&mut self, changes: Vec<ContextChange>) -> Result<(), ContextError> {
        let limits = self.context_limits();
        let mut size = ContextSize::from_bytes(self.execution.context_bytes);
        match changes.as_slice() {
            [] => return Ok(()),
            // One change, the usual case, is made or refused where it is; of more, a later one may be refused.
            [change] => size = write_within(&mut self.execution.context, change, &limits, size)?,
            changes => {
                let mut copy = self.execution.context.clone();
                for change in changes {
                    size = write_within(&mut copy, change, &limits, size)?;
                }
                self.execution.context = copy;
            }
        }
        // The context has changed already; applying the event would only write the same values again.
        let bytes = size.bytes();
        self.execution.context_bytes = bytes;
        self.execution.events += 1;
        self.events.push(Event::ContextChanged { changes, bytes });
        Ok(())
    }

    /// Writes a step's output at its `outputKey`.
    pub(super) fn write_output(&mut self, step: &Step, output: &Value) -> Result<(), ExecutionError> {
        // While undoing, the context stays as it was.
        let Some(key) = step.output_key.as_ref().filter(|_| self.execution.undoing.is_none()) else {
            return Ok(());
        };
        let change = ContextChange::Set { path: key.as_str().into(), value: output.clone() };
        self.change_context(vec![change])
            .map_err(|error| self.error(error.code(), error.to_string(), Some(step)))
    }

    pub(super) fn too_large(&self, error: DatasetTooLarge, step: &Step) -> ExecutionError {
        self.error(DatasetTooLarge::CODE, error.to_string(), Some(step))
    }

    /// Whether the flow's pipes can read what they map of a step's output.
    pub(super) fn check_pipes(&self, step: &Step, output: Option<&Value>) -> Result<(), ExecutionError> {
        let Some(output) = output.filter(|_| self.runs_whole_flow()) else { return Ok(()) };
        let pipes = self.world.flow.pipes.iter();
        let pipes = pipes.filter(|pipe| pipe.step == step.id && pipe.on != PipeOn::Failure);
        for (path, _) in pipes.flat_map(|pipe| &pipe.mappings) {
            path.read(output, &self.datasets).map_err(|error| self.too_large(error, step))?;
        }
        Ok(())
    }

    /// Records the rows of the flow's pipes for a step's outcome.
    pub(super) fn run_pipes(&mut self, step: &Step, run: &StepRun, output: Option<&Value>, success: bool) {
        if run.compensates || self.world.flow.pipes.is_empty() || !self.runs_whole_flow() {
            return;
        }
        let flow: &Flow = self.world.flow;
        for pipe in &flow.pipes {
            let wanted = match pipe.on {
                PipeOn::Success => success,
                PipeOn::Failure => !success,
                PipeOn::Any => true,
            };
            if !wanted || pipe.step != step.id {
                continue;
            }
            let mut row = Map::new();
            for (path, column) in &pipe.mappings {
                // What cannot be read has failed the step before: see `check_pipes`.
                if let Some(Ok(Some(value))) = output.map(|output| path.read(output, &self.datasets)) {
                    row.insert(column.clone(), value.into_owned());
                }
            }
            row.extend(pipe.static_values.clone());
            // The id names the outcome, so that a repeated commit inserts the row once.
            let id = format!("{}:{}:{}", self.execution.id(), pipe.id, self.execution.step_count);
            self.record(Record::InsertRow(TableRow {
                table: pipe.table.clone(),
                id,
                row,
                pipe: Some(pipe.id.clone()),
            }));
        }
    }

    /// One entry of the history for a step that the engine does itself.
    pub(super) fn note_outcome(
        &mut self,
        step: &Step,
        run: &StepRun,
        outcome: AttemptOutcome,
        error: Option<ExecutionError>,
    ) {
        let ended = AttemptEnded {
            step_id: step.id.clone(),
            handler_type: step.type_name.to_string(),
            outcome,
            visit: run.visit,
            attempt: run.attempt,
            task: run.task,
            started_at: run.began_at,
            completed_at: self.now(),
            duration_ms: self.now().since(run.began_at),
            error,
            worker_id: None,
            cost: Cost::default(),
            compensates: run.compensates,
        };
        self.emit(Event::AttemptEnded(Box::new(ended)));
    }

    pub(super) fn publish(&mut self, name: &str, data: Value) {
        self.record(Record::Publish(EmittedEvent { id: None, name: name.into(), data }));
    }
}

pub(in crate::execution) fn with_scope<T>(
    execution: &Execution,
    world: &World<'_>,
    datasets: &DatasetReads<'_>,
    input: Option<&Value>,
    event: Option<&Value>,
    see: impl FnOnce(&Scope<'_>) -> T,
) -> T {
    let facts = ExecutionFacts {
        id: execution.id().to_string(),
        flow_id: &execution.identity.flow.id,
        started_at: execution.identity.created_at,
        run: execution.run,
    };
    let ending_error = match &execution.phase {
        Phase::Ending { why: super::super::state::Why::Failure(error), .. } => Some(error.to_value()),
        Phase::Ending { why: super::super::state::Why::Cancel(cancellation), .. } => {
            Some(serde_json::json!({
                "code": "CANCELLED",
                "message": cancellation.reason.as_deref().unwrap_or("execution cancelled"),
                "stepId": execution.cursor,
            }))
        }
        Phase::Running | Phase::Completed | Phase::Failed { .. } | Phase::Cancelled { .. } => None,
    };
    see(&Scope {
        context: execution.undoing.as_ref().map_or(&execution.context, |undoing| &undoing.context),
        outer: if execution.undoing.is_some() { None } else { world.outer },
        error: execution.last_error.as_ref().or(ending_error.as_ref()),
        resume: execution.resume_data.as_ref(),
        resume_url: None,
        input,
        iteration: Some(iteration_seen(execution, world)),
        event,
        datasets: Some(datasets),
        item_key: if execution.undoing.is_some() { None } else { item_key(execution, world) },
        execution: &facts,
    })
}

fn write_within(
    current: &mut Map<String, Value>,
    change: &ContextChange,
    limits: &ContextLimits,
    size: ContextSize,
) -> Result<ContextSize, ContextError> {
    match change {
        ContextChange::Set { path, value } => {
            context::set_path(current, &parsed(path)?, value.clone(), limits, size)
        }
        ContextChange::Merge { value } => context::merge(current, value.clone(), limits, size),
        ContextChange::Delete { path } => Ok(context::remove_path(current, &parsed(path)?, size).1),
    }
}

fn parsed(path: &str) -> Result<Path, ContextError> {
    Path::parse(path).map_err(|_| ContextError::PathBlocked { path: path.into(), place: path.into() })
}

/// The key of the item of the innermost map around the execution.
fn item_key<'w>(execution: &Execution, world: &'w World<'_>) -> Option<&'w str> {
    let path = &execution.identity.graph;
    (0..path.len()).rev().find_map(|above| {
        let around = world.flow.graph_at(path.get(..above)?)?;
        match &around.steps.get(path.get(above)?.as_str())?.kind {
            StepKind::Map(map) => Some(map.item_key.as_str()),
            StepKind::Task(_)
            | StepKind::Delay(_)
            | StepKind::WaitSignal(_)
            | StepKind::WaitEvent(_)
            | StepKind::Approval(_)
            | StepKind::Conditional(_)
            | StepKind::Switch(_)
            | StepKind::Branch(_)
            | StepKind::Parallel(_)
            | StepKind::Loop(_)
            | StepKind::SubFlow(_)
            | StepKind::Emit(_)
            | StepKind::Set(_)
            | StepKind::Echo
            | StepKind::Fail(_)
            | StepKind::Succeed => None,
        }
    })
}

/// The iterations that expressions see: at a loop its own, in the body of a loop those that were done when the body began.
fn iteration_seen(execution: &Execution, world: &World<'_>) -> u32 {
    let graph = world.flow.graph_at(&execution.identity.graph);
    let at_loop = graph
        .and_then(|graph| graph.steps.get(&execution.cursor))
        .is_some_and(|step| matches!(step.kind, StepKind::Loop(_)));
    if at_loop {
        return execution.iteration;
    }
    let began = execution.context.get(ITERATION_KEY).and_then(Value::as_u64);
    began.and_then(|began| u32::try_from(began).ok()).unwrap_or(0)
}
