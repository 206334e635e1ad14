//! Workers that are told to leave.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Operator};
use super::fields::Fields;
use super::openapi::answers::WorkerDraining;
use super::openapi::bodies::NoFields;
use super::operations::pool_is_seen;
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};

/// `POST /v1/workers/{id}:drain`: the worker claims no more, ends or gives back what it has within its grace, and leaves. It
/// learns of it with its next announcement, within ten seconds.
#[utoipa::path(
    post, path = "/v1/workers/{id}:drain", tag = "queues", operation_id = "drainWorker",
    summary = "Ask a worker to finish what it has, and to leave",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the name of the worker, as the list of workers shows it")),
    request_body = NoFields,
    responses((status = 202, description = "it is asked", body = WorkerDraining)),
)]
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    parameters.finish()?;
    let Some((id, verb)) = target.rsplit_once(':') else {
        return Err(super::problem::no_such_method().await);
    };
    if verb != "drain" {
        let detail = format!("workers understand drain, not `{verb}`");
        return Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail));
    }
    Fields::of(body)?.finish()?;
    let workers = api.engine.queue().workers().await?;
    // One that works for others, too, is not a tenant's to end.
    let is_theirs = |pools: &[String]| pools.iter().all(|pool| pool_is_seen(access.visibility(), pool));
    let found = workers.into_iter().find(|worker| worker.worker == id && is_theirs(&worker.pools));
    let Some(worker) = found else {
        let detail = "there is no worker of that name";
        return Err(Problem::new(ErrorClass::NotFound, "WORKER_NOT_FOUND", detail));
    };
    let shown = json!({ "worker": worker.worker, "pools": worker.pools, "draining": worker.draining });
    let engine = api.engine.clone();
    api.to_the_end(async move { engine.queue().ask_to_drain(&worker).await }).await??;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}
