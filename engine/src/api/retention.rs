//! How long the executions of a flow are kept.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Admin, Viewer};
use super::fields::Fields;
use super::openapi::answers::FlowRetentionShown;
use super::openapi::bodies::RetentionBody;
use super::openapi::queries::TenantQuery;
use super::problem::Problem;
use super::request::{JsonBody, Parameters, Segment};
use crate::engine::EngineError;
use crate::store::FlowRetention;

/// Most days that executions can be kept.
const DAYS_MAX: u64 = 36_500;
/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Seconds of a day.
const DAY_SECONDS: f64 = 24.0 * 60.0 * 60.0;

/// `GET /v1/flows/{id}/retention`: what holds for the flow; null: the default.
#[utoipa::path(
    get, path = "/v1/flows/{id}/retention", tag = "flows", operation_id = "getFlowRetention",
    summary = "How long executions of a flow are kept",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    responses((status = 200, description = "what holds now", body = FlowRetentionShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    exists(&api, tenant.as_deref(), &id).await?;
    let all = api.engine.store().flow_retentions().await?;
    let own = all.into_iter().find(|own| own.tenant == tenant && own.flow_id == id);
    Ok(Json(shown(&api, &id, tenant.as_deref(), own.as_ref())))
}

/// `PUT /v1/flows/{id}/retention {completedDays?, failedDays?}`: what is not given has the default.
#[utoipa::path(
    put, path = "/v1/flows/{id}/retention", tag = "flows", operation_id = "setFlowRetention",
    summary = "Say how long executions of a flow are kept",
    security(("apiKey" = ["admin"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    request_body = RetentionBody,
    responses((status = 200, description = "what holds now", body = FlowRetentionShown)),
)]
pub(super) async fn set(
    State(api): State<Api>,
    access: Access<Admin>,
    Segment(id): Segment,
    mut parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    let mut fields = Fields::of(body)?;
    let completed_ms = days(&mut fields, "completedDays");
    let failed_ms = days(&mut fields, "failedDays");
    if completed_ms.is_none() && failed_ms.is_none() {
        fields.missing("completedDays");
    }
    fields.finish()?;
    let (completed_ms, failed_ms) = (completed_ms.flatten(), failed_ms.flatten());
    exists(&api, tenant.as_deref(), &id).await?;
    let (at, by) = (api.engine.now(), access.principal().name.to_string());
    let own = FlowRetention { tenant, flow_id: id, completed_ms, failed_ms, at, by };
    let engine = api.engine.clone();
    let own =
        api.to_the_end(async move { engine.store().set_flow_retention(&own).await.map(|()| own) }).await??;
    Ok(Json(shown(&api, &own.flow_id, own.tenant.as_deref(), Some(&own))))
}

/// `DELETE /v1/flows/{id}/retention`: the default holds again.
#[utoipa::path(
    delete, path = "/v1/flows/{id}/retention", tag = "flows", operation_id = "liftFlowRetention",
    summary = "Let the default hold again",
    security(("apiKey" = ["admin"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    responses((status = 200, description = "what holds now", body = FlowRetentionShown)),
)]
pub(super) async fn lift(
    State(api): State<Api>,
    access: Access<Admin>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    exists(&api, tenant.as_deref(), &id).await?;
    let engine = api.engine.clone();
    let (owner, flow) = (tenant.clone(), id.clone());
    api.to_the_end(async move { engine.store().lift_flow_retention(owner.as_deref(), &flow).await })
        .await??;
    Ok(Json(shown(&api, &id, tenant.as_deref(), None)))
}

/// Whole days, as milliseconds; none: not given. Within, none: what was given is wrong.
fn days(fields: &mut Fields, name: &'static str) -> Option<Option<u64>> {
    let value = fields.value(name)?;
    let days = value.as_u64().filter(|days| (1..=DAYS_MAX).contains(days));
    if days.is_none() {
        fields.error(name, format!("`{name}` must be a whole number of days from 1 to {DAYS_MAX}"));
    }
    Some(days.map(|days| days * DAY_MS))
}

/// That the flow exists, for the caller.
async fn exists(api: &Api, tenant: Option<&str>, id: &str) -> Result<(), Problem> {
    if api.engine.store().flow_versions(tenant, id).await?.is_empty() {
        return Err(EngineError::FlowNotFound(id.to_owned()).into());
    }
    Ok(())
}

fn shown(api: &Api, id: &str, tenant: Option<&str>, own: Option<&FlowRetention>) -> Value {
    let days = |millis: u64| millis / DAY_MS;
    let default = api.engine.config().keep_executions.as_secs_f64() / DAY_SECONDS;
    json!({
        "flowId": id,
        "tenantId": tenant,
        "completedDays": own.and_then(|own| own.completed_ms).map(days),
        "failedDays": own.and_then(|own| own.failed_ms).map(days),
        "defaultDays": default,
        "setAt": own.map(|own| own.at.to_rfc3339()),
        "setBy": own.map(|own| &own.by),
    })
}
