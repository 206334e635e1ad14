//! What the record says: what is under way, when executions ended, whether each ended once, and how large the tables are. Read
//! straight from Postgres, beside the engines or after the load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowmonkey_core::ids::ExecutionId;
use futures_util::TryStreamExt;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use sqlx::types::Uuid;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::{Instant, sleep};

use crate::load::histogram;
use crate::system::System;

/// Between two looks at what has not ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Connects to the record.
///
/// # Errors
/// When it does not answer.
pub(super) async fn connect(system: &System) -> Result<PgConnection> {
    Ok(PgConnection::connect(&system.database_url()).await?)
}

/// What has not ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    /// Executions.
    pub(super) executions: u64,
    /// Those of them whose task is out: it waits for a worker, or one runs it.
    pub(super) tasks: u64,
    /// Those that have not moved since an instant.
    pub(super) still: u64,
}

/// Counts what has not ended.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn under_way(connection: &mut PgConnection, since_ms: i64) -> Result<UnderWay> {
    let row = sqlx::query(
        "SELECT count(*), count(*) FILTER (WHERE task_out), count(*) FILTER (WHERE updated_at < $1)
        FROM fm_executions WHERE ended_at IS NULL",
    );
    let row = row.bind(since_ms).fetch_one(connection).await?;
    let count = |place: usize| -> Result<u64> { Ok(u64::try_from(row.try_get::<i64, _>(place)?)?) };
    Ok(UnderWay { executions: count(0)?, tasks: count(1)?, still: count(2)? })
}

/// Waits until nothing is under way; what is left then.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn drained(system: &System, within: Duration) -> Result<u64> {
    let deadline = Instant::now() + within;
    let mut connection = connect(system).await?;
    loop {
        let left = under_way(&mut connection, 0).await?.executions;
        if left == 0 || Instant::now() >= deadline {
            connection.close().await?;
            return Ok(left);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// When an execution was created and when it ended, by the engines' clock, which is that of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) created_ms: i64,
    pub(super) ended_ms: Option<i64>,
}

/// All roots by id.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn spans(connection: &mut PgConnection) -> Result<HashMap<ExecutionId, Span>> {
    let statement = "SELECT id, created_at, ended_at FROM fm_executions WHERE parent_id IS NULL";
    let mut rows = sqlx::query(statement).fetch(connection);
    let mut spans = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let id = ExecutionId::from_uuid(row.try_get::<Uuid, _>(0)?);
        spans.insert(id, Span { created_ms: row.try_get(1)?, ended_ms: row.try_get(2)? });
    }
    Ok(spans)
}

/// Roots by status.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn statuses(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>> {
    let statement = "SELECT status, count(*) FROM fm_executions WHERE parent_id IS NULL GROUP BY status";
    let rows: Vec<(String, i64)> = sqlx::query_as(statement).fetch_all(connection).await?;
    rows.into_iter().map(|(status, count)| Ok((status, u64::try_from(count)?))).collect()
}

/// Roots that ended in each interval from an instant on, up to another.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn ends_by_interval(
    connection: &mut PgConnection,
    from_ms: i64,
    to_ms: i64,
    interval_ms: i64,
) -> Result<Vec<u64>> {
    let statement = sqlx::query_as(
        "SELECT (ended_at - $1) / $3, count(*) FROM fm_executions
        WHERE parent_id IS NULL AND ended_at >= $1 AND ended_at < $2 GROUP BY 1",
    );
    let statement = statement.bind(from_ms).bind(to_ms).bind(interval_ms);
    let found: Vec<(i64, i64)> = statement.fetch_all(connection).await?;
    let mut ends = vec![0; usize::try_from((to_ms - from_ms) / interval_ms)?];
    for (interval, count) in found {
        if let Some(place) = ends.get_mut(usize::try_from(interval)?) {
            *place = u64::try_from(count)?;
        }
    }
    Ok(ends)
}

/// Microseconds, less so many milliseconds, from each decision of an execution within a time to the next one: for steps that workers
/// carry out, from the result of one to that of the next, what the handler takes aside.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn between_decisions(
    connection: &mut PgConnection,
    (from_ms, to_ms): (i64, i64),
    less_ms: i64,
) -> Result<Histogram<u64>> {
    let mut rows = sqlx::query(
        "SELECT at, next FROM (
            SELECT at, lead(at) OVER (PARTITION BY execution_id ORDER BY first_sequence) AS next
            FROM fm_history WHERE at >= $1) AS decisions
        WHERE at < $2 AND next IS NOT NULL",
    )
    .bind(from_ms)
    .bind(to_ms)
    .fetch(connection);
    let mut micros = histogram()?;
    while let Some(row) = rows.try_next().await? {
        let (at, next): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        micros.record(u64::try_from((next - at - less_ms).max(0))? * 1000)?;
    }
    Ok(micros)
}

/// Bytes of the tables with their indexes, partitions under the table that they are of; without those that hold next to nothing.
///
/// # Errors
/// When the record does not answer.
pub(super) async fn table_bytes(connection: &mut PgConnection) -> Result<Map<String, Value>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT regexp_replace(relname::text, '_(default|[0-9]{8})$', ''), SUM(pg_total_relation_size(oid))::bigint
        FROM pg_class WHERE relkind = 'r' AND relname LIKE 'fm\\_%'
        GROUP BY 1 HAVING SUM(pg_total_relation_size(oid)) > 200000 ORDER BY 1",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(name, bytes)| (name, json!(bytes))).collect())
}

/// What the histories tell of all that was started.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// Histories that are as they have to be.
    pub(super) right: u64,
    /// Attempts that workers lost.
    pub(super) leases_lost: u64,
    /// What is wrong, in words.
    pub(super) wrong: Vec<String>,
}

/// Holds every history against what it has to be for a flow of so many tasks: sequences without gaps, each visit of a step once
/// successful, one end.
///
/// # Errors
/// When the record does not answer, or holds what is none.
pub(super) async fn audit(
    connection: &mut PgConnection,
    started: &BTreeSet<ExecutionId>,
    tasks: usize,
) -> Result<Audit> {
    let mut rows = sqlx::query(
        "SELECT execution_id, first_sequence, events FROM fm_history ORDER BY execution_id, first_sequence",
    )
    .fetch(connection);
    let mut audit = Audit::default();
    let mut seen = BTreeSet::new();
    let mut story: Option<Story> = None;
    while let Some(row) = rows.try_next().await? {
        let id = ExecutionId::from_uuid(row.try_get::<Uuid, _>(0)?);
        if story.as_ref().is_none_or(|story| story.id != id) {
            if let Some(whole) = story.replace(Story::of(id)) {
                whole.judge(tasks, &mut audit);
            }
            seen.insert(id);
        }
        let first: i64 = row.try_get(1)?;
        let events: Value = serde_json::from_str(row.try_get::<&str, _>(2)?)?;
        let story = story.as_mut().context("there is one")?;
        story.add(u64::try_from(first)?, events.as_array().context("a list of events")?)?;
    }
    if let Some(whole) = story {
        whole.judge(tasks, &mut audit);
    }
    audit.wrong.extend(started.difference(&seen).map(|id| format!("{id} was started, and is not there")));
    audit.wrong.extend(seen.difference(started).map(|id| format!("{id} is there, and nobody started it")));
    Ok(audit)
}

/// One history.
struct Story {
    id: ExecutionId,
    events: u64,
    gaps: u64,
    ends: Vec<String>,
    successes: BTreeSet<String>,
    repeated: Vec<String>,
    leases_lost: u64,
}

impl Story {
    fn of(id: ExecutionId) -> Self {
        let (ends, successes, repeated) = Default::default();
        Self { id, events: 0, gaps: 0, ends, successes, repeated, leases_lost: 0 }
    }

    fn add(&mut self, first: u64, events: &[Value]) -> Result<()> {
        self.gaps += u64::from(first != self.events + 1);
        self.events = first - 1 + events.len() as u64;
        for event in events {
            let kind = event["type"].as_str().context("an event has a type")?;
            match kind {
                "completed" | "failed" | "cancelled" => self.ends.push(kind.to_owned()),
                "leaseLost" => self.leases_lost += 1,
                "attemptEnded" if event["outcome"] == "success" => {
                    let visit = format!("{} {}", event["stepId"], event["visit"]);
                    if !self.successes.insert(visit.clone()) {
                        self.repeated.push(visit);
                    }
                }
                _ => {}
            }
        }
        ensure!(!events.is_empty(), "an empty decision of {}", self.id);
        Ok(())
    }

    fn judge(self, tasks: usize, audit: &mut Audit) {
        let Self { id, gaps, ends, successes, repeated, leases_lost, .. } = self;
        audit.leases_lost += leases_lost;
        let wrong = audit.wrong.len();
        if gaps > 0 {
            audit.wrong.push(format!("{id} has gaps in its history"));
        }
        if ends != ["completed"] {
            audit.wrong.push(format!("{id} ended like this: {ends:?}"));
        }
        if !repeated.is_empty() {
            audit.wrong.push(format!("{id} did twice: {repeated:?}"));
        }
        if successes.len() != tasks {
            audit.wrong.push(format!("{id} did {} of {tasks} tasks", successes.len()));
        }
        audit.right += u64::from(audit.wrong.len() == wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(decisions: &[(u64, &[Value])]) -> Vec<String> {
        let mut story = Story::of(ExecutionId::from_uuid(Uuid::nil()));
        for (first, events) in decisions {
            story.add(*first, events).unwrap();
        }
        let mut audit = Audit::default();
        story.judge(1, &mut audit);
        audit.wrong
    }

    #[test]
    fn a_history_is_whole_when_each_visit_succeeded_once_and_it_ended_once() {
        let created = json!({ "type": "created" });
        let done = json!({ "type": "attemptEnded", "outcome": "success", "stepId": "a", "visit": 1 });
        let lost = json!({ "type": "leaseLost" });
        let end = json!({ "type": "completed" });
        let began: &[Value] = &[created];
        let (done_and_end, lost) = ([done.clone(), end.clone()], [lost]);
        assert_eq!(judged(&[(1, began), (2, &lost), (3, &done_and_end)]), Vec::<String>::new());
        for wrong in [
            &[(1, began), (3, &done_and_end[..])][..],
            &[(1, began), (2, &[end][..])],
            &[(1, began), (2, &[done.clone()][..])],
            &[(1, began), (2, &done_and_end[..]), (4, &done_and_end[..])],
        ] {
            assert!(!judged(wrong).is_empty(), "{wrong:?}");
        }
    }
}
