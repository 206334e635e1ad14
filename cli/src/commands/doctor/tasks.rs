//! The record against the queues: generations of pools, and tasks that are out.

use std::collections::BTreeMap;

use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::config::RECONCILE_AFTER;
use flowmonkey_engine::store::{Inspection, TaskOut};
use flowmonkey_plumbing::queue::redis::RedisQueue;
use flowmonkey_plumbing::queue::{Delivery, DispatchQueue, Dispatched};

use super::{Findings, State};
use crate::errors::{CliError, chain};

/// Tasks that are compared at a time.
const PAGE: usize = 1000;
/// Tasks that are compared at most.
const TASKS_MAX: usize = 100_000;
/// Pools that are named in one line.
const NAMED_MAX: usize = 5;

/// Compares what the record says with what the queues hold.
pub(super) async fn compare(
    findings: &mut Findings,
    inspection: &mut Inspection,
    queue: &RedisQueue,
    now: Timestamp,
) {
    if let Err(error) = generations(findings, inspection, queue).await {
        findings.add("generations", State::Bad, chain(&error));
    }
    if let Err(error) = presence(findings, inspection, queue, now).await {
        findings.add("tasks", State::Bad, chain(&error));
    }
}

async fn generations(
    findings: &mut Findings,
    inspection: &mut Inspection,
    queue: &RedisQueue,
) -> Result<(), CliError> {
    let facts = inspection.pools().await?;
    let pools: Vec<String> = facts.iter().map(|facts| facts.pool.clone()).collect();
    let server_id = queue.server_id().await?;
    let held = queue.generations(&pools).await?;
    let differing: Vec<String> = facts
        .iter()
        .zip(held)
        .filter_map(|(facts, held)| {
            let why = match held {
                None => "the queue has forgotten it".to_owned(),
                Some(held) if held != facts.generation => {
                    format!("generation {held} in the queue, {} in the record", facts.generation)
                }
                Some(_) if facts.server_id != server_id => "Redis was started anew".to_owned(),
                Some(_) => return None,
            };
            Some(format!("{} ({why})", facts.pool))
        })
        .collect();
    if differing.is_empty() {
        findings.add("generations", State::Good, format!("{} pools are as the record has them", facts.len()));
        return Ok(());
    }
    let named: Vec<&str> = differing.iter().take(NAMED_MAX).map(String::as_str).collect();
    let text = format!(
        "{} of {} pools are to be rebuilt from the record: {}; an engine does it within seconds, if one runs on this record",
        differing.len(),
        facts.len(),
        named.join(", ")
    );
    findings.add("generations", State::Warning, text);
    Ok(())
}

async fn presence(
    findings: &mut Findings,
    inspection: &mut Inspection,
    queue: &RedisQueue,
    now: Timestamp,
) -> Result<(), CliError> {
    let age = i64::try_from(RECONCILE_AFTER.as_millis()).unwrap_or(i64::MAX);
    let ahead = inspection.server.clock_ahead_ms;
    // What was scheduled just now may be on its way.
    let until = Timestamp::from_millis(now.as_millis().saturating_add(ahead).saturating_sub(age));
    let (mut looked_at, mut last) = (0, None);
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    while looked_at < TASKS_MAX {
        let page = inspection.tasks_out(last, until, PAGE).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.task.execution);
        looked_at += page.len();
        let deliveries: Vec<Dispatched> = page.iter().map(delivery).collect();
        for (task, present) in page.into_iter().zip(queue.present(&deliveries).await?) {
            if !present {
                *missing.entry(task.pool).or_default() += 1;
            }
        }
    }
    let absent: usize = missing.values().sum();
    if absent == 0 {
        findings.add("tasks", State::Good, format!("{looked_at} are out, all of them in the queues"));
        return Ok(());
    }
    let named: Vec<String> =
        missing.iter().take(NAMED_MAX).map(|(pool, count)| format!("{count} of {pool}")).collect();
    let text = format!(
        "{absent} of {looked_at} that are out are in no queue ({}); an engine publishes them again within a minute, if one \
         runs on this record",
        named.join(", ")
    );
    findings.add("tasks", State::Warning, text);
    Ok(())
}

fn delivery(out: &TaskOut) -> Dispatched {
    let delivery = Delivery { task_id: out.task.to_string(), attempt: out.attempt };
    Dispatched { pool: out.pool.clone(), delivery }
}
