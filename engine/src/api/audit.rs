//! The audit: who asked for which change, and what came of it.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Admin};
use super::openapi::answers::AuditPage;
use super::openapi::queries::PageQuery;
use super::problem::{ErrorClass, Problem};
use super::request::Parameters;
use crate::access::Visibility;
use crate::audit::shown;
use crate::store::{AuditFilter, AuditRow};

/// `GET /v1/audit`: newest first. With `order=chain`: sealed entries in the order of the chain, for those who check it.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "listAudit",
    summary = "Who changed what, newest first",
    security(("apiKey" = ["admin"])),
    params(
        ("order" = Option<String>, Query, description = "`newest` (default), or `chain`: sealed entries in the order of the chain", pattern = "^(newest|chain)$"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "a page", body = AuditPage),
        (status = 403, description = "`SCOPE_MISSING`, `KEY_SCOPE`"),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    access: Access<Admin>,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let order = parameters.one("order");
    let in_chain = order.as_deref() == Some("chain");
    if order.is_some_and(|order| !["chain", "newest"].contains(&order.as_str())) {
        parameters.error("order", "`order` must be newest or chain");
    }
    let cursor = parameters.parsed::<i64>("cursor", "the `nextCursor` of a page before");
    let max = parameters.limit();
    parameters.finish()?;
    let store = api.engine.store();
    // One more tells whether there is another page.
    let mut found = match (in_chain, access.visibility()) {
        (true, Visibility::All) => store.audit_chain(cursor.unwrap_or(0), max + 1).await?,
        (true, Visibility::Tenant(_)) => {
            let detail = "the chain goes through the entries of all tenants, which this key does not see";
            return Err(Problem::new(ErrorClass::Forbidden, "KEY_SCOPE", detail));
        }
        (false, visibility) => {
            let tenant = visibility.tenant().map(Into::into);
            store.audit(&AuditFilter { tenant, before: cursor.unwrap_or(i64::MAX), max: max + 1 }).await?
        }
    };
    let is_last = found.len() <= max;
    found.truncate(max);
    let place = |row: &AuditRow| row.seal.as_ref().map_or(0, |(place, _)| *place);
    let next = found.last().filter(|_| !is_last);
    let next = next.map(|last| if in_chain { place(last) } else { last.sequence }.to_string());
    let items: Vec<Value> = found.iter().map(shown).collect();
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}
