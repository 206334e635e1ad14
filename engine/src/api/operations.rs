//! Health, version, queues.

use axum::Json;
use axum::extract::State;
use flowmonkey_plumbing::queue::Depth;
use serde_json::{Value, json};

use super::access::{Access, Viewer};
use super::openapi::answers::{Health, QueuePage, Version, WorkerPage};
use super::problem::Problem;
use super::request::Parameters;
use super::{Api, pauses};
use crate::access::Visibility;

#[utoipa::path(
    get, path = "/livez", tag = "operations", operation_id = "livez",
    summary = "Whether the process serves",
    security(()),
    responses((status = 200, description = "it does", body = Health)),
)]
pub(super) async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz",
    summary = "Whether the record can be read and written",
    security(()),
    responses((status = 200, description = "it can", body = Health)),
)]
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.engine.store().check().await?;
    Ok(Json(json!({ "status": "ready" })))
}

#[utoipa::path(
    get, path = "/v1/version", tag = "operations", operation_id = "getVersion",
    summary = "Which engine answers",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "the engine", body = Version)),
)]
pub(super) async fn version(
    State(api): State<Api>,
    _access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engineId": api.engine.config().engine_id,
        "pid": std::process::id(),
    })))
}

#[utoipa::path(
    get, path = "/v1/queues", tag = "queues", operation_id = "listQueues",
    summary = "Pools and what they hold",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "all pools", body = QueuePage)),
)]
pub(super) async fn queues(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut depths = api.engine.queue().depths().await?;
    let held = api.engine.controls.held();
    // A paused pool is shown though nothing is in its queue.
    for pool in held.paused_pools() {
        if !depths.iter().any(|(shown, _)| shown == pool) {
            depths.push((pool.to_owned(), Depth::default()));
        }
    }
    depths.retain(|(pool, _)| pool_is_seen(access.visibility(), pool));
    depths.sort_by(|(left, _), (right, _)| left.cmp(right));
    let items: Vec<Value> = depths
        .iter()
        .map(|(pool, depth)| {
            let (region, handler) = parts(pool);
            json!({
                "pool": pool,
                "paused": held.of_pool(pool).map(pauses::shown),
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

#[utoipa::path(
    get, path = "/v1/workers", tag = "queues", operation_id = "listWorkers",
    summary = "Workers that are there",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "all workers", body = WorkerPage)),
)]
pub(super) async fn workers(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut workers = api.engine.queue().workers().await?;
    for worker in &mut workers {
        worker.pools.retain(|pool| pool_is_seen(access.visibility(), pool));
    }
    if access.visibility().tenant().is_some() {
        workers.retain(|worker| !worker.pools.is_empty());
    }
    workers.sort_by(|left, right| left.worker.cmp(&right.worker));
    Ok(Json(json!({ "items": workers, "nextCursor": null })))
}

/// Ready tasks by priority.
pub(super) fn ready(depth: &Depth) -> Value {
    json!({ "high": depth.high, "normal": depth.normal, "low": depth.low })
}

/// Whether a pool is of a tenant that is seen. Pools without a tenant serve all: what they hold is only for those who see all.
pub(super) fn pool_is_seen(seen: &Visibility, pool: &str) -> bool {
    seen.sees(pool.split_once('@').map(|(tenant, _)| tenant))
}

/// Region and handler of a pool: `[tenant@][region/]handler`.
pub(super) fn parts(pool: &str) -> (Option<&str>, &str) {
    let pool = pool.split_once('@').map_or(pool, |(_, rest)| rest);
    match pool.split_once('/') {
        Some((region, handler)) => (Some(region), handler),
        None => (None, pool),
    }
}

#[cfg(test)]
mod tests {
    use super::{parts, pool_is_seen};
    use crate::access::Visibility;

    #[test]
    fn a_tenant_sees_its_own_pools_only() {
        let acme = Visibility::Tenant("acme".into());
        let pools = ["http", "eu/http", "acme@http", "acme@eu/http", "acme2@http", "b@http"];
        let seen =
            |visibility: &Visibility| pools.iter().filter(|pool| pool_is_seen(visibility, pool)).count();
        assert_eq!(seen(&acme), 2);
        assert_eq!(seen(&Visibility::All), pools.len());
    }

    #[test]
    fn a_pool_names_its_region_and_handler() {
        assert_eq!(parts("http"), (None, "http"));
        assert_eq!(parts("us-east-1/http"), (Some("us-east-1"), "http"));
        assert_eq!(parts("acme@us-east-1/http"), (Some("us-east-1"), "http"));
        assert_eq!(parts("acme@http"), (None, "http"));
    }
}
