//! The scenarios of a whole system: engines, workers, Postgres and Redis as processes, and this one that asks over HTTP.

mod arrivals;
mod concurrent;
mod mixed;
pub(crate) mod plain;
mod record;
mod recovery;
mod sizes;
mod soak;
mod timeline;
mod waiting;

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Subcommand;

use crate::flows;
use crate::load::{Window, Work};
use crate::report::report;
use crate::system::{Shape, System};

/// The flow of a scenario that asks for chains.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Chain {
    /// Steps of the flow
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) steps: u16,
    /// Bytes of the input, beside what the steps hand on
    #[arg(long, default_value_t = 0)]
    pub(crate) bytes: u32,
    /// Versions of the flow, which are started in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) versions: u16,
}

/// How long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Time {
    /// Seconds that count
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Seconds before
    #[arg(long, default_value_t = 5)]
    pub(crate) warm_up: u32,
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
    /// A mix of flows, as many as go; the result of each is looked at.
    Mixed(mixed::Mixed),
    /// The flow of three steps with contexts of several sizes, one after the other.
    Payload(sizes::Payload),
    /// A flow of 100 steps, one of 1,000 versions, and 200 handler types, beside the plain flow of three steps.
    Wide(sizes::Wide),
    /// Many tasks under way at the same time, with handlers that take 50 ms: what each step takes beyond its handler.
    Concurrent(concurrent::Concurrent),
    /// Faults under load: how long until the rate is back, and whether everything ended once.
    Recovery(recovery::Faults),
    /// Load that goes on for long: whether memory and throughput stay, how tables grow, and whether everything ended.
    Soak(soak::Soak),
    /// Executions that wait in Postgres: what they take of an engine's memory, and of the throughput of others.
    Waiting(waiting::Waiting),
}

/// A small set.
pub(crate) fn short() -> [Scenario; 5] {
    let time = Time { seconds: 10, warm_up: 5 };
    let chain = Chain { steps: 3, bytes: 0, versions: 1 };
    [
        Scenario::Throughput { chain, clients: 256, time },
        Scenario::Latency { executions: 1000 },
        Scenario::FanOut { items: 1000, runs: 5 },
        Scenario::Starts { clients: 64, time },
        Scenario::Mixed(mixed::Mixed { clients: 256, seed: 1, time }),
    ]
}

/// Runs a scenario on a system of its own.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn run(scenario: Scenario, shape: Shape) -> Result<()> {
    let shape = match &scenario {
        Scenario::Wide(_) => Shape { handler_types: 1, ..shape },
        Scenario::Concurrent(wanted) => wanted.shape(shape)?,
        Scenario::Recovery(wanted) => wanted.shape(shape),
        Scenario::Throughput { .. }
        | Scenario::Rate { .. }
        | Scenario::Latency { .. }
        | Scenario::FanOut { .. }
        | Scenario::Starts { .. }
        | Scenario::Mixed(_)
        | Scenario::Payload(_)
        | Scenario::Soak(_)
        | Scenario::Waiting(_) => shape,
    };
    let types = usize::from(shape.handler_types);
    let handler_ms = shape.handler_ms;
    let mut system = System::start(shape.clone()).await?;
    let mut settings = system.described();
    settings["durability"] = "fsync".into();
    let (name, figures) = match scenario {
        Scenario::Throughput { chain, clients, time } => {
            ("throughput", plain::throughput(&system, &chain, types, clients, time).await?)
        }
        Scenario::Rate { chain, rate, clients, time } => {
            ("rate", plain::at_rate(&system, &chain, (types, handler_ms), rate, clients, time).await?)
        }
        Scenario::Latency { executions } => {
            ("latency", plain::latency(&system, &[1, 3, 10].map(|steps| (steps, executions))).await?)
        }
        Scenario::FanOut { items, runs } => ("fanOut", plain::fan_out(&system, items, runs).await?),
        Scenario::Starts { clients, time } => ("starts", plain::starts(&system, clients, time).await?),
        Scenario::Mixed(wanted) => ("mixed", mixed::mixed(&system, wanted).await?),
        Scenario::Payload(wanted) => ("payload", sizes::payload(&system, &wanted).await?),
        Scenario::Wide(wanted) => ("wide", sizes::wide(&mut system, shape, wanted).await?),
        Scenario::Concurrent(wanted) => {
            ("concurrent", concurrent::concurrent(&system, wanted, handler_ms).await?)
        }
        Scenario::Recovery(wanted) => ("recovery", recovery::faults(&mut system, &wanted).await?),
        Scenario::Soak(wanted) => ("soak", soak::soak(&system, wanted).await?),
        Scenario::Waiting(wanted) => ("waiting", waiting::waiting(&mut system, wanted).await?),
    };
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
    let padding = flows::padding(usize::try_from(chain.bytes)?);
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
    Ok(Work::of(body, true))
}
