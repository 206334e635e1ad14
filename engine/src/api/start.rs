//! Starting executions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Map, Value, json};

use super::access::{Access, Operator};
use super::fields::Fields;
use super::openapi::answers::{ExecutionStarted, StartAnswer};
use super::openapi::bodies::{StartBody, StartOfFlowBody};
use super::problem::{Detail, Problem};
use super::request::{JsonBody, Parameters, Segment};
use super::{Api, wait};
use crate::start::{Start, StartFlow, Started};
use crate::view;
use crate::watch::Story;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

#[utoipa::path(
    post, path = "/v1/executions", tag = "executions", operation_id = "startExecution",
    summary = "Start an execution",
    security(("apiKey" = ["operator"])),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "the same key gives the same execution of the flow"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with the whole execution, if it ends within N seconds (at most 60)"),
        ("traceparent" = Option<String>, Header, description = "the W3C trace that it belongs to; it is kept with the execution"),
    ),
    request_body = StartBody,
    responses(
        (status = 202, description = "it has started", body = ExecutionStarted, headers(("location" = String, description = "where it is found"))),
        (status = 200, description = "The idempotency key named one that is there; or it has ended within `Prefer: wait=N`", body = StartAnswer, headers(("location" = String, description = "where it is found"))),
        (status = 404, description = "`FLOW_NOT_FOUND`"),
        (status = 409, description = "`FLOW_NOT_PUBLISHED`, `EXECUTION_EXISTS`"),
    ),
)]
pub(super) async fn start(
    State(api): State<Api>,
    access: Access<Operator>,
    parameters: Parameters,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    respond(&api, &access, read(&access, body, None, &headers)?, &headers).await
}

#[utoipa::path(
    post, path = "/v1/flows/{id}/executions", tag = "executions", operation_id = "startExecutionOfFlow",
    summary = "Start an execution of a flow",
    security(("apiKey" = ["operator"])),
    params(
        ("id" = String, Path, description = "the id of the flow"),
        ("Idempotency-Key" = Option<String>, Header, description = "the same key gives the same execution of the flow"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with the whole execution, if it ends within N seconds (at most 60)"),
        ("traceparent" = Option<String>, Header, description = "the W3C trace that it belongs to; it is kept with the execution"),
    ),
    request_body = StartOfFlowBody,
    responses(
        (status = 202, description = "it has started", body = ExecutionStarted, headers(("location" = String, description = "where it is found"))),
        (status = 200, description = "The idempotency key named one that is there; or it has ended within `Prefer: wait=N`", body = StartAnswer, headers(("location" = String, description = "where it is found"))),
        (status = 404, description = "`FLOW_NOT_FOUND`"),
        (status = 409, description = "`FLOW_NOT_PUBLISHED`, `EXECUTION_EXISTS`"),
    ),
)]
pub(super) async fn of_flow(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(flow): Segment,
    parameters: Parameters,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    respond(&api, &access, read(&access, body, Some(flow), &headers)?, &headers).await
}

async fn respond<S>(
    api: &Api,
    access: &Access<S>,
    start: Start,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let engine = api.engine.clone();
    let Some(wait) = wait::preferred(headers) else {
        let started = api.to_the_end(async move { engine.start(start).await }).await??;
        return Ok(accepted(&started));
    };
    let (started, story) = api.to_the_end(async move { engine.start_and_hear(start).await }).await??;
    let Story { execution, history } = api.wait_for_story(access, started.id, story, wait).await?;
    if !execution.is_terminal() {
        return Ok(accepted(&started));
    }
    let history = match history {
        Some(history) => history,
        None => api.engine.whole_history(started.id).await?,
    };
    let location = (header::LOCATION, location(started.id));
    let applied = (PREFERENCE_APPLIED, format!("wait={}", wait.as_secs()));
    Ok(([location, applied], Json(view::execution(&execution, Some(&history)))).into_response())
}

fn accepted(started: &Started) -> Response {
    let location = (header::LOCATION, location(started.id));
    let status = if started.created { StatusCode::ACCEPTED } else { StatusCode::OK };
    (status, [location], Json(shown(started))).into_response()
}

/// Where an execution is found.
pub(super) fn location(id: ExecutionId) -> String {
    format!("/v1/executions/{id}")
}

/// What came of a start.
pub(super) fn shown(started: &Started) -> Value {
    let mut shown = json!({ "id": started.id, "status": started.status, "created": started.created });
    if !started.created {
        shown["inputDiffers"] = started.input_differs.into();
    }
    shown
}

/// Reads a start. `of` is the flow that the path names.
fn read<S>(
    access: &Access<S>,
    body: Option<Value>,
    of: Option<String>,
    headers: &HeaderMap,
) -> Result<Start, Problem> {
    let mut fields = Fields::of(body)?;
    let named_by_path = of.is_some();
    let flow_id = match of {
        Some(flow) => Some(flow),
        None => fields.text("flowId"),
    };
    let version = fields.text("version");
    let definition = if named_by_path { None } else { fields.value("definition") };
    let input = fields.value("input").unwrap_or_else(|| Value::Object(Map::new()));
    let idempotency_key = fields.text("idempotencyKey");
    let idempotency_window_ms = fields.millis("idempotencyWindowMs");
    let labels = fields.texts("labels");
    let metadata = fields.value("metadata");
    let tenant_id = fields.tenant(access);
    let id = fields.text("executionId").and_then(|text| {
        let id = text.parse::<ExecutionId>();
        id.map_err(|error| fields.error("executionId", error.to_string())).ok()
    });
    let force = fields.flag("force");
    let (mut execution_timeout_ms, mut wait_timeout_ms) = (None, None);
    if let Some(mut timeouts) = fields.object("timeoutConfig") {
        execution_timeout_ms = timeouts.millis("executionTimeoutMs");
        wait_timeout_ms = timeouts.millis("waitTimeoutMs");
        fields.done_with(timeouts);
    }
    let flow = match definition {
        Some(definition) => inline(definition, flow_id.as_deref(), version.as_deref(), &mut fields),
        None => match flow_id {
            Some(id) if !id.is_empty() => Some(StartFlow::Published { id, version }),
            Some(_) => {
                fields.error("flowId", "`flowId` is empty");
                None
            }
            None => {
                fields.error("flowId", "`flowId` is missing: name a published flow, or give a `definition`");
                None
            }
        },
    };
    let idempotency_key = key(idempotency_key, headers, &mut fields);
    fields.finish()?;
    // Without a flow there was an error, which has been told.
    let Some(flow) = flow else {
        return Err(Problem::invalid("INVALID_REQUEST", vec![Detail::at("/flowId", "no flow", None)]));
    };
    Ok(Start {
        id,
        idempotency_key,
        idempotency_window_ms,
        labels,
        metadata,
        tenant_id,
        execution_timeout_ms,
        wait_timeout_ms,
        force,
        traceparent: traceparent(headers),
        ..Start::new(flow, input)
    })
}

/// The flow that is given in the request, with the others beside it: the one with the wanted id, else the first.
fn inline(
    definition: Value,
    id: Option<&str>,
    version: Option<&str>,
    fields: &mut Fields,
) -> Option<StartFlow> {
    let (values, is_list) = match definition {
        Value::Array(values) => (values, true),
        value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            (vec![value], false)
        }
    };
    let mut flows: Vec<Arc<Flow>> = Vec::with_capacity(values.len());
    let mut is_whole = true;
    for (index, value) in values.iter().enumerate() {
        let pointer = if is_list { format!("/definition/{index}") } else { "/definition".to_owned() };
        match parse_flow_value(value) {
            Ok((flow, _warnings)) => flows.push(flow),
            Err(issues) => {
                is_whole = false;
                fields.errors(issues.into_iter().map(|issue| Detail::issue(issue, &pointer)));
            }
        }
    }
    if !is_whole {
        return None;
    }
    let wanted = flows.iter().position(|flow| {
        id.is_none_or(|id| flow.id == id) && version.is_none_or(|version| flow.version.to_string() == version)
    });
    match wanted {
        Some(index) => {
            let flow = flows.remove(index);
            Some(StartFlow::Inline { flow, bundle: flows })
        }
        None => {
            fields.error("definition", "`definition` does not hold the flow that is to start");
            None
        }
    }
}

/// The key of the body or of the header; both must agree.
fn key(in_body: Option<String>, headers: &HeaderMap, fields: &mut Fields) -> Option<String> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return in_body };
    let Ok(in_header) = value.to_str() else {
        fields.errors([Detail::parameter("Idempotency-Key", "the header must be ASCII text")]);
        return None;
    };
    if in_body.as_deref().is_some_and(|in_body| in_body != in_header) {
        fields.error("idempotencyKey", "`idempotencyKey` differs from the header `Idempotency-Key`");
    }
    Some(in_header.to_owned())
}

/// W3C trace context: `00-<32 digits>-<16 digits>-<2 digits>`. One that cannot be read is ignored, as the standard says.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(&TRACEPARENT)?.to_str().ok()?;
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    (lengths == [2, 32, 16, 2] && is_hex).then(|| text.to_owned())
}
