//! Faults under load: how long until the rate is back, and whether everything that was started ended once.
//!
//! The load keeps books of its own of what it was told is started. When what ended is read from the record, and at the end every
//! history is held against the books.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use serde_json::{Map, Value, json};
use sqlx::Connection;
use tokio::time::sleep;

use super::arrivals::{Arrivals, Plan};
use super::record::{self, Span};
use super::timeline::recovery;
use crate::flows;
use crate::load::{histogram, percentiles};
use crate::progress::Progress;
use crate::system::usage::rounded;
use crate::system::{Shape, System};

/// Steps of the flow.
const STEPS: usize = 3;
const FLOW: &str = "chain";
/// The rate before a fault is that of so long.
const BEFORE: Duration = Duration::from_secs(5);
/// Before the first fault counts.
const WARM_UP: Duration = Duration::from_secs(5);
/// Heartbeats of a lease.
const HEARTBEATS: u64 = 3;
/// From the last start until everything has to have ended.
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// Of what is wrong so much is told.
const WRONG_TOLD: usize = 10;

/// Faults under load.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Faults {
    /// What happens, one after the other; separated by commas [default: all]
    #[arg(long = "fault", value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Executions a second, of three steps each
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Connections for the starts
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Seconds from a fault to the next: five before it tell the rate that was
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(10..=3600))]
    seconds: u16,
    /// Milliseconds without a heartbeat after which a task is given to another worker; there is a heartbeat in each third of them
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u64).range(300..=600_000))]
    lease_ms: u64,
}

/// What happens. Whatever was killed is started again at once, as a supervisor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// An engine is killed
    Engine,
    /// A worker is killed
    Worker,
    /// All that Redis holds is deleted (FLUSHALL)
    Flush,
    /// Redis is killed, and comes back with what it keeps: nothing, without --redis-aof
    Redis,
    /// Postgres is killed, and recovers
    Postgres,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Engine => "killEngine",
            Self::Worker => "killWorker",
            Self::Flush => "flushRedis",
            Self::Redis => "restartRedis",
            Self::Postgres => "restartPostgres",
        }
    }

    async fn strike(self, system: &mut System) -> Result<()> {
        match self {
            Self::Engine => system.replace_engine().await?,
            Self::Worker => system.replace_worker().await?,
            Self::Flush => drop(system.redis().try_command(&["FLUSHALL"]).await?),
            Self::Redis => system.redis().restart().await,
            Self::Postgres => system.postgres().restart().await,
        }
        Ok(())
    }
}

/// A fault that has happened.
struct Struck {
    fault: Fault,
    at_ms: i64,
    /// Until what was killed was there again.
    healed_ms: i64,
    until_ms: i64,
}

impl Faults {
    /// With leases that end soon.
    pub(super) fn shape(&self, mut shape: Shape) -> Shape {
        let heartbeat_ms = self.lease_ms / HEARTBEATS;
        let told = [("--heartbeat-ms", heartbeat_ms), ("--lease-ms", self.lease_ms)];
        shape.engine_args.extend(told.into_iter().flat_map(|(name, ms)| [name.to_owned(), ms.to_string()]));
        shape
    }
}

pub(super) async fn faults(system: &mut System, wanted: &Faults) -> Result<Value> {
    let all = Fault::value_variants().to_vec();
    let faults = if wanted.faults.is_empty() { all } else { wanted.faults.clone() };
    ensure!(wanted.rate > 0.0, "a rate above zero");
    system.client(0).await?.publish(&flows::chain(FLOW, 0, STEPS, 1)).await?;
    let plan = Plan { flow: FLOW, rate: Some(wanted.rate), room: None, clients: wanted.clients };
    let arrivals = Arrivals::begin(system, plan);
    let progress = Progress::of("faults", faults.len() as u64);
    sleep(WARM_UP).await;
    let mut struck = Vec::new();
    for fault in faults {
        sleep(BEFORE).await;
        let at_ms = SystemClock.now_ms();
        fault.strike(system).await?;
        let healed_ms = SystemClock.now_ms() - at_ms;
        let rest_ms = i64::from(wanted.seconds) * 1000 - i64::try_from(BEFORE.as_millis())? - healed_ms;
        sleep(Duration::from_millis(u64::try_from(rest_ms).unwrap_or_default())).await;
        struck.push(Struck { fault, at_ms, healed_ms, until_ms: SystemClock.now_ms() });
        progress.one();
    }
    let book = arrivals.end().await?;
    let stopped_ms = SystemClock.now_ms();
    let left = record::drained(system, DRAIN_MAX).await?;
    let drained_ms = SystemClock.now_ms() - stopped_ms;
    progress.end();
    let mut connection = record::connect(system).await?;
    let spans = record::spans(&mut connection).await?;
    let audit = record::audit(&mut connection, &book.ids(), STEPS).await?;
    connection.close().await?;
    let mut ends_ms: Vec<i64> = spans.values().filter_map(|span| span.ended_ms).collect();
    ends_ms.sort_unstable();
    let mut of_faults = Map::new();
    for struck in &struck {
        let due = book.due_ms.iter().filter_map(|(id, due_ms)| Some((*due_ms, *spans.get(id)?)));
        of_faults.insert(struck.fault.name().into(), struck.told(&ends_ms, due)?);
    }
    let figures = json!({
        "rate": wanted.rate,
        "steps": STEPS,
        "leaseMs": wanted.lease_ms,
        "faults": of_faults,
        "started": book.due_ms.len(),
        "startsRepeated": book.repeated,
        "endedOnce": audit.right,
        "notEnded": left,
        "wrong": audit.wrong.len(),
        "leasesLost": audit.leases_lost,
        "drainedMillis": drained_ms,
    });
    let told: Vec<&String> = audit.wrong.iter().take(WRONG_TOLD).collect();
    ensure!(audit.wrong.is_empty() && left == 0, "{left} have not ended; {told:#?}\n{figures}");
    Ok(figures)
}

impl Struck {
    /// What came of it. `due` is everything that was started: when it was due, and what became of it.
    fn told(&self, ends_ms: &[i64], due: impl Iterator<Item = (i64, Span)>) -> Result<Value> {
        let Self { at_ms, healed_ms, until_ms, .. } = *self;
        let seen = recovery(ends_ms, at_ms, i64::try_from(BEFORE.as_millis())?, until_ms);
        let (mut under_way, mut last_ms, mut micros) = (0_u64, at_ms, histogram()?);
        for (due_ms, span) in due {
            let Some(ended_ms) = span.ended_ms else { continue };
            if span.created_ms < at_ms && ended_ms >= at_ms {
                under_way += 1;
                last_ms = last_ms.max(ended_ms);
            }
            if (at_ms..until_ms).contains(&due_ms) {
                micros.record(u64::try_from((ended_ms - due_ms).max(0))? * 1000)?;
            }
        }
        Ok(json!({
            "restartedMillis": healed_ms,
            "rateBefore": rounded(seen.before),
            "leastRate": rounded(seen.least),
            "backAfterMillis": seen.back_ms,
            "belowForMillis": seen.below_ms,
            "longestGapMillis": seen.gap_ms,
            "underWay": under_way,
            "underWayEndedAfterMillis": last_ms - at_ms,
            "millisOfThoseDueSince": percentiles(&micros),
        }))
    }
}
