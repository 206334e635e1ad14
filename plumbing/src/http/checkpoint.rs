//! The Checkpoint API over HTTP. Small JSON comes with the note of it, all else by a call of its own, with its SHA-256.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::HttpPlumbing;
use super::call::{self, Answer, Body, Endpoint};
use crate::api::{
    CHECKPOINT_BINARY, CHECKPOINT_BYTES_MAX, CHECKPOINT_JSON, Checkpoint, CheckpointApi, CheckpointData,
    DIGEST_HEADER, PlumbingError, SAVED_AT_HEADER, SavedCheckpoint, TaskAccess, VERSION_HEADER,
};

/// Whether the body is the one that the digest among the headers is of. A body without one is taken as it is.
pub(super) fn is_whole(headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(wanted) = headers.get(DIGEST_HEADER) else { return true };
    let sum = digest(&SHA256, body);
    wanted.as_bytes() == format!("sha-256=:{}:", STANDARD.encode(sum)).as_bytes()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl HttpPlumbing {
    fn check(&self, bytes: &Bytes) -> Result<(), PlumbingError> {
        let limit = usize::try_from(self.checkpoint_bytes_max).unwrap_or(usize::MAX);
        if bytes.len() > limit {
            return Err(PlumbingError::TooLarge { what: "the checkpoint", actual: bytes.len(), limit });
        }
        Ok(())
    }

    /// What the engine did not send with the note.
    async fn load_data(
        &self,
        access: &TaskAccess,
        note: SavedCheckpoint,
    ) -> Result<Option<Checkpoint>, PlumbingError> {
        let max = usize::try_from(self.checkpoint_bytes_max).unwrap_or(usize::MAX);
        let limit = max.max(CHECKPOINT_BYTES_MAX);
        let got = self.client.download(access, Endpoint::CheckpointData, note.bytes, limit).await?;
        let Answer { headers, body } = got;
        let Some(id) = header(&headers, ETAG.as_str()) else {
            // Cleared since.
            return Ok(None);
        };
        // It may be a later one than the note was of.
        let content_type = header(&headers, CONTENT_TYPE.as_str()).unwrap_or(CHECKPOINT_BINARY);
        Ok(Some(Checkpoint {
            id: id.trim_matches('"').into(),
            saved_at: header(&headers, SAVED_AT_HEADER).unwrap_or(&note.saved_at).into(),
            version: header(&headers, VERSION_HEADER)
                .and_then(|text| text.parse().ok())
                .unwrap_or(note.version),
            data: CheckpointData::decode(body, content_type)?,
        }))
    }
}

#[async_trait]
impl CheckpointApi for HttpPlumbing {
    async fn save_checkpoint(
        &self,
        access: &TaskAccess,
        data: CheckpointData,
    ) -> Result<SavedCheckpoint, PlumbingError> {
        let (bytes, content_type) = data.encode()?;
        self.check(&bytes)?;
        let body = if content_type == CHECKPOINT_JSON { Body::Json(bytes) } else { Body::Binary(bytes) };
        let answer = self.client.call(access, Method::PUT, Endpoint::Checkpoint, body).await?;
        call::read(&answer)
    }

    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        let answer = self.client.call(access, Method::GET, Endpoint::Checkpoint, Body::None).await?;
        if answer.is_empty() {
            return Ok(None);
        }
        // By presence: `null` is data, too.
        let mut fields: Map<String, Value> = call::read(&answer)?;
        let data = fields.remove("data");
        let note: SavedCheckpoint = serde_json::from_value(Value::Object(fields))
            .map_err(|error| PlumbingError::Unavailable(error.into()))?;
        match data {
            Some(data) => {
                let SavedCheckpoint { id, saved_at, version, .. } = note;
                Ok(Some(Checkpoint { id, saved_at, version, data: CheckpointData::Json(data) }))
            }
            None => self.load_data(access, note).await,
        }
    }

    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError> {
        self.client.call(access, Method::DELETE, Endpoint::Checkpoint, Body::None).await.map(drop)
    }
}
