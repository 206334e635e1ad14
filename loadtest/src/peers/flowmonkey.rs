//! Ours, as a whole system, by the scenarios that `distributed` has.

use anyhow::Result;

use super::CLIENTS;
use super::figures::{Figure, Figures};
use super::question::{IDLE_FOR, ITEMS, STEPS, STEPS_MANY, Size, field};
use crate::distributed::plain::{fan_out, latency, throughput};
use crate::distributed::{Chain, Time};
use crate::system::{Shape, System};

/// Starts everything anew, and measures it.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn measure(size: &Size) -> Result<Figures> {
    let system = System::start(Shape::default()).await?;
    tokio::time::sleep(IDLE_FOR).await;
    let mut figures = Figures::default();
    let idle = system.memory();
    let mib = |role: &str| Ok::<_, anyhow::Error>(field(&idle, role)? / 1024.0);
    figures.put(Figure::ServerMemory, mib("engine")? + mib("postgres")? + mib("redis")?);
    figures.put(Figure::WorkerMemory, mib("worker")?);
    let times = latency(&system, &[(1, size.executions), (STEPS_MANY, size.executions_of_many)]).await?;
    let one = &times["millisOf1"];
    figures.put(Figure::OneStepP50, field(one, "p50")?);
    figures.put(Figure::OneStepP99, field(one, "p99")?);
    figures.put(Figure::FurtherStep, field(&times, "millisPerFurtherStep")?);
    let joined = fan_out(&system, ITEMS, size.fan_outs).await?;
    figures.put(Figure::FanOut, field(&joined["millis"], "p50")?);
    let chain = Chain { steps: STEPS, bytes: 0, versions: 1 };
    let time = Time { seconds: size.seconds, warm_up: size.warm_up_seconds };
    let load = throughput(&system, &chain, 1, CLIENTS, time).await?;
    figures.put(Figure::Throughput, field(&load, "stepsPerSecond")?);
    figures.put(Figure::ProcessorTime, field(&load["used"], "cpuMicrosPerStep")?);
    system.stop().await;
    Ok(figures)
}
