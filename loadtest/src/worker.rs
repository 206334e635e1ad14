//! A worker as a process, with handlers that do nothing, or sleep, or fail once if their step says so.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::http::{HttpPlumbing, HttpPlumbingConfig};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_worker::{Completion, Failure, Handler, Registry, Task, Worker, WorkerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::flows::{FAILS_ONCE, handler_type};
use crate::system::WORKS;

/// How long exchanges with queue and engines may take to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What a worker of a system is told.
#[derive(clap::Args)]
pub(crate) struct WorkerArguments {
    #[arg(long)]
    redis: String,
    #[arg(long, value_delimiter = ',')]
    engine: Vec<String>,
    #[arg(long)]
    name: String,
    #[arg(long)]
    concurrency: u16,
    #[arg(long)]
    handler_ms: u64,
    #[arg(long)]
    handler_types: u16,
}

struct Noop {
    manifest: Manifest,
    takes: Duration,
}

#[async_trait]
impl Handler for Noop {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        if task.message.attempt == 1 && task.config().get(FAILS_ONCE).is_some() {
            return Err(Failure::new("ASKED_FOR", "the first attempt fails"));
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        Ok(Completion::Success(Some(task.input().clone())))
    }
}

/// Works until SIGTERM.
///
/// # Errors
/// When the queues cannot be reached.
pub(crate) async fn work(arguments: WorkerArguments) -> Result<()> {
    let WorkerArguments { redis, engine, name, concurrency, handler_ms, handler_types } = arguments;
    let mut registry = Registry::new();
    for number in 0..handler_types {
        registry.register(Arc::new(Noop {
            manifest: Manifest {
                handler_type: handler_type(number.into()),
                version: "1.0.0".into(),
                ..Manifest::default()
            },
            takes: Duration::from_millis(handler_ms),
        }))?;
    }
    let plumbing = Arc::new(HttpPlumbing::new(HttpPlumbingConfig::new(&engine))?);
    let queue = RedisQueue::new(RedisOptions::new(redis))?;
    queue.reach().await?;
    let queue = Arc::new(queue);
    let config = WorkerConfig { concurrency: concurrency.into(), ..WorkerConfig::new(name) };
    let mut end = signal(SignalKind::terminate())?;
    let worker =
        Worker::new(config, registry, queue.clone(), plumbing.clone(), Arc::new(SystemClock))?.start()?;
    println!("{WORKS}");
    std::io::stdout().flush()?;
    end.recv().await;
    worker.drain(CLOSE_MAX).await;
    plumbing.close(CLOSE_MAX).await;
    queue.close(CLOSE_MAX).await;
    Ok(())
}
