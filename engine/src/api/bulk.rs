//! Operations on many executions: tried out, asked for, looked at, stopped.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Admin, Operator, Viewer};
use super::fields::Fields;
use super::openapi::answers::{OperationAnswer, OperationItemPage, OperationPage, OperationShown};
use super::openapi::bodies::{NoFields, OperationBody};
use super::openapi::queries::PageQuery;
use super::problem::{Detail, ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::bulk::{BeginError, NewOperation, OPERATION_EXECUTIONS_MAX, Verb, filter};
use crate::store::{ExecutionFilter, Operation};

/// Bytes of the reason of an operation.
const REASON_BYTES_MAX: usize = 1024;

impl From<BeginError> for Problem {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::TooMany => {
                Self::new(ErrorClass::Overloaded, "TOO_MANY_OPERATIONS", error.to_string())
            }
            BeginError::Engine(error) => error.into(),
        }
    }
}

/// `POST /v1/operations {verb, filter, reason?, max?, dryRun?}`: does something to all executions that a filter finds.
#[utoipa::path(
    post, path = "/v1/operations", tag = "bulk", operation_id = "beginOperation",
    summary = "Do something to all executions that a filter finds",
    security(("apiKey" = ["operator"])),
    request_body = OperationBody,
    responses(
        (status = 200, description = "with `dryRun`: how many executions there are, and the first of them", body = OperationAnswer),
        (status = 202, description = "an engine carries it out in the background", body = OperationAnswer),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    access: Access<Operator>,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let mut fields = Fields::of(body)?;
    let word = fields.required_text("verb");
    let verb = word.as_deref().and_then(Verb::parse);
    if word.is_some() && verb.is_none() {
        let known: Vec<&str> = Verb::ALL.into_iter().map(Verb::as_str).collect();
        fields.error("verb", format!("`verb` must be one of {}", known.join(", ")));
    }
    let reason = fields.text("reason");
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        fields.error("reason", format!("`reason` has more than {REASON_BYTES_MAX} bytes"));
    }
    let max = max(&mut fields);
    let dry_run = fields.flag("dryRun");
    let sent = fields.value("filter");
    let found = match &sent {
        None => {
            fields.missing("filter");
            None
        }
        Some(Value::Object(map)) => read(&mut fields, &access, map),
        Some(_) => {
            fields.error("filter", "`filter` must be an object");
            None
        }
    };
    fields.finish()?;
    let (Some(verb), Some(found), Some(filter)) = (verb, found, sent) else {
        // All that keeps them from being there was noted.
        return Err(Problem::invalid("INVALID_REQUEST", Vec::new()));
    };
    if verb == Verb::Delete {
        access.demand::<Admin>()?;
    }
    if dry_run {
        let (count, ids) = api.engine.preview_operation(&found).await?;
        let matching = json!({ "count": count.count, "exact": count.exact });
        return Ok(Json(json!({ "dryRun": true, "verb": verb.as_str(), "matching": matching, "ids": ids }))
            .into_response());
    }
    let by = access.principal().name.to_string();
    let new = NewOperation { verb, reason, filter, by, tenant: access.only(), max };
    let engine = api.engine.clone();
    let operation = api.to_the_end(async move { engine.begin_operation(new).await }).await??;
    let location = format!("/v1/operations/{}", operation.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(shown(&operation))).into_response())
}

/// `max`: at most so many executions.
fn max(fields: &mut Fields) -> u64 {
    let Some(value) = fields.value("max") else { return OPERATION_EXECUTIONS_MAX };
    match value.as_u64() {
        Some(max) if (1..=OPERATION_EXECUTIONS_MAX).contains(&max) => max,
        Some(_) | None => {
            fields.error("max", format!("`max` must be a whole number from 1 to {OPERATION_EXECUTIONS_MAX}"));
            OPERATION_EXECUTIONS_MAX
        }
    }
}

/// Reads the filter, for the caller's own tenant; what is wrong with it is noted.
fn read<S>(
    fields: &mut Fields,
    access: &Access<S>,
    map: &serde_json::Map<String, Value>,
) -> Option<ExecutionFilter> {
    match filter::read(map) {
        Ok(filter) => match access.tenant(filter.tenant.clone()) {
            Ok(tenant) => Some(ExecutionFilter { tenant, ..filter }),
            Err(refusal) => {
                fields.errors([Detail::at("/filter/tenantId", refusal, None)]);
                None
            }
        },
        Err(wrong) => {
            let details =
                wrong.into_iter().map(|one| Detail::at(format!("/filter{}", one.pointer), one.message, None));
            fields.errors(details);
            None
        }
    }
}

/// `GET /v1/operations`: the newest first.
#[utoipa::path(
    get, path = "/v1/operations", tag = "bulk", operation_id = "listOperations",
    summary = "Operations on many executions",
    security(("apiKey" = ["viewer"])),
    params(PageQuery),
    responses((status = 200, description = "a page of operations", body = OperationPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let before = parameters.one("cursor");
    let limit = parameters.limit();
    parameters.finish()?;
    let only = access.only();
    let found = api.engine.store().operations(only.as_deref(), before.as_deref(), limit + 1).await?;
    let items = &found[..found.len().min(limit)];
    let next = items.last().filter(|_| found.len() > limit).map(|last| &last.id);
    Ok(Json(json!({ "items": items.iter().map(shown).collect::<Vec<_>>(), "nextCursor": next })))
}

/// `GET /v1/operations/{id}`: how far it is.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "bulk", operation_id = "getOperation",
    summary = "How far an operation is",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the operation")),
    responses((status = 200, description = "the operation", body = OperationShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(shown(&find(&api, &access, &id).await?)))
}

/// `GET /v1/operations/{id}/items`: what came of it for each execution, newest execution first.
#[utoipa::path(
    get, path = "/v1/operations/{id}/items", tag = "bulk", operation_id = "listOperationItems",
    summary = "What came of an operation for each execution",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the operation"), PageQuery),
    responses((status = 200, description = "a page of executions", body = OperationItemPage)),
)]
pub(super) async fn items(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let before = parameters.parsed("cursor", "the `nextCursor` of the page before");
    let limit = parameters.limit();
    parameters.finish()?;
    let operation = find(&api, &access, &id).await?;
    let found = api.engine.store().operation_items(&operation.id, before, limit + 1).await?;
    let page = &found[..found.len().min(limit)];
    let next = page.last().filter(|_| found.len() > limit).map(|last| last.execution);
    let items: Vec<Value> = page
        .iter()
        .map(|item| json!({ "executionId": item.execution, "done": item.code.is_none(), "code": item.code }))
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

/// `POST /v1/operations/{id}:cancel`: it stops after the batch that it is at. What was done stays done.
#[utoipa::path(
    post, path = "/v1/operations/{id}:cancel", tag = "bulk", operation_id = "cancelOperation",
    summary = "Stop an operation",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the operation")),
    request_body = NoFields,
    responses(
        (status = 200, description = "the operation", body = OperationShown),
        (status = 409, description = "`OPERATION_ENDED`: there is nothing left to stop"),
    ),
)]
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let Some((id, verb)) = target.rsplit_once(':') else {
        return Err(super::problem::no_such_method().await);
    };
    if verb != "cancel" {
        let detail = format!("operations understand cancel, not `{verb}`");
        return Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail));
    }
    Fields::of(body)?.finish()?;
    let operation = find(&api, &access, id).await?;
    let at = api.engine.now();
    let stopped = api.engine.store().stop_operation(&operation.id, at).await?;
    let operation = find(&api, &access, id).await?;
    if !stopped && operation.stopped_at.is_none() {
        let detail = "the operation has ended already";
        return Err(Problem::new(ErrorClass::Conflict, "OPERATION_ENDED", detail));
    }
    Ok(Json(shown(&operation)))
}

/// An operation of the caller's tenant.
async fn find<S>(api: &Api, access: &Access<S>, id: &str) -> Result<Operation, Problem> {
    let found = api.engine.store().operation(id).await?;
    found.filter(|operation| access.visibility().sees(operation.tenant.as_deref())).ok_or_else(|| {
        Problem::new(ErrorClass::NotFound, "OPERATION_NOT_FOUND", "there is no operation of that id")
    })
}

/// An operation, as it is shown.
fn shown(operation: &Operation) -> Value {
    let state = match (operation.ended_at, operation.stopped_at, &operation.failure) {
        (Some(_), _, Some(_)) => "failed",
        (Some(_), Some(_), None) => "cancelled",
        (Some(_), None, None) => "completed",
        (None, Some(_), _) => "cancelling",
        (None, None, _) => "running",
    };
    json!({
        "id": operation.id,
        "verb": operation.verb,
        "reason": operation.reason,
        "filter": operation.filter,
        "tenantId": operation.tenant,
        "by": operation.by,
        "max": operation.max,
        "state": state,
        "done": operation.done,
        "refused": operation.refused,
        "createdAt": operation.created_at.to_rfc3339(),
        "endedAt": operation.ended_at.map(|at| at.to_rfc3339()),
        "failure": operation.failure,
    })
}
