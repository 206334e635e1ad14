//! What tasks said of themselves: progress, log lines.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::wire::LogLine;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::Api;
use super::access::{Access, Viewer};
use super::openapi::answers::{LogPage, ProgressPage};
use super::problem::{ErrorClass, Problem};
use super::request::{Parameters, Segment, execution_id};
use crate::config::FLUSH_EVERY;
use crate::store::{LogFilter, LogPlace, LogRow, StoreError};
use crate::watch::{Update, shown_progress};

/// How often a follower reads the record when it hears of nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long after a line was heard of it is in the record, nearly always.
const STORED_AFTER: Duration = FLUSH_EVERY.saturating_mul(2);
/// Lines that a follower reads at once.
const FOLLOWED_LINES: usize = 500;
/// The media type of lines that are followed.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// `GET /v1/executions/{id}/progress`: what its tasks reported, oldest first, by page.
#[utoipa::path(
    get, path = "/v1/executions/{id}/progress", tag = "executions", operation_id = "listProgress",
    summary = "What the tasks of an execution reported, oldest first",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("after" = Option<String>, Query, description = "`nextCursor` of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "reports of the page; 50 when not given"),
    ),
    responses((status = 200, description = "a page", body = ProgressPage)),
)]
pub(super) async fn history(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let id = execution_id(&id)?;
    let after: Option<ProgressCursor> = parameters.parsed("after", "the `nextCursor` of a page");
    let limit = parameters.limit();
    parameters.finish()?;
    api.execution(&access, id).await?;
    let after = after.map(|ProgressCursor(task, at)| (task, at));
    let rows = api.engine.store().progress_page(id, after, limit).await?;
    let last = rows.last().filter(|_| rows.len() >= limit);
    let next = last.map(|last| format!("{}.{}", last.task.number, last.at.as_millis()));
    let items = rows.iter().map(|row| {
        json!({
            "task": row.task.number,
            "attempt": row.attempt,
            "stepId": step(&row.step),
            "progress": shown_progress(&row.progress, row.at),
        })
    });
    Ok(Json(json!({ "items": items.collect::<Vec<_>>(), "nextCursor": next })))
}

/// `GET /v1/executions/{id}/logs`: log lines of its tasks, by page; with `follow=true` one JSON object for each line, as they
/// come, until the execution ends.
#[utoipa::path(
    get, path = "/v1/executions/{id}/logs", tag = "executions", operation_id = "listLogs",
    summary = "Log lines of the tasks of an execution",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("task" = Option<u32>, Query, description = "only of the task of this number"),
        ("attempt" = Option<u32>, Query, description = "only of this attempt"),
        ("after" = Option<String>, Query, description = "`nextCursor` of the page before"),
        ("follow" = Option<bool>, Query, description = "lines as they come, one JSON object each, until the execution ends"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "lines of the page; 50 when not given"),
    ),
    responses(
        (status = 200, description = "a page; with `follow=true` lines", content((LogPage = "application/json"), (String = "application/x-ndjson"))),
    ),
)]
pub(super) async fn logs(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let execution = execution_id(&id)?;
    let task = parameters.parsed("task", "the number of a task");
    let attempt = parameters.parsed("attempt", "the number of an attempt");
    let after: Option<LogCursor> = parameters.parsed("after", "the `nextCursor` of a page");
    let follow = parameters.parsed("follow", "true or false").unwrap_or(false);
    let max = parameters.limit();
    parameters.finish()?;
    let after = after.map_or_else(LogPlace::default, |LogCursor(place)| place);
    let filter = LogFilter { execution, task, attempt, after, max };
    if follow {
        return follow_lines(api, &access, filter).await;
    }
    api.execution(&access, execution).await?;
    let rows = api.engine.store().log_lines(&filter).await?;
    let next = rows.last().filter(|_| rows.len() >= max).map(|last| cursor(last.place()));
    let items: Vec<Value> = rows.iter().map(shown_line).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })).into_response())
}

fn step(step: &str) -> Option<&str> {
    Some(step).filter(|step| !step.is_empty())
}

fn shown_line(row: &LogRow) -> Value {
    json!({
        "stepId": step(&row.step),
        "task": row.task.number,
        "attempt": row.attempt,
        "line": row.line,
        "level": row.level,
        "message": row.message,
        "at": row.at.to_rfc3339(),
    })
}

/// As [`shown_line`], for a line that only its result will bring into the record.
fn shown_live(task: u32, attempt: u32, step: Option<&str>, line: &LogLine, now: Timestamp) -> Value {
    let at = Timestamp::parse_rfc3339(&line.timestamp).unwrap_or(now);
    json!({
        "stepId": step,
        "task": task,
        "attempt": attempt,
        "line": null,
        "level": line.level,
        "message": line.message,
        "at": at.to_rfc3339(),
    })
}

fn cursor(place: LogPlace) -> String {
    format!("{}.{}.{}", place.task, place.attempt, place.line)
}

/// Where a page of lines begins.
struct LogCursor(LogPlace);

impl std::str::FromStr for LogCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('.').map(|number| number.parse().map_err(|_| ()));
        let mut next = || numbers.next().unwrap_or(Err(()));
        let place = LogPlace { task: next()?, attempt: next()?, line: next()? };
        if numbers.next().is_some() { Err(()) } else { Ok(Self(place)) }
    }
}

/// Where a page of progress begins.
struct ProgressCursor(u32, Timestamp);

impl std::str::FromStr for ProgressCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (task, at) = text.split_once('.').ok_or(())?;
        let at = at.parse().map_err(|_| ())?;
        Ok(Self(task.parse().map_err(|_| ())?, Timestamp::from_millis(at)))
    }
}

/// Somebody who follows the lines of an execution. What counts is the record: what is heard only says when to read it.
struct Follower {
    api: Api,
    filter: LogFilter,
    updates: Receiver<Update>,
    waiting: VecDeque<Bytes>,
    look_at: Instant,
    _permit: OwnedSemaphorePermit,
}

async fn follow_lines<S>(api: Api, access: &Access<S>, filter: LogFilter) -> Result<Response, Problem> {
    let Ok(permit) = api.waits.clone().try_acquire_owned() else {
        let detail = "too many requests wait for executions; try again";
        return Err(Problem::new(ErrorClass::Overloaded, "TOO_MANY_WAITS", detail));
    };
    // First the ear, then the look.
    let updates = api.engine.watchers.follow();
    api.execution(access, filter.execution).await?;
    let follower = Follower {
        filter: LogFilter { max: FOLLOWED_LINES, ..filter },
        updates,
        waiting: VecDeque::new(),
        look_at: Instant::now(),
        _permit: permit,
        api,
    };
    let lines = stream::try_unfold(follower, |mut follower| async move {
        let next = follower.next().await;
        if let Err(error) = &next {
            tracing::debug!(%error, "log lines are followed no further");
        }
        Ok::<_, StoreError>(next?.map(|bytes| (bytes, follower)))
    });
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, LINES);
    Ok(response)
}

impl Follower {
    /// The next lines; none when the execution has ended and all was shown, or the server ends.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(bytes) = self.waiting.pop_front() {
                return Ok(Some(bytes));
            }
            if self.listen().await {
                return Ok(None);
            }
            if Instant::now() < self.look_at {
                continue;
            }
            self.look_at = Instant::now() + LOOK_EVERY;
            // First whether it has ended: results bring their lines before they count.
            let store = self.api.engine.store();
            let found = store.load(&[self.filter.execution]).await?;
            let has_ended = found.first().is_none_or(|execution| execution.is_terminal());
            let rows = store.log_lines(&self.filter).await?;
            match rows.last() {
                Some(last) => {
                    self.filter.after = last.place();
                    self.look_at = Instant::now();
                    let text: String = rows.iter().map(|row| shown_line(row).to_string() + "\n").collect();
                    self.waiting.push_back(Bytes::from(text));
                }
                None if has_ended => return Ok(None),
                None => {}
            }
        }
    }

    /// Hears updates until it is time to look, or there is something to show; true: the server ends.
    async fn listen(&mut self) -> bool {
        let api = self.api.clone();
        while self.waiting.is_empty() && Instant::now() < self.look_at {
            let update = tokio::select! {
                update = self.updates.recv() => update,
                () = tokio::time::sleep_until(self.look_at) => return false,
                () = api.shutdown.cancelled() => return true,
            };
            match update {
                Ok(update) => self.heard(&update),
                Err(RecvError::Lagged(_)) => self.look_within(STORED_AFTER),
                Err(RecvError::Closed) => return true,
            }
        }
        api.shutdown.is_cancelled()
    }

    fn look_within(&mut self, rest: Duration) {
        self.look_at = self.look_at.min(Instant::now() + rest);
    }

    fn heard(&mut self, update: &Update) {
        let ours = |execution: &ExecutionId| *execution == self.filter.execution;
        match update {
            Update::Log { execution, task, attempt, step, line } if ours(execution) => {
                if line.line > 0 {
                    self.look_within(STORED_AFTER);
                } else if self.filter.task.is_none_or(|wanted| wanted == *task)
                    && self.filter.attempt.is_none_or(|wanted| wanted == *attempt)
                {
                    let now = self.api.engine.now();
                    let shown = shown_live(*task, *attempt, step.as_deref(), line, now);
                    self.waiting.push_back(Bytes::from(shown.to_string() + "\n"));
                }
            }
            Update::Committed(update) if ours(&update.execution.id()) => self.look_within(Duration::ZERO),
            Update::Elsewhere { execution, .. } if ours(execution) => self.look_within(Duration::ZERO),
            Update::Missed => self.look_within(STORED_AFTER),
            Update::Log { .. }
            | Update::Committed(_)
            | Update::Elsewhere { .. }
            | Update::Started { .. }
            | Update::Progress { .. } => {}
        }
    }
}
