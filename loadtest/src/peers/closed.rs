//! A closed loop over HTTP, for servers that are asked as ours is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::processes::Processes;
use super::question::{Closed, OneByOne};
use crate::client::Client;
use crate::load::{histogram, percentiles};

/// A request, and the only answer that is right.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) answer: String,
}

impl Call {
    /// # Errors
    /// When the answer is another one.
    async fn make(&self, client: &mut Client) -> Result<()> {
        let request = client.request(Method::POST, &self.path, self.body.clone().into())?;
        let (status, answer) = client.send(request).await?;
        anyhow::ensure!(
            status == StatusCode::OK && answer == self.answer.as_bytes(),
            "{status}: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }
}

/// One after the other, over one connection.
///
/// # Errors
/// When an answer is wrong.
pub(crate) async fn one_by_one(client: &mut Client, call: &Call, asked: OneByOne) -> Result<Value> {
    let most = Duration::from_secs(asked.seconds_at_most.into());
    let mut micros = histogram()?;
    for (count, counts) in [(asked.warm_up, false), (asked.executions, true)] {
        let ends = Instant::now() + most;
        for _ in 0..count {
            let began = Instant::now();
            if began >= ends {
                break;
            }
            call.make(client).await?;
            if counts {
                micros.record(u64::try_from(began.elapsed().as_micros())?)?;
            }
        }
    }
    Ok(percentiles(&micros))
}

/// Clients that each wait for the answer and ask again.
///
/// # Errors
/// When an answer is wrong.
pub(crate) async fn closed(
    address: SocketAddr,
    tracker: &TaskTracker,
    call: &Call,
    asked: Closed,
    processes: &Processes,
) -> Result<Value> {
    let mut connected = Vec::new();
    for _ in 0..asked.clients {
        connected.push(Client::connect(address, tracker).await?);
    }
    let opens = Instant::now() + Duration::from_secs(asked.warm_up_seconds.into());
    let closes = opens + Duration::from_secs(asked.seconds.into());
    let mut running = JoinSet::new();
    for mut client in connected {
        let call = call.clone();
        running.spawn(async move {
            let mut executions: u32 = 0;
            while Instant::now() < closes {
                call.make(&mut client).await?;
                let now = Instant::now();
                executions += u32::from(now >= opens && now < closes);
            }
            anyhow::Ok(executions)
        });
    }
    sleep_until(opens).await;
    let before = processes.cpu_seconds();
    sleep_until(closes).await;
    let used = processes.cpu_seconds() - before;
    let mut executions: u32 = 0;
    while let Some(client) = running.join_next().await {
        executions += client??;
    }
    let per_second = f64::from(executions) / f64::from(asked.seconds);
    Ok(json!({ "executions": executions, "executionsPerSecond": per_second, "cpuSeconds": used }))
}
