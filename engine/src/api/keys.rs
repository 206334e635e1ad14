//! Keys for this API: made, listed, taken back. A tenant's administrator has to do with the keys of its tenant only.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Admin};
use super::fields::Fields;
use super::openapi::answers::{Key, KeyCreated, KeyPage};
use super::openapi::bodies::{KeyBody, NoFields};
use super::openapi::queries::PageQuery;
use super::problem::{ErrorClass, Problem};
use super::request::{JsonBody, Parameters, Segment};
use crate::access::{Scope, Visibility};
use crate::keys::{NewKey, shown};
use crate::store::{ApiKey, ApiKeyFilter};

/// `POST /v1/keys`: `{name, scopes, tenantId?, expiresInSeconds?}`. The answer has the key; no other one does.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", operation_id = "createKey",
    summary = "Make a key",
    security(("apiKey" = ["admin"])),
    request_body = KeyBody,
    responses(
        (status = 201, description = "the key; its text is in no other answer", body = KeyCreated, headers(("location" = String, description = "where it is found"))),
        (status = 403, description = "`SCOPE_MISSING`, `KEY_SCOPE`"),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    access: Access<Admin>,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let mut fields = Fields::of(body)?;
    let new = read(&mut fields, access.visibility());
    fields.finish()?;
    if let Visibility::Tenant(own) = access.visibility() {
        if new.tenant.as_deref() != Some(own) {
            let detail = "a tenant's administrator makes keys of its own tenant only";
            return Err(Problem::new(ErrorClass::Forbidden, "KEY_SCOPE", detail));
        }
        if let Some(scope) = new.scopes.iter().find(|scope| !access.principal().may(**scope)) {
            let detail = format!("a key cannot allow `{scope}`, which the key that makes it does not");
            return Err(Problem::new(ErrorClass::Forbidden, "KEY_SCOPE", detail));
        }
    }
    let (key, text) = new.make(api.engine.now(), &*api.engine.entropy);
    api.engine.store().put_key(&key).await?;
    let mut body = shown(&key, api.engine.now());
    body["key"] = json!(text);
    let location = [(header::LOCATION, format!("/v1/keys/{}", key.id))];
    Ok((StatusCode::CREATED, location, Json(body)).into_response())
}

/// `GET /v1/keys`: newest first, without secrets.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "listKeys",
    summary = "Keys, newest first",
    security(("apiKey" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "a page", body = KeyPage)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Admin>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let cursor = parameters.one("cursor").map(|text| {
        let (at, id) = text.split_once('.')?;
        Some((Timestamp::from_millis(at.parse().ok()?), id.to_owned()))
    });
    if cursor == Some(None) {
        parameters.error("cursor", "`cursor` must be the `nextCursor` of a page before");
    }
    let max = parameters.limit();
    parameters.finish()?;
    let filter = ApiKeyFilter {
        tenant: access.visibility().tenant().map(Into::into),
        before: cursor.flatten(),
        // One more tells whether there is another page.
        max: max + 1,
    };
    let mut found = api.engine.store().api_keys(&filter).await?;
    let is_last = found.len() <= max;
    found.truncate(max);
    let next = found.last().filter(|_| !is_last);
    let next = next.map(|last| format!("{}.{}", last.created_at.as_millis(), last.id));
    let now = api.engine.now();
    let items: Vec<Value> = found.iter().map(|key| shown(key, now)).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

/// `POST /v1/keys/{id}:revoke`: it does not count any more. Repeatable.
#[utoipa::path(
    post, path = "/v1/keys/{id}:revoke", tag = "keys", operation_id = "revokeKey",
    summary = "Take a key back",
    security(("apiKey" = ["admin"])),
    params(("id" = String, Path, description = "the id of the key")),
    request_body = NoFields,
    responses((status = 200, description = "the key", body = Key)),
)]
pub(super) async fn verb(
    State(api): State<Api>,
    access: Access<Admin>,
    Segment(target): Segment,
    parameters: Parameters,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let Some((id, verb)) = target.split_once(':') else {
        return Err(Problem::verb_missing(""));
    };
    if verb != "revoke" {
        let detail = format!("keys understand revoke, not `{verb}`");
        return Err(Problem::new(ErrorClass::NotFound, "VERB_NOT_FOUND", detail));
    }
    Fields::of(body)?.finish()?;
    let store = api.engine.store();
    let not_found = || Problem::new(ErrorClass::NotFound, "KEY_NOT_FOUND", "there is no key of that id");
    let known = store.api_key(id).await?.ok_or_else(not_found)?;
    if !access.visibility().sees(known.tenant.as_deref()) {
        return Err(not_found());
    }
    let now = api.engine.now();
    store.revoke_key(id, now).await?;
    let revoked_at = known.revoked_at.or(Some(now));
    Ok(Json(shown(&ApiKey { revoked_at, ..known }, now)))
}

fn read(fields: &mut Fields, visibility: &Visibility) -> NewKey {
    let name = fields.required_text("name").unwrap_or_default();
    let mut scopes = Vec::new();
    let mut wrong_scopes = true;
    match fields.value("scopes") {
        None => fields.missing("scopes"),
        Some(Value::Array(words)) => {
            wrong_scopes = !words.is_empty();
            for word in &words {
                match word.as_str().unwrap_or_default().parse::<Scope>() {
                    Ok(scope) => scopes.push(scope),
                    Err(error) => fields.error("scopes", error.to_string()),
                }
            }
        }
        Some(_) => fields.error("scopes", "`scopes` must be a list of scopes"),
    }
    let tenant = fields.text("tenantId").or_else(|| visibility.tenant().map(Into::into));
    let seconds = fields.value("expiresInSeconds").and_then(|value| {
        if value.as_u64().is_none() {
            fields.error("expiresInSeconds", "`expiresInSeconds` must be a whole number");
        }
        value.as_u64()
    });
    let new = NewKey { name, scopes, tenant, life: seconds.map(Duration::from_secs) };
    for (field, problem) in new.problems() {
        // An empty name, and words that are no scopes, were named before.
        let is_named = (field == "name" && new.name.is_empty()) || (field == "scopes" && wrong_scopes);
        if !is_named {
            fields.error(field, problem);
        }
    }
    new
}
