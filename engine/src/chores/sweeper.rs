//! The sweeper: every execution that has not ended has a live cause. What follows from a commit is lost when an engine
//! dies between the two; tasks are found by the reconciler, and the rest is found here: fan-outs that nobody looks after,
//! children whose parents have ended, waits that were not told of earlier events. Each is counted and logged as a late effect: what an
//! engine that lives could not do it tries again itself, so that without a death or a standstill there are none.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::execution::{Activity, Execution, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;

use super::HasMore;
use crate::apply::CommandOutcome;
use crate::config::{SWEEP_EXECUTIONS_MAX, SWEPT_JOINS_MAX};
use crate::effects::{Aftermath, Subscription, bear};
use crate::engine::{Counters, Engine, EngineError};
use crate::store::{ExecutionFilter, JoinState, StoreError, awaited_event};

/// Fan-outs looked at at a time.
const SWEEP_BATCH_MAX: usize = 200;
/// Milliseconds after the end of a parent in which its children are told in the ordinary way.
const ORPHAN_AFTER_MS: u64 = 10_000;

/// What a tick did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Fan-outs that were looked after.
    pub joins: usize,
    /// Of them, those that had stood still since the tick before.
    pub late_joins: usize,
    /// Children that were told of the end of their parents.
    pub late_children: usize,
    /// Waits that took an earlier event.
    pub late_events: usize,
}

impl HasMore for Swept {
    fn has_more(&self) -> bool {
        false
    }
}

/// What the sweeper remembers from tick to tick.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Fan-outs that needed attention in the tick before; none before the first.
    joins: Option<HashMap<(ExecutionId, u32), JoinState>>,
    /// Where the walk over all executions is.
    walk: Walk,
}

/// A walk over all executions that have not ended, a page in each tick.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    before: Option<ExecutionId>,
    began_at: Option<Timestamp>,
    /// When the walk before began: older waits were looked at then.
    last_began_at: Option<Timestamp>,
}

/// Looks after what nobody looks after. In the first tick that is everything that needs attention, as after a crash.
/// Later it is what has not changed since the tick before: the rest is in motion.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Swept, EngineError> {
    let _work = engine.work();
    let mut swept = sweep_joins(engine).await?;
    let counters = &engine.counters;
    Counters::add(&counters.late_joins, swept.late_joins);
    (swept.late_children, swept.late_events) = walk(engine).await?;
    Counters::add(&counters.late_children, swept.late_children);
    Counters::add(&counters.late_events, swept.late_events);
    Ok(swept)
}

async fn sweep_joins(engine: &Engine) -> Result<Swept, EngineError> {
    let before = engine.sweep.lock().unwrap_or_else(PoisonError::into_inner).joins.clone();
    let mut seen = HashMap::new();
    let mut swept = Swept::default();
    let mut last = None;
    loop {
        let page = engine.store.joins_to_tend(last, SWEEP_BATCH_MAX).await?;
        let Some(end) = page.last() else { break };
        last = Some((end.parent, end.join));
        let mut still = Vec::new();
        for state in page {
            let key = (state.parent, state.join);
            if before.as_ref().is_none_or(|before| before.get(&key) == Some(&state)) {
                still.push(state.clone());
            }
            if seen.len() < SWEPT_JOINS_MAX {
                seen.insert(key, state);
            }
        }
        let tended = tend(engine, still, before.is_some()).await?;
        swept.joins += tended;
        if before.is_some() {
            swept.late_joins += tended;
        }
    }
    engine.sweep.lock().unwrap_or_else(PoisonError::into_inner).joins = Some(seen);
    Ok(swept)
}

/// Looks after fan-outs that somebody could look after now; how many those were.
async fn tend(engine: &Engine, joins: Vec<JoinState>, are_late: bool) -> Result<usize, EngineError> {
    let mut ids: Vec<ExecutionId> = joins.iter().map(|state| state.parent).collect();
    ids.dedup();
    if ids.is_empty() {
        return Ok(0);
    }
    let parents: BTreeMap<ExecutionId, Execution> =
        load_sound(engine, &ids).await?.into_iter().map(|parent| (parent.id(), parent)).collect();
    let mut aftermath = Aftermath::default();
    let mut tended = 0;
    for state in joins {
        let Some(parent) = parents.get(&state.parent) else { continue };
        if state.closing && !state.is_complete() {
            // Children that are ending already refuse: then there was nothing to repair.
            let told = engine.cancel_children(state.parent, state.join, &mut aftermath).await?;
            tended += usize::from(told > 0);
            if told > 0 && are_late {
                tracing::warn!(execution = %state.parent, told, "children had not been told to end");
            }
        } else if waits_for(parent, state.join) && !(state.is_complete() && parent.pause.is_some()) {
            // A paused parent takes the result when it goes on.
            tended += 1;
            if are_late {
                let JoinState { join, total, spawned, .. } = state;
                let since = parent.updated_at.to_rfc3339();
                let ended = state.ended();
                tracing::warn!(execution = %state.parent, join, total, spawned, ended, since, "a fan-out had stood still");
            }
            aftermath.joins.push(state);
        }
    }
    engine.settle(aftermath).await?;
    Ok(tended)
}

/// Those of the executions that can be read. One that is asked for alone is said to be corrupt, among others it is left
/// out; either way it must not be in the way of others.
async fn load_sound(engine: &Engine, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
    match engine.store.load(ids).await {
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Internal { .. })) if ids.len() == 1 => {
            tracing::error!(%error, "an execution cannot be read");
            Ok(Vec::new())
        }
        found => found,
    }
}

fn waits_for(parent: &Execution, join: u32) -> bool {
    match &parent.activity {
        Activity::Children(fan) => fan.join == join && !parent.is_terminal(),
        Activity::Ready
        | Activity::Task(_)
        | Activity::Backoff { .. }
        | Activity::Wait(_)
        | Activity::Incident(_)
        | Activity::Nothing => false,
    }
}

/// One page of all executions that have not ended; how many children and waits had not been told.
async fn walk(engine: &Engine) -> Result<(usize, usize), EngineError> {
    let now = engine.now();
    let mut walk = engine.sweep.lock().unwrap_or_else(PoisonError::into_inner).walk;
    let began_at = *walk.began_at.get_or_insert(now);
    let filter = ExecutionFilter {
        statuses: vec![
            Status::Pending,
            Status::WaitingForWorker,
            Status::Waiting,
            Status::Paused,
            Status::Incident,
        ],
        include_children: true,
        before: walk.before,
        max: SWEEP_EXECUTIONS_MAX,
        ..ExecutionFilter::default()
    };
    let page = engine.store.list(&filter).await?;
    let wanted: Vec<ExecutionId> = page
        .items
        .iter()
        .filter(|one| one.status == Status::Waiting || one.parent_execution_id.is_some())
        .map(|one| one.id)
        .collect();
    let mut parents: Vec<ExecutionId> = page.items.iter().filter_map(|one| one.parent_execution_id).collect();
    parents.sort_unstable();
    parents.dedup();
    let (mut children, mut events) = (0, 0);
    if !wanted.is_empty() {
        let executions = load_sound(engine, &wanted).await?;
        let ended: BTreeMap<ExecutionId, Timestamp> = if parents.is_empty() {
            BTreeMap::new()
        } else {
            let parents = load_sound(engine, &parents).await?.into_iter();
            parents.filter(Execution::is_terminal).map(|one| (one.id(), one.updated_at)).collect()
        };
        children = cancel_orphans(engine, &executions, &ended, now).await?;
        events = offer_again(engine, &executions, walk.last_began_at).await?;
    }
    walk.before = page.next;
    if walk.before.is_none() {
        walk = Walk { before: None, began_at: None, last_began_at: Some(began_at) };
    }
    engine.sweep.lock().unwrap_or_else(PoisonError::into_inner).walk = walk;
    Ok((children, events))
}

/// Children that should have ended with their parents.
async fn cancel_orphans(
    engine: &Engine,
    executions: &[Execution],
    ended: &BTreeMap<ExecutionId, Timestamp>,
    now: Timestamp,
) -> Result<usize, EngineError> {
    let commands: Vec<_> = executions
        .iter()
        .filter(|child| {
            child.identity.parent.filter(|link| !link.abandon).is_some_and(|link| {
                ended.get(&link.execution).is_some_and(|at| at.plus(ORPHAN_AFTER_MS) <= now)
            })
        })
        .map(|child| {
            let reason = Some("Parent ended".into());
            (child.id(), Command::Cancel { source: CancelSource::Parent, reason })
        })
        .collect();
    if commands.is_empty() {
        return Ok(0);
    }
    let ids: Vec<ExecutionId> = commands.iter().map(|(id, _)| *id).collect();
    let outcomes = engine.apply(commands).await?;
    for (id, _) in ids.iter().zip(&outcomes).filter(|(_, one)| matches!(one, CommandOutcome::Applied(_))) {
        tracing::warn!(execution = %id, "a child had not been told of the end of its parent");
    }
    Ok(outcomes.iter().filter(|outcome| matches!(outcome, CommandOutcome::Applied(_))).count())
}

/// Waits for events that began since the last walk: whether they were told of earlier events, nobody knows.
async fn offer_again(
    engine: &Engine,
    executions: &[Execution],
    since: Option<Timestamp>,
) -> Result<usize, EngineError> {
    let mut late = 0;
    let mut aftermath = Aftermath::default();
    for execution in executions {
        let is_new = since.is_none_or(|since| execution.updated_at >= since);
        let Some(event) = awaited_event(execution).filter(|_| is_new && execution.pause.is_none()) else {
            continue;
        };
        let id = execution.id();
        let subscription = Subscription::of(execution, event.to_owned());
        let offered = engine.offer_early_events(&subscription, &mut aftermath).await;
        if *offered.as_ref().unwrap_or(&false) {
            late += 1;
            tracing::warn!(execution = %id, event, "a wait had not been told of an earlier event");
        }
        bear(offered.map(drop))?;
    }
    engine.settle(aftermath).await?;
    Ok(late)
}
