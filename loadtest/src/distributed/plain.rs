//! The plain scenarios: throughput, a given rate, latency, fan-outs, starts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Chain, Time, prepare};
use crate::client::Client;
use crate::flows;
use crate::load::{Work, closed, histogram, open, percentiles};
use crate::progress::Progress;
use crate::system::System;
use crate::system::usage::rounded;

/// Executions before latency counts.
const WARM_UP: u64 = 200;

pub(crate) async fn throughput(
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
        "millis": percentiles(&measured.all_micros()?),
        "used": measured.used(steps),
        "memoryKib": system.memory(),
    }))
}

pub(super) async fn at_rate(
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
    let micros = measured.all_micros()?;
    for value in micros.iter_recorded() {
        let beyond = value.value_iterated_to().saturating_sub(handler_ms * 1000 * u64::from(chain.steps));
        overhead.record_n(beyond / u64::from(chain.steps), value.count_at_value())?;
    }
    Ok(json!({
        "rate": rate,
        "clients": clients,
        "steps": chain.steps,
        "seconds": time.seconds,
        "executionsPerSecond": measured.rate(),
        "millis": percentiles(&micros),
        "overheadMillisPerStep": percentiles(&overhead),
        "used": measured.used(steps),
        "memoryKib": system.memory(),
    }))
}

/// One after the other: of flows of so many steps, so many executions each. Flows of one step and of ten are among them.
pub(crate) async fn latency(system: &System, flows: &[(u16, u64)]) -> Result<Value> {
    let mut client = system.client(0).await?;
    let mut figures = json!({ "idleMemoryKib": system.memory() });
    let progress = Progress::of("latency", flows.iter().map(|(_, executions)| executions + WARM_UP).sum());
    for &(steps, executions) in flows {
        let flow = format!("chain-{steps}");
        client.publish(&flows::chain(&flow, 0, steps.into(), 1)).await?;
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

pub(crate) async fn fan_out(system: &System, items: u32, runs: u32) -> Result<Value> {
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
async fn until_ended(client: &mut Client, id: ExecutionId) -> Result<Value> {
    loop {
        let shown = client.get(&format!("/v1/executions/{id}")).await?;
        if ["completed", "failed", "cancelled"].iter().any(|status| shown["status"] == *status) {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn starts(system: &System, clients: usize, time: Time) -> Result<Value> {
    system.client(0).await?.publish(&flows::waiting()).await?;
    let body = |number: u64| Bytes::from(format!(r#"{{"flowId":"waiting","input":{{"n":{number}}}}}"#));
    let measured = closed(system, clients, time.window(), Work::of(body, false)).await?;
    Ok(json!({
        "clients": clients,
        "seconds": time.seconds,
        "startsPerSecond": measured.rate(),
        "millis": percentiles(&measured.all_micros()?),
        "used": measured.used(1.0),
        "memoryKib": system.memory(),
    }))
}
