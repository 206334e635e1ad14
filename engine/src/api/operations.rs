//! Health, version, queues, parked tasks, events.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use flowmonkey_plumbing::ids::new_uuid;
use flowmonkey_plumbing::queue::Depth;
use serde_json::{Value, json};

use super::Api;
use super::fields::Fields;
use super::problem::Problem;
use super::request::{JsonBody, Parameters};
use super::verbs::NAME_BYTES_MAX;
use crate::store::PublishedEvent;

pub(super) async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.engine.store().check().await?;
    Ok(Json(json!({ "status": "ready" })))
}

pub(super) async fn version(State(api): State<Api>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engineId": api.engine.config().engine_id,
        "pid": std::process::id(),
    })))
}

pub(super) async fn queues(State(api): State<Api>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut depths = api.engine.queue().depths().await?;
    depths.sort_by(|(left, _), (right, _)| left.cmp(right));
    let items: Vec<Value> = depths
        .iter()
        .map(|(pool, depth)| {
            let (region, handler) = parts(pool);
            json!({
                "handler": handler,
                "region": region,
                "ready": ready(depth),
                "inFlight": depth.in_flight,
                "results": depth.results,
                "oldestAgeMs": depth.oldest_age_ms,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": null })))
}

pub(super) async fn workers(State(api): State<Api>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut workers = api.engine.queue().workers().await?;
    workers.sort_by(|left, right| left.worker.cmp(&right.worker));
    Ok(Json(json!({ "items": workers, "nextCursor": null })))
}

/// Ready tasks by priority.
pub(super) fn ready(depth: &Depth) -> Value {
    json!({ "high": depth.high, "normal": depth.normal, "low": depth.low })
}

/// Region and handler of a pool: `[tenant@][region/]handler`.
fn parts(pool: &str) -> (Option<&str>, &str) {
    let pool = pool.split_once('@').map_or(pool, |(_, rest)| rest);
    match pool.split_once('/') {
        Some((region, handler)) => (Some(region), handler),
        None => (None, pool),
    }
}

pub(super) async fn failed_tasks(
    State(api): State<Api>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let limit = parameters.limit();
    parameters.finish()?;
    let rows = api.engine.store().failed_tasks(limit).await?;
    let items: Vec<Value> = rows
        .into_iter()
        .map(|row| {
            let run = &row.task.run;
            json!({
                "executionId": row.execution,
                "taskId": flowmonkey_core::ids::TaskId { execution: row.execution, number: run.task },
                "stepId": run.step,
                "visit": run.visit,
                "attempt": run.attempt,
                "handlerType": row.task.handler_type,
                "failedAt": row.at.to_rfc3339(),
                "error": {
                    "code": row.task.error.code,
                    "message": row.task.error.message,
                    "details": row.task.error.details,
                },
                "input": row.task.input,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": null })))
}

pub(super) async fn publish_event(
    State(api): State<Api>,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    parameters.finish()?;
    let mut fields = Fields::of(body)?;
    let name = fields.required_text("name");
    let data = fields.value("data").unwrap_or(Value::Null);
    let id = fields.text("id");
    for (field, text) in [("name", &name), ("id", &id)] {
        if text.as_ref().is_some_and(|text| text.len() > NAME_BYTES_MAX) {
            fields.error(field, format!("`{field}` has more than {NAME_BYTES_MAX} bytes"));
        }
    }
    if id.as_deref() == Some("") {
        fields.error("id", "`id` is empty");
    }
    fields.finish()?;
    let engine = &api.engine;
    let id = id.unwrap_or_else(|| format!("ev_{}", new_uuid(&*engine.clock, &*engine.entropy).simple()));
    let event = PublishedEvent { id, name: name.unwrap_or_default(), data, source: None, at: engine.now() };
    let created = engine.store().publish_event(&event).await?;
    engine.event_bell.notify_one();
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": event.id, "created": created }))))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_pool_names_its_region_and_handler() {
        assert_eq!(parts("http"), (None, "http"));
        assert_eq!(parts("us-east-1/http"), (Some("us-east-1"), "http"));
        assert_eq!(parts("acme@us-east-1/http"), (Some("us-east-1"), "http"));
        assert_eq!(parts("acme@http"), (None, "http"));
    }
}
