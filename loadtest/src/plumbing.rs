//! What each call of the plumbing APIs costs a running handler: in process, and over HTTP on the loopback interface.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use flowmonkey_engine::store::Durability;
use flowmonkey_plumbing::api::{PlumbingError, Progress};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::wire::{ContextOperation, LogLevel};
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::embedded::{report, start};
use crate::harness::{Embedded, Options, Way, flow};

/// Rows of the context, about 130 bytes each: too many to travel with the task.
const ROWS: usize = 2000;

const FLOW: &str = "
id: plumbing
version: 1.0.0
initialStepId: call
steps:
  call: { type: callers, context: full, timeoutMs: 600000 }
";

/// Makes all calls, one after the other, and keeps what they took.
struct Callers {
    manifest: Manifest,
    calls: usize,
    figures: Mutex<Map<String, Value>>,
}

/// Nanoseconds of the calls of one API.
struct Timed {
    nanos: Histogram<u64>,
}

impl Timed {
    fn new() -> Result<Self, Failure> {
        Ok(Self { nanos: Histogram::new(3).map_err(broken)? })
    }

    fn add(&mut self, since: Instant) -> Result<(), Failure> {
        self.nanos.record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)).map_err(broken)
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn figures(&self) -> Value {
        let micros = |quantile| self.nanos.value_at_quantile(quantile) as f64 / 1000.0;
        json!({ "p50Micros": micros(0.5), "p99Micros": micros(0.99) })
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::terminal("BENCHMARK_FAILED", error.to_string())
}

fn refused(error: PlumbingError) -> Failure {
    broken(error)
}

impl Callers {
    fn keep(&self, name: &str, timed: &Timed) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.insert(name.to_owned(), timed.figures());
    }
}

#[async_trait]
impl Handler for Callers {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let mut timed = Timed::new()?;
        for call in 0..self.calls {
            // Each path once: what was read is kept by the task.
            let path = format!("rows.r{}.n{}", call % ROWS, call / ROWS);
            let began = Instant::now();
            task.read_context(&path).await.map_err(refused)?;
            timed.add(began)?;
        }
        self.keep("contextRead", &timed);

        let mut timed = Timed::new()?;
        for call in 0..self.calls {
            let set = ContextOperation::Set { path: format!("staged.k{call}"), value: json!(call) };
            let began = Instant::now();
            task.stage_context(vec![set]).await.map_err(refused)?;
            timed.add(began)?;
        }
        self.keep("contextStage", &timed);

        for (name, bytes) in [("checkpointSave1KiB", 1 << 10), ("checkpointSave512KiB", 512 << 10)] {
            let mut timed = Timed::new()?;
            for call in 0..self.calls {
                let data = json!({ "call": call, "data": "x".repeat(bytes) });
                let began = Instant::now();
                task.save_checkpoint(data).await.map_err(refused)?;
                timed.add(began)?;
            }
            self.keep(name, &timed);
        }

        task.save_checkpoint(json!({ "data": "x".repeat(1 << 10) })).await.map_err(refused)?;
        let mut timed = Timed::new()?;
        for _ in 0..self.calls {
            let began = Instant::now();
            task.load_checkpoint().await.map_err(refused)?;
            timed.add(began)?;
        }
        self.keep("checkpointLoad1KiB", &timed);

        let mut timed = Timed::new()?;
        for call in 0..self.calls {
            let began = Instant::now();
            task.emit_now("bench.called", json!({ "call": call })).await.map_err(refused)?;
            timed.add(began)?;
        }
        self.keep("eventEmit", &timed);

        let mut timed = Timed::new()?;
        for call in 0..self.calls {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let percent = call as f64 * 100.0 / self.calls as f64;
            let began = Instant::now();
            task.report(Progress { percent, ..Progress::default() });
            timed.add(began)?;
        }
        self.keep("progressReport", &timed);

        let mut timed = Timed::new()?;
        for call in 0..self.calls {
            let began = Instant::now();
            task.log(LogLevel::Info, format!("call {call}"));
            timed.add(began)?;
        }
        self.keep("log", &timed);
        Ok(Completion::Success(None))
    }
}

/// Runs one task that makes `calls` calls of each kind, in process and over HTTP.
///
/// # Errors
/// When a call fails.
pub(crate) async fn plumbing(durability: Durability, calls: usize) -> Result<()> {
    for (name, way) in [("plumbingInProcess", Way::InProcess), ("plumbingOverHttp", Way::Http)] {
        let folder = tempfile::tempdir()?;
        let manifest =
            Manifest { handler_type: "callers".into(), version: "1.0.0".into(), ..Manifest::default() };
        let callers = Arc::new(Callers { manifest, calls, figures: Mutex::default() });
        let options = Options { durability, concurrency: 1, way, job_heartbeat: None };
        let embedded = Embedded::open_with(folder.path(), options, callers.clone()).await?;
        let flow = flow(FLOW)?;
        embedded.engine.publish(&flow).await?;
        let row = |number: usize| (format!("r{number}"), json!({ "text": "x".repeat(120), "n0": number }));
        let rows: Map<String, Value> = (0..ROWS).map(row).collect();
        let started = embedded.engine.start(start(&flow, json!({ "rows": rows }))).await?;
        let ended = embedded.end_of(started.id).await?;
        if let Some(error) = ended.error() {
            return Err(anyhow!("{}: {}", error.code, error.message));
        }
        let figures = callers.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report(name, durability, &json!({ "calls": calls, "of": figures }));
        embedded.close().await;
    }
    Ok(())
}
