//! Executions that wait in Postgres: what they take of an engine's memory, and of the throughput of others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use flowmonkey_core::ids::ExecutionId;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::types::Uuid;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Chain, Time, prepare, record};
use crate::flows;
use crate::load::closed;
use crate::progress::Progress;
use crate::system::System;
use crate::system::usage::rounded;

/// Steps of the flow beside them.
const STEPS: u16 = 3;
/// At a time.
const CLIENTS: usize = 256;
/// Connections for the starts.
const STARTERS: usize = 64;
/// Executions of one statement.
const CHUNK: i64 = 50_000;
/// Until an engine that does nothing has given back what it does not need.
const SETTLE: Duration = Duration::from_secs(15);
/// Of those that wait so many are told to go on, as a proof that they could.
const SIGNALLED: i64 = 10;
/// Until an execution that was told to go on has ended.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Executions that wait in Postgres.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Waiting {
    /// Executions
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    executions: u32,
    /// Of them, those that are started as others are; the rest are copies that the engine has never seen
    #[arg(long, default_value_t = 100_000)]
    started: u32,
    #[command(flatten)]
    time: Time,
}

pub(super) async fn waiting(system: &mut System, wanted: Waiting) -> Result<Value> {
    let Waiting { executions, started, time } = wanted;
    let started = started.clamp(1, executions);
    let chain = Chain { steps: STEPS, bytes: 0, versions: 1 };
    system.client(0).await?.publish(&flows::waiting()).await?;
    let idle = settled(system).await;
    let before = closed(system, CLIENTS, time.window(), prepare(system, &chain, 1).await?).await?;
    let without = settled(system).await;
    let starting = Instant::now();
    start(system, started).await?;
    let starting = starting.elapsed();
    let with_started = settled(system).await;
    let filling = Instant::now();
    let mut connection = record::connect(system).await?;
    fill(&mut connection, started, executions).await?;
    let filling = filling.elapsed();
    let with_all = settled(system).await;
    let there = record::under_way(&mut connection, 0).await?.executions;
    ensure!(there == u64::from(executions), "{there} executions wait, not {executions}");
    let after = closed(system, CLIENTS, time.window(), prepare(system, &chain, 1).await?).await?;
    let after_load = settled(system).await;
    let restarting = Instant::now();
    system.replace_engine().await?;
    let restarted_after = restarting.elapsed();
    let restarted = settled(system).await;
    signal_some(system, &mut connection).await?;
    let tables = record::table_bytes(&mut connection).await?;
    connection.close().await?;
    let memory = |of: &Value| of["engine"].as_i64().unwrap_or_default();
    Ok(json!({
        "executions": executions,
        "started": started,
        "startsPerSecond": rounded(f64::from(started) / starting.as_secs_f64()),
        "fillSeconds": filling.as_secs(),
        "before": before.told(STEPS.into())?,
        "with": after.told(STEPS.into())?,
        "throughputToBefore": rounded(after.rate() / before.rate()),
        "memoryKib": {
            "idle": idle, "withoutWaiting": without, "withStarted": with_started, "withAll": with_all,
            "withAllAfterLoad": after_load, "restartedOnAll": restarted,
        },
        "engineGrowthKib": {
            "byStarted": memory(&with_started) - memory(&without),
            "byAll": memory(&with_all) - memory(&without),
            "byAllAfterLoad": memory(&after_load) - memory(&without),
            "restartedToIdle": memory(&restarted) - memory(&idle),
        },
        "restartMillis": rounded(restarted_after.as_secs_f64() * 1000.0),
        "tableBytes": tables,
    }))
}

/// Memory, once nothing has happened for a while.
async fn settled(system: &System) -> Value {
    sleep(SETTLE).await;
    system.memory()
}

/// Starts so many by the API.
async fn start(system: &System, executions: u32) -> Result<()> {
    let progress = Progress::of("starts", executions.into());
    let mut running = JoinSet::new();
    for number in 0..STARTERS {
        let mut client = system.client(number).await?;
        let progress = progress.clone();
        running.spawn(async move {
            for n in (number..usize::try_from(executions)?).step_by(STARTERS) {
                client.start(Bytes::from(format!(r#"{{"flowId":"waiting","input":{{"n":{n}}}}}"#))).await?;
                progress.one();
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = running.join_next().await {
        client??;
    }
    progress.end();
    Ok(())
}

/// Copies one that waits until there are so many.
async fn fill(connection: &mut PgConnection, from: u32, to: u32) -> Result<()> {
    let template: Uuid = sqlx::query_scalar(
        "SELECT id FROM fm_executions WHERE status = 'waiting' AND flow_id = 'waiting' LIMIT 1",
    )
    .fetch_one(&mut *connection)
    .await
    .context("an execution that waits")?;
    let progress = Progress::of("copies", (to - from).into());
    let mut next = i64::from(from);
    while next < i64::from(to) {
        let last = (next + CHUNK).min(i64::from(to)) - 1;
        let fill = sqlx::query(include_str!("waiting_fill.sql")).bind(template).bind(next).bind(last);
        fill.execute(&mut *connection).await?;
        progress.many(u64::try_from(last - next + 1)?);
        next = last + 1;
    }
    // What a server that has had time has done, too.
    for statement in ["VACUUM ANALYZE fm_executions, fm_history, fm_timers", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut *connection).await?;
    }
    progress.end();
    Ok(())
}

/// Tells some of those that were created last, or copied, that they may go on, and waits for their ends.
async fn signal_some(system: &System, connection: &mut PgConnection) -> Result<()> {
    let some: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM fm_executions WHERE status = 'waiting' AND flow_id = 'waiting' ORDER BY md5(id::text) LIMIT $1",
    )
    .bind(SIGNALLED)
    .fetch_all(connection)
    .await?;
    let mut client = system.client(0).await?;
    for id in some {
        let id = ExecutionId::from_uuid(id);
        let body = Bytes::from_static(br#"{"name":"shipped"}"#);
        let request = client.request(Method::POST, &format!("/v1/executions/{id}:signal"), body)?;
        let (status, answer) = client.send(request).await?;
        ensure!(status == StatusCode::OK, "{id}: {status}: {}", String::from_utf8_lossy(&answer));
        let path = format!("/v1/executions/{id}?wait={}", END_WITHIN.as_secs());
        let ended = client.get(&path).await?;
        ensure!(ended["status"] == "completed", "{ended}");
    }
    Ok(())
}
