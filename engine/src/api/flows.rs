//! Flows: publish, list, get, validate.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowmonkey_core::flow::parse::{Document, Issue, parse_document};
use serde_json::{Value, json};

use super::access::{Access, Deployer, Viewer};
use super::openapi::answers::{FlowPage, FlowPublished, FlowShown, Validation};
use super::openapi::bodies::FlowDefinition;
use super::openapi::queries::TenantQuery;
use super::problem::{Detail, ErrorClass, Problem};
use super::request::{FlowBody, Parameters, Segment, path_segment};
use super::{Api, pauses, versions};
use crate::store::PublishOutcome;

/// Bytes of a flow above which it is read beside the tasks that serve requests.
const READ_ASIDE_BYTES: usize = 64 * 1024;

#[utoipa::path(
    post, path = "/v1/flows", tag = "flows", operation_id = "publishFlow",
    summary = "Publish a flow",
    security(("apiKey" = ["deployer"])),
    params(TenantQuery),
    request_body(
        content((FlowDefinition = "application/json"), (String = "application/yaml"), (String = "text/plain")),
        description = "one flow",
    ),
    responses(
        (status = 201, description = "it is published", body = FlowPublished, headers(("location" = String, description = "where it is found"))),
        (status = 200, description = "the same content was published before", body = FlowPublished, headers(("location" = String, description = "where it is found"))),
        (status = 409, description = "`FLOW_VERSION_EXISTS`: the version has other content"),
    ),
)]
pub(super) async fn publish(
    State(api): State<Api>,
    access: Access<Deployer>,
    mut parameters: Parameters,
    body: FlowBody,
) -> Result<Response, Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    let document = parse(body).await?.map_err(|issues| invalid(issues, ""))?;
    let Document { flows, tables, warnings } = document;
    let ([flow], []) = (flows.as_slice(), tables.as_slice()) else {
        let message = "the body must hold one flow and nothing else";
        let hint = "publish flows one by one; define tables with PUT /v1/tables/{id}";
        let error = Detail::at("", message, Some(hint.into()));
        return Err(Problem::invalid("INVALID_FLOW", vec![error]));
    };
    let version = flow.version.to_string();
    let status = match api.engine.publish_of(tenant.as_deref(), flow).await? {
        PublishOutcome::Created => StatusCode::CREATED,
        PublishOutcome::Unchanged => StatusCode::OK,
        PublishOutcome::Conflict { existing } => {
            let detail = format!(
                "flow `{}` has a version {version} with other content (hash {existing}); raise the version",
                flow.id
            );
            return Err(Problem::new(ErrorClass::Conflict, "FLOW_VERSION_EXISTS", detail));
        }
    };
    let mut shown = json!({ "id": flow.id, "version": version, "hash": flow.hash });
    if !warnings.is_empty() {
        shown["warnings"] = details(warnings, "");
    }
    let location = format!("/v1/flows/{}?version={}", path_segment(&flow.id), path_segment(&version));
    Ok((status, [(header::LOCATION, location)], Json(shown)).into_response())
}

#[utoipa::path(
    post, path = "/v1/flows:validate", tag = "flows", operation_id = "validateFlows",
    summary = "Check flows without publishing them",
    security(("apiKey" = ["viewer"])),
    request_body(
        content((FlowDefinition = "application/json"), (String = "application/yaml"), (String = "text/plain")),
        description = "a flow, or a document of several",
    ),
    responses((status = 200, description = "what is thought of it", body = Validation)),
)]
pub(super) async fn validate(
    _access: Access<Viewer>,
    parameters: Parameters,
    body: FlowBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(match parse(body).await? {
        Ok(document) => {
            let flows: Vec<Value> = document
                .flows
                .iter()
                .map(|flow| json!({ "id": flow.id, "version": flow.version.to_string(), "hash": flow.hash }))
                .collect();
            json!({ "valid": true, "flows": flows, "issues": details(document.warnings, "") })
        }
        Err(issues) => json!({ "valid": false, "flows": [], "issues": details(issues, "") }),
    }))
}

#[utoipa::path(
    get, path = "/v1/flows", tag = "flows", operation_id = "listFlows",
    summary = "All published versions",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "all of them", body = FlowPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let items = api.engine.store().list_flows(access.visibility(), None).await?;
    Ok(Json(json!({ "items": items, "nextCursor": null })))
}

#[utoipa::path(
    get, path = "/v1/flows/{id}", tag = "flows", operation_id = "getFlow",
    summary = "A flow with its definition",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the flow"),
        ("version" = Option<String>, Query, description = "the version; without it the latest that is published"),
        TenantQuery,
    ),
    responses((status = 200, description = "the flow", body = FlowShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    if let Some((id, "diff")) = id.rsplit_once(':') {
        return versions::diff(&api, &access, id, parameters).await;
    }
    let version = parameters.one("version");
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    let versions = api.engine.store().flow_versions(tenant.as_deref(), &id).await?;
    // Where nothing starts any more, the latest version is still shown.
    let latest = || versions.iter().find(|(_, status)| status == "published").or_else(|| versions.first());
    let version = version.or_else(|| latest().map(|(flow, _)| flow.version.clone()));
    let flow = api.engine.flow(tenant.as_deref(), &id, version.as_deref()).await?;
    let status = versions.iter().find(|(known, _)| Some(&known.version) == version.as_ref());
    let status = status.map(|(_, status)| status);
    let held = api.engine.controls.held();
    Ok(Json(json!({
        "id": flow.id,
        "version": flow.version.to_string(),
        "hash": flow.hash,
        "status": status,
        "paused": held.of_flow(tenant.as_deref(), &id).map(pauses::shown),
        "definition": flow.source,
        "versions": versions.iter().map(|(flow, _)| &flow.version).collect::<Vec<_>>(),
    })))
}

/// Reads the flows of a body. A large one takes long enough to hold up others.
async fn parse(body: FlowBody) -> Result<Result<Document, Vec<Issue>>, Problem> {
    if body.text.len() <= READ_ASIDE_BYTES {
        return Ok(parse_document(&body.text, body.format));
    }
    tokio::task::spawn_blocking(move || parse_document(&body.text, body.format)).await.map_err(|error| {
        Problem::hidden(ErrorClass::Internal, "INTERNAL", "the flow could not be read", &error)
    })
}

/// The problem of a flow that stands at `prefix` of the body.
pub(super) fn invalid(issues: Vec<Issue>, prefix: &str) -> Problem {
    Problem::invalid("INVALID_FLOW", issues.into_iter().map(|issue| Detail::issue(issue, prefix)).collect())
}

fn details(issues: Vec<Issue>, prefix: &str) -> Value {
    json!(issues.into_iter().map(|issue| Detail::issue(issue, prefix)).collect::<Vec<_>>())
}
