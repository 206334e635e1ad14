//! Searching executions: lists and counts by one set of parameters.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::limits::LABELS_MAX;
use flowmonkey_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::{ExecutionCount, ExecutionPage};
use super::openapi::queries::{ExecutionQuery, PageQuery};
use super::problem::Problem;
use super::request::Parameters;
use crate::access::Visibility;
use crate::store::{Count, ExecutionFilter, ListPage, Span};

/// `GET /v1/executions`: newest first.
#[utoipa::path(
    get, path = "/v1/executions", tag = "executions", operation_id = "listExecutions",
    summary = "Find executions, newest first",
    security(("apiKey" = ["viewer"])),
    params(ExecutionQuery, PageQuery),
    responses((status = 200, description = "a page", body = ExecutionPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let filter = filter(&mut parameters, access.visibility());
    let before = id_parameter(&mut parameters, "cursor");
    let max = parameters.limit();
    parameters.finish()?;
    let Some(filter) = filter else { return Ok(page(ListPage::default())) };
    Ok(page(api.engine.store().list(&ExecutionFilter { before, max, ..filter }).await?))
}

/// `GET /v1/executions:count`: how many a list would have on all its pages, exact up to [`COUNT_MAX`](crate::store::COUNT_MAX).
#[utoipa::path(
    get, path = "/v1/executions:count", tag = "executions", operation_id = "countExecutions",
    summary = "How many executions there are",
    security(("apiKey" = ["viewer"])),
    params(
        ExecutionQuery,
        ("by" = Option<String>, Query, description = "`status`: a count for each status", pattern = "^status$"),
    ),
    responses((status = 200, description = "`count` and `exact`, or `counts` by status", body = ExecutionCount)),
)]
pub(super) async fn count(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let filter = filter(&mut parameters, access.visibility());
    let by = parameters.one("by");
    if by.as_ref().is_some_and(|by| by != "status") {
        parameters.error("by", "`by` must be status");
    }
    parameters.finish()?;
    let store = api.engine.store();
    if by.is_none() {
        let found = match filter {
            Some(filter) => store.count(&filter).await?,
            None => Count { count: 0, exact: true },
        };
        return Ok(Json(json!({ "count": found.count, "exact": found.exact })));
    }
    let mut counts = Map::new();
    if let Some(filter) = filter {
        for status in Status::ALL {
            if filter.statuses.is_empty() || filter.statuses.contains(&status) {
                let found =
                    store.count(&ExecutionFilter { statuses: vec![status], ..filter.clone() }).await?;
                if found.count > 0 {
                    counts.insert(
                        status.as_str().into(),
                        json!({ "count": found.count, "exact": found.exact }),
                    );
                }
            }
        }
    }
    Ok(Json(json!({ "counts": counts })))
}

/// Reads what executions are searched by; what is wrong is noted in `parameters`. None: the caller sees no such execution.
pub(super) fn filter(parameters: &mut Parameters, sees: &Visibility) -> Option<ExecutionFilter> {
    let tenant = parameters.one("tenantId");
    let filter = ExecutionFilter {
        statuses: statuses(parameters),
        flow_id: parameters.one("flowId"),
        flow_version: parameters.one("version"),
        labels: labels(parameters),
        tenant: sees.tenant().map(str::to_owned).or_else(|| tenant.clone()),
        created: span(parameters, "createdAfter", "createdBefore"),
        updated: span(parameters, "updatedAfter", "updatedBefore"),
        ended: span(parameters, "endedAfter", "endedBefore"),
        error_code: parameters.one("errorCode"),
        current_step: parameters.one("currentStepId"),
        waiting_reason: parameters.one("waitingReason"),
        id_prefix: parameters.parsed("id", "the beginning of an execution id (`ex_` and hexadecimal digits)"),
        parent: id_parameter(parameters, "parent"),
        include_children: parameters.parsed("children", "true or false").unwrap_or(false),
        before: None,
        max: 0,
    };
    tenant.is_none_or(|tenant| sees.sees(Some(&tenant))).then_some(filter)
}

fn statuses(parameters: &mut Parameters) -> Vec<Status> {
    let mut statuses = Vec::new();
    for word in parameters.all("status").iter().flat_map(|list| list.split(',')) {
        match Status::parse(word) {
            Some(status) => statuses.push(status),
            None => {
                let known: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
                parameters.error("status", format!("`status` must be one of {}", known.join(", ")));
            }
        }
    }
    statuses
}

fn labels(parameters: &mut Parameters) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, value) in parameters.prefixed("label.") {
        let parameter = format!("label.{name}");
        if labels.insert(name, value).is_some() {
            parameters.error(&parameter, format!("`{parameter}` is given more than once"));
        }
    }
    if labels.len() > LABELS_MAX {
        parameters.error("label", format!("no execution has more than {LABELS_MAX} labels"));
    }
    labels
}

fn span(parameters: &mut Parameters, from: &str, until: &str) -> Span {
    let mut instant = |name: &str| {
        let wanted = "an instant such as 2026-07-31T08:30:00Z (RFC 3339)";
        parameters.parsed::<Instant>(name, wanted).map(|Instant(instant)| instant)
    };
    Span { from: instant(from), until: instant(until) }
}

struct Instant(Timestamp);

impl FromStr for Instant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Timestamp::parse_rfc3339(text).map(Self).ok_or(())
    }
}

/// How a page of a list is shown.
pub(super) fn page(page: ListPage) -> Json<Value> {
    Json(json!({ "items": page.items, "nextCursor": page.next }))
}

/// A parameter that names an execution.
pub(super) fn id_parameter(parameters: &mut Parameters, name: &str) -> Option<ExecutionId> {
    parameters.parsed(name, "an execution id (`ex_` and 32 hexadecimal digits)")
}
