//! Heartbeats of jobs over HTTP.

use async_trait::async_trait;
use reqwest::Method;

use super::HttpPlumbing;
use super::call::{self, Body, Endpoint};
use crate::api::{Heartbeat, HeartbeatAnswer, JobApi, PlumbingError, TaskAccess};

#[async_trait]
impl JobApi for HttpPlumbing {
    async fn heartbeat(
        &self,
        access: &TaskAccess,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        let bytes = serde_json::to_vec(heartbeat).map_err(|error| PlumbingError::Refused {
            code: "INVALID_REQUEST".into(),
            detail: error.to_string(),
        })?;
        let answer =
            self.client.call(access, Method::POST, Endpoint::Heartbeat, Body::Json(bytes.into())).await?;
        call::read(&answer)
    }
}
