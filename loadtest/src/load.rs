//! Load: closed loops, where each client waits for the answer before it asks again, and open ones, where requests have their
//! instants whatever became of those before.
//!
//! An open loop counts from the instant at which a request was due, so that one that had to wait for a slow answer before it
//! shows that wait too (Gil Tene's "coordinated omission").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::progress::Progress;
use crate::system::System;
use crate::system::usage::{Usage, rounded};

/// What each request is.
pub(crate) struct Work {
    /// The body of a start, by number.
    pub(crate) body: Box<dyn Fn(u64) -> Bytes + Send + Sync>,
    /// Whether its end is waited for.
    pub(crate) to_the_end: bool,
}

impl Work {
    async fn ask(&self, client: &mut Client, number: u64) -> Result<()> {
        let body = (self.body)(number);
        if self.to_the_end { client.run(body).await.map(drop) } else { client.start(body).await }
    }
}

/// How load is put on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Before it counts.
    pub(crate) warm_up: Duration,
    /// How long it counts.
    pub(crate) length: Duration,
}

/// What came of it.
pub(crate) struct Measured {
    /// Answers within the window.
    pub(crate) answers: u64,
    /// Length of the window.
    pub(crate) took: Duration,
    /// Microseconds of each.
    pub(crate) micros: Histogram<u64>,
    /// Before and after.
    pub(crate) usage: (Usage, Usage),
}

impl Measured {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let answers = self.answers as f64;
        answers / self.took.as_secs_f64()
    }

    /// What the system used for each of `steps` per answer.
    pub(crate) fn used(&self, steps: f64) -> Value {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let answers = self.answers as f64;
        self.usage.1.since(&self.usage.0, answers * steps)
    }
}

/// The percentiles that are reported, in milliseconds.
pub(crate) fn percentiles(micros: &Histogram<u64>) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let millis = |micros: u64| rounded(micros as f64 / 1000.0);
    json!({
        "count": micros.len(),
        "p50": millis(micros.value_at_quantile(0.5)),
        "p90": millis(micros.value_at_quantile(0.9)),
        "p99": millis(micros.value_at_quantile(0.99)),
        "p999": millis(micros.value_at_quantile(0.999)),
        "max": millis(micros.max()),
    })
}

/// A histogram that takes all that there is.
///
/// # Errors
/// Never for three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// `clients` ask, each again as soon as it has its answer.
///
/// # Errors
/// When an answer is none that was hoped for.
pub(crate) async fn closed(system: &System, clients: usize, window: Window, work: Work) -> Result<Measured> {
    drive(system, clients, window, work, None).await
}

/// `rate` requests a second, over at most `clients` connections.
///
/// # Errors
/// When an answer is none that was hoped for.
pub(crate) async fn open(
    system: &System,
    clients: usize,
    window: Window,
    work: Work,
    rate: f64,
) -> Result<Measured> {
    ensure!(rate > 0.0, "a rate above zero");
    drive(system, clients, window, work, Some(rate)).await
}

async fn drive(
    system: &System,
    clients: usize,
    window: Window,
    work: Work,
    rate: Option<f64>,
) -> Result<Measured> {
    let work = Arc::new(work);
    let answers = Arc::new(AtomicU64::new(0));
    let mut connected = Vec::new();
    for number in 0..clients {
        connected.push(system.client(number).await?);
    }
    let begins = Instant::now();
    let (opens, closes) = (begins + window.warm_up, begins + window.warm_up + window.length);
    let mut running = JoinSet::new();
    for (number, mut client) in connected.into_iter().enumerate() {
        let (work, answers) = (work.clone(), answers.clone());
        running.spawn(async move {
            let mut micros = histogram()?;
            let mut next = number as u64;
            loop {
                let due = rate.map(|rate| {
                    #[expect(clippy::cast_precision_loss, reason = "numbers of requests are small")]
                    let after = next as f64 / rate;
                    begins + Duration::from_secs_f64(after)
                });
                let from = match due {
                    Some(due) => {
                        sleep_until(due).await;
                        due
                    }
                    None => Instant::now(),
                };
                if from >= closes {
                    return anyhow::Ok(micros);
                }
                work.ask(&mut client, next).await?;
                let now = Instant::now();
                if from >= opens {
                    micros.record(u64::try_from((now - from).as_micros())?)?;
                }
                if now >= opens && now < closes {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                next += clients as u64;
            }
        });
    }
    let progress = Progress::of_time("load", window.warm_up + window.length);
    sleep_until(opens).await;
    let before = Usage::of(system).await?;
    sleep_until(closes).await;
    let after = Usage::of(system).await?;
    let answers = answers.load(Ordering::Relaxed);
    let mut micros = histogram()?;
    while let Some(client) = running.join_next().await {
        micros.add(client??)?;
    }
    progress.end();
    Ok(Measured { answers, took: window.length, micros, usage: (before, after) })
}
