//! Executions: get, history, children, context.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use flowmonkey_core::execution::command::ReportedOutcome;
use flowmonkey_core::execution::state::WaitOn;
use flowmonkey_core::execution::{Event, RecordedEvent};
use serde_json::{Value, json};

use super::access::{Access, Viewer};
use super::openapi::answers::{ExecutionPage, ExecutionShown, HistoryPage};
use super::openapi::queries::PageQuery;
use super::problem::{ErrorClass, Problem};
use super::request::{Parameters, Segment, execution_id};
use super::search::{id_parameter, page};
use super::{Api, explain, pauses, wait};
use crate::store::ExecutionFilter;
use crate::view;
use crate::watch::shown_progress;

#[utoipa::path(
    get, path = "/v1/executions/{id}/children", tag = "executions", operation_id = "listChildren",
    summary = "The children of an execution",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the execution"), PageQuery),
    responses((status = 200, description = "a page", body = ExecutionPage)),
)]
pub(super) async fn children(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let id = execution_id(&id)?;
    let before = id_parameter(&mut parameters, "cursor");
    let max = parameters.limit();
    parameters.finish()?;
    api.execution(&access, id).await?;
    let filter = ExecutionFilter {
        include_children: true,
        tenant: access.visibility().tenant().map(str::to_owned),
        parent: Some(id),
        before,
        max,
        ..ExecutionFilter::default()
    };
    Ok(page(api.engine.store().list(&filter).await?))
}

/// `GET /v1/executions/{id}` and `GET /v1/executions/{id}:explain`.
#[utoipa::path(
    get, path = "/v1/executions/{id}", tag = "executions", operation_id = "getExecution",
    summary = "An execution, with the outcomes of its steps",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("wait" = Option<u64>, Query, description = "wait so many seconds for its end, at most 60"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: the same"),
    ),
    responses((status = 200, description = "how it stands", body = ExecutionShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(target): Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    match target.split_once(':') {
        None => {
            let id = execution_id(&target)?;
            let seconds: Option<u64> = parameters.parsed("wait", "a whole number of seconds");
            parameters.finish()?;
            let wait = seconds.map(Duration::from_secs).or_else(|| wait::preferred(&headers));
            let execution = api.wait_for_end(&access, id, wait.unwrap_or_default()).await?;
            let history = api.engine.whole_history(id).await?;
            let mut shown = view::execution(&execution, Some(&history));
            if let Some(pause) = pauses::of_task(&api, &execution) {
                shown["waitingReason"] = pauses::waiting_reason(&pause).into();
            }
            if let Some(progress) = api.engine.progress_of(&execution).await? {
                shown["progress"] = shown_progress(&progress.progress, progress.at);
            }
            Ok(Json(shown))
        }
        Some((id, "explain")) => {
            let id = execution_id(id)?;
            parameters.finish()?;
            explain::explain(&api, &access, id).await.map(Json)
        }
        Some((_, verb)) => Err(Problem::new(
            ErrorClass::NotFound,
            "VERB_NOT_FOUND",
            format!("`{verb}` cannot be asked of an execution with GET"),
        )),
    }
}

#[utoipa::path(
    get, path = "/v1/executions/{id}/history", tag = "executions", operation_id = "getHistory",
    summary = "The events of an execution, in order",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("after" = Option<u64>, Query, description = "the sequence of the last event of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "events of the page; 50 when not given"),
    ),
    responses((status = 200, description = "a page", body = HistoryPage)),
)]
pub(super) async fn history(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let id = execution_id(&id)?;
    let after = parameters.parsed("after", "the sequence of an event").unwrap_or(0);
    let limit = parameters.limit();
    parameters.finish()?;
    let execution = api.execution(&access, id).await?;
    let events = api.engine.store().history(id, after, limit).await?;
    let next = events.last().map(|last| last.sequence).filter(|last| *last < execution.events);
    let items: Vec<Value> = events
        .into_iter()
        .map(|RecordedEvent { sequence, at, event }| {
            json!({ "sequence": sequence, "at": at.to_rfc3339(), "event": without_tokens(&event) })
        })
        .collect();
    Ok(Json(json!({ "items": items, "nextAfter": next })))
}

#[utoipa::path(
    get, path = "/v1/executions/{id}/context", tag = "executions", operation_id = "getContext",
    summary = "The context of an execution",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the execution")),
    responses((status = 200, description = "the context", body = Object)),
)]
pub(super) async fn context(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let execution = api.execution(&access, execution_id(&id)?).await?;
    Ok(Json(Value::Object(execution.context)))
}

/// Whoever has a token can resume: those who look on do not get to see it.
pub(super) fn without_tokens(event: &Event) -> Cow<'_, Event> {
    let waits = |on: &WaitOn| matches!(on, WaitOn::Handler { token: Some(_), .. });
    let reports = |outcome: &ReportedOutcome| matches!(outcome, ReportedOutcome::Wait { token: Some(_), .. });
    let shows_one = matches!(event, Event::WaitBegan(wait) if waits(&wait.on))
        || matches!(event, Event::ReportHeld(report) if reports(&report.outcome));
    if !shows_one {
        return Cow::Borrowed(event);
    }
    let mut event = event.clone();
    if let Event::WaitBegan(wait) = &mut event
        && let WaitOn::Handler { token, .. } = &mut wait.on
    {
        *token = None;
    }
    if let Event::ReportHeld(report) = &mut event
        && let ReportedOutcome::Wait { token, .. } = &mut report.outcome
    {
        *token = None;
    }
    Cow::Owned(event)
}
