//! The Event API over HTTP.

use async_trait::async_trait;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::HttpPlumbing;
use super::call::{Body, Endpoint, read};
use crate::api::{EVENTS_BODY_BYTES_MAX, EmittedEvent, EventApi, PlumbingError, TaskAccess, event_refusal};
use crate::ids::{Entropy, SystemEntropy};

#[derive(Serialize)]
struct Sent<'a> {
    events: &'a [EmittedEvent],
}

#[derive(Deserialize)]
struct Emitted {
    ids: Vec<String>,
}

#[async_trait]
impl EventApi for HttpPlumbing {
    async fn emit_events(
        &self,
        access: &TaskAccess,
        mut events: Vec<EmittedEvent>,
    ) -> Result<Vec<String>, PlumbingError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let entropy = SystemEntropy::new();
        for event in &mut events {
            if let Some(detail) = event_refusal(&event.event, event.id.as_deref()) {
                return Err(PlumbingError::Refused { code: "INVALID_REQUEST".into(), detail });
            }
            // Named here, so that a call whose answer was lost is not another event when it is made again.
            event.id.get_or_insert_with(|| format!("ev_{:032x}", entropy.bits()));
        }
        let bytes = serde_json::to_vec(&Sent { events: &events }).map_err(|error| {
            PlumbingError::Refused { code: "INVALID_REQUEST".into(), detail: error.to_string() }
        })?;
        let actual = bytes.len();
        if actual > EVENTS_BODY_BYTES_MAX {
            return Err(PlumbingError::TooLarge { what: "the events", actual, limit: EVENTS_BODY_BYTES_MAX });
        }
        let answer =
            self.client.call(access, Method::POST, Endpoint::Events, Body::Json(bytes.into())).await?;
        read(&answer).map(|Emitted { ids }| ids)
    }
}
