//! Flows as drawings.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flowmonkey_core::flow::graph::mermaid;
use flowmonkey_core::flow::outline::outline;
use serde_json::json;

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::FlowGraph;
use super::openapi::queries::TenantQuery;
use super::problem::Problem;
use super::request::{Parameters, Segment};

/// `GET /v1/flows/{id}/graph`: the steps of a version as nodes, the ways between them as edges.
#[utoipa::path(
    get, path = "/v1/flows/{id}/graph", tag = "flows", operation_id = "drawFlow",
    summary = "A flow as nodes and edges",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the flow"),
        ("version" = Option<String>, Query, description = "the version; the latest when not given"),
        ("format" = Option<String>, Query, description = "`json` (the default) or `mermaid`, as text"),
        TenantQuery,
    ),
    responses((
        status = 200,
        description = "nodes and edges, or the text of a Mermaid flowchart",
        content((FlowGraph = "application/json"), (String = "text/plain; charset=utf-8")),
    )),
)]
pub(super) async fn graph(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let version = parameters.one("version");
    let tenant = access.tenant_of(&mut parameters);
    let as_text = match parameters.one("format").as_deref() {
        None | Some("json") => false,
        Some("mermaid") => true,
        Some(_) => {
            parameters.error("format", "`format` must be json or mermaid");
            false
        }
    };
    parameters.finish()?;
    let flow = api.engine.flow(tenant.as_deref(), &id, version.as_deref()).await?;
    if as_text {
        let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((content_type, mermaid(&flow)).into_response());
    }
    let drawn = outline(&flow);
    Ok(Json(json!({
        "id": flow.id,
        "version": flow.version.to_string(),
        "hash": flow.hash,
        "nodes": drawn.nodes,
        "edges": drawn.edges,
        "onCancel": drawn.on_cancel,
        "onFailure": drawn.on_failure,
    }))
    .into_response())
}
