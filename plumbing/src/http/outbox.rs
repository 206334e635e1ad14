//! Volatile calls on their way: the latest progress of each task, log lines in batches, bounded in every direction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{Body, Client, Endpoint};
use crate::api::{LOG_LINES_MAX, PlumbingError, Progress, TaskAccess, VOLATILE_BODY_BYTES_MAX};
use crate::queue::Delivery;
use crate::wire::LogLine;

/// Senders of one client: two, so that one slow answer does not hold up all tasks.
pub(super) const SENDERS: usize = 2;
/// Tasks that may have something waiting.
const TASKS_MAX: usize = 10_000;
/// Log lines that may wait, of all tasks together.
const LINES_MAX: usize = 20_000;
/// Bytes of log lines that may wait, of all tasks together.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long one volatile call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a line needs beside its texts.
const LINE_OVERHEAD: usize = 64;
/// Bytes of lines in one call: JSON may spell each byte in six.
const BATCH_BYTES_MAX: usize = VOLATILE_BODY_BYTES_MAX / 8;

/// What waits of one task.
struct Pending {
    access: TaskAccess,
    since: Instant,
    worker: Option<String>,
    progress: Option<Progress>,
    lines: VecDeque<LogLine>,
}

#[derive(Default)]
struct Waiting {
    tasks: BTreeMap<Delivery, Pending>,
    /// The tasks that wait, each once, longest first.
    order: VecDeque<Delivery>,
    /// The tasks that are being sent, at most one per sender.
    sending: BTreeSet<Delivery>,
    lines: usize,
    line_bytes: usize,
    closed: bool,
}

/// Volatile calls on their way.
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    bell: Notify,
    linger: Duration,
    dropped: AtomicU64,
}

impl Outbox {
    pub(super) fn new(linger: Duration) -> Self {
        Self { waiting: Mutex::default(), bell: Notify::new(), linger, dropped: AtomicU64::new(0) }
    }

    pub(super) fn started(&self, access: &TaskAccess, worker: &str) {
        self.put(access, |pending, _| {
            pending.worker = Some(worker.into());
            true
        });
    }

    pub(super) fn progress(&self, access: &TaskAccess, progress: Progress) {
        self.put(access, |pending, _| {
            pending.progress = Some(progress);
            true
        });
    }

    pub(super) fn log(&self, access: &TaskAccess, line: &LogLine) {
        let size = size(line);
        self.put(access, |pending, (lines, line_bytes)| {
            let fits = *lines < LINES_MAX
                && size <= BATCH_BYTES_MAX
                && size <= LINE_BYTES_MAX.saturating_sub(*line_bytes);
            if fits {
                *lines += 1;
                *line_bytes += size;
                pending.lines.push_back(line.clone());
            }
            fits
        });
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `add` change what waits of a task; false, or no room: it is dropped.
    fn put(&self, access: &TaskAccess, add: impl FnOnce(&mut Pending, (&mut usize, &mut usize)) -> bool) {
        let mut guard = self.waiting();
        let waiting = &mut *guard;
        let is_known = waiting.tasks.contains_key(&access.delivery);
        if waiting.closed || (!is_known && waiting.tasks.len() >= TASKS_MAX) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let pending = waiting.tasks.entry(access.delivery.clone()).or_insert_with(|| Pending {
            access: access.clone(),
            since: Instant::now(),
            worker: None,
            progress: None,
            lines: VecDeque::new(),
        });
        if !add(pending, (&mut waiting.lines, &mut waiting.line_bytes)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if !is_known {
            waiting.order.push_back(access.delivery.clone());
            self.bell.notify_one();
        }
    }

    /// The task that has waited longest, when it has waited long enough or `at_once`; else when to look again, if anything
    /// waits. A task that is being sent is left alone until [`Self::done`], so that its calls arrive in order.
    fn take(&self, at_once: bool) -> Result<Pending, Option<Instant>> {
        let mut guard = self.waiting();
        let waiting = &mut *guard;
        let free = |delivery: &Delivery| !waiting.sending.contains(delivery);
        let place = waiting.order.iter().position(free).ok_or(None)?;
        let first = waiting.order.get(place).and_then(|first| waiting.tasks.get(first)).ok_or(None)?;
        let due = first.since + self.linger;
        if !at_once && due > Instant::now() {
            return Err(Some(due));
        }
        let delivery = waiting.order.remove(place).ok_or(None)?;
        let pending = waiting.tasks.remove(&delivery).ok_or(None)?;
        waiting.lines -= pending.lines.len();
        waiting.line_bytes -= pending.lines.iter().map(size).sum::<usize>();
        waiting.sending.insert(delivery);
        if !waiting.order.is_empty() {
            // The other sender may have rested when this one was rung for.
            self.bell.notify_one();
        }
        Ok(pending)
    }

    /// A task is no longer being sent. What is `left` of it waits again, behind nothing newer; what has no room is dropped.
    fn done(&self, delivery: &Delivery, left: Option<Pending>) {
        let mut guard = self.waiting();
        let waiting = &mut *guard;
        waiting.sending.remove(delivery);
        let Some(mut left) = left else { return };
        if waiting.closed {
            self.dropped.fetch_add(left.calls(), Ordering::Relaxed);
            return;
        }
        if let Some(newer) = waiting.tasks.remove(delivery) {
            // Started, then running: both count; of progress only the latest does.
            left.worker = newer.worker.or(left.worker);
            left.progress = newer.progress.or(left.progress);
            waiting.lines -= newer.lines.len();
            waiting.line_bytes -= newer.lines.iter().map(size).sum::<usize>();
            left.lines.extend(newer.lines);
        } else {
            waiting.order.push_back(delivery.clone());
        }
        let mut bytes: usize = left.lines.iter().map(size).sum();
        while waiting.lines + left.lines.len() > LINES_MAX || waiting.line_bytes + bytes > LINE_BYTES_MAX {
            let Some(line) = left.lines.pop_back() else { break };
            bytes -= size(&line);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.lines += left.lines.len();
        waiting.line_bytes += bytes;
        left.since = Instant::now();
        waiting.tasks.insert(delivery.clone(), left);
        self.bell.notify_one();
    }
}

impl Pending {
    /// How many calls wait.
    fn calls(&self) -> u64 {
        u64::from(self.worker.is_some()) + u64::from(self.progress.is_some()) + self.lines.len() as u64
    }

    /// Sends what waits; what could not be sent is left.
    async fn send(&mut self, client: &Client) -> Result<(), PlumbingError> {
        if let Some(worker) = &self.worker {
            self.post(client, Endpoint::Started, &json!({ "worker": worker })).await?;
            self.worker = None;
        }
        if let Some(progress) = &self.progress {
            self.post(client, Endpoint::Progress, &json!(progress)).await?;
            self.progress = None;
        }
        while !self.lines.is_empty() {
            let mut bytes = 0;
            let fits = |line: &&LogLine| {
                bytes += size(line);
                bytes <= BATCH_BYTES_MAX
            };
            // No line is larger than a batch: there is always one.
            let lines: Vec<&LogLine> = self.lines.iter().take(LOG_LINES_MAX).take_while(fits).collect();
            let count = lines.len().max(1);
            self.post(client, Endpoint::Logs, &json!({ "lines": lines })).await?;
            self.lines.drain(..count);
        }
        Ok(())
    }

    async fn post(&self, client: &Client, endpoint: Endpoint, body: &Value) -> Result<(), PlumbingError> {
        let body = Body::Json(Bytes::from(body.to_string()));
        client.call_once(&self.access, endpoint, body, CALL_TIMEOUT).await.map(drop)
    }
}

fn size(line: &LogLine) -> usize {
    line.message.len() + line.timestamp.len() + LINE_OVERHEAD
}

/// Sends what waits until `closing`, and then what is left.
pub(super) async fn run(outbox: Arc<Outbox>, client: Arc<Client>, closing: CancellationToken) {
    let mut failures = 0;
    loop {
        match outbox.take(closing.is_cancelled()) {
            Ok(mut pending) => {
                let delivery = pending.access.delivery.clone();
                match pending.send(&client).await {
                    Ok(()) => {
                        failures = 0;
                        outbox.done(&delivery, None);
                    }
                    // The engines are away: what is the latest when they are back is worth sending.
                    Err(PlumbingError::Unavailable(error)) => {
                        tracing::debug!(error, "no engine takes volatile calls");
                        failures += 1;
                        outbox.done(&delivery, Some(pending));
                        tokio::select! {
                            () = tokio::time::sleep(client.rest_after(failures)) => {}
                            () = closing.cancelled() => {}
                        }
                    }
                    // Nobody shows what an attempt says that is over or not known; the rest would be refused, too.
                    Err(
                        error @ (PlumbingError::Stale { .. }
                        | PlumbingError::Refused { .. }
                        | PlumbingError::TooLarge { .. }),
                    ) => {
                        tracing::debug!(%error, %delivery, "volatile calls were not taken");
                        failures = 0;
                        outbox.dropped.fetch_add(pending.calls(), Ordering::Relaxed);
                        outbox.done(&delivery, None);
                    }
                }
            }
            Err(None) if closing.is_cancelled() => return,
            Err(None) => {
                tokio::select! {
                    () = outbox.bell.notified() => {}
                    () = closing.cancelled() => {}
                }
            }
            Err(Some(due)) => {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = closing.cancelled() => {}
                }
            }
        }
    }
}
