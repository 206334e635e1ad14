//! Puts an attempt into the form that is dispatched. One function for publication and re-publication alike; nothing of it
//! is stored.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::decide::with_scope;
use super::decision::{Resumed, TaskDraft, World};
use super::declared::{Declared, declared};
use super::state::{Execution, ResumedBy, StepRun, TaskRun};
use crate::context::json_size;
use crate::flow::dataset::{DatasetReads, DatasetTooLarge};
use crate::flow::definition::{Flow, Step, StepKind, TaskStep};
use crate::flow::js;
use crate::flow::scope::Scope;
use crate::flow::selector::{Path, Selector, SelectorError};
use crate::limits::{ContextLimits, Limits};

/// Why an attempt cannot be put into the form that is dispatched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The execution has no task out.
    #[error("the execution has no task out")]
    NoTask,
    /// The flow does not have the step, or it is not a task.
    #[error("step `{0}` is not a task of this flow")]
    NoSuchStep(String),
    /// A selector failed.
    #[error("{0}")]
    Selector(SelectorError),
    /// The input reads more than a task may hold.
    #[error(transparent)]
    Dataset(#[from] DatasetTooLarge),
}

impl From<SelectorError> for EncodeError {
    fn from(error: SelectorError) -> Self {
        if error.code == DatasetTooLarge::CODE {
            Self::Dataset(DatasetTooLarge)
        } else {
            Self::Selector(error)
        }
    }
}

/// The task that is out, as it is dispatched.
///
/// # Errors
/// When no task is out, or the flow does not fit the record any more.
pub fn encode_task(execution: &Execution, world: &World<'_>) -> Result<TaskDraft, EncodeError> {
    let task_run = execution.task().ok_or(EncodeError::NoTask)?;
    let missing = || EncodeError::NoSuchStep(task_run.run.step.to_string());
    let step = step_of(execution, world, &task_run.run).ok_or_else(missing)?;
    let StepKind::Task(task) = &step.kind else { return Err(missing()) };
    draft(execution, world, &DatasetReads::new(world.datasets), &step, task, task_run, None)
}

/// The draft of `task_run`. `input` is the step's input where the caller has resolved it already.
pub(super) fn draft(
    execution: &Execution,
    world: &World<'_>,
    datasets: &DatasetReads<'_>,
    step: &Step,
    task: &TaskStep,
    task_run: &TaskRun,
    input: Option<Value>,
) -> Result<TaskDraft, EncodeError> {
    let run = &task_run.run;
    let resume_url = |name: &str| {
        // A flow may mail the URL of a step that it has not reached yet: then the next visit is meant.
        let visits = execution.visits.get(name).copied().unwrap_or(0);
        let visit = if name == &*run.step { run.visit } else { visits + 1 };
        (world.resume_url)(name, visit)
    };
    let names_resume_url = step.input.as_ref().is_some_and(names_resume_url);
    let inline_max = world.limits.inline_context_bytes;
    let own_bytes = execution.undoing.is_none().then_some(execution.context_bytes);
    let (mut input, declared, key) = with_scope(execution, world, datasets, None, None, |scope| {
        let input = match &step.input {
            Some(selector) if names_resume_url || input.is_none() => {
                selector.resolve(&Scope { resume_url: Some(&resume_url), ..*scope })?
            }
            Some(_) | None => input,
        };
        let key = match &task.idempotency_key {
            Some(selector) => {
                selector.resolve(scope)?.filter(|key| !key.is_null()).map(|key| js::to_text(Some(&key)))
            }
            None => None,
        };
        Ok::<_, SelectorError>((input, declared(&task.context, scope, own_bytes, inline_max)?, key))
    })?;
    let (mut context, mut context_bytes) = match declared {
        Declared::Inline(context) => (context, None),
        Declared::Large(bytes) => (Value::Object(Map::new()), Some(bytes)),
    };
    let mut copied = 0;
    for value in input.iter_mut().chain([&mut context]) {
        datasets.materialise(value, &mut copied)?;
    }
    if copied > 0 {
        let bytes = json_size(&context);
        if bytes > inline_max {
            (context, context_bytes) = (Value::Object(Map::new()), Some(bytes));
        }
    }
    let key = key.unwrap_or_else(|| idempotency_key(execution, run));
    let timeout_ms = task
        .timeout_ms
        .or_else(|| world.handlers.timeout_ms(&step.type_name))
        .unwrap_or(world.limits.default_timeout_ms);
    Ok(TaskDraft {
        task: execution.task_id(run.task),
        attempt: run.attempt,
        step: step.id.clone(),
        handler_type: step.type_name.clone(),
        handler_version: task.handler_version.as_ref().map(ToString::to_string),
        pool: task_run.pool.clone(),
        priority: task.priority,
        input,
        context,
        context_bytes,
        config: task.config.clone(),
        idempotency_key: key,
        timeout_ms,
        heartbeat_timeout_ms: task.heartbeat_timeout_ms,
        max_retries: step.retry.as_ref().map_or(0, |retry| retry.max_attempts),
        resumed: run.resumed.clone().map(|by| resumed(execution, by)),
    })
}

/// What ended the pause; the data that came then is still that of the execution, as its cursor has not moved since.
fn resumed(execution: &Execution, by: ResumedBy) -> Resumed {
    let data = match by {
        ResumedBy::Time => None,
        ResumedBy::Resume | ResumedBy::Event { .. } => execution.resume_data.clone(),
    };
    Resumed { by, data }
}

/// Execution, step and visit: stable over attempts, retries and reopenings.
fn idempotency_key(execution: &Execution, run: &StepRun) -> String {
    let whose = execution.undoing.as_ref().filter(|_| run.compensates);
    match whose {
        Some(undoing) => {
            format!("{}:{}:{}:undo:{}", undoing.execution, undoing.step, undoing.visit, run.step)
        }
        None => format!("{}:{}:{}", execution.id(), run.step, run.visit),
    }
}

fn names_resume_url(selector: &Selector) -> bool {
    let is_url = |path: &Path| path.root() == "_resumeUrl";
    match selector {
        Selector::Path(path) => is_url(path),
        Selector::Template(template) => template.paths().into_iter().any(is_url),
        Selector::Key(_) | Selector::Keys(_) | Selector::Full | Selector::Static(_) | Selector::Expr(_) => {
            false
        }
    }
}

/// The step that `run` counts: of the execution's graph, or the one that undoes another.
pub(super) fn step_of(execution: &Execution, world: &World<'_>, run: &StepRun) -> Option<Arc<Step>> {
    if run.compensates {
        return undoing_step(execution, world);
    }
    world.flow.graph_at(&execution.identity.graph)?.steps.get(&run.step).cloned()
}

/// The step that undoes what is being undone now.
pub(super) fn undoing_step(execution: &Execution, world: &World<'_>) -> Option<Arc<Step>> {
    let undoing = execution.undoing.as_ref()?;
    let graph = if undoing.flow.hash == execution.identity.flow.hash {
        world.flow.graph_at(&undoing.graph)?.clone()
    } else {
        (world.flows)(&undoing.flow.hash)?.graph_at(&undoing.graph)?.clone()
    };
    graph.steps.get(&undoing.with).cloned()
}

/// The pool whose queue carries the step's tasks.
pub(super) fn pool(step: &Step, execution: &Execution, world: &World<'_>) -> String {
    match world.handlers.route(&step.type_name, execution.id()) {
        Some(prefix) => format!("{prefix}{}", step.type_name),
        None => step.type_name.to_string(),
    }
}

/// The context's limits for executions of `flow`.
pub(super) fn context_limits(flow: &Flow, limits: &Limits) -> ContextLimits {
    let max_total_size = flow.limits.context_bytes.unwrap_or(limits.context.max_total_size);
    ContextLimits { max_total_size, ..limits.context }
}

/// Outcomes that an execution of `flow` may apply.
pub(super) fn max_steps(flow: &Flow, limits: &Limits) -> u32 {
    flow.limits.max_steps.unwrap_or(limits.max_steps)
}
