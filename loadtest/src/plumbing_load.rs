//! Jobs that say more than anybody reads: progress and events at a given rate, over HTTP on the loopback interface, in an open
//! loop: each update has its instant, however long the one before it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use flowmonkey_core::ids::TaskId;
use flowmonkey_engine::Engine;
use flowmonkey_engine::store::{Durability, JobFilter};
use flowmonkey_engine::watch::Update;
use flowmonkey_plumbing::api::Progress;
use flowmonkey_plumbing::manifest::{Manifest, Mode};
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::embedded::{report, resident_kib, start};
use crate::harness::{Embedded, Options, Way, flow};

const HANDLER: &str = "chatter";
const FLOW: &str = "
id: chatter
version: 1.0.0
initialStepId: talk
steps:
  talk: { type: chatter, timeoutMs: 3600000 }
";
/// Between heartbeats of the jobs: the shortest that a worker takes to be of use in a short run.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between looks at how old the heartbeats are.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long what was promised may take into the record once everybody is silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events that are looked up at a time.
const PAGE: usize = 500;

/// What is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Tasks that talk at the same time.
    pub(crate) tasks: u16,
    /// Reports of progress a second, of all tasks together.
    pub(crate) progress: u32,
    /// Events a second, of all tasks together.
    pub(crate) events: u32,
    /// For how long.
    pub(crate) seconds: u16,
}

impl Load {
    /// How many of `rate` a second one task says, and how long it rests between two.
    fn share(&self, rate: u32) -> (u32, Duration) {
        let count = u64::from(rate) * u64::from(self.seconds) / u64::from(self.tasks);
        let rest = Duration::from_secs(self.seconds.into()) / u32::try_from(count).unwrap_or(u32::MAX).max(1);
        (u32::try_from(count).unwrap_or(u32::MAX), rest)
    }
}

/// What one task has said.
struct Said {
    task: TaskId,
    last_progress: Progress,
    acknowledged: Vec<String>,
}

/// Talks, and waits before it ends until somebody has looked.
struct Chatter {
    manifest: Manifest,
    load: Load,
    /// All have begun; all are silent; somebody has looked.
    together: Barrier,
    said: Mutex<Vec<Said>>,
    /// Microseconds from an event's instant to its answer.
    micros: Mutex<Histogram<u64>>,
    refused: AtomicU64,
    late: AtomicU64,
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::terminal("BENCHMARK_FAILED", error.to_string())
}

impl Chatter {
    async fn report(&self, task: &Task, began: Instant) -> Progress {
        let (count, rest) = self.load.share(self.load.progress);
        let mut last = Progress::default();
        for number in 1..=count {
            let due = began + rest * number;
            tokio::time::sleep_until(due).await;
            if due.elapsed() > rest {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            let percent = f64::from(number) * 100.0 / f64::from(count);
            last = Progress { percent, message: Some(format!("{number} of {count}")), ..Progress::default() };
            task.report(last.clone());
        }
        last
    }

    async fn emit(&self, task: &Task, began: Instant) -> Vec<String> {
        let (count, rest) = self.load.share(self.load.events);
        let mut acknowledged = Vec::new();
        for number in 1..=count {
            let due = began + rest * number;
            tokio::time::sleep_until(due).await;
            let id = format!("{}:{number}", task.idempotency_key());
            match task.emit_now_as(&*id, "load.told", json!({ "number": number })).await {
                Ok(()) => acknowledged.push(id),
                Err(_unknown) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.micros.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
        acknowledged
    }
}

#[async_trait]
impl Handler for Chatter {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let id = task.message.task_id.parse().map_err(broken)?;
        self.together.wait().await;
        let began = Instant::now();
        let (last_progress, acknowledged) = tokio::join!(self.report(task, began), self.emit(task, began));
        let said = Said { task: id, last_progress, acknowledged };
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(said);
        self.together.wait().await;
        self.together.wait().await;
        Ok(Completion::Success(None))
    }
}

/// The greatest age of a heartbeat of any job that runs; `seen` counts the jobs of the last look.
async fn oldest_heartbeat(engine: &Engine, tasks: usize) -> Result<(usize, u64)> {
    let filter = JobFilter { handler_type: Some(HANDLER.into()), max: tasks, ..JobFilter::default() };
    let jobs = engine.store().jobs(&filter).await?;
    let beats: Vec<_> = jobs.iter().filter_map(|job| job.last_heartbeat_at).collect();
    let now = engine.now();
    Ok((beats.len(), beats.iter().map(|at| now.since(*at)).max().unwrap_or(0)))
}

/// Counts what a watcher is shown until the engine stops.
async fn watch(mut updates: tokio::sync::broadcast::Receiver<Update>, shown: Arc<AtomicU64>) {
    loop {
        match updates.recv().await {
            Ok(Update::Progress { .. }) => {
                shown.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Tasks whose last progress is not (yet) in the record.
async fn missing_progress(engine: &Engine, said: &[Said]) -> Result<usize> {
    let mut missing = 0;
    for one in said {
        let row = engine.store().latest_progress(one.task).await?;
        missing += usize::from(row.is_none_or(|row| row.progress != one.last_progress));
    }
    Ok(missing)
}

/// Acknowledged events that are not in the record.
async fn missing_events(engine: &Engine, said: &[Said]) -> Result<usize> {
    let mut missing = 0;
    for page in said.iter().flat_map(|one| one.acknowledged.chunks(PAGE)) {
        missing += page.len() - engine.store().events_by_id(None, page).await?.len();
    }
    Ok(missing)
}

/// Has `load.tasks` jobs talk for `load.seconds`, then compares what they were promised with the record.
///
/// # Errors
/// When a task fails, or something that was promised is not in the record.
pub(crate) async fn plumbing_load(durability: Durability, load: Load) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tasks = usize::from(load.tasks);
    let manifest = Manifest {
        handler_type: HANDLER.into(),
        version: "1.0.0".into(),
        mode: Mode::Stateful,
        concurrency: Some(load.tasks.into()),
        ..Manifest::default()
    };
    let chatter = Arc::new(Chatter {
        manifest,
        load,
        together: Barrier::new(tasks + 1),
        said: Mutex::default(),
        micros: Mutex::new(Histogram::new(3)?),
        refused: AtomicU64::new(0),
        late: AtomicU64::new(0),
    });
    let options = Options { durability, concurrency: tasks, way: Way::Http, job_heartbeat: Some(HEARTBEAT) };
    let embedded = Embedded::open_with(folder.path(), options, chatter.clone()).await?;
    let flow = flow(FLOW)?;
    embedded.engine.publish(&flow).await?;
    let shown = Arc::new(AtomicU64::new(0));
    let mut beside = JoinSet::new();
    beside.spawn(watch(embedded.engine.watchers.follow(), shown.clone()));
    let mut executions = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        executions.push(embedded.engine.start(start(&flow, json!({}))).await?.id);
    }
    let begun = tokio::time::timeout(PATIENCE, chatter.together.wait()).await;
    begun.context("not all tasks have begun")?;
    let (began, before) = (Instant::now(), resident_kib());

    let silent = chatter.together.wait();
    tokio::pin!(silent);
    let (mut oldest, mut peak) = (0, before);
    loop {
        tokio::select! {
            _ = &mut silent => break,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let (beating, age) = oldest_heartbeat(&embedded.engine, tasks).await?;
                if beating == tasks {
                    oldest = oldest.max(age);
                }
                peak = peak.max(resident_kib());
            }
        }
    }
    let (seconds, after) = (began.elapsed().as_secs_f64(), resident_kib());
    let said = std::mem::take(&mut *chatter.said.lock().unwrap_or_else(PoisonError::into_inner));
    let end = Instant::now() + PATIENCE;
    let settled = Instant::now();
    let mut lost_progress = missing_progress(&embedded.engine, &said).await?;
    while lost_progress > 0 && Instant::now() < end {
        tokio::time::sleep(LOOK_EVERY).await;
        lost_progress = missing_progress(&embedded.engine, &said).await?;
    }
    let settling = settled.elapsed();
    let lost_events = missing_events(&embedded.engine, &said).await?;
    let acknowledged: usize = said.iter().map(|one| one.acknowledged.len()).sum();
    chatter.together.wait().await;
    for id in executions {
        let ended = embedded.end_of(id).await?;
        ensure!(ended.error().is_none(), "{:?}", ended.error());
    }
    let counters = &embedded.engine.talk.counters;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let figures = {
        let micros = chatter.micros.lock().unwrap_or_else(PoisonError::into_inner);
        let quantile = |quantile| micros.value_at_quantile(quantile);
        let reports = u64::from(load.share(load.progress).0) * u64::from(load.tasks);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (progress_rate, event_rate) = (reports as f64 / seconds, acknowledged as f64 / seconds);
        json!({
            "tasks": load.tasks,
            "seconds": seconds,
            "progress": {
                "reports": reports,
                "perSecond": progress_rate,
                "late": count(&chatter.late),
                "callsToEngine": count(&counters.progress_heard),
                "droppedByEngine": count(&counters.progress_dropped),
                "rowsStored": count(&counters.progress_stored),
                "shownToWatcher": count(&shown),
                "lastOfTaskLost": lost_progress,
                "settlingMillis": settling.as_secs_f64() * 1000.0,
            },
            "events": {
                "acknowledged": acknowledged,
                "perSecond": event_rate,
                "refused": count(&chatter.refused),
                "acknowledgedLost": lost_events,
                "p50Micros": quantile(0.5),
                "p99Micros": quantile(0.99),
                "maxMicros": micros.max(),
            },
            "heartbeats": {
                "everyMillis": u64::try_from(HEARTBEAT.as_millis())?,
                "maxAgeMillis": oldest,
            },
            "residentKib": { "before": before, "peak": peak, "after": after },
        })
    };
    report("plumbingLoad", durability, &figures);
    beside.shutdown().await;
    embedded.close().await;
    ensure!(lost_progress == 0, "the last progress of {lost_progress} tasks is lost");
    ensure!(lost_events == 0, "{lost_events} acknowledged events are lost");
    Ok(())
}
