//! From engine to engine: what those who watch are told, wherever it happens.
//!
//! An engine with watchers says so again and again; only then do the others send anything. What is sent is bounded and may be
//! lost: whoever loses something is told [`Update::Missed`] and reads the record.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::broadcast::{BROADCAST_BYTES_MAX, Broadcast, Heard, Subscription};
use flowmonkey_plumbing::wire::LogLine;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::watch::Update;

/// Version of the messages.
const VERSION: u16 = 1;
/// Notices that wait to be sent.
const WAITING_MAX: usize = 4096;
/// How often an engine with watchers says that it has some.
const WATCHING_EVERY: Duration = Duration::from_secs(2);
/// For how long the others believe it.
const WATCHING_FOR_MS: u64 = 7000;

/// What is sent, and who wants it.
#[derive(Default)]
pub(crate) struct Spread {
    sender: OnceLock<mpsc::Sender<Notice>>,
    wanted_until: AtomicI64,
    /// Whether something was left out since the last message.
    missed: AtomicBool,
    dropped: AtomicU64,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Notice {
    /// The sender has watchers.
    Watching,
    Committed {
        execution: ExecutionId,
        sequence: u64,
        status: String,
    },
    Started {
        execution: ExecutionId,
        task: u32,
        attempt: u32,
        worker: String,
    },
    Progress {
        execution: ExecutionId,
        task: Option<u32>,
        step: Option<String>,
        at: Timestamp,
        progress: Progress,
    },
    Log {
        execution: ExecutionId,
        task: u32,
        attempt: u32,
        step: Option<String>,
        line: LogLine,
    },
    /// Something that only newer engines know.
    #[serde(other)]
    Unknown,
}

/// What one engine sends to all.
#[derive(Debug, Deserialize)]
struct Letter {
    v: u16,
    engine: String,
    #[serde(default)]
    missed: bool,
    notices: Vec<Notice>,
}

impl Notice {
    fn of(update: &Update) -> Option<Self> {
        let text = |step: &Option<Arc<str>>| step.as_deref().map(str::to_owned);
        Some(match update.clone() {
            // Told as a notice by whoever committed it.
            Update::Committed(_) | Update::Missed => return None,
            Update::Elsewhere { execution, sequence, status } => {
                Self::Committed { execution, sequence, status: status.as_str().to_owned() }
            }
            Update::Started { execution, task, attempt, worker } => {
                Self::Started { execution, task, attempt, worker }
            }
            Update::Progress { execution, task, step, at, progress } => {
                Self::Progress { execution, task, step: text(&step), at, progress }
            }
            Update::Log { execution, task, attempt, step, line } => {
                Self::Log { execution, task, attempt, step: text(&step), line }
            }
        })
    }

    fn update(self) -> Option<Update> {
        Some(match self {
            Self::Watching | Self::Unknown => return None,
            Self::Committed { execution, sequence, status } => {
                Update::Elsewhere { execution, sequence, status: Status::parse(&status)? }
            }
            Self::Started { execution, task, attempt, worker } => {
                Update::Started { execution, task, attempt, worker }
            }
            Self::Progress { execution, task, step, at, progress } => Update::Progress {
                execution,
                task,
                step: step.map(Arc::from),
                at,
                progress: progress.bounded(),
            },
            Self::Log { execution, task, attempt, step, line } => {
                Update::Log { execution, task, attempt, step: step.map(Arc::from), line }
            }
        })
    }
}

impl Spread {
    /// Whether another engine has watchers.
    pub(crate) fn is_wanted(&self, now: Timestamp) -> bool {
        now.as_millis() < self.wanted_until.load(Ordering::Relaxed)
    }

    /// Sends an update when there is room.
    pub(crate) fn offer(&self, update: &Update) {
        if let Some(notice) = Notice::of(update) {
            self.offer_notice(notice);
        }
    }

    fn offer_notice(&self, notice: Notice) {
        let Some(sender) = self.sender.get() else { return };
        if sender.try_send(notice).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// Notices that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Joins `engine` with the others that share `broadcast`, until `shutdown`. To be called once for an engine, whose id no other
/// of them has.
pub fn join(
    engine: &Arc<Engine>,
    broadcast: &Arc<dyn Broadcast>,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let (sender, notices) = mpsc::channel(WAITING_MAX);
    if engine.talk.spread.sender.set(sender).is_err() {
        tracing::error!("an engine was joined twice with the others; it stays as it was");
        return;
    }
    // Before anybody can be told that somebody watches here.
    let subscription = broadcast.subscribe();
    let run = |work: futures_util::future::BoxFuture<'static, ()>| {
        let shutdown = shutdown.clone();
        tracker.spawn(async move {
            shutdown.run_until_cancelled(work).await;
        });
    };
    run(Box::pin(send(engine.clone(), broadcast.clone(), notices)));
    run(Box::pin(hear(engine.clone(), subscription)));
    run(Box::pin(announce(engine.clone())));
}

/// Says again and again that somebody watches, while somebody does.
async fn announce(engine: Arc<Engine>) {
    loop {
        let began = engine.watchers.began.notified();
        if engine.watchers.is_asked() {
            engine.talk.spread.offer_notice(Notice::Watching);
            tokio::time::sleep(WATCHING_EVERY).await;
        } else {
            began.await;
        }
    }
}

/// Sends what waits, as much in one message as fits.
async fn send(engine: Arc<Engine>, broadcast: Arc<dyn Broadcast>, mut notices: mpsc::Receiver<Notice>) {
    let id = serde_json::Value::from(engine.config().engine_id.as_str()).to_string();
    while let Some(first) = notices.recv().await {
        let spread = &engine.talk.spread;
        let missed = spread.missed.swap(false, Ordering::Relaxed);
        let mut letter = format!(r#"{{"v":{VERSION},"engine":{id},"missed":{missed},"notices":["#);
        let empty = letter.len();
        let mut next = Some(first);
        while let Some(notice) = next {
            let Ok(text) = serde_json::to_string(&notice) else {
                next = notices.try_recv().ok();
                continue;
            };
            if letter.len() > empty && letter.len() + text.len() + 3 > BROADCAST_BYTES_MAX {
                broadcast.publish(Bytes::from(format!("{letter}]}}")));
                letter = format!(r#"{{"v":{VERSION},"engine":{id},"notices":["#);
            } else if letter.len() > empty {
                letter.push(',');
            }
            letter.push_str(&text);
            next = notices.try_recv().ok();
        }
        broadcast.publish(Bytes::from(format!("{letter}]}}")));
    }
}

/// Tells watchers here what happens elsewhere.
async fn hear(engine: Arc<Engine>, mut subscription: Subscription) {
    while let Some(heard) = subscription.next().await {
        let letter = match heard {
            Heard::Missed => {
                engine.watchers.tell(Update::Missed);
                continue;
            }
            Heard::Message(bytes) => match serde_json::from_slice::<Letter>(&bytes) {
                Ok(letter) if letter.v <= VERSION => letter,
                Ok(Letter { v, .. }) => {
                    tracing::debug!(v, "a message of a newer engine is not understood");
                    engine.watchers.tell(Update::Missed);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "a message to all engines is not understood");
                    continue;
                }
            },
        };
        if letter.engine == engine.config().engine_id {
            continue;
        }
        if letter.missed {
            engine.watchers.tell(Update::Missed);
        }
        for notice in letter.notices {
            if matches!(notice, Notice::Watching) {
                let until = engine.now().plus(WATCHING_FOR_MS).as_millis();
                engine.talk.spread.wanted_until.fetch_max(until, Ordering::Relaxed);
            } else if let Some(update) = notice.update() {
                notify(&engine, update).await;
            }
        }
    }
}

async fn notify(engine: &Engine, update: Update) {
    if let Update::Elsewhere { execution, status, .. } = &update
        && status.is_terminal()
        && engine.watchers.waits_for(*execution)
    {
        match engine.store.load(&[*execution]).await {
            Ok(found) => {
                if let Some(ended) = found.into_iter().find(|found| found.is_terminal()) {
                    engine.watchers.ended(&Arc::new(ended));
                }
            }
            // Those who wait look at times, whatever they hear.
            Err(error) => tracing::debug!(%error, %execution, "an end elsewhere cannot be read"),
        }
    }
    engine.watchers.tell(update);
}
