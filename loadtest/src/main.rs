//! The benchmarks of the embedded engine. Each prints one JSON object per figure on standard output.
//!
//! `short` runs all of them in about a minute. What the figures mean and what they were is in `loadtest/README.md`.

mod harness;
mod lists;
mod plumbing;
mod plumbing_load;
mod watchers;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::Durability;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use harness::{Embedded, flow};
use hdrhistogram::Histogram;
use plumbing_load::{Load, plumbing_load};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Tasks that the worker runs at a time.
const CONCURRENCY: usize = 64;

#[derive(Parser)]
#[command(about = "Benchmarks of the embedded FlowMonkey engine")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// How the record is flushed.
    #[arg(long, global = true, value_enum, default_value_t = Flush::Full)]
    durability: Flush,
}

#[derive(Clone, Copy, ValueEnum)]
enum Flush {
    /// Each commit is on disk when it is answered.
    Full,
    /// A crash of the machine may lose the last commits; a crash of the process does not.
    Relaxed,
}

#[derive(Subcommand)]
enum Scenario {
    /// Everything, small.
    Short,
    /// One execution after the other: start to result of a one-step flow.
    Latency {
        /// Executions.
        #[arg(long, default_value_t = 2000)]
        executions: usize,
    },
    /// Many executions of a three-step flow at a time.
    Throughput {
        /// Executions.
        #[arg(long, default_value_t = 5000)]
        executions: usize,
        /// At a time.
        #[arg(long, default_value_t = 256)]
        clients: usize,
    },
    /// A map over items, each a child execution with one task, and its join.
    FanOut {
        /// Items.
        #[arg(long, default_value_t = 1000)]
        items: usize,
    },
    /// What each call of the plumbing APIs costs, in process and over HTTP.
    Plumbing {
        /// Calls of each kind, one after the other.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=2000))]
        calls: u16,
    },
    /// Jobs that report progress and emit events over HTTP at a given rate, and whether what they were promised is kept.
    PlumbingLoad {
        /// Tasks that talk at the same time.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        tasks: u16,
        /// Reports of progress a second, of all tasks together.
        #[arg(long, default_value_t = 10_000)]
        progress: u32,
        /// Events a second, of all tasks together.
        #[arg(long, default_value_t = 1000)]
        events: u32,
        /// For how long.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
    },
    /// Lists and counts of executions in a private Postgres, by each filter.
    Lists {
        /// Executions.
        #[arg(long, default_value_t = 1_000_000)]
        executions: u32,
        /// Where the plans are written.
        #[arg(long, default_value = "lists-plans.txt")]
        plans: std::path::PathBuf,
    },
    /// Executions that wait, then a restart of the engine on them.
    Waiting {
        /// Executions.
        #[arg(long, default_value_t = 100_000)]
        executions: usize,
    },
    /// Connections that watch one engine, some of which never read: how late events come, and what it takes.
    Watchers(watchers::Watchers),
}

const ONE_STEP: &str = "
id: one
version: 1.0.0
initialStepId: work
steps:
  work: { type: noop, input: { type: key, key: n }, outputKey: result }
";

const THREE_STEPS: &str = "
id: three
version: 1.0.0
initialStepId: a
steps:
  a: { type: noop, input: { type: key, key: n }, outputKey: a, transitions: { onSuccess: b } }
  b: { type: noop, input: { type: key, key: a }, outputKey: b, transitions: { onSuccess: c } }
  c: { type: noop, input: { type: key, key: b }, outputKey: c }
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
      body: { type: noop, input: { type: key, key: item }, context: none }
    outputKey: results
";

const WAITING: &str = "
id: waiting
version: 1.0.0
initialStepId: ship
steps:
  ship: { type: wait-signal, config: { signal: shipped, timeoutMs: 8640000000 } }
";

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { scenario, durability } = Arguments::parse();
    let durability = match durability {
        Flush::Full => Durability::Full,
        Flush::Relaxed => Durability::Relaxed,
    };
    // In a task, as requests of the HTTP API are: the thread of `main` is none of the runtime's workers, and each answer
    // would cross to it.
    #[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
    let running = tokio::spawn(run(scenario, durability));
    running.await?
}

async fn run(scenario: Scenario, durability: Durability) -> Result<()> {
    match scenario {
        Scenario::Short => {
            latency(durability, 2000).await?;
            throughput(durability, 5000, 256).await?;
            fan_out(durability, 1000).await?;
            fan_out(durability, 10_000).await?;
            waiting(durability, 20_000).await
        }
        Scenario::Latency { executions } => latency(durability, executions).await,
        Scenario::Throughput { executions, clients } => throughput(durability, executions, clients).await,
        Scenario::FanOut { items } => fan_out(durability, items).await,
        Scenario::Plumbing { calls } => plumbing::plumbing(durability, calls.into()).await,
        Scenario::PlumbingLoad { tasks, progress, events, seconds } => {
            plumbing_load(durability, Load { tasks, progress, events, seconds }).await
        }
        Scenario::Lists { executions, plans } => {
            // Its futures borrow what the compiler cannot prove to be sendable; they stay on one thread.
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(lists::lists(executions, &plans))).await?
        }
        Scenario::Waiting { executions } => waiting(durability, executions).await,
        Scenario::Watchers(wanted) => watchers::watchers(durability, wanted).await,
    }
}

fn report(scenario: &str, durability: Durability, figures: Value) {
    println!(
        "{}",
        json!({ "scenario": scenario, "durability": format!("{durability:?}").to_lowercase(), "figures": figures })
    );
}

fn start(flow: &Arc<Flow>, input: Value) -> Start {
    Start::new(StartFlow::Published { id: flow.id.clone(), version: None }, input)
}

async fn prepared(folder: &Path, durability: Durability, text: &str) -> Result<(Embedded, Arc<Flow>)> {
    let embedded = Embedded::open(folder, durability, CONCURRENCY).await?;
    let flow = flow(text)?;
    embedded.engine.publish(&flow).await?;
    Ok((embedded, flow))
}

async fn latency(durability: Durability, executions: usize) -> Result<()> {
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
        json!({
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

async fn throughput(durability: Durability, executions: usize, clients: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, THREE_STEPS).await?;
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
        json!({
            "executions": executions,
            "clients": clients,
            "seconds": seconds,
            "executionsPerSecond": rate,
            "stepsPerSecond": rate * 3.0,
        }),
    );
    if let Ok(embedded) = Arc::try_unwrap(embedded) {
        embedded.close().await;
    }
    Ok(())
}

async fn fan_out(durability: Durability, items: usize) -> Result<()> {
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
        json!({
            "items": items,
            "millis": elapsed.as_secs_f64() * 1000.0,
            "microsPerChild": per_child,
        }),
    );
    embedded.close().await;
    Ok(())
}

async fn waiting(durability: Durability, executions: usize) -> Result<()> {
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
        json!({
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

fn resident_kib() -> Option<u64> {
    status_field("VmRSS")
}

fn threads() -> Option<u64> {
    status_field("Threads")
}
