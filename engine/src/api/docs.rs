//! A page to browse the OpenAPI document, and the AsyncAPI document. Both tell nothing of the record: they are for everybody.

use std::sync::{Arc, LazyLock};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_swagger_ui::Config;

use super::problem::{ErrorClass, Problem, no_route};
use super::request::{Parameters, Segment};

/// Where the page is. Its files are below, so that it ends with a slash.
pub(super) const PAGE: &str = "/docs/";
/// What the page may do: load its own files, and ask this server.
pub(super) const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// The live events.
const ASYNC_API: &str = include_str!("../../../docs/asyncapi.yaml");

/// What the page shows.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Without a validator: the default one is a server elsewhere.
    let config = Config::from("/v1/openapi.json").validator_url("none").display_operation_id(true);
    Arc::new(config.deep_linking(true).use_base_layout())
});

/// `GET /docs`: where the page is.
#[utoipa::path(
    get, path = "/docs", tag = "operations", operation_id = "findDocs",
    summary = "Where the page to browse this document is",
    security(()),
    responses((status = 308, description = "`/docs/`", headers(("location" = String, description = "`/docs/`")))),
)]
pub(super) async fn find(parameters: Parameters) -> Result<Redirect, Problem> {
    parameters.finish()?;
    Ok(Redirect::permanent(PAGE))
}

/// `GET /docs/`: the page itself. Its query is for its own script.
#[utoipa::path(
    get, path = "/docs/", tag = "operations", operation_id = "getDocs",
    summary = "A page to browse this document",
    security(()),
    responses((status = 200, description = "the page", body = String, content_type = "text/html")),
)]
pub(super) async fn page(request: Request) -> Result<Response, Problem> {
    serve("", request.headers())
}

/// `GET /docs/{file}`: what the page is made of.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "operations", operation_id = "getDocsFile",
    summary = "A file of the page",
    security(()),
    params(("file" = String, Path, description = "the name of the file")),
    responses((status = 200, description = "the file", body = String, content_type = "*/*")),
)]
pub(super) async fn file(Segment(name): Segment, request: Request) -> Result<Response, Problem> {
    serve(&name, request.headers())
}

fn serve(name: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let file = utoipa_swagger_ui::serve(name, CONFIG.clone()).map_err(|error| {
        let detail = "the page cannot be shown";
        Problem::hidden(ErrorClass::Internal, "INTERNAL", detail, &*error)
    })?;
    let file = file.ok_or_else(no_route)?;
    let mut bytes = file.bytes;
    let takes_gzip = asked
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("gzip"));
    let mut headers = HeaderMap::new();
    if let Ok(media) = HeaderValue::try_from(file.content_type) {
        headers.insert(header::CONTENT_TYPE, media);
    }
    if file.gzpipped {
        if takes_gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            bytes = unpack(&bytes)?.into();
        }
    }
    Ok((headers, bytes.into_owned()).into_response())
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut plain = Vec::new();
    match std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => {
            let detail = "the page cannot be shown";
            Err(Problem::hidden(ErrorClass::Internal, "INTERNAL", detail, &error))
        }
    }
}

/// `GET /v1/asyncapi.yaml`.
#[utoipa::path(
    get, path = "/v1/asyncapi.yaml", tag = "operations", operation_id = "getAsyncApi",
    summary = "What the WebSocket speaks",
    security(()),
    responses((status = 200, description = "AsyncAPI 3", body = Object, content_type = "application/yaml")),
)]
pub(super) async fn async_api(
    parameters: Parameters,
) -> Result<([(HeaderName, &'static str); 1], &'static str), Problem> {
    parameters.finish()?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], ASYNC_API))
}
