//! What executions are told: cancel, signal, pause and the like, and resuming by token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flowmonkey_core::execution::command::{Command, Signal};
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::execution::{Execution, Rejection};
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Operator};
use super::fields::Fields;
use super::openapi::answers::{CommandAnswer, ExecutionStarted, SignalAnswer};
use super::openapi::bodies::{NoFields, ReasonBody, RerunBody, RetryBody, SignalBody};
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment, execution_id};
use super::start::{location, shown};
use crate::apply::CommandError;

/// What `POST /v1/executions/{id}:{verb}` understands.
const VERBS: &str = "cancel, signal, pause, resume, retry, rerun, terminate";
/// Bytes of the name and the id of a signal.
const NAME_BYTES_MAX: usize = 512;

/// `POST /v1/executions/{id}:{verb}`: a router cannot split a segment, so that it is done here.
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Operator>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let Some((id, verb)) = target.split_once(':') else {
        return Err(Problem::verb_missing("GET, HEAD, DELETE"));
    };
    let id = execution_id(id);
    if let Ok(id) = &id
        && access.visibility().tenant().is_some()
    {
        api.execution(&access, *id).await?;
    }
    let command = match verb {
        "cancel" => cancel(body)?,
        "terminate" => terminate(body)?,
        "pause" => pause(body)?,
        "resume" => unpause(body)?,
        "retry" => retry(body)?,
        "signal" => return send(&api, id?, signal(body)?).await,
        "rerun" => return rerun(&api, id?, body).await,
        _ => {
            let detail = format!("executions understand {VERBS}, not `{verb}`");
            return Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail));
        }
    };
    let execution = carry_out(&api, id?, command).await??;
    Ok(answer(&execution).into_response())
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:cancel", tag = "executions", operation_id = "cancelExecution",
    summary = "End an execution, undoing and cleaning up",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "how it stands now", body = CommandAnswer),
        (status = 409, description = "the state does not allow it"),
    ),
)]
pub(super) fn cancel(body: Option<Value>) -> Result<Command, Problem> {
    Ok(Command::Cancel { source: CancelSource::User, reason: reason(body)? })
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:terminate", tag = "executions", operation_id = "terminateExecution",
    summary = "End an execution at once",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "how it stands now", body = CommandAnswer),
        (status = 409, description = "the state does not allow it"),
    ),
)]
pub(super) fn terminate(body: Option<Value>) -> Result<Command, Problem> {
    Ok(Command::Terminate { reason: reason(body)? })
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:pause", tag = "executions", operation_id = "pauseExecution",
    summary = "Hold an execution",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "how it stands now", body = CommandAnswer),
        (status = 409, description = "the state does not allow it"),
    ),
)]
pub(super) fn pause(body: Option<Value>) -> Result<Command, Problem> {
    Ok(Command::Pause { reason: reason(body)? })
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:resume", tag = "executions", operation_id = "resumeExecution",
    summary = "Let a paused execution move again",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = NoFields,
    responses(
        (status = 200, description = "how it stands now", body = CommandAnswer),
        (status = 409, description = "the state does not allow it"),
    ),
)]
pub(super) fn unpause(body: Option<Value>) -> Result<Command, Problem> {
    Fields::of(body)?.finish()?;
    Ok(Command::Unpause)
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:retry", tag = "executions", operation_id = "retryExecution",
    summary = "Try the step of an incident or of a failed execution again",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = RetryBody,
    responses(
        (status = 200, description = "how it stands now", body = CommandAnswer),
        (status = 409, description = "the state does not allow it"),
    ),
)]
pub(super) fn retry(body: Option<Value>) -> Result<Command, Problem> {
    let mut fields = Fields::of(body)?;
    let by = fields.text("by");
    fields.finish()?;
    Ok(Command::Retry { by })
}

/// `POST /v1/resume/{token}`: the body is the data.
#[utoipa::path(
    post, path = "/v1/resume/{token}", tag = "executions", operation_id = "resumeByToken",
    summary = "Resume what a token was made for",
    security(()),
    params(("token" = String, Path, description = "the token; whoever has it may resume")),
    request_body(content = Value, description = "the data: any JSON, or nothing"),
    responses(
        (status = 200, description = "how the execution stands now", body = CommandAnswer),
        (status = 409, description = "`RESUME_TOKEN_USED`, `NOT_WAITING`, `EXECUTION_FINISHED`"),
    ),
)]
pub(super) async fn resume(
    State(api): State<Api>,
    Segment(token): Segment,
    parameters: Parameters,
    JsonBody(data): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let unknown = || {
        let detail = "this token resumes nothing here";
        Problem::new(ErrorClass::NotFound, "RESUME_TOKEN_NOT_FOUND", detail)
    };
    let resumed = api.engine.tokens().check(&token).ok_or_else(unknown)?;
    let command = Command::Resume { step: resumed.step, visit: resumed.visit, data };
    match carry_out(&api, resumed.execution, command).await? {
        Ok(execution) => Ok(answer(&execution)),
        Err(CommandError::Rejected(Rejection::DuplicateSignal)) => {
            let detail = "this token has been used";
            Err(Problem::new(ErrorClass::Conflict, "RESUME_TOKEN_USED", detail))
        }
        Err(error) => Err(error.into()),
    }
}

/// Sends a signal; the answer says whether it is kept, because nothing waits for it now.
async fn send(api: &Api, id: ExecutionId, signal: Signal) -> Result<Response, Problem> {
    let name = signal.name.clone();
    let execution = carry_out(api, id, Command::Signal(signal)).await??;
    let Json(mut answer) = answer(&execution);
    answer["kept"] = json!(execution.signals.iter().any(|kept| kept.name == name));
    Ok(Json(answer).into_response())
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:rerun", tag = "executions", operation_id = "rerunExecution",
    summary = "Start a new execution from a step of an old one",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = RerunBody,
    responses(
        (status = 200, description = "it has started", body = ExecutionStarted, headers(("location" = String, description = "where it is found"))),
        (status = 409, description = "`EXECUTION_NOT_ENDED`, `FLOW_NOT_PUBLISHED`"),
    ),
)]
pub(super) async fn rerun(api: &Api, id: ExecutionId, body: Option<Value>) -> Result<Response, Problem> {
    let mut fields = Fields::of(body)?;
    let from_step = fields.required_text("fromStep");
    let input = fields.value("input");
    fields.finish()?;
    let engine = api.engine.clone();
    let from_step = from_step.unwrap_or_default();
    let started = api.to_the_end(async move { engine.rerun(id, &from_step, input).await }).await??;
    let mut answer = shown(&started);
    answer["rerunOf"] = json!(id);
    Ok(([(header::LOCATION, location(started.id))], Json(answer)).into_response())
}

/// Carries out a command, whatever the client does meanwhile. The outer error: the engine is ending.
async fn carry_out(
    api: &Api,
    id: ExecutionId,
    command: Command,
) -> Result<Result<Arc<Execution>, CommandError>, Problem> {
    let engine = api.engine.clone();
    api.to_the_end(async move { engine.command(id, command).await }).await
}

/// How the execution stands after a command.
fn answer(execution: &Execution) -> Json<Value> {
    Json(json!({
        "id": execution.id(),
        "status": execution.status(),
        "waitingReason": execution.waiting_reason(),
        "version": execution.version,
    }))
}

fn reason(body: Option<Value>) -> Result<Option<String>, Problem> {
    let mut fields = Fields::of(body)?;
    let reason = fields.text("reason");
    fields.finish()?;
    Ok(reason)
}

#[utoipa::path(
    post, path = "/v1/executions/{id}:signal", tag = "executions", operation_id = "signalExecution",
    summary = "Send a signal",
    security(("apiKey" = ["operator"])),
    params(("id" = String, Path, description = "the id of the execution")),
    request_body = SignalBody,
    responses(
        (status = 200, description = "how it stands now", body = SignalAnswer),
        (status = 409, description = "`DUPLICATE_SIGNAL`, `SIGNAL_BUFFER_FULL`, `EXECUTION_FINISHED`"),
    ),
)]
pub(super) fn signal(body: Option<Value>) -> Result<Signal, Problem> {
    let mut fields = Fields::of(body)?;
    let name = fields.required_text("name");
    let data = fields.value_or_null("data");
    let id = fields.text("id");
    for (field, text) in [("name", &name), ("id", &id)] {
        if text.as_ref().is_some_and(|text| text.len() > NAME_BYTES_MAX) {
            fields.error(field, format!("`{field}` has more than {NAME_BYTES_MAX} bytes"));
        }
    }
    fields.finish()?;
    Ok(Signal { name: name.unwrap_or_default(), data, id })
}
