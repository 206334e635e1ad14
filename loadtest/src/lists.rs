//! What lists and counts of many executions cost in Postgres, by each filter; and what the indexes for them cost.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use flowmonkey_core::execution::{StartRequest, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::conformance::fixture::{at, failure, started, update, updates, work};
use flowmonkey_engine::store::{
    Batch, ExecutionFilter, PostgresOptions, PostgresStore, SearchStore, Span, Store,
};
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use flowmonkey_test_support::{Durability, Postgres, PostgresOptions as ServerOptions};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::report::report;

/// Times that each list is asked for.
const RUNS: usize = 50;
/// Items of a page.
const PAGE: usize = 50;
/// Milliseconds of the time that the executions are spread over.
const SPREAD_MS: i64 = 30 * 24 * 3_600_000;
const DAY_MS: i64 = 24 * 3_600_000;
/// Executions that are started and ended to see what the indexes cost.
const STARTS: usize = 5000;
/// Executions of one batch.
const BATCH: usize = 100;
/// What the search added to the schema.
const WITHOUT: &str =
    "DROP INDEX fm_executions_labels, fm_executions_tenant, fm_executions_error, fm_executions_ended_step,
    fm_executions_astray; ALTER TABLE fm_executions DROP COLUMN ended_step";

pub(crate) async fn lists(executions: u32, plans: &Path) -> Result<()> {
    let settings = ["shared_buffers=1GB", "max_wal_size=8GB"].map(str::to_owned).to_vec();
    let options = ServerOptions { settings, durability: Durability::Fast, ..ServerOptions::default() };
    let server = Postgres::start(options).await;
    for with_indexes in [false, true, false, true] {
        cost_of_starts(&server, with_indexes).await?;
    }
    let database = server.database().await;
    let options = PostgresOptions::new(database.url());
    PostgresStore::migrate(&options).await?;
    let now = SystemClock.now_ms();
    let mut connection = PgConnection::connect(&database.url()).await?;
    let began = Instant::now();
    sqlx::query(include_str!("lists_fill.sql"))
        .bind(i64::from(executions))
        .bind(now)
        .execute(&mut connection)
        .await?;
    sqlx::raw_sql("VACUUM ANALYZE fm_executions").execute(&mut connection).await?;
    figures(&json!({ "executions": executions, "fillSeconds": began.elapsed().as_secs() }));
    sizes(&mut connection, executions).await?;
    let store = PostgresStore::connect(options).await?;
    let mut text = String::new();
    for (name, filter) in filters(now, &store).await? {
        Box::pin(measure(&store, name, filter, now, &mut text)).await?;
    }
    std::fs::write(plans, text)?;
    store.close().await;
    Ok(())
}

fn figures(figures: &Value) {
    report("lists", &json!({ "postgres": "fsync off, as nothing is written" }), figures);
}

async fn sizes(connection: &mut PgConnection, executions: u32) -> Result<()> {
    let sizes: Vec<(String, i64)> = sqlx::query_as(
        "SELECT relname::text, pg_relation_size(oid) FROM pg_class
        WHERE relname LIKE 'fm\\_executions%' AND relkind IN ('r', 'i') ORDER BY relname",
    )
    .fetch_all(connection)
    .await?;
    for (name, bytes) in sizes {
        figures(&json!({ "relation": name, "bytesPerExecution": bytes / i64::from(executions) }));
    }
    Ok(())
}

fn all() -> ExecutionFilter {
    ExecutionFilter { include_children: true, max: PAGE, ..ExecutionFilter::default() }
}

async fn filters(now: i64, store: &PostgresStore) -> Result<Vec<(&'static str, ExecutionFilter)>> {
    let days = |from: Option<i64>, until: Option<i64>| {
        let day = |day: i64| Timestamp::from_millis(now - SPREAD_MS + day * DAY_MS);
        Span { from: from.map(day), until: until.map(day) }
    };
    let label = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let text = |text: &str| Some(text.to_owned());
    let newest =
        store.list(&ExecutionFilter { max: 5000, labels: label("region", "north"), ..all() }).await?.items;
    let customer = newest.last().and_then(|item| item.labels.get("customer")).cloned().unwrap_or_default();
    let parent = newest.iter().map(|item| item.id);
    let mut with_children = None;
    for id in parent.take(50) {
        let children = store.list(&ExecutionFilter { parent: Some(id), ..all() }).await?;
        with_children = with_children.or_else(|| (!children.items.is_empty()).then_some(id));
    }
    let statuses = |statuses: &[Status]| ExecutionFilter { statuses: statuses.to_vec(), ..all() };
    let prefix = newest.first().and_then(|item| item.id.to_string()[..10].parse().ok());
    let flow = ExecutionFilter { flow_id: text("flow-1"), ..all() };
    let failed = statuses(&[Status::Failed]);
    Ok(vec![
        ("everything", all()),
        ("roots only", ExecutionFilter { include_children: false, ..all() }),
        ("status: waiting", statuses(&[Status::Waiting])),
        ("status: paused", statuses(&[Status::Paused])),
        ("status: failed", failed.clone()),
        ("status: failed, cancelled", statuses(&[Status::Failed, Status::Cancelled])),
        ("status: waiting, failed", statuses(&[Status::Waiting, Status::Failed])),
        ("flow, one of the most used", ExecutionFilter { flow_id: text("flow-0"), ..all() }),
        ("flow, one of the least used", ExecutionFilter { flow_id: text("flow-49"), ..all() }),
        ("flow, none", ExecutionFilter { flow_id: text("flow-x"), ..all() }),
        ("flow and its newest version", ExecutionFilter { flow_version: text("1.4.0"), ..flow.clone() }),
        ("flow and its oldest version", ExecutionFilter { flow_version: text("1.0.0"), ..flow.clone() }),
        ("label with 100,000 values", ExecutionFilter { labels: label("customer", &customer), ..all() }),
        ("label with 4 values", ExecutionFilter { labels: label("region", "south"), ..all() }),
        ("label, none", ExecutionFilter { labels: label("customer", "nobody"), ..all() }),
        ("tenant", ExecutionFilter { tenant: text("tenant-3"), ..all() }),
        ("created in the last day", ExecutionFilter { created: days(Some(29), None), ..all() }),
        ("created on the 10th day", ExecutionFilter { created: days(Some(9), Some(10)), ..all() }),
        ("created before the 15th day", ExecutionFilter { created: days(None, Some(15)), ..all() }),
        ("updated in the last day", ExecutionFilter { updated: days(Some(29), None), ..all() }),
        ("updated before the 15th day", ExecutionFilter { updated: days(None, Some(15)), ..all() }),
        ("ended on the 10th day", ExecutionFilter { ended: days(Some(9), Some(10)), ..all() }),
        ("ended before the 15th day", ExecutionFilter { ended: days(None, Some(15)), ..all() }),
        ("error, one of 20", ExecutionFilter { error_code: text("ERROR_3"), ..all() }),
        ("error, rare", ExecutionFilter { error_code: text("ERROR_5_RARE"), ..all() }),
        ("step, one of 7", ExecutionFilter { current_step: text("step-3"), ..all() }),
        ("step, rare", ExecutionFilter { current_step: text("refund"), ..all() }),
        ("waiting reason", ExecutionFilter { waiting_reason: text("signal app"), ..all() }),
        ("parent", ExecutionFilter { parent: with_children, ..all() }),
        ("beginning of the id", ExecutionFilter { id_prefix: prefix, ..all() }),
        ("failed, flow", ExecutionFilter { flow_id: text("flow-1"), ..failed.clone() }),
        ("failed, error", ExecutionFilter { error_code: text("ERROR_3"), ..failed.clone() }),
        ("failed, on the 10th day", ExecutionFilter { created: days(Some(9), Some(10)), ..failed.clone() }),
        ("failed, tenant", ExecutionFilter { tenant: text("tenant-3"), ..failed.clone() }),
        ("failed at one step", ExecutionFilter { current_step: text("step-3"), ..failed }),
        ("flow, label", ExecutionFilter { labels: label("customer", &customer), ..flow.clone() }),
        ("flow, on the 10th day", ExecutionFilter { created: days(Some(9), Some(10)), ..flow }),
    ])
}

/// The first page, a page in the middle of all executions, and the count.
async fn measure(
    store: &PostgresStore,
    name: &str,
    filter: ExecutionFilter,
    now: i64,
    text: &mut String,
) -> Result<()> {
    let middle = u128::try_from(now - SPREAD_MS / 2)? << 80;
    let middle = ExecutionId::from_uuid(sqlx::types::Uuid::from_u128(middle));
    let deep = ExecutionFilter { before: Some(middle), ..filter.clone() };
    let (mut first, mut later, mut counting) = (micros()?, micros()?, micros()?);
    for _ in 0..RUNS {
        let began = Instant::now();
        let page = store.list(&filter).await?;
        first.record(since(began))?;
        ensure!(page.items.len() <= PAGE, "{} items", page.items.len());
        let began = Instant::now();
        store.list(&deep).await?;
        later.record(since(began))?;
        let began = Instant::now();
        store.count(&filter).await?;
        counting.record(since(began))?;
    }
    let count = store.count(&filter).await?;
    figures(&json!({
        "filter": name, "found": count.count, "exact": count.exact,
        "first": shown(&first), "deep": shown(&later), "count": shown(&counting),
    }));
    for (place, filter) in [("first page", &filter), ("deep page", &deep)] {
        for plan in store.list_plans(filter).await? {
            write!(text, "-- {name}, {place}\n{plan}\n\n")?;
        }
    }
    Ok(())
}

fn micros() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn shown(micros: &Histogram<u64>) -> Value {
    let millis = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
    json!({ "p50Millis": millis(0.5), "p99Millis": millis(0.99) })
}

/// Starts and ends executions of a tenant with two labels, with what the search added to the schema and without.
async fn cost_of_starts(server: &Postgres, with_indexes: bool) -> Result<()> {
    let database = server.database().await;
    let options = PostgresOptions::new(database.url());
    PostgresStore::migrate(&options).await?;
    let mut connection = PgConnection::connect(&database.url()).await?;
    if !with_indexes {
        sqlx::raw_sql(WITHOUT).execute(&mut connection).await?;
    }
    let store = PostgresStore::connect(options).await?;
    let (flow, clock, entropy) = (work(), SystemClock, SystemEntropy::new());
    let mut batches = Vec::new();
    for batch in 0..STARTS / BATCH {
        let creates = (0..BATCH).map(|place| {
            let id = ExecutionId::from_uuid(new_uuid(&clock, &entropy));
            let mut request = StartRequest::new(id, json!({ "n": place }));
            request.tenant_id = Some(format!("tenant-{}", place % 10));
            request.labels = [
                ("customer".to_owned(), format!("customer-{}", batch * BATCH + place)),
                ("region".to_owned(), ["north", "south"][place % 2].to_owned()),
            ]
            .into();
            started(&flow, request, Timestamp::from_millis(clock.now_ms()))
        });
        batches.push(Batch { now: at(0), creates: creates.collect(), ..Batch::default() });
    }
    let before = written(&mut connection).await?;
    let began = Instant::now();
    for batch in &batches {
        store.commit(batch.clone()).await?;
    }
    let starting = began.elapsed();
    let between = written(&mut connection).await?;
    for batch in &batches {
        let ends = batch.creates.iter().map(|create| {
            let now = create.execution.updated_at.plus(1000);
            update(&flow, &create.execution, failure(&create.execution), now)
        });
        store.commit(updates(at(0), ends.collect())).await?;
    }
    let after = written(&mut connection).await?;
    figures(&json!({
        "withIndexes": with_indexes,
        "starts": STARTS,
        "startsPerSecond": STARTS as u128 * 1000 / starting.as_millis().max(1),
        "logBytesPerStart": (between - before) / i64::try_from(STARTS)?,
        "logBytesPerEnd": (after - between) / i64::try_from(STARTS)?,
    }));
    store.close().await;
    Ok(())
}

/// Bytes that the server has written to its log so far.
async fn written(connection: &mut PgConnection) -> Result<i64> {
    let bytes = sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint");
    Ok(bytes.fetch_one(connection).await?)
}
