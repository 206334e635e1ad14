//! Many who watch one engine, some of whom never read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::api::{ApiOptions, router, serve};
use flowmonkey_engine::store::Durability;
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::embedded::{WAITING, prepared, report, resident_kib, start};

/// What is measured.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Watchers {
    /// Connections that read. Each is two open files of this process.
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Connections that never read.
    #[arg(long, default_value_t = 50)]
    silent: usize,
    /// Executions; the connections share them evenly.
    #[arg(long, default_value_t = 1000)]
    executions: usize,
    /// Committed events a second, of all executions together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(address: SocketAddr, filter: Value) -> Result<Socket> {
    let (mut socket, _) = connect_async(format!("ws://{address}/v1/ws")).await?;
    let subscribe = json!({ "type": "subscribe", "id": "s", "filter": filter });
    socket.send(Message::text(subscribe.to_string())).await?;
    let answer = socket.next().await.context("it was closed")??;
    ensure!(answer.to_text()?.contains("subscribed"), "{answer}");
    Ok(socket)
}

/// Reads until the connection is closed: when each event came, against when it was committed.
async fn read(mut socket: Socket, heard: Arc<AtomicU64>) -> Result<Histogram<u64>> {
    let mut millis = Histogram::<u64>::new(3)?;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text)?;
        let Some(at) = event["at"].as_str().filter(|_| event["seq"].is_u64()) else { continue };
        let at = flowmonkey_core::time::Timestamp::parse_rfc3339(at).context("an instant")?;
        let delay = SystemClock.now_ms() - at.as_millis();
        millis.record(u64::try_from(delay).unwrap_or(0))?;
        heard.fetch_add(1, Ordering::Relaxed);
    }
    Ok(millis)
}

/// Connections, events at an even rate, and how late they come.
///
/// # Errors
/// When something fails, or an event does not come.
pub(crate) async fn watchers(durability: Durability, wanted: Watchers) -> Result<()> {
    let Watchers { connections, silent, executions, rate, seconds } = wanted;
    let folder = tempfile::tempdir()?;
    let (embedded, flow) = prepared(folder.path(), durability, WAITING).await?;
    let (end, tracker) = (CancellationToken::new(), TaskTracker::new());
    let options = ApiOptions { shutdown: end.clone(), work: tracker.clone(), ..ApiOptions::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tracker.spawn(serve(listener, router(embedded.engine.clone(), options), end.clone()));
    let mut ids: Vec<ExecutionId> = Vec::new();
    for n in 0..executions.max(1) {
        ids.push(embedded.engine.start(start(&flow, json!({ "n": n }))).await?.id);
    }
    let before = resident_kib();
    let heard = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for number in 0..connections {
        let id = ids[number % ids.len()];
        readers.spawn(read(connect(address, json!({ "executionId": id })).await?, heard.clone()));
    }
    let mut unread = Vec::new();
    for _ in 0..silent {
        // Everything, and nobody takes it.
        unread.push(connect(address, json!({})).await?);
    }
    let connected = resident_kib();
    let mut expected = 0;
    let events = u64::from(rate) * u64::from(seconds);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let began = Instant::now();
    let mut commits = JoinSet::new();
    for number in 0..events {
        tick.tick().await;
        let place = usize::try_from(number)? % ids.len();
        let id = ids[place];
        // One event each; an execution is paused and resumed in turn.
        let is_pause = (usize::try_from(number)? / ids.len()).is_multiple_of(2);
        let command = if is_pause { Command::Pause { reason: None } } else { Command::Unpause };
        expected += (connections / ids.len()) as u64 + u64::from(place < connections % ids.len());
        let engine = embedded.engine.clone();
        commits.spawn(async move { engine.command(id, command).await.map(drop) });
        while let Some(done) = commits.try_join_next() {
            done??;
        }
    }
    while let Some(done) = commits.join_next().await {
        done??;
    }
    let took = began.elapsed();
    let deadline = Instant::now() + Duration::from_secs(30);
    while heard.load(Ordering::Relaxed) < expected {
        ensure!(Instant::now() < deadline, "{} of {expected} came", heard.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let loaded = resident_kib();
    end.cancel();
    let mut millis = Histogram::<u64>::new(3)?;
    while let Some(reader) = readers.join_next().await {
        millis.add(reader??)?;
    }
    drop(unread);
    report(
        "watchers",
        durability,
        &json!({
            "connections": connections,
            "silent": silent,
            "executions": ids.len(),
            "events": events,
            "eventsPerSecond": f64::from(rate) * f64::from(seconds) / took.as_secs_f64(),
            "messages": expected,
            "p50Millis": millis.value_at_quantile(0.5),
            "p99Millis": millis.value_at_quantile(0.99),
            "maxMillis": millis.max(),
            "residentKibBefore": before,
            "residentKibConnected": connected,
            "residentKibLoaded": loaded,
        }),
    );
    tracker.close();
    tracker.wait().await;
    embedded.close().await;
    Ok(())
}
