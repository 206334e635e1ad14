//! Many tasks under way at the same time, with handlers that take their time.
//!
//! Nobody waits for the ends over HTTP, where an engine lets 1,024 requests wait: what happened when is read from the record
//! afterwards. From the decision on one result to that on the next all is in between that a step takes: the commit, the queue, the
//! worker, the handler, the way back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use super::Time;
use super::arrivals::{Arrivals, Book, Plan};
use super::record::{self, Span, under_way};
use crate::flows;
use crate::load::{histogram, percentiles};
use crate::progress::Progress;
use crate::system::usage::{Usage, rounded};
use crate::system::{Shape, System};

/// What a task takes unless `--handler-ms` says otherwise.
const HANDLER_MS: u64 = 50;
/// Tasks that one worker runs at most.
const CONCURRENCY_MAX: usize = 10_000;
/// Between two looks at what is under way; each costs a read of what is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// From the end of the window until all that was under way has moved, and then until it has ended.
const TAIL_MAX: Duration = Duration::from_secs(120);
const FLOW: &str = "chain";

/// Many tasks under way at the same time.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Concurrent {
    /// Executions that are under way at most, each with one task at a time
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tasks: u32,
    /// Steps a second: an open loop, in which an execution counts from the instant at which its start was due. Without it, always
    /// as many are under way as may be, and the system does what it can
    #[arg(long)]
    rate: Option<f64>,
    /// Steps of the flow [default: 3; 100 without a rate, so that there is little else than steps]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: Option<u16>,
    /// Connections for the starts
    #[arg(long, default_value_t = 64)]
    clients: usize,
    #[command(flatten)]
    time: Time,
}

impl Concurrent {
    fn steps(&self) -> u16 {
        self.steps.unwrap_or(if self.rate.is_some() { 3 } else { 100 })
    }

    /// The system that can hold so many.
    pub(super) fn shape(&self, shape: Shape) -> Result<Shape> {
        let each = usize::try_from(self.tasks)?.div_ceil(shape.workers.into()).min(CONCURRENCY_MAX);
        Ok(Shape {
            handler_ms: if shape.handler_ms == 0 { HANDLER_MS } else { shape.handler_ms },
            concurrency: shape.concurrency.max(u16::try_from(each)?),
            ..shape
        })
    }
}

/// What was seen while it ran.
struct Seen {
    opens_ms: i64,
    closes_ms: i64,
    usage: (Usage, Usage),
    /// Tasks that were out at each look within the window.
    tasks_out: Histogram<u64>,
    memory: Value,
}

pub(super) async fn concurrent(system: &System, wanted: Concurrent, handler_ms: u64) -> Result<Value> {
    let Concurrent { tasks, rate, clients, .. } = wanted;
    let steps = wanted.steps();
    system.client(0).await?.publish(&flows::chain(FLOW, 0, steps.into(), 1)).await?;
    let rate = rate.map(|rate| rate / f64::from(steps));
    ensure!(rate.is_none_or(|rate| rate > 0.0), "a rate above zero");
    let room = usize::try_from(tasks)?;
    let arrivals = Arrivals::begin(system, Plan { flow: FLOW, rate, room: Some(room), clients });
    let seen = watch(system, &arrivals, &wanted, handler_ms).await?;
    let book = arrivals.end().await?;
    // Long flows would go on for long.
    if rate.is_some() {
        let left = record::drained(system, TAIL_MAX).await?;
        ensure!(left == 0, "{left} executions have not ended");
    }
    figures(system, &wanted, handler_ms, &seen, &book).await
}

/// Keeps so many under way, until all that was so within the window has moved since.
async fn watch(system: &System, arrivals: &Arrivals, wanted: &Concurrent, handler_ms: u64) -> Result<Seen> {
    let (room, window) = (u64::from(wanted.tasks), wanted.time.window());
    // An open loop has reached its number when the first execution has been through all its handlers.
    let filling = Duration::from_millis(handler_ms * u64::from(wanted.steps()));
    let progress = Progress::of_time("load", window.warm_up + filling + window.length);
    let mut connection = record::connect(system).await?;
    let mut released = 0;
    let (mut opens_at, mut opened, mut closed) = (None, None, None);
    let mut tasks_out = histogram()?;
    let deadline = Instant::now() + filling + window.warm_up + window.length + TAIL_MAX;
    loop {
        let started = arrivals.started();
        let closes_ms = closed.as_ref().map_or(i64::MAX, |(at, _, _)| *at);
        let found = under_way(&mut connection, closes_ms).await?;
        // Those that were started since are counted as if they had not ended.
        let ended = started.saturating_sub(found.executions);
        arrivals.make_room(usize::try_from(ended.saturating_sub(released))?);
        released = released.max(ended);
        let now = Instant::now();
        let is_full = wanted.rate.is_some() || started >= room;
        if opens_at.is_none() && is_full {
            let filled = if wanted.rate.is_some() { filling } else { Duration::ZERO };
            opens_at = Some(now + filled + window.warm_up);
        }
        match (&opened, &closed) {
            (None, _) if opens_at.is_some_and(|at| now >= at) => {
                opened = Some((SystemClock.now_ms(), now, Usage::of(system).await?));
            }
            (Some((_, at, _)), None) => {
                tasks_out.record(found.tasks)?;
                if now >= *at + window.length {
                    closed = Some((SystemClock.now_ms(), Usage::of(system).await?, system.memory()));
                }
            }
            (Some(_), Some(_)) if found.still == 0 => break,
            (_, _) => {}
        }
        ensure!(now < deadline, "{} executions are under way, and it takes too long", found.executions);
        sleep(LOOK_EVERY).await;
    }
    connection.close().await?;
    progress.end();
    let ((opens_ms, _, before), (closes_ms, after, memory)) = opened.zip(closed).context("both were seen")?;
    Ok(Seen { opens_ms, closes_ms, usage: (before, after), tasks_out, memory })
}

async fn figures(
    system: &System,
    wanted: &Concurrent,
    handler_ms: u64,
    seen: &Seen,
    book: &Book,
) -> Result<Value> {
    let mut connection = record::connect(system).await?;
    let spans = record::spans(&mut connection).await?;
    let window = (seen.opens_ms, seen.closes_ms);
    let overhead = record::between_decisions(&mut connection, window, i64::try_from(handler_ms)?).await?;
    connection.close().await?;
    let mut micros = histogram()?;
    for (id, due_ms) in &book.due_ms {
        let Some(Span { ended_ms: Some(ended_ms), .. }) = spans.get(id).copied() else { continue };
        if (seen.opens_ms..seen.closes_ms).contains(due_ms) {
            micros.record(u64::try_from((ended_ms - due_ms).max(0))? * 1000)?;
        }
    }
    let spans: Vec<Span> = spans.into_values().collect();
    let executions = at_a_time(&spans, seen.opens_ms, seen.closes_ms)?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (steps, seconds) = (overhead.len() as f64, (seen.closes_ms - seen.opens_ms) as f64 / 1000.0);
    let steps_per_second = steps / seconds;
    let counts = |counts: &Histogram<u64>| {
        json!({
            "median": counts.value_at_quantile(0.5), "min": counts.min(), "max": counts.max(),
        })
    };
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let in_handlers = steps_per_second * handler_ms as f64 / 1000.0;
    Ok(json!({
        "tasks": wanted.tasks,
        "handlerMs": handler_ms,
        "rate": wanted.rate,
        "steps": wanted.steps(),
        "seconds": wanted.time.seconds,
        "stepsPerSecond": rounded(steps_per_second),
        "executionsUnderWay": counts(&executions),
        "tasksOut": counts(&seen.tasks_out),
        "inHandlersOnAverage": rounded(in_handlers),
        "millisOfExecutions": percentiles(&micros),
        "overheadMillisPerStep": percentiles(&overhead),
        "startsRepeated": book.repeated,
        "used": seen.usage.1.since(&seen.usage.0, steps),
        "memoryKib": seen.memory,
    }))
}

/// How many were under way, each millisecond of a time counting once.
fn at_a_time(spans: &[Span], from_ms: i64, to_ms: i64) -> Result<Histogram<u64>> {
    let length = usize::try_from(to_ms - from_ms)?;
    let place = |at_ms: i64| usize::try_from((at_ms - from_ms).max(0)).unwrap_or_default().min(length);
    let mut changes = vec![0_i64; length + 1];
    for span in spans {
        changes[place(span.created_ms)] += 1;
        changes[span.ended_ms.map_or(length, place)] -= 1;
    }
    let (mut counts, mut under_way) = (histogram()?, 0);
    for change in &changes[..length] {
        under_way += change;
        counts.record(u64::try_from(under_way)?)?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_millisecond_counts_those_that_had_begun_and_not_ended() {
        let span = |created_ms, ended_ms| Span { created_ms, ended_ms };
        let spans = [span(0, Some(50)), span(5, None), span(12, Some(14)), span(99, Some(100))];
        let counts = at_a_time(&spans, 10, 20).unwrap();
        assert_eq!((counts.len(), counts.min(), counts.max()), (10, 2, 3));
        assert_eq!(counts.count_at(3), 2);
    }
}
