//! The scenarios of the embedded engine, in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::Durability;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Embedded, flow};
use crate::{flows, report};

/// Tasks that the worker runs at a time.
const CONCURRENCY: usize = 64;
/// Starts that are made at the same time.
const GROUPS: [usize; 4] = [1, 10, 100, 1000];
const GROUP_ROUNDS: usize = 100;

const ONE_STEP: &str = "
id: one
version: 1.0.0
initialStepId: work
steps:
  work: { type: noop-0, input: { type: key, key: n }, outputKey: result }
";

const FAN_OUT: &str = "
id: fan
version: 1.0.0
initialStepId: all
steps:
  all:
    type: map
    config:
      items: { type: key, key: items }
      body: { type: noop-0, input: { type: key, key: item }, context: none }
    outputKey: results
";

pub(crate) const WAITING: &str = "
id: waiting
version: 1.0.0
initialStepId: ship
steps:
  ship: { type: wait-signal, config: { signal: shipped, timeoutMs: 8640000000 } }
";

pub(crate) fn report(scenario: &str, durability: Durability, figures: &Value) {
    let settings = json!({ "durability": format!("{durability:?}").to_lowercase() });
    report::report(scenario, &settings, figures);
}

pub(crate) fn start(flow: &Arc<Flow>, input: Value) -> Start {
    Start::new(StartFlow::Published { id: flow.id.clone(), version: None }, input)
}

pub(crate) async fn prepared(
    folder: &Path,
    durability: Durability,
    text: &str,
) -> Result<(Embedded, Arc<Flow>)> {
    let embedded = Embedded::open(folder, durability, CONCURRENCY).await?;
    let flow = flow(text)?;
    embedded.engine.publish(&flow).await?;
    Ok((embedded, flow))
}

pub(crate) async fn latency(durability: Durability, executions: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, ONE_STEP).await?;
    let mut micros = Histogram::<u64>::new(3)?;
    for round in 0..executions + 100 {
        // Listening first: the result is then told, not looked up.
        let id = ExecutionId::from_uuid(new_uuid(&SystemClock, &SystemEntropy::new()));
        let end = embedded.engine.watchers.end_of(id);
        let began = Instant::now();
        embedded.engine.start(Start { id: Some(id), ..start(&flow, json!({ "n": round })) }).await?;
        end.await?;
        // The first hundred warm up.
        if round >= 100 {
            micros.record(u64::try_from(began.elapsed().as_micros())?)?;
        }
    }
    report(
        "latency",
        durability,
        &json!({
            "executions": executions,
            "p50Micros": micros.value_at_quantile(0.5),
            "p90Micros": micros.value_at_quantile(0.9),
            "p99Micros": micros.value_at_quantile(0.99),
            "maxMicros": micros.max(),
        }),
    );
    embedded.close().await;
    Ok(())
}

pub(crate) async fn throughput(
    durability: Durability,
    executions: usize,
    clients: usize,
    steps: u16,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // JSON is YAML.
    let chain = flows::chain("chain", 0, steps.into(), 1).to_string();
    let (embedded, flow) = prepared(folder.path(), durability, &chain).await?;
    let embedded = Arc::new(embedded);
    let began = Instant::now();
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (embedded, flow) = (embedded.clone(), flow.clone());
        let share = executions / clients + usize::from(client < executions % clients);
        running.spawn(async move {
            for n in 0..share {
                let started = embedded.engine.start(start(&flow, json!({ "n": n }))).await?;
                embedded.end_of(started.id).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = running.join_next().await {
        client??;
    }
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = executions as f64 / seconds;
    report(
        "throughput",
        durability,
        &json!({
            "executions": executions,
            "clients": clients,
            "steps": steps,
            "seconds": seconds,
            "executionsPerSecond": rate,
            "stepsPerSecond": rate * f64::from(steps),
        }),
    );
    if let Ok(embedded) = Arc::try_unwrap(embedded) {
        embedded.close().await;
    }
    Ok(())
}

/// Starts of executions that then wait, so many at the same time as in `GROUPS`: the engine stores those that meet in one transaction.
pub(crate) async fn group_commit(durability: Durability) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, WAITING).await?;
    let mut figures = serde_json::Map::new();
    for group in GROUPS {
        let mut micros = Histogram::<u64>::new(3)?;
        for round in 0..GROUP_ROUNDS {
            let began = Instant::now();
            let starts = (0..group).map(|n| embedded.engine.start(start(&flow, json!({ "n": n }))));
            futures_util::future::try_join_all(starts).await?;
            // The first ones warm up.
            if round >= GROUP_ROUNDS / 10 {
                micros.record(u64::try_from(began.elapsed().as_micros())?)?;
            }
        }
        let p50 = micros.value_at_quantile(0.5);
        let each = p50 / u64::try_from(group)?;
        figures.insert(group.to_string(), json!({ "microsOfGroup": p50, "microsOfEach": each }));
    }
    report("groupCommit", durability, &Value::Object(figures));
    embedded.close().await;
    Ok(())
}

pub(crate) async fn fan_out(durability: Durability, items: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, FAN_OUT).await?;
    let input: Vec<usize> = (0..items).collect();
    let began = Instant::now();
    let started = embedded.engine.start(start(&flow, json!({ "items": input }))).await?;
    let ended = embedded.end_of(started.id).await?;
    let elapsed = began.elapsed();
    let results = ended.context.get("results").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(results == items, "{results} results of {items} items: {:?}", ended.error());
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per_child = elapsed.as_micros() as f64 / items as f64;
    report(
        "fanOut",
        durability,
        &json!({
            "items": items,
            "millis": elapsed.as_secs_f64() * 1000.0,
            "microsPerChild": per_child,
        }),
    );
    embedded.close().await;
    Ok(())
}

pub(crate) async fn waiting(durability: Durability, executions: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, WAITING).await?;
    let embedded = Arc::new(embedded);
    let before = resident_kib();
    let began = Instant::now();
    let mut running = JoinSet::new();
    for client in 0..256 {
        let (embedded, flow) = (embedded.clone(), flow.clone());
        let share = executions / 256 + usize::from(client < executions % 256);
        running.spawn(async move {
            for n in 0..share {
                embedded.engine.start(start(&flow, json!({ "n": n }))).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = running.join_next().await {
        client??;
    }
    let starting = began.elapsed();
    let after = resident_kib();
    if let Ok(embedded) = Arc::try_unwrap(embedded) {
        embedded.close().await;
    }
    let began = Instant::now();
    let embedded = Embedded::open(folder.path(), durability, CONCURRENCY).await?;
    let opening = began.elapsed();
    let waiting: u64 = embedded.engine.store().counts().await?.into_iter().map(|(_, count)| count).sum();
    ensure!(usize::try_from(waiting)? == executions, "{waiting} of {executions} are there");
    // Idle: threads do not grow with what waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    report(
        "waiting",
        durability,
        &json!({
            "executions": executions,
            "startsPerSecond": executions as u128 * 1000 / starting.as_millis().max(1),
            "residentKibBefore": before,
            "residentKibAfter": after,
            "residentKibReopened": resident_kib(),
            "reopenMillis": opening.as_secs_f64() * 1000.0,
            "threads": threads(),
        }),
    );
    embedded.close().await;
    Ok(())
}

fn status_field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| {
        line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    })
}

pub(crate) fn resident_kib() -> Option<u64> {
    status_field("VmRSS")
}

fn threads() -> Option<u64> {
    status_field("Threads")
}
