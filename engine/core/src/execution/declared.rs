//! What a step declared of the context: what travels with its tasks, and what they may read besides.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::decide::with_scope;
use super::decision::World;
use super::encode::{EncodeError, step_of};
use super::state::Execution;
use crate::context::{self, ContextSize, json_size};
use crate::flow::dataset::{DatasetReads, DatasetTooLarge};
use crate::flow::definition::{ContextNeeds, StepKind};
use crate::flow::scope::Scope;
use crate::flow::selector::Path;
use crate::limits::ContextLimits;

/// The declared part of a context, on its way to a task.
pub(super) enum Declared {
    /// It travels with the task.
    Inline(Value),
    /// About so many bytes: more than may travel.
    Large(usize),
}

/// What `needs` declare, unless it has more than `inline_max` bytes: then it is measured, and not copied. `own_bytes`: the
/// size of the scope's own context, where that is known.
pub(super) fn declared(
    needs: &ContextNeeds,
    scope: &Scope<'_>,
    own_bytes: Option<usize>,
    inline_max: usize,
) -> Result<Declared, DatasetTooLarge> {
    match needs {
        ContextNeeds::None => Ok(Declared::Inline(Value::Object(Map::new()))),
        ContextNeeds::Full => {
            let bytes = own_bytes.unwrap_or_else(|| ContextSize::of(scope.context).bytes());
            Ok(if bytes > inline_max {
                Declared::Large(bytes)
            } else {
                Declared::Inline(Value::Object(scope.context.clone()))
            })
        }
        ContextNeeds::Paths(paths) => {
            let mut found = Vec::with_capacity(paths.len());
            let mut bytes = 0_usize;
            for path in paths {
                if let Some(value) = scope.get(path)? {
                    bytes = bytes.saturating_add(json_size(&value)).saturating_add(path.as_str().len());
                    found.push((path, value));
                }
            }
            Ok(if bytes > inline_max {
                Declared::Large(bytes)
            } else {
                Declared::Inline(Value::Object(laid_out(found)))
            })
        }
    }
}

/// What the task that is out may read of the context: what its step declared, as a whole or at `path`. The same as what
/// travels inline, whatever its size. `None`: there is nothing at the path, or the step did not declare it.
///
/// # Errors
/// As [`encode_task`](super::encode_task).
pub fn read_declared(
    execution: &Execution,
    world: &World<'_>,
    path: Option<&Path>,
) -> Result<Option<Value>, EncodeError> {
    let run = &execution.task().ok_or(EncodeError::NoTask)?.run;
    let missing = || EncodeError::NoSuchStep(run.step.to_string());
    let step = step_of(execution, world, run).ok_or_else(missing)?;
    let StepKind::Task(task) = &step.kind else { return Err(missing()) };
    let datasets = DatasetReads::new(world.datasets);
    let mut value = with_scope(execution, world, &datasets, None, None, |scope| match path {
        None => whole(&task.context, scope).map(Some),
        Some(path) => part(&task.context, scope, path),
    })?;
    let mut copied = 0;
    if let Some(value) = &mut value {
        datasets.materialise(value, &mut copied)?;
    }
    Ok(value)
}

fn whole(needs: &ContextNeeds, scope: &Scope<'_>) -> Result<Value, DatasetTooLarge> {
    match declared(needs, scope, None, usize::MAX)? {
        Declared::Inline(value) => Ok(value),
        // Nothing is larger than that.
        Declared::Large(_) => Ok(Value::Object(Map::new())),
    }
}

fn part(needs: &ContextNeeds, scope: &Scope<'_>, path: &Path) -> Result<Option<Value>, DatasetTooLarge> {
    match needs {
        ContextNeeds::None => Ok(None),
        // What is seen outside of the own context (`parent`, `_error`) does not travel with the whole either.
        ContextNeeds::Full => match scope.datasets {
            Some(datasets) => Ok(path.read_in_map(scope.context, datasets)?.map(Cow::into_owned)),
            None => Ok(path.get_in_map(scope.context).map(Cow::into_owned)),
        },
        ContextNeeds::Paths(paths) => {
            if paths.iter().any(|declared| is_within(path, declared)) {
                return Ok(scope.get(path)?.map(Cow::into_owned));
            }
            // Above declared paths: an object of what they declare.
            let mut found = Vec::new();
            for declared in paths.iter().filter(|declared| is_within(declared, path)) {
                if let Some(value) = scope.get(declared)? {
                    found.push((declared, value));
                }
            }
            Ok(path.get_in_map(&laid_out(found)).map(Cow::into_owned))
        }
    }
}

/// Whether `inner` is `outer`, or below it.
fn is_within(inner: &Path, outer: &Path) -> bool {
    inner.segments().starts_with(outer.segments())
}

fn laid_out(found: Vec<(&Path, Cow<'_, Value>)>) -> Map<String, Value> {
    let mut declared = Map::new();
    for (path, value) in found {
        // Two declared paths may overlap; the later one finds the earlier one's value in its way only where it is the same
        // value, so a refusal loses nothing.
        let size = ContextSize::default();
        let written =
            context::set_path(&mut declared, path, value.into_owned(), &ContextLimits::UNLIMITED, size);
        drop(written);
    }
    declared
}
