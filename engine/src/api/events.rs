//! Events: publishing and listing.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::event_refusal;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Operator, Viewer};
use super::cloud_events::{BATCH_MAX, binary, is_binary_mode, small_enough, structured};
use super::fields::Fields;
use super::openapi::answers::{EventAccepted, EventPage};
use super::openapi::bodies::{CloudEvent, EventBody};
use super::openapi::queries::{EventQuery, PageQuery, TenantQuery};
use super::problem::{Detail, Problem};
use super::request::{JsonBody, Parameters, Segment, execution_id, media_type, read};
use crate::store::{EventFilter, EventPlace, PublishedEvent};
use crate::webhooks::cloud_event::{BATCH_MEDIA_TYPE, MEDIA_TYPE, cloud_event};

/// `POST /v1/events`: `{name, data?, id?}`, or CloudEvents 1.0 (structured, a batch, or in binary mode).
#[utoipa::path(
    post, path = "/v1/events", tag = "events", operation_id = "publishEvent",
    summary = "Publish an event, or a batch",
    security(("apiKey" = ["operator"])),
    params(TenantQuery),
    request_body(content(
        (EventBody = "application/json"),
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
    ), description = "an event; with `ce-…` headers the body is the data of a CloudEvent"),
    responses((status = 202, description = "it is published, or was before", body = EventAccepted)),
)]
pub(super) async fn publish(
    State(api): State<Api>,
    access: Access<Operator>,
    mut parameters: Parameters,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let tenant = access.tenant_of(&mut parameters);
    parameters.finish()?;
    let media = media_type(request.headers());
    let now = api.engine.now();
    let refused = |errors| Problem::invalid("INVALID_REQUEST", errors);
    let mut event = if is_binary_mode(request.headers()) {
        let headers: HeaderMap = request.headers().clone();
        let body = read(request, &api).await?;
        binary(&headers, media.as_deref(), &body, now).map_err(refused)?
    } else {
        let JsonBody(body) = JsonBody::from_request(request, &api).await?;
        match media.as_deref() {
            Some(BATCH_MEDIA_TYPE) => return batch(&api, tenant, body, now).await,
            Some(MEDIA_TYPE) => structured(body.unwrap_or(Value::Null), "", now).map_err(refused)?,
            Some(_) | None => simple(&api, body, now)?,
        }
    };
    event.tenant = tenant;
    small_enough(&event.data)?;
    let created = api.engine.publish_events(std::slice::from_ref(&event)).await?;
    let created = created.first().is_some_and(|is_new| *is_new);
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": event.id, "created": created }))))
}

/// The simple form.
fn simple(api: &Api, body: Option<Value>, at: Timestamp) -> Result<PublishedEvent, Problem> {
    let mut fields = Fields::of(body)?;
    let name = fields.required_text("name");
    let data = fields.value("data").unwrap_or(Value::Null);
    let id = fields.text("id");
    if let Some(refusal) = name.as_deref().and_then(|name| event_refusal(name, None)) {
        fields.error("name", refusal);
    }
    if let Some(refusal) = id.as_deref().and_then(|id| event_refusal("named", Some(id))) {
        fields.error("id", refusal);
    }
    fields.finish()?;
    let id = id.unwrap_or_else(|| api.engine.fresh_event_id());
    Ok(PublishedEvent {
        id,
        name: name.unwrap_or_default(),
        data,
        tenant: None,
        source: None,
        at,
        attributes: None,
    })
}

/// A batch of CloudEvents: all are published, or none.
async fn batch(
    api: &Api,
    tenant: Option<String>,
    body: Option<Value>,
    now: Timestamp,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let refused = |message: String| Problem::invalid("INVALID_REQUEST", vec![Detail::at("", message, None)]);
    let Some(Value::Array(items)) = body else {
        return Err(refused("a batch is a list of CloudEvents".into()));
    };
    if items.len() > BATCH_MAX {
        return Err(refused(format!("a batch has at most {BATCH_MAX} events")));
    }
    let mut errors = Vec::new();
    let mut events = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match structured(item, &format!("/{index}"), now) {
            Ok(mut event) => {
                small_enough(&event.data)?;
                event.tenant.clone_from(&tenant);
                events.push(event);
            }
            Err(wrong) => errors.extend(wrong),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid("INVALID_REQUEST", errors));
    }
    let created = api.engine.publish_events(&events).await?;
    let items =
        events.iter().zip(created).map(|(event, created)| json!({ "id": event.id, "created": created }));
    Ok((StatusCode::ACCEPTED, Json(json!({ "items": items.collect::<Vec<_>>() }))))
}

/// `GET /v1/events`: newest first, as CloudEvents.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "listEvents",
    summary = "Events, newest first",
    security(("apiKey" = ["viewer"])),
    params(
        EventQuery,
        ("source" = Option<String>, Query, description = "only those that this execution published"),
        PageQuery,
    ),
    responses((status = 200, description = "a page of CloudEvents", body = EventPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let source = parameters.parsed("source", "an execution id (`ex_` and 32 hexadecimal digits)");
    page(&api, &access, source, parameters).await
}

/// `GET /v1/executions/{id}/events`: those that an execution published.
#[utoipa::path(
    get, path = "/v1/executions/{id}/events", tag = "events", operation_id = "listEventsOfExecution",
    summary = "The events that an execution published",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the execution"), EventQuery, PageQuery),
    responses((status = 200, description = "a page", body = EventPage)),
)]
pub(super) async fn of_execution(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let id = execution_id(&id)?;
    api.execution(&access, id).await?;
    page(&api, &access, Some(id), parameters).await
}

async fn page<S>(
    api: &Api,
    access: &Access<S>,
    source: Option<ExecutionId>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let name = parameters.one("name");
    let since = instant(&mut parameters, "since");
    let until = instant(&mut parameters, "until");
    let cursor = parameters.one("cursor").map(|text| place(&text));
    if cursor == Some(None) {
        parameters.error("cursor", "`cursor` must be the `nextCursor` of a page before");
    }
    let max = parameters.limit();
    parameters.finish()?;
    let defaults = EventFilter::default();
    let until = until.map_or(defaults.before, |at| EventPlace { at, sequence: i64::MIN });
    let filter = EventFilter {
        tenant: access.only(),
        name,
        source,
        since: since.unwrap_or(defaults.since),
        before: cursor.flatten().unwrap_or(defaults.before).min(until),
        // One more tells whether there is another page.
        max: max + 1,
    };
    let mut found = api.engine.store().list_events(&filter).await?;
    let is_last = found.len() <= max;
    found.truncate(max);
    let next = found.last().filter(|_| !is_last);
    let next = next.map(|(place, _)| format!("{}.{}", place.at.as_millis(), place.sequence));
    let items: Vec<Value> = found.iter().map(|(_, event)| cloud_event(event)).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

fn place(text: &str) -> Option<EventPlace> {
    let (at, sequence) = text.split_once('.')?;
    let at = Timestamp::from_millis(at.parse().ok()?);
    Some(EventPlace { at, sequence: sequence.parse().ok()? })
}

fn instant(parameters: &mut Parameters, name: &str) -> Option<Timestamp> {
    let text = parameters.one(name)?;
    let instant = Timestamp::parse_rfc3339(&text);
    if instant.is_none() {
        parameters.error(name, format!("`{name}` must be RFC 3339"));
    }
    instant
}
