//! The OpenAPI document of what workers call. It is made of the routes' own types, and kept in `docs/openapi.json`.

use axum::Json;
use serde::Serialize;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use super::plumbing::{checkpoint, context, events, job, progress, result};
use super::problem::Problem;
use super::request::Parameters;

/// Names the scheme of the tasks' tokens.
const TASK_TOKEN: &str = "taskToken";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "FlowMonkey plumbing API",
        description = "What a worker calls for the task in its hands, with the token that came with it.",
        license(name = "Apache-2.0 OR MIT"),
    ),
    paths(
        checkpoint::load,
        checkpoint::load_data,
        checkpoint::save,
        checkpoint::clear,
        context::read,
        context::stage,
        events::emit,
        job::heartbeat,
        progress::started,
        progress::progress,
        progress::logs,
        result::result,
    ),
    components(schemas(ProblemDocument)),
    modifiers(&TaskRoutes),
)]
struct Document;

/// An error (RFC 9457), as `application/problem+json`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProblemDocument {
    /// `urn:flowmonkey:error:` and the code.
    r#type: String,
    /// The class of the error, in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// Stable.
    code: String,
    /// What happened, in words.
    detail: String,
    /// Names the request in the engine's log.
    request_id: String,
}

/// What all routes of tasks have in common.
struct TaskRoutes;

impl Modify for TaskRoutes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The `token` of the task message. It counts while the record has the attempt."))
            .build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme(TASK_TOKEN, SecurityScheme::Http(scheme));
        }
        for item in document.paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(complete);
        }
    }
}

fn complete(operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(TASK_TOKEN, [])]);
    let content = || Content::new(Some(Ref::from_schema_name("ProblemDocument")));
    for (status, response) in &mut operation.responses.responses {
        let is_error = status.starts_with('4') || status.starts_with('5');
        if let RefOr::T(response) = response
            && is_error
        {
            response.content.insert("application/problem+json".into(), RefOr::T(content()));
        }
    }
    let others = ResponseBuilder::new()
        .description(
            "An error: 400, 401 `TOKEN_…`, 403 `TOKEN_FOREIGN` and `TOKEN_SCOPE`, 404 `TASK_NOT_FOUND`, 409 `STALE_ATTEMPT`, \
             413, 415, 422; 429 and 5xx may be tried again.",
        )
        .content("application/problem+json", content());
    operation.responses.responses.insert("default".into(), RefOr::T(others.build()));
}

/// The document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    // Of the API, whichever version of the engine serves it.
    document.info.version = "1".into();
    document
}

/// `GET /v1/openapi.json`.
pub(super) async fn show(parameters: Parameters) -> Result<Json<utoipa::openapi::OpenApi>, Problem> {
    parameters.finish()?;
    Ok(Json(openapi()))
}
