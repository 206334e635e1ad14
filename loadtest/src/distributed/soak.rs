//! Load that goes on for long: whether memory and throughput stay, how tables grow, and whether everything that was started ended.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::time::{Instant, sleep_until};

use super::{Chain, prepare, record};
use crate::load::{Window, closed, open, percentiles};
use crate::system::System;
use crate::system::usage::rounded;

/// Steps of the flow.
const STEPS: u16 = 3;
/// At a time, to learn how much goes.
const CLIENTS: usize = 256;
/// How long that takes.
const CALIBRATION: Window = Window { warm_up: Duration::from_secs(5), length: Duration::from_secs(10) };
/// Connections of the load that goes on; as many executions are under way at most.
const CONNECTIONS: usize = 500;
/// Until all connections are there and the load is even; nothing is looked at before.
const RAMP: Duration = Duration::from_secs(2);
/// From the last start until everything has to have ended.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Load that goes on for long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Soak {
    /// How long
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(20..=604_800))]
    seconds: u32,
    /// Part of the throughput that a closed loop reaches before; in an open loop
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// Seconds between looks: memory, tables, throughput
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    every: u32,
}

pub(super) async fn soak(system: &System, Soak { seconds, load, every }: Soak) -> Result<Value> {
    ensure!(load > 0.0 && load <= 1.0, "a load above 0 and up to 1");
    let every = every.min(seconds / 2);
    let chain = Chain { steps: STEPS, bytes: 0, versions: 1 };
    let most = closed(system, CLIENTS, CALIBRATION, prepare(system, &chain, 1).await?).await?;
    ensure!(record::drained(system, DRAIN_MAX).await? == 0, "not everything ended");
    let before = count(system).await?;
    let rate = most.rate() * load;
    let window = Window { warm_up: Duration::ZERO, length: RAMP + Duration::from_secs(seconds.into()) };
    let work = prepare(system, &chain, 1).await?;
    let begins_ms = SystemClock.now_ms() + i64::try_from(RAMP.as_millis())?;
    let (measured, looks) =
        tokio::join!(open(system, CONNECTIONS, window, work, rate), look(system, seconds, every));
    let (measured, looks) = (measured?, looks?);
    let left = record::drained(system, DRAIN_MAX).await?;
    // Each was asked for, and its answer was its end.
    let started = measured.micros.iter().map(hdrhistogram::Histogram::len).sum::<u64>();
    let ended = count(system).await? - before;
    let mut connection = record::connect(system).await?;
    let statuses = record::statuses(&mut connection).await?;
    let interval_ms = i64::from(every) * 1000;
    let ends_ms = begins_ms + interval_ms * i64::from(seconds / every);
    let ends = record::ends_by_interval(&mut connection, begins_ms, ends_ms, interval_ms).await?;
    connection.close().await?;
    let steps = |ends: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let ends = ends as f64;
        ends * f64::from(STEPS) / f64::from(every)
    };
    let (first, last) = (ends.first().copied().unwrap_or(0), ends.last().copied().unwrap_or(0));
    let figures = json!({
        "seconds": seconds,
        "load": load,
        "mostStepsPerSecond": rounded(most.rate() * f64::from(STEPS)),
        "wantedStepsPerSecond": rounded(rate * f64::from(STEPS)),
        "stepsPerSecond": ends.iter().map(|ends| rounded(steps(*ends))).collect::<Vec<_>>(),
        "lastToFirst": rounded(steps(last) / steps(first)),
        "started": started,
        "ended": ended,
        "notEnded": left,
        "statuses": statuses,
        "millis": percentiles(&measured.all_micros()?),
        "used": measured.used(STEPS.into()),
        "growth": growth(&looks, ended),
        "looks": looks,
    });
    ensure!(left == 0 && ended == started, "started {started}, ended {ended}, {left} have not\n{figures}");
    ensure!(statuses.keys().all(|status| status == "completed"), "not everything completed\n{figures}");
    Ok(figures)
}

/// Roots that have ended.
async fn count(system: &System) -> Result<u64> {
    let mut connection = record::connect(system).await?;
    let statuses = record::statuses(&mut connection).await?;
    connection.close().await?;
    let has_ended = |status: &str| ["completed", "failed", "cancelled"].contains(&status);
    Ok(statuses.into_iter().filter(|(status, _)| has_ended(status)).map(|(_, count)| count).sum())
}

/// Memory and tables, at the begin and after each interval.
async fn look(system: &System, seconds: u32, every: u32) -> Result<Vec<Value>> {
    let begins = Instant::now() + RAMP;
    let mut connection = record::connect(system).await?;
    let mut looks = Vec::new();
    for after in (0..=seconds).step_by(usize::try_from(every)?) {
        sleep_until(begins + Duration::from_secs(after.into())).await;
        let tables = record::table_bytes(&mut connection).await?;
        looks.push(json!({ "second": after, "memoryKib": system.memory(), "tableBytes": tables }));
    }
    connection.close().await?;
    Ok(looks)
}

/// What the first look and the last one differ by. The system has worked before, and so memory that it needs for work is there.
fn growth(looks: &[Value], executions: u64) -> Value {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return Value::Null };
    let mut growth = json!({ "memoryKib": {}, "tableBytesPerExecution": {} });
    if let Some(memory) = last["memoryKib"].as_object() {
        for (role, after) in memory {
            let before = first["memoryKib"][role].as_i64().unwrap_or_default();
            growth["memoryKib"][role] = (after.as_i64().unwrap_or_default() - before).into();
        }
    }
    if let Some(tables) = last["tableBytes"].as_object() {
        for (table, after) in tables {
            let before = first["tableBytes"][table].as_f64().unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let each = (after.as_f64().unwrap_or_default() - before) / executions as f64;
            growth["tableBytesPerExecution"][table] = rounded(each);
        }
    }
    growth
}
