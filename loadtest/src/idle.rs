//! What the embedded engine takes when nothing happens: `flowmonkey dev` as a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::progress::Progress;
use crate::report::report;
use crate::system::dev;
use crate::system::usage::{memory_kib, threads};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Idle {
    /// Seconds without anything to do before each look
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Executions of three steps between the two looks, one after the other
    #[arg(long, default_value_t = 1000)]
    executions: u64,
    /// The program to measure [default: `flowmonkey` beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Default for Idle {
    /// As without any argument.
    fn default() -> Self {
        Self { seconds: 10, executions: 1000, program: None }
    }
}

/// A flow of stock handlers.
fn flow() -> serde_json::Value {
    let step = |next: Option<&str>| {
        json!({
            "type": "transform", "config": { "operations": [] }, "input": { "type": "keys", "keys": ["n"] },
            "outputKey": "done", "transitions": { "onSuccess": next },
        })
    };
    json!({
        "id": "three", "version": "1.0.0", "initialStepId": "a",
        "steps": { "a": step(Some("b")), "b": step(Some("c")), "c": step(None) },
    })
}

/// Memory and threads before anything has happened, and after some work.
///
/// # Errors
/// When it does not start, or an execution does not complete.
pub(crate) async fn idle(wanted: Idle) -> Result<()> {
    let Idle { seconds, executions, program: named } = wanted;
    let (dev, address) = dev(named).await?;
    let rest = Duration::from_secs(seconds);
    let progress = Progress::of("idle", executions);
    sleep(rest).await;
    let (before, threads_before) = (memory_kib(dev.pid()), threads(dev.pid()));
    let mut client = Client::connect(address, &TaskTracker::new()).await?;
    client.publish(&flow()).await?;
    for n in 0..executions {
        client.run(Bytes::from(format!(r#"{{"flowId":"three","input":{{"n":{n}}}}}"#))).await?;
        progress.one();
    }
    progress.end();
    drop(client);
    sleep(rest).await;
    let figures = json!({
        "memoryKib": before,
        "threads": threads_before,
        "executions": executions,
        "memoryKibAfterwards": memory_kib(dev.pid()),
        "threadsAfterwards": threads(dev.pid()),
    });
    report("idle", &json!({ "program": "dev" }), &figures);
    dev.stop().await;
    Ok(())
}
