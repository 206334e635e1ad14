//! The Checkpoint API over HTTP. What is larger than the record takes passes through: neither a body nor an answer is ever in
//! memory as a whole.

use std::error::Error;
use std::future::ready;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use flowmonkey_plumbing::api::{
    CHECKPOINT_BYTES_MAX, CHECKPOINT_JSON, CheckpointApi, DIGEST_HEADER, PlumbingError, SAVED_AT_HEADER,
    SavedCheckpoint, VERSION_HEADER,
};
use flowmonkey_plumbing::token::Scopes;
use futures_util::{Stream, StreamExt, stream};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::Api;
use super::super::problem::{ErrorClass, Problem};
use super::super::request::{self, Parameters, Segment, media_type};
use super::{Caller, invalid};
use crate::store::{CheckpointContent, StoredCheckpoint};

/// How long the next piece of a body may take.
const BODY_REST_MAX: Duration = Duration::from_secs(30);
/// Bytes of the name of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 200;
/// Of a body without a type.
const UNTYPED: &str = CHECKPOINT_JSON;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/plumbing/tasks/{task}/checkpoint", get(load).put(save).delete(clear))
        .route("/v1/plumbing/tasks/{task}/checkpoint/data", get(load_data))
}

/// The last checkpoint of a task.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct LoadedCheckpoint {
    #[serde(flatten)]
    saved: SavedCheckpoint,
    /// The type that it was saved with.
    content_type: String,
    /// What was saved. Missing when that is not JSON or larger than 1 MiB: `…/checkpoint/data` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// The last checkpoint of the task, whichever attempt saved it.
#[utoipa::path(
    get, path = "/v1/plumbing/tasks/{task}/checkpoint", tag = "plumbing", operation_id = "loadCheckpoint",
    summary = "The last checkpoint of the task",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    responses(
        (status = 200, description = "the checkpoint; without `data` when that is not JSON or larger than 1 MiB", body = LoadedCheckpoint),
        (status = 204, description = "there is none"),
    ),
)]
pub(in super::super) async fn load(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CHECKPOINT)?;
    parameters.finish()?;
    caller.is_current(false).await?;
    let Some(stored) = caller.plumbing().stored_checkpoint(&caller.access).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let StoredCheckpoint { id, saved_at, version, bytes, content } = stored;
    let saved = SavedCheckpoint { id, saved_at: saved_at.to_rfc3339(), version, bytes };
    let (content_type, data) = match content {
        CheckpointContent::Json(value) => (CHECKPOINT_JSON.into(), Some(value)),
        CheckpointContent::Bytes(content_type, _) => (content_type, None),
        CheckpointContent::Object(object) => (object.content_type, None),
    };
    Ok(Json(LoadedCheckpoint { saved, content_type, data }).into_response())
}

/// What the last checkpoint holds, byte by byte, with the type that it was saved with. An answer that breaks off or does not
/// fit its digest is none: ask again.
#[utoipa::path(
    get, path = "/v1/plumbing/tasks/{task}/checkpoint/data", tag = "plumbing", operation_id = "loadCheckpointData",
    summary = "What the last checkpoint holds, byte by byte",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    responses(
        (status = 200, description = "the data, of any type", content_type = "*/*", headers(
            ("etag" = String, description = "the id of the checkpoint, in quotes"),
            ("repr-digest" = String, description = "SHA-256 of the data (RFC 9530)"),
            ("x-flowmonkey-saved-at" = String, description = "when it was saved (RFC 3339)"),
            ("x-flowmonkey-version" = u64, description = "which save of the task it is"),
        )),
        (status = 204, description = "there is none"),
        (status = 500, description = "`CHECKPOINT_UNREADABLE`: the object store does not have what was stored"),
        (status = 503, description = "`OBJECT_STORE_UNAVAILABLE`"),
    ),
)]
pub(in super::super) async fn load_data(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CHECKPOINT)?;
    parameters.finish()?;
    caller.is_current(false).await?;
    let plumbing = caller.plumbing();
    let Some(stored) = plumbing.stored_checkpoint(&caller.access).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let StoredCheckpoint { id, saved_at, version, bytes, content } = stored;
    let (content_type, length, sum, body) = match content {
        CheckpointContent::Json(value) => {
            let text = value.to_string();
            (CHECKPOINT_JSON.into(), text.len() as u64, sum(text.as_bytes()), Body::from(text))
        }
        CheckpointContent::Bytes(content_type, data) => {
            (content_type, data.len() as u64, sum(&data), Body::from(data))
        }
        CheckpointContent::Object(object) => {
            let (content_type, sum) = (object.content_type.clone(), unhex(&object.sha256));
            (content_type, bytes, sum, Body::from_stream(plumbing.open_object(object, bytes).await?))
        }
    };
    let headers = [
        (header::CONTENT_TYPE.as_str(), content_type),
        (header::CONTENT_LENGTH.as_str(), length.to_string()),
        (header::ETAG.as_str(), format!("\"{id}\"")),
        (DIGEST_HEADER, format!("sha-256=:{}:", STANDARD.encode(sum))),
        (SAVED_AT_HEADER, saved_at.to_rfc3339()),
        (VERSION_HEADER, version.to_string()),
    ];
    Ok((headers, body).into_response())
}

fn sum(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// Of what is not hexadecimal nothing is left: then no digest fits.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |place: usize| text.get(place..place + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map_while(digit).collect()
}

/// Saves a checkpoint: the body, of any type. It replaces the one before, which stays when this fails. Up to 1 MiB it is
/// stored in the record, and JSON is checked; beyond that it goes into the object store as it comes.
#[utoipa::path(
    put, path = "/v1/plumbing/tasks/{task}/checkpoint", tag = "plumbing", operation_id = "saveCheckpoint",
    summary = "Save a checkpoint",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    request_body(content_type = "*/*", description = "what is saved: JSON, or bytes of another type", content = Value),
    responses(
        (status = 200, description = "it is saved", body = SavedCheckpoint),
        (status = 409, description = "`STALE_ATTEMPT`: the record has another attempt"),
        (status = 413, description = "`CHECKPOINT_TOO_LARGE`: over the limit, or over 1 MiB where there is no object store"),
        (status = 503, description = "`OBJECT_STORE_UNAVAILABLE`: the checkpoint before stays"),
    ),
)]
pub(in super::super) async fn save(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    request: Request,
) -> Result<Json<SavedCheckpoint>, Problem> {
    let caller = Caller::of(&api, &task, request.headers(), Scopes::CHECKPOINT)?;
    parameters.finish()?;
    let content_type = content_type(request.headers())?;
    check_length(&api, request.headers())?;
    let mut body = Box::pin(pieces(request.into_body()));
    let mut head = BytesMut::new();
    while let Some(piece) = body.next().await {
        head.extend_from_slice(&piece.map_err(|error| incomplete(&*error))?);
        if head.len() > CHECKPOINT_BYTES_MAX {
            let (plumbing, access) = (caller.plumbing(), caller.access);
            let whole = stream::once(ready(Ok(head.freeze()))).chain(body);
            let saving = async move { plumbing.save_large(&access, content_type, Box::pin(whole)).await };
            return Ok(Json(api.to_the_end(saving).await??));
        }
    }
    let bytes = head.len() as u64;
    let content = if content_type == CHECKPOINT_JSON {
        if head.is_empty() {
            return Err(invalid("the body is empty: send `null` to save that"));
        }
        CheckpointContent::Json(request::json(&head)?)
    } else {
        CheckpointContent::Bytes(content_type, head.freeze())
    };
    // The store's own guard refuses a stale attempt.
    Ok(Json(caller.plumbing().save_small(&caller.access, content, bytes).await?))
}

/// The type of what is saved.
fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(media) = media_type(headers) else { return Ok(UNTYPED.into()) };
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let is_type = media.split_once('/').is_some_and(|(main, sub)| is_name(main) && is_name(sub));
    if !is_type || media.len() > CONTENT_TYPE_BYTES_MAX {
        let detail =
            "`Content-Type` is no media type: send `application/json`, or `application/octet-stream`";
        return Err(Problem::new(ErrorClass::Unsupported, "UNSUPPORTED_MEDIA_TYPE", detail));
    }
    Ok(if media.ends_with("+json") { CHECKPOINT_JSON.into() } else { media })
}

/// Refuses at once what says of itself that it is too large.
fn check_length(api: &Api, headers: &HeaderMap) -> Result<(), Problem> {
    let config = api.engine.config();
    let max =
        if config.objects.is_some() { config.checkpoint_bytes_max } else { CHECKPOINT_BYTES_MAX as u64 };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > max => {
            let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            let what = if config.objects.is_some() {
                "the checkpoint"
            } else {
                "the checkpoint (engines keep larger ones when they are started with --object-store)"
            };
            Err(PlumbingError::TooLarge { what, actual: count(length), limit: count(max) }.into())
        }
        Some(_) | None => Ok(()),
    }
}

/// The pieces of a body; one that rests for too long ends with an error.
fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, Box<dyn Error + Send + Sync>>> + Send {
    stream::unfold(Some(body.into_data_stream()), async |rest| {
        let mut rest = rest?;
        match tokio::time::timeout(BODY_REST_MAX, rest.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(rest))),
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Ok(None) => None,
            Err(_elapsed) => Some((Err("nothing more of the body came in time".into()), None)),
        }
    })
}

fn incomplete(error: &(dyn Error + Send + Sync)) -> Problem {
    tracing::debug!(%error, "the body of a checkpoint broke off");
    Problem::new(ErrorClass::Undecodable, "BODY_INCOMPLETE", "the body did not arrive as a whole")
}

/// Forgets the task's checkpoint.
#[utoipa::path(
    delete, path = "/v1/plumbing/tasks/{task}/checkpoint", tag = "plumbing", operation_id = "clearCheckpoint",
    summary = "Forget the checkpoint",
    security(("taskToken" = [])),
    params(("task" = String, Path, description = "the id of the task")),
    responses(
        (status = 204, description = "there is none any more"),
        (status = 409, description = "`STALE_ATTEMPT`: the record has another attempt"),
    ),
)]
pub(in super::super) async fn clear(
    State(api): State<Api>,
    Segment(task): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let caller = Caller::of(&api, &task, &headers, Scopes::CHECKPOINT)?;
    parameters.finish()?;
    caller.plumbing().clear_checkpoint(&caller.access).await?;
    Ok(StatusCode::NO_CONTENT)
}
