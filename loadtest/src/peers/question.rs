//! The questions, the same for all.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::figures::{Figure, Figures};
use super::processes::Processes;

/// Steps of the flow for throughput.
pub(crate) const STEPS: u16 = 3;
/// Steps of the flow that tells what a further one costs.
pub(crate) const STEPS_MANY: u16 = 10;
/// Items of the fan-out.
pub(crate) const ITEMS: u32 = 1000;
/// From readiness until memory is looked at.
pub(crate) const IDLE_FOR: Duration = Duration::from_secs(1);

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Executions of one step, one after the other.
    pub(crate) executions: u64,
    /// Executions of many steps, one after the other: their median counts only.
    pub(crate) executions_of_many: u64,
    /// Executions of either before, and seconds that they may take, as may those that count.
    pub(crate) warm_up: u64,
    pub(crate) seconds_at_most: u32,
    /// Fan-outs after the first one.
    pub(crate) fan_outs: u32,
    /// Of throughput, before it counts.
    pub(crate) warm_up_seconds: u32,
    /// Of throughput.
    pub(crate) seconds: u32,
    /// Executions that are enqueued at once.
    pub(crate) bulk: u64,
}

impl Size {
    /// As for the figures in the documents.
    pub(crate) const fn full() -> Self {
        Self {
            executions: 400,
            executions_of_many: 60,
            warm_up: 150,
            seconds_at_most: 3,
            fan_outs: 5,
            warm_up_seconds: 2,
            seconds: 6,
            bulk: 20_000,
        }
    }

    /// To see that it works.
    pub(crate) const fn quick() -> Self {
        Self {
            executions: 50,
            executions_of_many: 10,
            warm_up: 20,
            seconds_at_most: 2,
            fan_outs: 2,
            warm_up_seconds: 1,
            seconds: 2,
            bulk: 2000,
        }
    }
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Question {
    /// Chains, one after the other: start to result.
    Latency(OneByOne),
    /// Fan-outs and joins, one after the other.
    FanOut(OneByOne),
    /// As many chains as go.
    Throughput(Closed),
    /// Chains that are enqueued all at once, where that can be done.
    Bulk { steps: u16, executions: u64 },
}

/// One after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneByOne {
    /// Steps, or items.
    pub(crate) length: u32,
    /// That count.
    pub(crate) executions: u64,
    /// That do not.
    pub(crate) warm_up: u64,
    /// That either may take.
    pub(crate) seconds_at_most: u32,
}

/// Clients that each wait for the end of one and start the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) steps: u16,
    pub(crate) clients: usize,
    pub(crate) warm_up_seconds: u32,
    pub(crate) seconds: u32,
}

impl Question {
    /// As the drivers are asked.
    pub(crate) fn line(self) -> String {
        let one_by_one = |scenario: &str, what: &str, asked: OneByOne| {
            json!({
                "scenario": scenario,
                what: asked.length,
                "executions": asked.executions,
                "warmUp": asked.warm_up,
                "seconds": asked.seconds_at_most,
            })
        };
        let line = match self {
            Self::Latency(asked) => one_by_one("latency", "steps", asked),
            Self::FanOut(asked) => one_by_one("fanOut", "items", asked),
            Self::Throughput(Closed { steps, clients, warm_up_seconds, seconds }) => json!({
                "scenario": "throughput",
                "steps": steps,
                "clients": clients,
                "warmUpSeconds": warm_up_seconds,
                "seconds": seconds,
            }),
            Self::Bulk { steps, executions } => {
                json!({ "scenario": "bulk", "steps": steps, "executions": executions })
            }
        };
        line.to_string()
    }
}

/// What answers.
pub(crate) trait Asked {
    /// The processes behind it.
    fn processes(&self) -> &Processes;

    /// The answer: times in milliseconds (`p50`, `p99`), or `executionsPerSecond` with `executions` and the `cpuSeconds` that
    /// all processes used meanwhile.
    fn ask(&mut self, question: Question) -> impl Future<Output = Result<Value>> + Send;
}

/// Asks a system that was just started what all are asked.
///
/// # Errors
/// When it does not answer, or wrongly.
pub(crate) async fn ask_all(asked: &mut impl Asked, size: &Size, clients: usize) -> Result<Figures> {
    let mut figures = Figures::default();
    tokio::time::sleep(IDLE_FOR).await;
    figures.put(Figure::ServerMemory, asked.processes().server_mib());
    figures.put(Figure::WorkerMemory, asked.processes().worker_mib());
    let one_by_one = |length: u32, executions: u64, warm_up: u64| OneByOne {
        length,
        executions,
        warm_up,
        seconds_at_most: size.seconds_at_most,
    };
    let one = asked.ask(Question::Latency(one_by_one(1, size.executions, size.warm_up))).await?;
    let many = one_by_one(STEPS_MANY.into(), size.executions_of_many, size.warm_up);
    let many = asked.ask(Question::Latency(many)).await?;
    figures.put(Figure::OneStepP50, field(&one, "p50")?);
    figures.put(Figure::OneStepP99, field(&one, "p99")?);
    let further = (field(&many, "p50")? - field(&one, "p50")?) / f64::from(STEPS_MANY - 1);
    figures.put(Figure::FurtherStep, further);
    let fan_out = asked.ask(Question::FanOut(one_by_one(ITEMS, size.fan_outs.into(), 1))).await?;
    figures.put(Figure::FanOut, field(&fan_out, "p50")?);
    let closed =
        Closed { steps: STEPS, clients, warm_up_seconds: size.warm_up_seconds, seconds: size.seconds };
    let throughput = asked.ask(Question::Throughput(closed)).await?;
    let steps = f64::from(STEPS);
    figures.put(Figure::Throughput, field(&throughput, "executionsPerSecond")? * steps);
    let cpu = field(&throughput, "cpuSeconds")? / (field(&throughput, "executions")? * steps);
    figures.put(Figure::ProcessorTime, cpu * 1e6);
    Ok(figures)
}

/// A number of an answer.
///
/// # Errors
/// When it is not there.
pub(crate) fn field(answer: &Value, name: &str) -> Result<f64> {
    answer[name].as_f64().with_context(|| format!("an answer without `{name}`: {answer}"))
}
