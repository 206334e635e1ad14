//! Postgres: the server, its settings, and the record in it.

use std::time::Duration;

use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::{
    Inspection, POSTGRES_SCHEMA_VERSION, PostgresOptions, ServerFacts, StoreError,
};
use flowmonkey_plumbing::clock::SystemClock;

use super::{Findings, State};
use crate::args::DatabaseArgs;
use crate::distributed::connect;
use crate::errors::chain;

/// How long a server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The oldest server that engines work with, as servers number themselves.
const OLDEST_SERVER: i64 = 150_000;
/// Milliseconds that clocks may differ before a person should know. Engines follow the database's clock: this does no harm
/// to executions, only to whoever compares log lines.
const CLOCK_DIFFERENCE_MAX_MS: i64 = 1000;
/// Connections that an engine opens at most, by default.
const CONNECTIONS_OF_AN_ENGINE: i64 = 16;
/// Dead rows of one table below which their share says nothing.
const DEAD_ROWS_MIN: i64 = 10_000;
/// Dead rows for each living one above which vacuuming does not keep up: the tables keep room for as many again.
const DEAD_SHARE_MAX: i64 = 2;
/// Executions whose causes are looked for.
const CAUSES_MAX: usize = 100_000;
/// Executions without a cause that are named in one line.
const NAMED_MAX: usize = 3;

/// Looks at the server and at the record. Gives the connection when more can be asked.
pub(super) async fn look(findings: &mut Findings, args: &DatabaseArgs, now: Timestamp) -> Option<Inspection> {
    let options = PostgresOptions { patience: PATIENCE, ..connect::database_options(args) };
    let mut inspection = match Inspection::begin(&options, &SystemClock).await {
        Ok(inspection) => inspection,
        Err(error) => {
            let check = match &error {
                StoreError::Schema { .. } => "schema",
                StoreError::Unavailable { .. }
                | StoreError::Full { .. }
                | StoreError::Corrupt { .. }
                | StoreError::Internal { .. } => "postgres",
            };
            findings.add(check, State::Bad, chain(&error));
            return None;
        }
    };
    server(findings, &inspection.server);
    settings(findings, &inspection.server);
    if !schema(findings, inspection.server.schema) {
        inspection.end().await;
        return None;
    }
    if let Err(error) = record(findings, &mut inspection, now).await {
        findings.add("record", State::Bad, chain(&error));
        inspection.end().await;
        return None;
    }
    Some(inspection)
}

fn server(findings: &mut Findings, server: &ServerFacts) {
    let mib = server.bytes / (1 << 20);
    let text = format!("Postgres {}, the database has {mib} MiB", server.version);
    if server.version_number < OLDEST_SERVER {
        let oldest = OLDEST_SERVER / 10_000;
        findings.add("postgres", State::Bad, format!("{text}; engines need {oldest} or later"));
    } else if server.only_read {
        let text = format!("{text}; it can only be read: it is a standby or set so; name the primary");
        findings.add("postgres", State::Bad, text);
    } else {
        findings.add("postgres", State::Good, text);
    }
    let ahead = server.clock_ahead_ms;
    let text = format!("the database's clock differs by {} ms from the one here", ahead.abs());
    if ahead.abs() > CLOCK_DIFFERENCE_MAX_MS {
        let text =
            format!("{text}; engines follow the database's, but mend it (NTP): log lines will not match");
        findings.add("clocks", State::Warning, text);
    } else {
        findings.add("clocks", State::Good, text);
    }
    let free = server.connections_max - server.connections;
    let text = format!("{free} of {} connections are free", server.connections_max);
    if free <= 0 {
        findings.add(
            "connections",
            State::Bad,
            format!("{text}: engines cannot connect; raise max_connections"),
        );
    } else if free < CONNECTIONS_OF_AN_ENGINE {
        let text = format!(
            "{text}; an engine opens up to {CONNECTIONS_OF_AN_ENGINE}: raise max_connections, or use a pooler"
        );
        findings.add("connections", State::Warning, text);
    } else {
        findings.add("connections", State::Good, text);
    }
}

/// The settings on which the record's promises rest.
fn settings(findings: &mut Findings, server: &ServerFacts) {
    let good = findings.0.len();
    if !server.fsync {
        let text = "fsync is off: a crash of the machine may destroy the whole database; set `fsync = on`";
        findings.add("settings", State::Bad, text);
    }
    if !server.full_page_writes {
        let text = "full_page_writes is off: a crash of the machine may leave torn pages, unless the disk writes pages \
                    as a whole; set `full_page_writes = on`";
        findings.add("settings", State::Warning, text);
    }
    if server.synchronous_commit == "off" {
        let text = "synchronous_commit is off: a crash loses the last steps, and handlers run again for them; set \
                    `synchronous_commit = on`";
        findings.add("settings", State::Warning, text);
    }
    if !server.autovacuum {
        let text = "autovacuum is off: dead rows stay, and every step gets slower; set `autovacuum = on` and \
                    `track_counts = on`";
        findings.add("settings", State::Bad, text);
    }
    if server.resting_transactions > 0 {
        let text = format!(
            "{} transactions have rested for more than a minute: dead rows stay until they end (pg_stat_activity)",
            server.resting_transactions
        );
        findings.add("settings", State::Warning, text);
    }
    if findings.0.len() == good {
        let text = format!(
            "fsync, full_page_writes and autovacuum are on, synchronous_commit is {}",
            server.synchronous_commit
        );
        findings.add("settings", State::Good, text);
    }
}

/// Whether the record can be looked at.
fn schema(findings: &mut Findings, found: i64) -> bool {
    let needed = POSTGRES_SCHEMA_VERSION;
    if found == needed {
        findings.add("schema", State::Good, format!("version {found}"));
        return true;
    }
    if found > needed {
        let text = format!("version {found}, of a newer release; this one ({needed}) may run on it");
        findings.add("schema", State::Good, text);
        return true;
    }
    let text = if found == 0 {
        "there is no record yet; `flowmonkey migrate` or the first engine makes it".to_owned()
    } else {
        format!(
            "version {found}, this program needs {needed}; `flowmonkey migrate` or the first engine brings it up"
        )
    };
    findings.add("schema", State::Warning, text);
    false
}

async fn record(
    findings: &mut Findings,
    inspection: &mut Inspection,
    now: Timestamp,
) -> Result<(), StoreError> {
    let counts = inspection.counts().await?;
    let words: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let text = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    findings.add("executions", State::Good, text);
    // The record's instants are those of the database.
    let now = Timestamp::from_millis(now.as_millis().saturating_add(inspection.server.clock_ahead_ms));
    let causes = inspection.causes(now, CAUSES_MAX).await?;
    let looked =
        format!("{}{} that have not ended", causes.looked_at, if causes.more { " of those" } else { "" });
    if causes.without == 0 {
        findings.add("causes", State::Good, format!("{looked}: each has something that moves it"));
    } else {
        let named: Vec<String> =
            causes.named.iter().take(NAMED_MAX).map(|(id, missing)| format!("{id}: {missing}")).collect();
        let text = format!("{looked}: nothing moves {}; {}", causes.without, named.join("; "));
        findings.add("causes", State::Bad, text);
    }
    dead_rows(findings, inspection).await
}

async fn dead_rows(findings: &mut Findings, inspection: &mut Inspection) -> Result<(), StoreError> {
    let tables = inspection.tables().await?;
    let mut bloated = tables
        .iter()
        .filter(|table| table.dead > DEAD_ROWS_MIN && table.dead > table.live.saturating_mul(DEAD_SHARE_MAX));
    let dead: i64 = tables.iter().map(|table| table.dead).sum();
    let live: i64 = tables.iter().map(|table| table.live).sum();
    if let Some(worst) = bloated.next() {
        let others = bloated.count();
        let more = if others == 0 { String::new() } else { format!(", and {others} more tables") };
        let text = format!(
            "{} has {} dead rows for {} living ones{more}: vacuuming does not keep up; look for old transactions, or run \
             VACUUM {}",
            worst.name, worst.dead, worst.live, worst.name
        );
        findings.add("dead rows", State::Warning, text);
    } else {
        findings.add("dead rows", State::Good, format!("about {dead} for {live} living ones"));
    }
    Ok(())
}
