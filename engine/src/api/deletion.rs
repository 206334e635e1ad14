//! Executions that are deleted before their time, for privacy.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::access::{Access, Admin};
use super::openapi::answers::ExecutionsDeleted;
use super::problem::{ErrorClass, Problem};
use super::request::{Parameters, Segment, execution_id};
use crate::deletion::DeleteError;
use crate::engine::EngineError;

impl From<DeleteError> for Problem {
    fn from(error: DeleteError) -> Self {
        let detail = error.to_string();
        match error {
            DeleteError::Live(_) => Self::new(ErrorClass::Conflict, "EXECUTION_NOT_ENDED", detail),
            DeleteError::Child(_) => Self::new(ErrorClass::Conflict, "EXECUTION_IS_CHILD", detail),
            DeleteError::Engine(error) => error.into(),
        }
    }
}

/// `DELETE /v1/executions/{id}`: with its children and all that belongs to them. `terminate=true` ends it first.
#[utoipa::path(
    delete, path = "/v1/executions/{id}", tag = "executions", operation_id = "deleteExecution",
    summary = "Delete an execution with all that belongs to it",
    security(("apiKey" = ["admin"])),
    params(
        ("id" = String, Path, description = "the id of the execution"),
        ("terminate" = Option<bool>, Query, description = "end it first, if it has not"),
    ),
    responses(
        (status = 200, description = "how many executions went", body = ExecutionsDeleted),
        (status = 409, description = "`EXECUTION_NOT_ENDED`, `EXECUTION_IS_CHILD`"),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    access: Access<Admin>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let terminate = parameters.parsed("terminate", "true or false").unwrap_or(false);
    parameters.finish()?;
    let id = execution_id(&id)?;
    let execution = api.engine.execution(id).await?;
    if !access.visibility().sees(execution.identity.tenant_id.as_deref()) {
        return Err(EngineError::ExecutionNotFound(id).into());
    }
    let engine = api.engine.clone();
    let gone = api.to_the_end(async move { engine.delete(id, terminate).await }).await??;
    tracing::info!(execution = %id, by = %access.principal().name, executions = gone, "an execution was deleted");
    Ok(Json(json!({ "id": id, "deleted": gone })))
}
