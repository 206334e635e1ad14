//! The scenarios of a whole system: engines, workers, Postgres and Redis as processes, and this one that asks over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Subcommand;
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::flows;
use crate::load::{Window, Work, closed, histogram, open, percentiles};
use crate::progress::Progress;
use crate::report::report;
use crate::system::usage::rounded;
use crate::system::{Shape, System};

/// Executions before latency counts.
const WARM_UP: u64 = 200;

/// The flow of a scenario that asks for chains.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Chain {
    /// Steps of the flow
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
    /// Bytes of the input, beside what the steps hand on
    #[arg(long, default_value_t = 0)]
    bytes: u32,
    /// Versions of the flow, which are started in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    versions: u16,
}

/// How long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Time {
    /// Seconds that count
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seconds before
    #[arg(long, default_value_t = 5)]
    warm_up: u32,
}

impl Time {
    fn window(self) -> Window {
        Window {
            warm_up: Duration::from_secs(self.warm_up.into()),
            length: Duration::from_secs(self.seconds.into()),
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Scenario {
    /// As many executions as go: clients that each wait for the end of one and start the next.
    Throughput {
        #[command(flatten)]
        chain: Chain,
        /// At a time
        #[arg(long, default_value_t = 256)]
        clients: usize,
        #[command(flatten)]
        time: Time,
    },
    /// Executions at a given rate, whatever becomes of those before: what each step takes beyond its handler.
    Rate {
        #[command(flatten)]
        chain: Chain,
        /// Executions a second
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// Connections: as many executions are under way at most; an engine lets 1,024 requests wait
        #[arg(long, default_value_t = 1000)]
        clients: usize,
        #[command(flatten)]
        time: Time,
    },
    /// One execution after the other, by number of steps: start to result.
    Latency {
        /// Executions of each flow
        #[arg(long, default_value_t = 2000)]
        executions: u64,
    },
    /// A map over items, each a child execution with one task, and its join.
    FanOut {
        /// Items
        #[arg(long, default_value_t = 1000)]
        items: u32,
        /// Times
        #[arg(long, default_value_t = 5)]
        runs: u32,
    },
    /// Starts of executions that then wait.
    Starts {
        /// At a time
        #[arg(long, default_value_t = 64)]
        clients: usize,
        #[command(flatten)]
        time: Time,
    },
}

/// A small set.
pub(crate) fn short() -> [Scenario; 4] {
    let time = Time { seconds: 10, warm_up: 5 };
    let chain = Chain { steps: 3, bytes: 0, versions: 1 };
    [
        Scenario::Throughput { chain, clients: 256, time },
        Scenario::Latency { executions: 1000 },
        Scenario::FanOut { items: 1000, runs: 5 },
        Scenario::Starts { clients: 64, time },
    ]
}

/// Runs a scenario on a system of its own.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn run(scenario: Scenario, shape: Shape) -> Result<()> {
    let types = usize::from(shape.handler_types);
    let handler_ms = shape.handler_ms;
    let system = System::start(shape).await?;
    let (name, figures) = match scenario {
        Scenario::Throughput { chain, clients, time } => {
            ("throughput", throughput(&system, &chain, types, clients, time).await?)
        }
        Scenario::Rate { chain, rate, clients, time } => {
            ("rate", at_rate(&system, &chain, (types, handler_ms), rate, clients, time).await?)
        }
        Scenario::Latency { executions } => ("latency", latency(&system, executions).await?),
        Scenario::FanOut { items, runs } => ("fanOut", fan_out(&system, items, runs).await?),
        Scenario::Starts { clients, time } => ("starts", starts(&system, clients, time).await?),
    };
    let mut settings = system.described();
    settings["durability"] = "fsync".into();
    report(&format!("distributed.{name}"), &settings, &figures);
    system.stop().await;
    Ok(())
}

/// Publishes what `chain` asks for; what starts one of them.
async fn prepare(system: &System, chain: &Chain, types: usize) -> Result<Work> {
    let mut client = system.client(0).await?;
    for version in 0..chain.versions {
        let steps = usize::from(chain.steps);
        client.publish(&flows::chain("chain", version.into(), steps, types)).await?;
    }
    let padding = "x".repeat(usize::try_from(chain.bytes)?);
    let versions = u64::from(chain.versions);
    let body = move |number: u64| {
        let version = format!("1.0.{}", number % versions);
        Bytes::from(if padding.is_empty() {
            format!(r#"{{"flowId":"chain","version":"{version}","input":{{"n":{number}}}}}"#)
        } else {
            format!(
                r#"{{"flowId":"chain","version":"{version}","input":{{"n":{number},"padding":"{padding}"}}}}"#
            )
        })
    };
    Ok(Work { body: Box::new(body), to_the_end: true })
}

async fn throughput(
    system: &System,
    chain: &Chain,
    types: usize,
    clients: usize,
    time: Time,
) -> Result<Value> {
    let work = prepare(system, chain, types).await?;
    let measured = closed(system, clients, time.window(), work).await?;
    let steps = f64::from(chain.steps);
    Ok(json!({
        "clients": clients,
        "steps": chain.steps,
        "inputBytes": chain.bytes,
        "versions": chain.versions,
        "seconds": time.seconds,
        "stepsPerSecond": measured.rate() * steps,
        "executionsPerSecond": measured.rate(),
        "millis": percentiles(&measured.micros),
        "used": measured.used(steps),
        "memoryKib": system.memory(),
    }))
}

async fn at_rate(
    system: &System,
    chain: &Chain,
    (types, handler_ms): (usize, u64),
    rate: f64,
    clients: usize,
    time: Time,
) -> Result<Value> {
    let work = prepare(system, chain, types).await?;
    let measured = open(system, clients, time.window(), work, rate).await?;
    let steps = f64::from(chain.steps);
    // What an execution takes beyond its handlers, divided among its steps.
    let mut overhead = histogram()?;
    for value in measured.micros.iter_recorded() {
        let beyond = value.value_iterated_to().saturating_sub(handler_ms * 1000 * u64::from(chain.steps));
        overhead.record_n(beyond / u64::from(chain.steps), value.count_at_value())?;
    }
    Ok(json!({
        "rate": rate,
        "clients": clients,
        "steps": chain.steps,
        "seconds": time.seconds,
        "executionsPerSecond": measured.rate(),
        "millis": percentiles(&measured.micros),
        "overheadMillisPerStep": percentiles(&overhead),
        "used": measured.used(steps),
        "memoryKib": system.memory(),
    }))
}

async fn latency(system: &System, executions: u64) -> Result<Value> {
    let mut client = system.client(0).await?;
    let mut figures = json!({ "executions": executions, "idleMemoryKib": system.memory() });
    let progress = Progress::of("latency", 3 * (executions + WARM_UP));
    for steps in [1, 3, 10] {
        let flow = format!("chain-{steps}");
        client.publish(&flows::chain(&flow, 0, steps, 1)).await?;
        let mut micros = histogram()?;
        for number in 0..executions + WARM_UP {
            let body = Bytes::from(format!(r#"{{"flowId":"{flow}","input":{{"n":{number}}}}}"#));
            let began = Instant::now();
            client.run(body).await?;
            if number >= WARM_UP {
                micros.record(u64::try_from(began.elapsed().as_micros())?)?;
            }
            progress.one();
        }
        figures[format!("millisOf{steps}")] = percentiles(&micros);
    }
    progress.end();
    let p50 = |steps: u32| figures[format!("millisOf{steps}")]["p50"].as_f64().unwrap_or_default();
    figures["millisPerFurtherStep"] = rounded((p50(10) - p50(1)) / 9.0);
    Ok(figures)
}

async fn fan_out(system: &System, items: u32, runs: u32) -> Result<Value> {
    let mut client = system.client(0).await?;
    client.publish(&flows::fan_out()).await?;
    let input: Vec<u32> = (0..items).collect();
    let body = Bytes::from(json!({ "flowId": "fan-out", "input": { "items": input } }).to_string());
    let mut micros = histogram()?;
    let progress = Progress::of("fan-out", u64::from(runs) + 1);
    for run in 0..=runs {
        let began = Instant::now();
        let id = started(&client.run_or_start(body.clone()).await?)?;
        let ended = until_ended(&mut client, id).await?;
        let took = began.elapsed();
        ensure!(ended["status"] == "completed", "{ended}");
        // The first warms up.
        if run > 0 {
            micros.record(u64::try_from(took.as_micros())?)?;
        }
        progress.one();
    }
    progress.end();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let median = micros.value_at_quantile(0.5) as f64;
    Ok(json!({
        "items": items,
        "runs": runs,
        "millis": percentiles(&micros),
        "microsPerChild": rounded(median / f64::from(items)),
        "memoryKib": system.memory(),
    }))
}

fn started(answer: &[u8]) -> Result<ExecutionId> {
    let answer: Value = serde_json::from_slice(answer)?;
    serde_json::from_value(answer["id"].clone()).context("an answer without an id")
}

/// The execution, once it has ended; a fan-out may take longer than one request may wait.
async fn until_ended(client: &mut crate::client::Client, id: ExecutionId) -> Result<Value> {
    loop {
        let shown = client.get(&format!("/v1/executions/{id}")).await?;
        if ["completed", "failed", "cancelled"].iter().any(|status| shown["status"] == *status) {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn starts(system: &System, clients: usize, time: Time) -> Result<Value> {
    system.client(0).await?.publish(&flows::waiting()).await?;
    let body = |number: u64| Bytes::from(format!(r#"{{"flowId":"waiting","input":{{"n":{number}}}}}"#));
    let work = Work { body: Box::new(body), to_the_end: false };
    let measured = closed(system, clients, time.window(), work).await?;
    Ok(json!({
        "clients": clients,
        "seconds": time.seconds,
        "startsPerSecond": measured.rate(),
        "millis": percentiles(&measured.micros),
        "used": measured.used(1.0),
        "memoryKib": system.memory(),
    }))
}
