//! Webhooks: who is told of events, and the log of what they were told.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::ids::new_uuid;
use reqwest::Url;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Deployer, Operator, Viewer};
use super::fields::Fields;
use super::openapi::answers::{
    DeliveryPage, Webhook as WebhookShown, WebhookCreated, WebhookPage, WebhookTested,
};
use super::openapi::bodies::{NoFields, WebhookBody, WebhookChange};
use super::openapi::queries::PageQuery;
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::store::{Delivery, DeliveryStatus, PublishedEvent, Webhook};
use crate::webhooks::{
    DEFAULT_PATTERNS, DESCRIPTION_BYTES_MAX, PATTERN_BYTES_MAX, PATTERNS_MAX, SECRET_BYTES, SECRET_PREFIX,
    TEST, URL_BYTES_MAX, WEBHOOKS_MAX, state,
};

/// `GET /v1/webhooks`.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", operation_id = "listWebhooks",
    summary = "All webhooks",
    security(("apiKey" = ["viewer"])),
    responses((status = 200, description = "all of them", body = WebhookPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let webhooks = api.engine.read_webhooks().await?;
    let now = api.engine.now();
    let items: Vec<Value> = webhooks
        .iter()
        .filter(|webhook| access.visibility().sees(webhook.tenant.as_deref()))
        .map(|webhook| shown(webhook, now))
        .collect();
    Ok(Json(json!({ "items": items, "nextCursor": null })))
}

/// `POST /v1/webhooks`: `{url, tenantId?, events?, description?, active?}`. The answer has the secret; no other one does.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "createWebhook",
    summary = "Make a webhook",
    security(("apiKey" = ["deployer"])),
    request_body = WebhookBody,
    responses(
        (status = 201, description = "it, with its secret", body = WebhookCreated, headers(("location" = String, description = "where it is found"))),
        (status = 409, description = "`WEBHOOK_LIMIT`"),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    access: Access<Deployer>,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let engine = &api.engine;
    let mut fields = Fields::of(body)?;
    let change = Change::read(&api, &mut fields);
    let tenant = fields.tenant(&access);
    if change.url.is_none() {
        fields.missing("url");
    }
    fields.finish()?;
    let known = engine.read_webhooks().await?;
    if known.iter().filter(|webhook| webhook.tenant == tenant).count() >= WEBHOOKS_MAX {
        let detail = format!("there are {WEBHOOKS_MAX} webhooks already: delete one first");
        return Err(Problem::new(ErrorClass::Conflict, "WEBHOOK_LIMIT", detail));
    }
    let mut secret = Vec::with_capacity(SECRET_BYTES);
    while secret.len() < SECRET_BYTES {
        secret.extend(engine.entropy.bits().to_be_bytes());
    }
    let mut webhook = Webhook {
        id: format!("wh_{}", new_uuid(&*engine.clock, &*engine.entropy).simple()),
        tenant,
        url: String::new(),
        secret: format!("{SECRET_PREFIX}{}", BASE64.encode(secret)),
        patterns: DEFAULT_PATTERNS.map(Into::into).into(),
        description: String::new(),
        active: true,
        deactivated: None,
        failing_since: None,
        created_at: engine.now(),
    };
    change.apply(&mut webhook);
    save(&api, &webhook).await?;
    let mut body = shown(&webhook, engine.now());
    body["secret"] = json!(webhook.secret);
    let location = [(header::LOCATION, format!("/v1/webhooks/{}", webhook.id))];
    Ok((StatusCode::CREATED, location, Json(body)).into_response())
}

/// `GET /v1/webhooks/{id}`.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "getWebhook",
    summary = "A webhook",
    security(("apiKey" = ["viewer"])),
    params(("id" = String, Path, description = "the id of the webhook")),
    responses((status = 200, description = "the webhook", body = WebhookShown)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let webhook = find(&api, &access, &id).await?;
    Ok(Json(shown(&webhook, api.engine.now())))
}

/// `PATCH /v1/webhooks/{id}`: `{url?, events?, description?, active?}`; what is not named stays.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "changeWebhook",
    summary = "Change a webhook",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the webhook")),
    request_body = WebhookChange,
    responses((status = 200, description = "the webhook", body = WebhookShown)),
)]
pub(super) async fn change(
    State(api): State<Api>,
    access: Access<Deployer>,
    Segment(id): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut fields = Fields::of(body)?;
    let change = Change::read(&api, &mut fields);
    fields.finish()?;
    let mut webhook = find(&api, &access, &id).await?;
    change.apply(&mut webhook);
    save(&api, &webhook).await?;
    Ok(Json(shown(&webhook, api.engine.now())))
}

/// `DELETE /v1/webhooks/{id}`: with its log; what was not delivered is not delivered any more.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "deleteWebhook",
    summary = "Delete a webhook with its log",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the webhook")),
    responses((status = 204, description = "it is gone")),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    access: Access<Deployer>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<StatusCode, Problem> {
    parameters.finish()?;
    find(&api, &access, &id).await?;
    if !api.engine.store().delete_webhook(&id).await? {
        return Err(not_found(&id));
    }
    api.engine.read_webhooks().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/webhooks/{id}:test`: sends an event of its own at once, and says how that went. It is in no log.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}:test", tag = "webhooks", operation_id = "testWebhook",
    summary = "Send a test event at once",
    security(("apiKey" = ["deployer"])),
    params(("id" = String, Path, description = "the id of the webhook")),
    request_body = NoFields,
    responses((status = 200, description = "how that went", body = WebhookTested)),
)]
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Deployer>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let Some((id, verb)) = target.split_once(':') else {
        return Err(Problem::verb_missing("GET, HEAD, PATCH, DELETE"));
    };
    if verb != "test" {
        return Err(no_such_verb("webhooks understand test", verb));
    }
    Fields::of(body)?.finish()?;
    let webhook = find(&api, &access, id).await?;
    let engine = &api.engine;
    let event = PublishedEvent {
        id: engine.fresh_event_id(),
        name: TEST.into(),
        data: json!({ "webhookId": webhook.id }),
        tenant: webhook.tenant.clone(),
        source: None,
        at: engine.now(),
        attributes: None,
    };
    let last = engine.try_delivery(&webhook, &event).await.last;
    let delivered = last.error.is_none();
    let mut body = json!({ "eventId": event.id, "delivered": delivered, "durationMs": last.duration_ms });
    body["statusCode"] = json!(last.status);
    body["error"] = json!(last.error);
    Ok(Json(body))
}

/// `GET /v1/webhooks/{id}/deliveries?status=`: newest first.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "listDeliveries",
    summary = "What a webhook was sent, newest first",
    security(("apiKey" = ["viewer"])),
    params(
        ("id" = String, Path, description = "the id of the webhook"),
        ("status" = Option<String>, Query, description = "`pending`, `delivered` or `failed`", pattern = "^(pending|delivered|failed)$"),
        PageQuery,
    ),
    responses((status = 200, description = "a page", body = DeliveryPage)),
)]
pub(super) async fn deliveries(
    State(api): State<Api>,
    access: Access<Viewer>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let status = parameters.one("status").map(|word| DeliveryStatus::parse(&word));
    if status == Some(None) {
        parameters.error("status", "`status` must be one of pending, delivered, failed");
    }
    let cursor = parameters.one("cursor").map(|text| {
        let (at, event) = text.split_once('.')?;
        Some((Timestamp::from_millis(at.parse().ok()?), event.to_owned()))
    });
    if cursor == Some(None) {
        parameters.error("cursor", "`cursor` must be the `nextCursor` of a page before");
    }
    let max = parameters.limit();
    parameters.finish()?;
    find(&api, &access, &id).await?;
    // One more tells whether there is another page.
    let mut found = api.engine.store().deliveries(&id, status.flatten(), cursor.flatten(), max + 1).await?;
    let is_last = found.len() <= max;
    found.truncate(max);
    let next = found.last().filter(|_| !is_last);
    let next = next.map(|last| format!("{}.{}", last.created_at.as_millis(), last.event));
    let items: Vec<Value> = found.iter().map(shown_delivery).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

/// `POST /v1/webhooks/{id}/deliveries/{event}:redeliver`: it is due again, with all its tries.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/deliveries/{event}:redeliver", tag = "webhooks", operation_id = "redeliver",
    summary = "Send an event again",
    security(("apiKey" = ["operator"])),
    params(
        ("id" = String, Path, description = "the id of the webhook"),
        ("event" = String, Path, description = "the id of the event"),
    ),
    request_body = NoFields,
    responses((status = 202, description = "it is due again")),
)]
pub(super) async fn redeliver(
    State(api): State<Api>,
    access: Access<Operator>,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, Problem> {
    parameters.finish()?;
    let Ok(Path((id, target))) = path else {
        let detail = "the path is not UTF-8 when decoded";
        return Err(Problem::new(ErrorClass::Undecodable, "INVALID_PATH", detail));
    };
    // Ids of events have colons of their own.
    let Some((event, verb)) = target.rsplit_once(':') else {
        return Err(Problem::verb_missing(""));
    };
    if verb != "redeliver" {
        return Err(no_such_verb("deliveries understand redeliver", verb));
    }
    Fields::of(body)?.finish()?;
    find(&api, &access, &id).await?;
    if !api.engine.store().redeliver(&id, event, api.engine.now()).await? {
        let detail = "this webhook has no delivery of that event";
        return Err(Problem::new(ErrorClass::NotFound, "DELIVERY_NOT_FOUND", detail));
    }
    api.engine.hooks.bell.notify_one();
    Ok(StatusCode::ACCEPTED)
}

fn no_such_verb(known: &str, verb: &str) -> Problem {
    Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", format!("{known}, not `{verb}`"))
}

fn not_found(id: &str) -> Problem {
    Problem::new(ErrorClass::NotFound, "WEBHOOK_NOT_FOUND", format!("there is no webhook `{id}`"))
}

/// A webhook that the caller sees.
async fn find<S>(api: &Api, access: &Access<S>, id: &str) -> Result<Webhook, Problem> {
    let webhooks = api.engine.read_webhooks().await?;
    let mut seen = webhooks.iter().filter(|webhook| access.visibility().sees(webhook.tenant.as_deref()));
    seen.find(|webhook| webhook.id == id).cloned().ok_or_else(|| not_found(id))
}

async fn save(api: &Api, webhook: &Webhook) -> Result<(), Problem> {
    api.engine.store().save_webhook(webhook).await?;
    api.engine.read_webhooks().await?;
    api.engine.hooks.bell.notify_one();
    Ok(())
}

/// A webhook as it is shown: never its secret.
fn shown(webhook: &Webhook, now: Timestamp) -> Value {
    json!({
        "id": webhook.id,
        "tenantId": webhook.tenant,
        "url": webhook.url,
        "events": webhook.patterns,
        "description": webhook.description,
        "active": webhook.active,
        "state": state(webhook, now),
        "deactivated": webhook.deactivated,
        "failingSince": webhook.failing_since.map(Timestamp::to_rfc3339),
        "createdAt": webhook.created_at.to_rfc3339(),
    })
}

fn shown_delivery(delivery: &Delivery) -> Value {
    let is_pending = delivery.status == DeliveryStatus::Pending;
    json!({
        "eventId": delivery.event,
        "eventName": delivery.name,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "nextAt": is_pending.then(|| delivery.next_at.to_rfc3339()),
        "createdAt": delivery.created_at.to_rfc3339(),
        "last": delivery.last.as_ref().map(|last| json!({
            "at": last.at.to_rfc3339(),
            "statusCode": last.status,
            "error": last.error,
            "durationMs": last.duration_ms,
        })),
    })
}

/// What a request says of a webhook.
struct Change {
    url: Option<String>,
    patterns: Option<Vec<String>>,
    description: Option<String>,
    active: Option<bool>,
}

impl Change {
    fn read(api: &Api, fields: &mut Fields) -> Self {
        let url = fields.required_if_given("url");
        if let Some(problem) = url.as_deref().and_then(|url| url_problem(api, url)) {
            fields.error("url", problem);
        }
        let description = fields.text("description");
        if description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            fields.error("description", format!("`description` has more than {DESCRIPTION_BYTES_MAX} bytes"));
        }
        let active = match fields.value("active") {
            None => None,
            Some(Value::Bool(active)) => Some(active),
            Some(_) => {
                fields.error("active", "`active` must be true or false");
                None
            }
        };
        let patterns = fields.value("events").and_then(|events| match patterns(events) {
            Ok(patterns) => Some(patterns),
            Err(message) => {
                fields.error("events", message);
                None
            }
        });
        Self { url, patterns, description, active }
    }

    fn apply(self, webhook: &mut Webhook) {
        let Self { url, patterns, description, active } = self;
        if let Some(url) = url {
            webhook.url = url;
        }
        if let Some(patterns) = patterns {
            webhook.patterns = patterns;
        }
        if let Some(description) = description {
            webhook.description = description;
        }
        if let Some(active) = active {
            if active {
                webhook.deactivated = None;
                webhook.failing_since = None;
            }
            webhook.active = active;
        }
    }
}

fn patterns(events: Value) -> Result<Vec<String>, String> {
    let wanted =
        || format!("`events` must be a list of 1 to {PATTERNS_MAX} names, in which * stands for any text");
    let Value::Array(items) = events else { return Err(wanted()) };
    if items.is_empty() || items.len() > PATTERNS_MAX {
        return Err(wanted());
    }
    let mut patterns = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::String(text) if (1..=PATTERN_BYTES_MAX).contains(&text.len()) => patterns.push(text),
            Value::String(_) => return Err(format!("a name has 1 to {PATTERN_BYTES_MAX} bytes")),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return Err(wanted());
            }
        }
    }
    Ok(patterns)
}

/// What is wrong with a webhook's URL. What its name resolves to shows with each delivery.
fn url_problem(api: &Api, text: &str) -> Option<String> {
    if text.len() > URL_BYTES_MAX {
        return Some(format!("`url` has more than {URL_BYTES_MAX} bytes"));
    }
    match Url::parse(text) {
        Err(error) => Some(format!("`url` is no URL: {error}")),
        Ok(url) => api.engine.hooks.policy.check_url(&url).err().map(|blocked| blocked.to_string()),
    }
}
