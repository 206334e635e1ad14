//! Pools and flows that are paused: their tasks are not given to workers until they are resumed.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Operator};
use super::fields::Fields;
use super::openapi::answers::PoolPaused;
use super::openapi::bodies::{NoFields, ReasonBody};
use super::operations::pool_is_seen;
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::access::Principal;
use crate::store::{Pause, PauseKind};

/// Bytes of a pool's name.
const POOL_BYTES_MAX: usize = 512;
/// Bytes of the reason of a pause.
const REASON_BYTES_MAX: usize = 1024;

/// `POST /v1/queues/{pool}:pause|resume`. A pool with a region is written with `%2F`.
pub(super) async fn pool_verb(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let Some((pool, verb)) = target.rsplit_once(':') else {
        return Err(Problem::verb_missing(""));
    };
    let is_a_name = !pool.is_empty() && pool.len() <= POOL_BYTES_MAX && !pool.contains('\0');
    if !is_a_name || !pool_is_seen(access.visibility(), pool) {
        let detail = "there is no pool of that name";
        return Err(Problem::new(ErrorClass::NotFound, "POOL_NOT_FOUND", detail));
    }
    match verb {
        "pause" => pause_pool(&api, access.principal(), pool, body).await,
        "resume" => resume_pool(&api, access.principal(), pool, body).await,
        _ => {
            let detail = format!("pools understand pause, resume, not `{verb}`");
            Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail))
        }
    }
}

#[utoipa::path(
    post, path = "/v1/queues/{pool}:pause", tag = "queues", operation_id = "pauseQueue",
    summary = "Hold back the tasks of a pool",
    security(("apiKey" = ["operator"])),
    params(("pool" = String, Path, description = "the pool: `[tenant@][region/]handler`, `/` as `%2F`")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "whether it is paused now, and whether that has changed", body = PoolPaused),
    ),
)]
pub(super) async fn pause_pool(
    api: &Api,
    principal: &Principal,
    pool: &str,
    body: Option<Value>,
) -> Result<Json<Value>, Problem> {
    carry_out(api, principal, Paused::pool(pool), true, body).await
}

#[utoipa::path(
    post, path = "/v1/queues/{pool}:resume", tag = "queues", operation_id = "resumeQueue",
    summary = "Deliver the tasks of a paused pool",
    security(("apiKey" = ["operator"])),
    params(("pool" = String, Path, description = "the pool: `[tenant@][region/]handler`, `/` as `%2F`")),
    request_body = NoFields,
    responses(
        (status = 200, description = "whether it is paused now, and whether that has changed", body = PoolPaused),
    ),
)]
pub(super) async fn resume_pool(
    api: &Api,
    principal: &Principal,
    pool: &str,
    body: Option<Value>,
) -> Result<Json<Value>, Problem> {
    carry_out(api, principal, Paused::pool(pool), false, body).await
}

/// What is paused or resumed.
pub(super) struct Paused {
    pub(super) kind: PauseKind,
    /// Whose flow.
    pub(super) tenant: Option<String>,
    pub(super) name: String,
}

impl Paused {
    fn pool(name: &str) -> Self {
        Self { kind: PauseKind::Pool, tenant: None, name: name.to_owned() }
    }
}

/// Pauses or resumes a pool or a flow. Either may be asked for again.
pub(super) async fn carry_out(
    api: &Api,
    principal: &Principal,
    Paused { kind, tenant, name }: Paused,
    pause: bool,
    body: Option<Value>,
) -> Result<Json<Value>, Problem> {
    let mut fields = Fields::of(body)?;
    let reason = if pause { fields.text("reason") } else { None };
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        fields.error("reason", format!("`reason` has more than {REASON_BYTES_MAX} bytes"));
    }
    fields.finish()?;
    let engine = api.engine.clone();
    let by = principal.name.to_string();
    let (owner, owned) = (tenant.clone(), name.clone());
    let changed = api
        .to_the_end(async move {
            let changed = if pause {
                let pause = Pause { kind, tenant: owner, name: owned, at: engine.now(), by, reason };
                engine.store().set_pause(&pause).await?
            } else {
                engine.store().lift_pause(kind, owner.as_deref(), &owned).await?
            };
            // This engine acts at once, others when they look.
            if let Err(error) = engine.look_at_controls().await {
                tracing::warn!(%error, "what a pause changes is done with the next look");
            }
            Ok::<bool, Problem>(changed)
        })
        .await??;
    let held = api.engine.controls.held();
    let found = match kind {
        PauseKind::Pool => held.of_pool(&name),
        PauseKind::Flow => held.of_flow(tenant.as_deref(), &name),
    };
    let key = match kind {
        PauseKind::Pool => "pool",
        PauseKind::Flow => "flowId",
    };
    Ok(Json(json!({ key: name, "paused": pause, "changed": changed, "pause": found.map(shown) })))
}

/// A pause, as it is shown.
pub(super) fn shown(pause: &Pause) -> Value {
    let of = match pause.kind {
        PauseKind::Pool => "pool",
        PauseKind::Flow => "flow",
    };
    json!({
        "of": of,
        "name": pause.name,
        "tenantId": pause.tenant,
        "since": pause.at.to_rfc3339(),
        "by": pause.by,
        "reason": pause.reason,
    })
}

/// The pause that holds back the task of an execution.
pub(super) fn of_task(api: &Api, execution: &flowmonkey_core::execution::Execution) -> Option<Pause> {
    if !api.engine.controls.any_paused() || execution.pause.is_some() {
        return None;
    }
    let task = execution.task()?;
    let held = api.engine.controls.held();
    let identity = &execution.identity;
    held.pause(&task.pool, identity.tenant_id.as_deref(), &identity.flow.id).cloned()
}

/// Why the task of an execution waits, where that is a pause.
pub(super) fn waiting_reason(pause: &Pause) -> String {
    let what = match pause.kind {
        PauseKind::Pool => "queue",
        PauseKind::Flow => "flow",
    };
    match &pause.reason {
        Some(reason) => format!("{what} paused: {reason}"),
        None => format!("{what} paused"),
    }
}
