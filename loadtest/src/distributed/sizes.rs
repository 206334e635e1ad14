//! Whether throughput depends on what it should not depend on: bytes of the context, steps of a flow, its versions, handler types.
//! Each is measured beside the plain flow of three steps, in the same run.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use super::{Chain, Time, prepare};
use crate::flows;
use crate::load::{Work, closed, percentiles};
use crate::system::usage::rounded;
use crate::system::{Shape, System};

/// Steps of the plain flow.
const PLAIN_STEPS: u16 = 3;
/// Steps of the long one.
const LONG_STEPS: u16 = 100;
/// Versions of the one with many.
const VERSIONS: u16 = 1000;
/// Handler types, where there are many.
const HANDLER_TYPES: u16 = 200;
const LONG_FLOW: &str = "long";

/// Contexts of several sizes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Payload {
    /// Bytes of the context beside what the steps hand on, separated by commas; the others are compared with the first
    #[arg(long, value_delimiter = ',', default_values_t = [0, 4096, 65_536])]
    bytes: Vec<u32>,
    /// At a time
    #[arg(long, default_value_t = 256)]
    clients: usize,
    #[command(flatten)]
    time: Time,
}

/// What should not matter.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Wide {
    /// At a time
    #[arg(long, default_value_t = 256)]
    clients: usize,
    #[command(flatten)]
    time: Time,
}

/// Puts into each of `figures` what its throughput is to that of `plain`.
fn compare(figures: &mut Map<String, Value>, plain: &str) {
    let steps = |value: &Value| value["stepsPerSecond"].as_f64().unwrap_or_default();
    let of_plain = figures.get(plain).map(steps).unwrap_or_default();
    for (name, value) in figures.iter_mut() {
        if name != plain {
            value[format!("throughputTo{}", capital(plain))] = rounded(steps(value) / of_plain);
        }
    }
}

fn capital(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// The flow of three steps with contexts of several sizes, one after the other.
pub(super) async fn payload(system: &System, Payload { bytes, clients, time }: &Payload) -> Result<Value> {
    let (clients, time) = (*clients, *time);
    let mut figures = Map::new();
    let names: Vec<String> = bytes.iter().map(|bytes| format!("bytes{bytes}")).collect();
    for (name, bytes) in names.iter().zip(bytes) {
        let chain = Chain { steps: PLAIN_STEPS, bytes: *bytes, versions: 1 };
        let work = prepare(system, &chain, 1).await?;
        let measured = closed(system, clients, time.window(), work).await?;
        let mut of_size = measured.told(PLAIN_STEPS.into())?;
        let megabytes = measured.rate() * f64::from(PLAIN_STEPS) * f64::from(*bytes) / 1e6;
        of_size["contextMegabytesPerSecond"] = rounded(megabytes);
        of_size["memoryKib"] = system.memory();
        figures.insert(name.clone(), of_size);
    }
    if let Some(first) = names.first() {
        compare(&mut figures, first);
    }
    figures.insert("clients".into(), clients.into());
    figures.insert("seconds".into(), time.seconds.into());
    Ok(figures.into())
}

/// A long flow, a flow of many versions, and many handler types, each beside the plain flow. Many handler types need workers that
/// have them, and so another system takes the place of the first.
pub(super) async fn wide(system: &mut System, shape: Shape, Wide { clients, time }: Wide) -> Result<Value> {
    let mut figures = Map::new();
    for (name, versions) in [("plain", 1), ("versions1000", VERSIONS)] {
        let chain = Chain { steps: PLAIN_STEPS, bytes: 0, versions };
        let work = prepare(system, &chain, 1).await?;
        let measured = closed(system, clients, time.window(), work).await?;
        figures.insert(name.into(), measured.told(PLAIN_STEPS.into())?);
    }
    figures.insert("steps100".into(), long(system, clients, time).await?);
    let memory = system.memory();
    let many = System::start(Shape { handler_types: HANDLER_TYPES, ..shape }).await?;
    std::mem::replace(system, many).stop().await;
    let work = over_types(system).await?;
    let measured = closed(system, clients, time.window(), work).await?;
    figures.insert("handlerTypes200".into(), measured.told(PLAIN_STEPS.into())?);
    compare(&mut figures, "plain");
    figures.insert("memoryKibOfOneType".into(), memory);
    figures.insert("memoryKibOfManyTypes".into(), system.memory());
    figures.insert("clients".into(), clients.into());
    figures.insert("seconds".into(), time.seconds.into());
    Ok(figures.into())
}

/// Flows of three steps that use all handler types between them.
async fn over_types(system: &System) -> Result<Work> {
    let (steps, types) = (usize::from(PLAIN_STEPS), usize::from(HANDLER_TYPES));
    let flows = types.div_ceil(steps);
    let mut client = system.client(0).await?;
    for flow in 0..flows {
        let chain = flows::chain_from(&format!("types-{flow}"), 0, steps, (flow * steps, types));
        client.publish(&chain).await?;
    }
    let body = move |number: u64| {
        let flow = number % flows as u64;
        Bytes::from(format!(r#"{{"flowId":"types-{flow}","input":{{"n":{number}}}}}"#))
    };
    Ok(Work::of(body, true))
}

/// Few of its executions end within the window, and those in waves: steps are counted, not ends.
async fn long(system: &System, clients: usize, time: Time) -> Result<Value> {
    system.client(0).await?.publish(&flows::chain(LONG_FLOW, 0, LONG_STEPS.into(), 1)).await?;
    let body = |number: u64| Bytes::from(format!(r#"{{"flowId":"{LONG_FLOW}","input":{{"n":{number}}}}}"#));
    let window = time.window();
    let counting = async {
        sleep(window.warm_up).await;
        let mut connection = PgConnection::connect(&system.database_url()).await?;
        let before = steps_done(&mut connection).await?;
        let began = tokio::time::Instant::now();
        sleep(window.length.saturating_sub(Duration::from_millis(100))).await;
        let steps = steps_done(&mut connection).await? - before;
        let rate = steps / began.elapsed().as_secs_f64();
        connection.close().await?;
        anyhow::Ok((rate, steps))
    };
    let load = closed(system, clients, window, Work::of(body, true));
    let (measured, counted) = tokio::join!(load, counting);
    let (measured, (rate, steps)) = (measured?, counted?);
    Ok(json!({
        "stepsPerSecond": rounded(rate),
        "millis": percentiles(&measured.all_micros()?),
        "used": measured.usage.1.since(&measured.usage.0, steps),
    }))
}

/// Steps of the long flow that are done. An execution that has not ended tells by the number of its task.
async fn steps_done(connection: &mut PgConnection) -> Result<f64> {
    let done = sqlx::query_scalar(
        "SELECT COALESCE(SUM(CASE WHEN ended_at IS NULL THEN COALESCE(task_number, 1) - 1 ELSE $2 END), 0)::float8
        FROM fm_executions WHERE flow_id = $1",
    );
    Ok(done.bind(LONG_FLOW).bind(i64::from(LONG_STEPS)).fetch_one(connection).await?)
}
