//! Staged changes of contexts: merged with the results that count on them, in their commit.

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_core::execution::codes;
use flowmonkey_core::execution::command::{Command, ContextChange, NextStep, ReportedOutcome, TaskReport};
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage};

use crate::apply::CommandOutcome;
use crate::engine::{Engine, EngineError};
use crate::store::{ContextPatch, StoreError};

/// Results with staged changes that are decided together: the changes are in memory at the same time.
const MERGED_MAX: usize = 8;

/// How many patches the commit of `result` has to merge. Those of an attempt that failed are dropped with it.
pub(crate) const fn patches_of(result: &ResultMessage) -> u32 {
    match result.outcome {
        Outcome::Success | Outcome::Wait | Outcome::Waiting => result.context_patches,
        Outcome::Failure | Outcome::Released => 0,
    }
}

/// As [`Engine::apply`], for reports some of which count on patches: how many, by the place of the report.
///
/// # Errors
/// When the record fails; all of it may be repeated.
pub(crate) async fn apply(
    engine: &Engine,
    commands: Vec<(ExecutionId, Command)>,
    patched: &BTreeMap<usize, u32>,
) -> Result<Vec<CommandOutcome>, EngineError> {
    let mut outcomes = vec![CommandOutcome::NotFound; commands.len()];
    let (with, without): (Vec<_>, Vec<_>) =
        commands.into_iter().enumerate().partition(|(place, _)| patched.contains_key(place));
    let places: Vec<usize> = without.iter().map(|(place, _)| *place).collect();
    let plain = without.into_iter().map(|(_, command)| command).collect();
    for (place, outcome) in places.into_iter().zip(engine.apply(plain).await?) {
        outcomes[place] = outcome;
    }
    let mut with = with.into_iter().peekable();
    while with.peek().is_some() {
        let mut part: Vec<(usize, (ExecutionId, Command))> = with.by_ref().take(MERGED_MAX).collect();
        let mut reports: Vec<(TaskId, u32, &mut TaskReport)> = Vec::with_capacity(part.len());
        for (place, (execution, command)) in &mut part {
            if let (Some(count), Command::Report(report)) = (patched.get(place), command) {
                reports.push((TaskId { execution: *execution, number: report.task }, *count, report));
            }
        }
        let merged = merge(engine, reports).await?;
        let (places, commands): (Vec<usize>, Vec<_>) = part.into_iter().unzip();
        let applied = engine.apply(commands).await?;
        let done: BTreeSet<ExecutionId> = applied
            .iter()
            .filter_map(|outcome| match outcome {
                CommandOutcome::Applied(execution) => Some(execution.id()),
                CommandOutcome::Rejected(_) | CommandOutcome::NotFound | CommandOutcome::Failed(_) => None,
            })
            .collect();
        forget(engine, merged.into_iter().filter(|(task, _)| done.contains(&task.execution)).collect()).await;
        for (place, outcome) in places.into_iter().zip(applied) {
            outcomes[place] = outcome;
        }
    }
    Ok(outcomes)
}

/// Puts what attempts have staged before the changes of their results. A result whose patches are not all there becomes a
/// failure of its attempt. Says which attempts have patches that are of no more use once the reports are stored.
///
/// # Errors
/// When the record cannot be read.
pub(crate) async fn merge(
    engine: &Engine,
    reports: Vec<(TaskId, u32, &mut TaskReport)>,
) -> Result<Vec<(TaskId, u32)>, StoreError> {
    let attempts: Vec<(TaskId, u32)> =
        reports.iter().map(|(task, _, report)| (*task, report.attempt)).collect();
    let mut staged: BTreeMap<(TaskId, u32), Vec<ContextPatch>> = BTreeMap::new();
    for patch in read(engine, &attempts).await? {
        staged.entry((patch.task, patch.attempt)).or_default().push(patch);
    }
    for (task, count, report) in reports {
        let patches = staged.remove(&(task, report.attempt)).unwrap_or_default();
        // One that was staged after the result counted its patches was promised to nobody.
        let counted = patches.into_iter().filter(|patch| patch.sequence <= count);
        let (sequences, changes): (Vec<u32>, Vec<Vec<ContextChange>>) =
            counted.map(|patch| (patch.sequence, patch.changes)).unzip();
        if sequences.iter().copied().eq(1..=count) {
            let own = std::mem::take(&mut report.context_changes);
            report.context_changes = changes.into_iter().flatten().chain(own).collect();
        } else {
            fail(report, sequences.len(), count);
        }
    }
    Ok(attempts)
}

/// The patches of these attempts. Those of an attempt of which one cannot be read are as good as missing; others do not
/// suffer from it.
async fn read(engine: &Engine, attempts: &[(TaskId, u32)]) -> Result<Vec<ContextPatch>, StoreError> {
    match engine.store.staged_patches(attempts).await {
        Err(StoreError::Corrupt { .. }) => {}
        read => return read,
    }
    let mut found = Vec::new();
    for attempt in attempts {
        match engine.store.staged_patches(std::slice::from_ref(attempt)).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(task = %attempt.0, %error, "staged changes of a context cannot be read");
            }
            read => found.extend(read?),
        }
    }
    Ok(found)
}

fn fail(report: &mut TaskReport, found: usize, count: u32) {
    report.outcome = ReportedOutcome::Failure {
        code: Some(codes::CONTEXT_PATCH_MISSING.into()),
        message: format!("the result counts on {count} staged changes of the context, and {found} are there"),
        retryable: true,
        details: None,
        retry_after_ms: None,
        next: NextStep::Transition,
    };
    report.context_changes = Vec::new();
    report.rows = Vec::new();
}

/// Takes away patches that were merged. What stays is taken away by the next attempt's, or by the pruner.
pub(crate) async fn forget(engine: &Engine, attempts: Vec<(TaskId, u32)>) {
    if let Err(error) = engine.store.forget_patches(&attempts).await {
        tracing::debug!(%error, "merged changes of contexts are left to the pruner");
    }
}
