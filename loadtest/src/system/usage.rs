//! What a system uses: processor time, memory, and what it asks of its servers. From Linux' `/proc` and the servers' books.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection, Row};

use super::System;

/// Processor time is counted in these: `USER_HZ`, which is 100 on all Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was used up to an instant.
pub(crate) struct Usage {
    at: Instant,
    /// Seconds of processor time by role.
    cpu: BTreeMap<&'static str, f64>,
    /// By name: what Postgres and Redis count.
    counted: BTreeMap<&'static str, f64>,
}

impl Usage {
    /// What `system` has used until now.
    ///
    /// # Errors
    /// When a server does not answer.
    pub(crate) async fn of(system: &System) -> Result<Self> {
        let mut cpu = BTreeMap::new();
        for (role, pids) in system.pids() {
            *cpu.entry(role).or_insert(0.0) += pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum::<f64>();
        }
        let mut counted = postgres(&system.database_url()).await?;
        counted.extend(redis(system).await?);
        Ok(Self { at: Instant::now(), cpu, counted })
    }

    /// What was used since `before`: in whole for processor time, for each of `steps` for what is counted.
    pub(crate) fn since(&self, before: &Self, steps: f64) -> Value {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let mut cores = Map::new();
        let mut total = 0.0;
        for (role, now) in &self.cpu {
            let used = now - before.cpu.get(role).copied().unwrap_or_default();
            total += used;
            cores.insert((*role).into(), rounded(used / seconds));
        }
        cores.insert("all".into(), rounded(total / seconds));
        let per_step: Map<String, Value> = self
            .counted
            .iter()
            .map(|(name, now)| {
                let used = now - before.counted.get(name).copied().unwrap_or_default();
                ((*name).to_owned(), rounded(used / steps))
            })
            .collect();
        json!({
            "cores": cores,
            "cpuMicrosPerStep": rounded(total * 1e6 / steps),
            "perStep": per_step,
        })
    }
}

/// Three digits after the point are enough for people.
pub(crate) fn rounded(figure: f64) -> Value {
    json!((figure * 1000.0).round() / 1000.0)
}

/// Processor time of a process and of those of its children that have ended.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold blanks and brackets itself: proc(5). utime, stime, cutime and cstime are fields 14 to 17,
    // and the state, which comes first here, is the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u32 =
        rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u32>().ok()).sum();
    Some(f64::from(ticks) / TICKS_PER_SECOND)
}

/// The processes that `parent` has made and that live.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    listed.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// KiB of memory that is a process' own share: pages that several use are divided among them.
pub(crate) fn memory_kib(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Threads of a process.
pub(crate) fn threads(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:"))?.trim().parse().ok()
}

async fn postgres(url: &str) -> Result<BTreeMap<&'static str, f64>> {
    let mut connection = PgConnection::connect(url).await?;
    // Counters reach the views late unless their backends are told to hurry; a second of many is no matter here.
    let row = sqlx::query(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 AS wal,
                (SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()) AS commits,
                (SELECT COALESCE(SUM(n_tup_ins), 0)::float8 FROM pg_stat_user_tables) AS inserted,
                (SELECT COALESCE(SUM(n_tup_upd), 0)::float8 FROM pg_stat_user_tables) AS updated,
                (SELECT COALESCE(SUM(n_tup_hot_upd), 0)::float8 FROM pg_stat_user_tables) AS hot,
                (SELECT COALESCE(SUM(n_tup_del), 0)::float8 FROM pg_stat_user_tables) AS deleted,
                pg_database_size(current_database())::float8 AS size",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    let mut counted = BTreeMap::new();
    for (name, column) in [
        ("walBytes", "wal"),
        ("transactions", "commits"),
        ("rowsInserted", "inserted"),
        ("rowsUpdated", "updated"),
        ("rowsUpdatedInPlace", "hot"),
        ("rowsDeleted", "deleted"),
        ("databaseBytes", "size"),
    ] {
        counted.insert(name, row.try_get(column)?);
    }
    Ok(counted)
}

async fn redis(system: &System) -> Result<BTreeMap<&'static str, f64>> {
    let info: String = ::redis::from_redis_value(system.redis().command(&["INFO", "stats"]).await)?;
    let field = |name: &str| -> Result<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.context("a field that Redis does not know")?.trim().parse().context("a number")
    };
    Ok(BTreeMap::from([
        ("redisCommands", field("total_commands_processed")?),
        ("redisBytesIn", field("total_net_input_bytes")?),
        ("redisBytesOut", field("total_net_output_bytes")?),
    ]))
}
