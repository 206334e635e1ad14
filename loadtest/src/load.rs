//! Load: closed loops, where each client waits for the answer before it asks again, and open ones, where requests have their
//! instants whatever became of those before.
//!
//! An open loop counts from the instant at which a request was due, so that one that had to wait for a slow answer before it
//! shows that wait too (Gil Tene's "coordinated omission").

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// The start, by number.
    pub(crate) ask: Box<dyn Fn(u64) -> Ask + Send + Sync>,
    /// Whether its end is waited for.
    pub(crate) to_the_end: bool,
    /// Kinds of starts, which are measured apart.
    pub(crate) kinds: usize,
}

/// A start.
pub(crate) struct Ask {
    /// Its body.
    pub(crate) body: Bytes,
    /// Which of the kinds.
    pub(crate) kind: usize,
    /// What the answer holds if the result is right; none: nobody looks.
    pub(crate) holds: Option<String>,
}

impl Work {
    /// Starts of one kind, whose results nobody looks at.
    pub(crate) fn of(body: impl Fn(u64) -> Bytes + Send + Sync + 'static, to_the_end: bool) -> Self {
        let ask = move |number| Ask { body: body(number), kind: 0, holds: None };
        Self { ask: Box::new(ask), to_the_end, kinds: 1 }
    }

    /// Whether the result is right.
    async fn carry_out(&self, client: &mut Client, Ask { body, holds, .. }: Ask) -> Result<Checked> {
        if !self.to_the_end {
            client.start(body).await?;
            return Ok(Checked::Right);
        }
        let Some(holds) = holds else {
            client.run(body).await?;
            return Ok(Checked::Right);
        };
        let answer = client.run_or_start(body).await?;
        // Parsing each record would cost as much as sending it.
        let is_right = memchr::memmem::find(&answer, holds.as_bytes()).is_some();
        Ok(if is_right { Checked::Right } else { Checked::Wrong(answer) })
    }
}

/// What an answer was found to be.
enum Checked {
    Right,
    Wrong(Bytes),
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
    /// Answers within the window, by kind.
    pub(crate) answers: Vec<u64>,
    /// Length of the window.
    pub(crate) took: Duration,
    /// Microseconds of each, by kind.
    pub(crate) micros: Vec<Histogram<u64>>,
    /// Answers that were not what they should have been, whenever they came.
    pub(crate) wrong: u64,
    /// One of them.
    pub(crate) wrong_one: Option<String>,
    /// Before and after.
    pub(crate) usage: (Usage, Usage),
}

impl Measured {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.weighed(|_| 1.0) / self.took.as_secs_f64()
    }

    /// The sum over all answers of what one of its kind counts.
    pub(crate) fn weighed(&self, weight: impl Fn(usize) -> f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let of_kind = |(kind, answers): (usize, &u64)| *answers as f64 * weight(kind);
        self.answers.iter().enumerate().map(of_kind).sum()
    }

    /// Microseconds of all.
    ///
    /// # Errors
    /// Never for three digits.
    pub(crate) fn all_micros(&self) -> Result<Histogram<u64>> {
        let mut all = histogram()?;
        for micros in &self.micros {
            all.add(micros)?;
        }
        Ok(all)
    }

    /// What is told of executions of `steps` each, where nothing else is to be said of them.
    ///
    /// # Errors
    /// As of [`Self::all_micros`].
    pub(crate) fn told(&self, steps: f64) -> Result<Value> {
        Ok(json!({
            "stepsPerSecond": rounded(self.rate() * steps),
            "executionsPerSecond": rounded(self.rate()),
            "millis": percentiles(&self.all_micros()?),
            "used": self.used(steps),
        }))
    }

    /// What the system used for each of `steps` per answer.
    pub(crate) fn used(&self, steps: f64) -> Value {
        self.usage.1.since(&self.usage.0, self.weighed(|_| steps))
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
    let kinds = work.kinds;
    let mut connected = Vec::new();
    for number in 0..clients {
        connected.push(system.client(number).await?);
    }
    let begins = Instant::now();
    let (opens, closes) = (begins + window.warm_up, begins + window.warm_up + window.length);
    let load = Arc::new(Load {
        work,
        answers: (0..kinds).map(|_| AtomicU64::new(0)).collect(),
        micros: (0..kinds).map(|_| Ok(Mutex::new(histogram()?))).collect::<Result<_>>()?,
        wrong: AtomicU64::new(0),
        wrong_one: OnceLock::new(),
        rate,
        clients,
    });
    let mut running = JoinSet::new();
    for (number, client) in connected.into_iter().enumerate() {
        running.spawn(load.clone().keep_asking(client, number as u64, begins, (opens, closes)));
    }
    let progress = Progress::of_time("load", window.warm_up + window.length);
    sleep_until(opens).await;
    let before = Usage::of(system).await?;
    sleep_until(closes).await;
    let after = Usage::of(system).await?;
    let answers = load.answers.iter().map(|answers| answers.load(Ordering::Relaxed)).collect();
    while let Some(client) = running.join_next().await {
        client??;
    }
    progress.end();
    let micros = load.micros.iter().map(|micros| lock(micros).clone()).collect();
    let wrong = load.wrong.load(Ordering::Relaxed);
    let wrong_one = load.wrong_one.get().cloned();
    Ok(Measured { answers, took: window.length, micros, wrong, wrong_one, usage: (before, after) })
}

fn lock(micros: &Mutex<Histogram<u64>>) -> MutexGuard<'_, Histogram<u64>> {
    micros.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the clients share.
struct Load {
    work: Work,
    /// Within the window, by kind.
    answers: Vec<AtomicU64>,
    /// By kind. One for all clients: one for each would be more memory than all the rest.
    micros: Vec<Mutex<Histogram<u64>>>,
    wrong: AtomicU64,
    wrong_one: OnceLock<String>,
    rate: Option<f64>,
    clients: usize,
}

impl Load {
    /// One client.
    async fn keep_asking(
        self: Arc<Self>,
        mut client: Client,
        number: u64,
        begins: Instant,
        (opens, closes): (Instant, Instant),
    ) -> Result<()> {
        let mut next = number;
        loop {
            let from = match self.rate {
                Some(rate) => {
                    let due = begins + due_after(next, rate);
                    sleep_until(due).await;
                    due
                }
                None => Instant::now(),
            };
            if from >= closes {
                return Ok(());
            }
            let ask = (self.work.ask)(next);
            let kind = ask.kind;
            if let Checked::Wrong(answer) = self.work.carry_out(&mut client, ask).await? {
                self.wrong.fetch_add(1, Ordering::Relaxed);
                self.wrong_one.get_or_init(|| String::from_utf8_lossy(&answer).into_owned());
            }
            let now = Instant::now();
            if from >= opens {
                lock(&self.micros[kind]).record(u64::try_from((now - from).as_micros())?)?;
            }
            if now >= opens && now < closes {
                self.answers[kind].fetch_add(1, Ordering::Relaxed);
            }
            next += self.clients as u64;
        }
    }
}

/// When a request of an open loop is due, after the begin of the first.
pub(crate) fn due_after(number: u64, rate: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "numbers of requests are small")]
    let number = number as f64;
    Duration::from_secs_f64(number / rate)
}
