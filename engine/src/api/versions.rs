//! Versions of flows: listed, compared, archived; and flows that are paused.

use axum::Json;
use axum::extract::State;
use flowmonkey_core::flow::pointer::escape;
use serde_json::{Map, Value, json};

use super::Api;
use super::access::{Access, Deployer, Operator, Viewer};
use super::fields::Fields;
use super::openapi::answers::{FlowArchived, FlowDifference, FlowPaused, FlowVersionPage};
use super::openapi::bodies::{NoFields, ReasonBody, VersionBody};
use super::openapi::queries::TenantQuery;
use super::pauses::{self, Paused};
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::engine::EngineError;
use crate::store::PauseKind;

/// What `POST /v1/flows/{id}:{verb}` understands.
const VERBS: &str = "archive, restore, pause, resume";
/// Differences within one step of which each is shown; one that has more is shown as a whole.
const DIFFERENCES_MAX: usize = 1000;

/// `GET /v1/flows/{id}/versions`: the latest first.
#[utoipa::path(
    get, path = "/v1/flows/{id}/versions", tag = "flows", operation_id = "listFlowVersions",
    summary = "The versions of a flow, the latest first",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    responses((status = 200, description = "its versions with their statuses", body = FlowVersionPage)),
)]
pub(super) async fn versions(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    Ok(Json(json!({ "items": shown(&api, tenant.as_deref(), &id).await?, "nextCursor": null })))
}

/// The versions of a flow; an error when it has none.
async fn shown(api: &Api, tenant: Option<&str>, id: &str) -> Result<Vec<Value>, Problem> {
    let versions = api.engine.store().flow_versions(tenant, id).await?;
    if versions.is_empty() {
        return Err(EngineError::FlowNotFound(id.to_owned()).into());
    }
    let shown = versions
        .into_iter()
        .map(|(flow, status)| json!({ "version": flow.version, "hash": flow.hash, "status": status }));
    Ok(shown.collect())
}

/// `GET /v1/flows/{id}:diff?from=&to=`: what changed between two versions.
#[utoipa::path(
    get, path = "/v1/flows/{id}:diff", tag = "flows", operation_id = "compareFlowVersions",
    summary = "What changed between two versions",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the flow"),
        ("from" = String, Query, description = "the version before"),
        ("to" = String, Query, description = "the version after"),
        TenantQuery,
    ),
    responses((status = 200, description = "the differences", body = FlowDifference)),
)]
pub(super) async fn diff<S>(
    api: &Api,
    access: &Access<S>,
    id: &str,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    let from = parameters.one("from");
    let to = parameters.one("to");
    for (name, given) in [("from", &from), ("to", &to)] {
        if given.is_none() {
            parameters.error(name, format!("`{name}` must be a version"));
        }
    }
    parameters.finish()?;
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    let old = api.engine.flow(tenant.as_deref(), id, Some(&from)).await?;
    let new = api.engine.flow(tenant.as_deref(), id, Some(&to)).await?;
    let mut shown = compare(&old.source, &new.source);
    shown["id"] = json!(id);
    shown["from"] = json!({ "version": from, "hash": old.hash });
    shown["to"] = json!({ "version": to, "hash": new.hash });
    Ok(Json(shown))
}

/// `POST /v1/flows/{id}:archive|restore {version?}` and `:pause|resume`.
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(target): Segment,
    mut parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    let Some((id, verb)) = target.rsplit_once(':') else {
        return Err(Problem::verb_missing("GET, HEAD"));
    };
    let told = Told { api, access, tenant, id: id.to_owned(), body };
    match verb {
        "archive" => archive(told).await,
        "restore" => restore(told).await,
        "pause" => pause(told).await,
        "resume" => resume(told).await,
        _ => {
            let detail = format!("flows understand {VERBS}, not `{verb}`");
            Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail))
        }
    }
}

/// What a flow is told, and by whom.
pub(super) struct Told {
    api: Api,
    access: Access<Viewer>,
    tenant: Option<String>,
    id: String,
    body: Option<Value>,
}

#[utoipa::path(
    post, path = "/v1/flows/{id}:archive", tag = "flows", operation_id = "archiveFlow",
    summary = "Take versions of a flow out of use",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    request_body = VersionBody,
    responses((status = 200, description = "what has changed", body = FlowArchived)),
)]
pub(super) async fn archive(told: Told) -> Result<Json<Value>, Problem> {
    set_archived(told, true).await
}

#[utoipa::path(
    post, path = "/v1/flows/{id}:restore", tag = "flows", operation_id = "restoreFlow",
    summary = "Take versions of a flow into use again",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    request_body = VersionBody,
    responses((status = 200, description = "what has changed", body = FlowArchived)),
)]
pub(super) async fn restore(told: Told) -> Result<Json<Value>, Problem> {
    set_archived(told, false).await
}

#[utoipa::path(
    post, path = "/v1/flows/{id}:pause", tag = "flows", operation_id = "pauseFlow",
    summary = "Hold back the tasks of a flow",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    request_body = ReasonBody,
    responses((status = 200, description = "what has changed", body = FlowPaused)),
)]
pub(super) async fn pause(told: Told) -> Result<Json<Value>, Problem> {
    set_paused(told, true).await
}

#[utoipa::path(
    post, path = "/v1/flows/{id}:resume", tag = "flows", operation_id = "resumeFlow",
    summary = "Deliver the tasks of a paused flow",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the flow"), TenantQuery),
    request_body = NoFields,
    responses((status = 200, description = "what has changed", body = FlowPaused)),
)]
pub(super) async fn resume(told: Told) -> Result<Json<Value>, Problem> {
    set_paused(told, false).await
}

async fn set_paused(told: Told, paused: bool) -> Result<Json<Value>, Problem> {
    let Told { api, access, tenant, id, body } = told;
    access.demand::<Operator>()?;
    shown(&api, tenant.as_deref(), &id).await?;
    let what = Paused { kind: PauseKind::Flow, tenant, name: id };
    pauses::carry_out(&api, access.principal(), what, paused, body).await
}

async fn set_archived(told: Told, archived: bool) -> Result<Json<Value>, Problem> {
    let Told { api, access, tenant, id, body } = told;
    access.demand::<Deployer>()?;
    let mut fields = Fields::of(body)?;
    let version = fields.required_if_given("version");
    fields.finish()?;
    let before = api.engine.store().flow_versions(tenant.as_deref(), &id).await?;
    if !before.iter().any(|(flow, _)| version.as_ref().is_none_or(|version| *version == flow.version)) {
        return Err(EngineError::FlowNotFound(id).into());
    }
    let engine = api.engine.clone();
    let (owner, owned) = (tenant.clone(), id.clone());
    let changed = api
        .to_the_end(async move {
            let changed =
                engine.store().archive_flow(owner.as_deref(), &owned, version.as_deref(), archived).await?;
            // This engine knows at once, others when they look.
            if let Err(error) = engine.look_at_controls().await {
                tracing::warn!(%error, "an archived version is known with the next look");
            }
            Ok::<usize, Problem>(changed)
        })
        .await??;
    Ok(Json(json!({ "id": id, "changed": changed, "versions": shown(&api, tenant.as_deref(), &id).await? })))
}

/// Steps that were added, removed and changed, and the other fields that were; each place as a JSON pointer.
fn compare(old: &Value, new: &Value) -> Value {
    let empty = Map::new();
    let steps = |flow: &Value| flow.get("steps").and_then(Value::as_object).unwrap_or(&empty).clone();
    let (old_steps, new_steps) = (steps(old), steps(new));
    let only_in = |one: &Map<String, Value>, other: &Map<String, Value>| -> Vec<String> {
        one.keys().filter(|step| !other.contains_key(*step)).cloned().collect()
    };
    let mut changed = Vec::new();
    for (step, before) in &old_steps {
        if let Some(after) = new_steps.get(step).filter(|after| *after != before) {
            let changes = differences(&format!("/steps/{}", escape(step)), before, after);
            changed.push(json!({ "step": step, "changes": changes }));
        }
    }
    let rest = |flow: &Value| {
        let mut fields = flow.as_object().cloned().unwrap_or_default();
        fields.shift_remove("steps");
        Value::Object(fields)
    };
    json!({
        "steps": {
            "added": only_in(&new_steps, &old_steps),
            "removed": only_in(&old_steps, &new_steps),
            "changed": changed,
        },
        "fields": differences("", &rest(old), &rest(new)),
    })
}

/// All places where two values differ; the whole at once when there are too many.
fn differences(pointer: &str, old: &Value, new: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    // Not recursive: a flow may be nested deeply.
    let mut waiting = vec![(pointer.to_owned(), Some(old), Some(new))];
    while let Some((pointer, old, new)) = waiting.pop() {
        if old == new {
            continue;
        }
        if let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new) {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                waiting.push((format!("{pointer}/{}", escape(key)), before.get(key), after.get(key)));
            }
            continue;
        }
        let kind = match (old, new) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(_), Some(_)) => "changed",
        };
        found.push(json!({ "pointer": pointer, "kind": kind, "from": old, "to": new }));
    }
    if found.len() > DIFFERENCES_MAX {
        return vec![json!({ "pointer": pointer, "kind": "changed", "from": old, "to": new })];
    }
    found.sort_by(|left, right| left["pointer"].as_str().cmp(&right["pointer"].as_str()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_fields_that_differ_are_named_by_pointer() {
        let old = json!({ "version": "1", "steps": { "a": { "type": "x", "config": { "u/v": 1, "w": [1] } }, "b": {} } });
        let new = json!({ "version": "2", "steps": { "a": { "type": "x", "config": { "u/v": 2, "w": [1] } }, "c": {} } });
        assert_eq!(
            compare(&old, &new),
            json!({
                "steps": { "added": ["c"], "removed": ["b"], "changed": [{ "step": "a", "changes": [
                    { "pointer": "/steps/a/config/u~1v", "kind": "changed", "from": 1, "to": 2 }] }] },
                "fields": [{ "pointer": "/version", "kind": "changed", "from": "1", "to": "2" }],
            })
        );
        let same = compare(&old, &old);
        assert_eq!(same, json!({ "steps": { "added": [], "removed": [], "changed": [] }, "fields": [] }));
    }
}
