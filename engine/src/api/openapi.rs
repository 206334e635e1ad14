//! The OpenAPI document. It is made of what stands at the routes, and kept in `docs/openapi.json`.
//!
//! What every operation has in common, as the answers to requests that are refused before a route sees them, is added here.

pub(super) mod answers;
pub(super) mod bodies;
pub(super) mod queries;
mod words;

use axum::Json;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::schema::{KnownFormat, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::plumbing::{checkpoint, context, events as task_events, job, progress as task_progress, result};
use super::problem::{ErrorClass, Problem};
use super::request::Parameters;
use super::{
    audit, bulk, deletion, docs, events, executions, explain, failed_tasks, flows, graphs, handlers, jobs,
    keys, live, metrics, operations, pauses, progress, retention, search, start, tables, tasks, verbs,
    versions, webhooks, workers,
};

/// Names the scheme of keys and of the tokens of an issuer.
const API_KEY: &str = "apiKey";
/// Names the scheme of the tasks' tokens.
const TASK_TOKEN: &str = "taskToken";
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "FlowMonkey HTTP API",
        description = "Flows, executions and all that belongs to them; and under `/v1/plumbing` what a worker calls for the task in \
            its hands, with the token that came with it.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    tags(
        (name = "flows", description = "What can be started: published, compared, archived"),
        (name = "executions", description = "Flows that run, or ran"),
        (name = "tasks", description = "Steps that a worker carries out"),
        (name = "live", description = "What happens, as it happens"),
        (name = "jobs", description = "Tasks of stateful handlers"),
        (name = "events", description = "What executions wait for and webhooks are told of"),
        (name = "webhooks", description = "Who is told of events"),
        (name = "queues", description = "Pools of tasks, and the workers that serve them"),
        (name = "failed tasks", description = "What waits for a person"),
        (name = "bulk", description = "Operations on many executions"),
        (name = "tables", description = "Rows that steps write"),
        (name = "keys", description = "Who may ask"),
        (name = "audit", description = "Who changed what"),
        (name = "operations", description = "The process itself"),
        (name = "plumbing", description = "What workers call"),
    ),
    paths(
        flows::publish,
        flows::list,
        flows::validate,
        flows::get,
        versions::versions,
        versions::diff,
        versions::archive,
        versions::restore,
        versions::pause,
        versions::resume,
        graphs::graph,
        retention::get,
        retention::set,
        retention::lift,
        start::of_flow,
        start::start,
        search::list,
        search::count,
        executions::get,
        deletion::delete,
        explain::explain,
        executions::children,
        executions::history,
        executions::context,
        tasks::of_execution,
        progress::history,
        progress::logs,
        events::of_execution,
        verbs::cancel,
        verbs::terminate,
        verbs::pause,
        verbs::unpause,
        verbs::retry,
        verbs::rerun,
        verbs::signal,
        verbs::resume,
        tasks::get,
        live::sse::of_execution,
        live::sse::of_all,
        live::ws::upgrade,
        jobs::list,
        events::publish,
        events::list,
        webhooks::list,
        webhooks::create,
        webhooks::get,
        webhooks::change,
        webhooks::delete,
        webhooks::verb,
        webhooks::deliveries,
        webhooks::redeliver,
        operations::queues,
        pauses::pause_pool,
        pauses::resume_pool,
        handlers::list,
        operations::workers,
        workers::verb,
        failed_tasks::list,
        failed_tasks::get,
        failed_tasks::replay,
        failed_tasks::discard,
        bulk::create,
        bulk::list,
        bulk::get,
        bulk::items,
        bulk::verb,
        tables::list,
        tables::define,
        tables::rows,
        keys::create,
        keys::list,
        keys::verb,
        audit::list,
        operations::version,
        operations::livez,
        operations::readyz,
        metrics::metrics,
        show,
        docs::async_api,
        docs::find,
        docs::page,
        docs::file,
        checkpoint::load,
        checkpoint::load_data,
        checkpoint::save,
        checkpoint::clear,
        context::read,
        context::stage,
        task_events::emit,
        job::heartbeat,
        task_progress::started,
        task_progress::progress,
        task_progress::logs,
        result::result,
    ),
    components(schemas(answers::ProblemDocument, bodies::FlowDefinition)),
    modifiers(&EveryOperation),
)]
struct Document;

/// What all operations have in common.
struct EveryOperation;

impl Modify for EveryOperation {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut document.components {
            let bearer = |description: &str| {
                let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description));
                SecurityScheme::Http(scheme.build())
            };
            let key = "A key (`fmk_…`), or a token of the issuer that the engine trusts; each operation names the scope that it \
                needs. An engine that asks for no keys takes requests without one.";
            components.add_security_scheme(API_KEY, bearer(key));
            let token = "The `token` of the task message. It counts while the record has the attempt.";
            components.add_security_scheme(TASK_TOKEN, bearer(token));
            for class in ErrorClass::ALL {
                components.responses.insert(name(class), RefOr::T(refusal(class)));
            }
        }
        for (path, item) in &mut document.paths.paths {
            let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            for operation in methods.into_iter().flatten() {
                complete(path, operation);
            }
        }
        if let Some(components) = &document.components {
            let optional: Vec<String> = components
                .schemas
                .iter()
                .filter(|(_, schema)| matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty()))
                .map(|(name, _)| Ref::from_schema_name(name).ref_location)
                .collect();
            let items = document.paths.paths.values_mut();
            for operation in items.flat_map(|item| [&mut item.put, &mut item.post, &mut item.patch]).flatten()
            {
                let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
                // A body that is not there has no fields: that will do where none is required.
                let may_lack = |content: &RefOr<Content>| match content {
                    RefOr::T(content) => {
                        matches!(&content.schema, Some(RefOr::Ref(schema)) if optional.contains(&schema.ref_location))
                    }
                    RefOr::Ref(_) => false,
                };
                if body.content.get(JSON).is_some_and(may_lack) {
                    body.required = Some(Required::False);
                }
            }
        }
    }
}

/// Adds the answers that any operation of its kind may give, and the form of errors.
fn complete(path: &str, operation: &mut Operation) {
    let is_probe = ["/livez", "/readyz"].contains(&path);
    let asks = |scheme: &str| {
        let requirements = operation.security.iter().flatten();
        requirements
            .filter_map(|requirement| serde_json::to_value(requirement).ok())
            .any(|asked| asked.get(scheme).is_some())
    };
    let (takes_keys, takes_tokens) = (asks(API_KEY), asks(TASK_TOKEN));
    if !takes_keys && !takes_tokens {
        // Nothing, said as such: the requirement of nothing.
        operation.security = Some(vec![SecurityRequirement::default()]);
    }
    let has_body = operation.request_body.is_some();
    let has_variable = path.contains('{');
    for class in ErrorClass::ALL {
        let may_be = match class {
            ErrorClass::Internal | ErrorClass::Unavailable => true,
            ErrorClass::Undecodable
            | ErrorClass::Forbidden
            | ErrorClass::Invalid
            | ErrorClass::Overloaded => !is_probe,
            ErrorClass::Unauthenticated => takes_keys || takes_tokens,
            ErrorClass::NotFound => has_variable,
            ErrorClass::Conflict => takes_tokens,
            ErrorClass::TooSlow | ErrorClass::TooLarge | ErrorClass::Unsupported => has_body,
            ErrorClass::NoSuchMethod => false,
        };
        let responses = &mut operation.responses.responses;
        match responses.get_mut(class.status().as_str()) {
            Some(RefOr::T(response)) => {
                response.content.insert(PROBLEM.into(), RefOr::T(problem()));
            }
            Some(RefOr::Ref(_)) => {}
            None if may_be => {
                let shared = Ref::new(format!("#/components/responses/{}", name(class)));
                responses.insert(class.status().as_str().into(), RefOr::Ref(shared));
            }
            None => {}
        }
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            not_null(parameter);
        }
    }
}

/// A parameter that may be missing is no null: there is none in an address.
fn not_null(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|one| *one != Type::Null);
        if let [only] = types.as_slice() {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
    if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
        && object.format == Some(SchemaFormat::KnownFormat(KnownFormat::Int64))
    {
        // Unsigned ones go further.
        object.format = None;
    }
    if let Some(RefOr::T(Schema::Array(array))) = &mut parameter.schema {
        array.schema_type = SchemaType::Type(Type::Array);
    }
}

/// What the answer of a class is called among the components.
fn name(class: ErrorClass) -> String {
    format!("{class:?}")
}

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name("ProblemDocument")))
}

fn refusal(class: ErrorClass) -> Response {
    ResponseBuilder::new().description(class.title()).content(PROBLEM, problem()).build()
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
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "operations", operation_id = "getOpenApi",
    summary = "This document",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub(super) async fn show(parameters: Parameters) -> Result<Json<utoipa::openapi::OpenApi>, Problem> {
    parameters.finish()?;
    Ok(Json(openapi()))
}
