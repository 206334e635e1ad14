//! Redis: how it is set up, what waits in it, and who works.

use std::time::Duration;

use flowmonkey_engine::EMBEDDED_POOLS;
use flowmonkey_plumbing::queue::redis::{RedisQueue, Severity};
use flowmonkey_plumbing::queue::{Depth, DispatchQueue, QueueError, WorkerPresence};

use super::{Findings, State};
use crate::args::RedisSettings;
use crate::distributed::connect;
use crate::errors::chain;

/// How long the last exchanges may take to end.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Pools and workers that are named; the others are counted.
const NAMED_MAX: usize = 20;
/// A task that has been ready for longer is waiting for workers that are not there or too few.
const READY_AGE_WARN_MS: u64 = 60_000;

/// Looks at Redis. Gives the queue when more can be asked.
pub(super) async fn look(findings: &mut Findings, url: &str, settings: &RedisSettings) -> Option<RedisQueue> {
    // Not by `connect`, which is done with the first failure: the check says more.
    let queue = match RedisQueue::new(connect::queue_options(url.to_owned(), settings)) {
        Ok(queue) => queue,
        Err(error) => {
            findings.add("redis", State::Bad, chain(&error));
            return None;
        }
    };
    match ask(findings, &queue).await {
        Ok(true) => Some(queue),
        Ok(false) => {
            queue.close(CLOSE_MAX).await;
            None
        }
        Err(error) => {
            findings.add("redis", State::Bad, chain(&error));
            queue.close(CLOSE_MAX).await;
            None
        }
    }
}

/// Whether pools and tasks can be asked for.
async fn ask(findings: &mut Findings, queue: &RedisQueue) -> Result<bool, QueueError> {
    let found = queue.check().await?;
    for finding in &found {
        let state = match finding.severity {
            Severity::Refuse => State::Bad,
            Severity::Warning => State::Warning,
            Severity::Info => State::Good,
        };
        findings.add("redis", state, connect::line(finding));
    }
    let has = |code: &str| found.iter().any(|finding| finding.code == code);
    if has("REDIS_RIGHT_MISSING") || has("REDIS_IS_CLUSTER") || has("REDIS_IS_REPLICA") {
        return Ok(false);
    }
    let share = queue.memory_ratio().await? * 100.0;
    let text = if share > 0.0 { format!("{share:.0} % of maxmemory are used") } else { "no limit".into() };
    findings.add("redis memory", State::Good, text);
    if has("REDIS_FUNCTIONS_MISSING") {
        return Ok(false);
    }
    findings.add("functions", State::Good, "loaded, and of this version");
    let mut workers = queue.workers().await?;
    workers.sort_by(|left, right| left.worker.cmp(&right.worker));
    let pools = queue.depths().await?;
    let no_pools = pools.is_empty();
    depths(findings, pools, &workers);
    announce(findings, &workers, no_pools);
    Ok(true)
}

fn depths(findings: &mut Findings, mut depths: Vec<(String, Depth)>, workers: &[WorkerPresence]) {
    depths.sort_by(|(left, _), (right, _)| left.cmp(right));
    if depths.is_empty() {
        findings.add("pools", State::Good, "none: no engine has published a task yet");
    }
    let (named, others) = depths.split_at(depths.len().min(NAMED_MAX));
    for (pool, depth) in named {
        let ready = depth.high + depth.normal + depth.low;
        let served = workers.iter().filter(|worker| worker.pools.contains(pool)).count();
        let mut text = format!(
            "{pool}: {ready} ready, {} in work, {} results; {served} workers",
            depth.in_flight, depth.results
        );
        let mut state = State::Good;
        if ready > 0 && served == 0 {
            state = State::Warning;
            text.push_str(&format!("; nobody takes them: {}", taker(pool)));
        } else if ready > 0 && depth.oldest_age_ms > READY_AGE_WARN_MS {
            state = State::Warning;
            text.push_str(&format!(
                "; the oldest has waited for {} s: add workers",
                depth.oldest_age_ms / 1000
            ));
        }
        findings.add("pool", state, text);
    }
    if !others.is_empty() {
        let ready: usize = others.iter().map(|(_, depth)| depth.high + depth.normal + depth.low).sum();
        findings.add("pools", State::Good, format!("{} more, with {ready} ready tasks", others.len()));
    }
}

/// What takes the tasks of a pool, `[tenant@][region/]handler`.
fn taker(pool: &str) -> String {
    if let Some(handler) = pool.strip_prefix(EMBEDDED_POOLS) {
        return format!("flowmonkey engine --fall-back {handler}");
    }
    match pool.rsplit_once('/') {
        Some((region, handler)) => format!("flowmonkey worker --handler {handler} --region {region}"),
        None => format!("flowmonkey worker --handler {pool}"),
    }
}

fn announce(findings: &mut Findings, workers: &[WorkerPresence], no_pools: bool) {
    if workers.is_empty() {
        // Workers are known by pools, and pools by their first task.
        let (state, text) = if no_pools {
            (State::Good, "not known yet: no pool has had a task")
        } else {
            (State::Warning, "none are there for these pools: flowmonkey worker --engine URL")
        };
        findings.add("workers", state, text);
        return;
    }
    for worker in workers.iter().take(NAMED_MAX) {
        let draining = if worker.draining { ", stopping" } else { "" };
        let text = format!(
            "{} {}: {} of {} slots in use, {} pools, heard of {} s ago{draining}",
            worker.worker,
            worker.version,
            worker.running,
            worker.slots,
            worker.pools.len(),
            worker.silent_ms / 1000
        );
        findings.add("worker", State::Good, text);
    }
    if workers.len() > NAMED_MAX {
        findings.add("workers", State::Good, format!("{} more", workers.len() - NAMED_MAX));
    }
}
