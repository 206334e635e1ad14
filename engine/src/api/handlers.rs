//! Handlers: what workers announce, and which flows need it.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use flowmonkey_core::flow::definition::StepKind;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::WorkerPresence;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::HandlerList;
use super::operations::{parts, pool_is_seen};
use super::problem::Problem;
use super::request::Parameters;
use crate::access::Visibility;
use crate::engine::EngineError;

/// Flows that are read to find out what they use.
const FLOWS_READ_MAX: usize = 1000;

/// What is known of a handler type.
#[derive(Default)]
struct Known {
    /// By version.
    manifests: BTreeMap<String, Manifest>,
    pools: BTreeSet<String>,
    workers: Vec<Value>,
    flows: Vec<Value>,
}

/// `GET /v1/handlers`: handler types by name, with the manifests, pools and workers that are there now, and the flows whose
/// latest version uses them. Types that flows use and no worker serves are there, too.
#[utoipa::path(
    get, path = "/v1/handlers", tag = "queues", operation_id = "listHandlers",
    summary = "Handler types, who serves them and who uses them",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "handler types by name", body = HandlerList)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let seen = access.visibility();
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for worker in api.engine.queue().workers().await? {
        note_worker(&mut known, seen, worker);
    }
    let is_complete = note_flows(&api, seen, &mut known).await?;
    let items: Vec<Value> = known
        .into_iter()
        .map(|(handler_type, known)| {
            let versions: Vec<Value> = known
                .manifests
                .into_iter()
                .map(|(version, manifest)| json!({ "version": version, "manifest": manifest }))
                .collect();
            json!({
                "type": handler_type,
                "versions": versions,
                "pools": known.pools,
                "workers": known.workers,
                "flows": known.flows,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": null, "flowsComplete": is_complete })))
}

/// Notes what a worker offers in the pools that are seen.
fn note_worker(known: &mut BTreeMap<String, Known>, seen: &Visibility, worker: WorkerPresence) {
    let WorkerPresence { worker, pools, draining, manifests, region, .. } = worker;
    for manifest in manifests {
        let own = pools.iter().filter(|pool| parts(pool).1 == manifest.handler_type);
        let own: Vec<&String> = own.filter(|pool| pool_is_seen(seen, pool)).collect();
        if own.is_empty() {
            continue;
        }
        let one = known.entry(manifest.handler_type.clone()).or_default();
        one.workers.push(json!({
            "worker": worker,
            "version": manifest.version,
            "pools": own,
            "region": region,
            "draining": draining,
        }));
        one.pools.extend(own.into_iter().cloned());
        one.manifests.entry(manifest.version.clone()).or_insert(manifest);
    }
}

/// Notes what the latest versions of the flows use that are seen; whether all were looked at.
async fn note_flows(
    api: &Api,
    seen: &Visibility,
    known: &mut BTreeMap<String, Known>,
) -> Result<bool, Problem> {
    let mut latest = api.engine.store().list_flows(seen, None).await?;
    // The latest version comes first.
    let mut met = BTreeSet::new();
    latest.retain(|one| met.insert((one.tenant_id.clone(), one.flow.id.clone())));
    let is_complete = latest.len() <= FLOWS_READ_MAX;
    latest.truncate(FLOWS_READ_MAX);
    for published in latest {
        let flow = match api.engine.flow_by_hash(&published.flow.hash).await {
            Ok(flow) => flow,
            Err(EngineError::Store(error)) => {
                crate::outcome::Fault::from_store(error)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut types = BTreeSet::new();
        flow.graph.each_step(&mut |step| {
            if let StepKind::Task(_) = &step.kind {
                types.insert(step.type_name.to_string());
            }
        });
        for handler_type in types {
            known.entry(handler_type).or_default().flows.push(json!(published));
        }
    }
    Ok(is_complete)
}
