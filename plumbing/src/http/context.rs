//! The Context API over HTTP.

use async_trait::async_trait;
use reqwest::Method;
use serde_json::Value;

use super::HttpPlumbing;
use super::call::{self, Body, Endpoint};
use crate::api::{CONTEXT_PATCH_BYTES_MAX, ContextApi, PlumbingError, TaskAccess};
use crate::wire::ContextOperation;

/// Nothing is at the path, or the step did not declare it.
const PATH_NOT_FOUND: &str = "CONTEXT_PATH_NOT_FOUND";
/// Bytes of the answer to a patch: nothing, or a problem.
const PATCH_ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[async_trait]
impl ContextApi for HttpPlumbing {
    async fn read_context(
        &self,
        access: &TaskAccess,
        path: Option<&str>,
    ) -> Result<Option<Value>, PlumbingError> {
        let query: Vec<(&str, &str)> = path.map(|path| ("path", path)).into_iter().collect();
        let wanted = (query.as_slice(), self.context_bytes_max);
        match self.client.call_for(access, Method::GET, Endpoint::Context, Body::None, wanted).await {
            Ok(bytes) => call::read(&bytes).map(Some),
            Err(PlumbingError::Refused { code, .. }) if code == PATH_NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn stage_context(
        &self,
        access: &TaskAccess,
        sequence: u32,
        patch: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        let bytes = serde_json::to_vec(patch).map_err(|error| PlumbingError::Refused {
            code: "INVALID_REQUEST".into(),
            detail: error.to_string(),
        })?;
        let (actual, limit) = (bytes.len(), CONTEXT_PATCH_BYTES_MAX);
        if actual > limit {
            return Err(PlumbingError::TooLarge { what: "the patch of the context", actual, limit });
        }
        let sequence = sequence.to_string();
        let query = [("sequence", sequence.as_str())];
        let (body, wanted) = (Body::Json(bytes.into()), (query.as_slice(), PATCH_ANSWER_BYTES_MAX));
        self.client.call_for(access, Method::PATCH, Endpoint::Context, body, wanted).await.map(drop)
    }
}
