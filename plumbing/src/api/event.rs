//! The Event API: custom events, published while the handler still runs.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{PlumbingError, TaskAccess};

/// Bytes of one event's data as JSON.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Events of one call.
pub const EVENTS_PER_CALL_MAX: usize = 500;
/// Bytes of the body of one call over HTTP.
pub const EVENTS_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of an event's name, and of its id.
pub const EVENT_NAME_BYTES_MAX: usize = 512;
/// How the names of the engine's own events begin; nobody else may use them.
pub const RESERVED_EVENTS: &str = "flowmonkey.";

/// Why an event of this name and id is refused; none: it is fine.
#[must_use]
pub fn event_refusal(name: &str, id: Option<&str>) -> Option<String> {
    let named = [("name", Some(name)), ("id", id)];
    for (what, text) in named.into_iter().filter_map(|(what, text)| Some((what, text?))) {
        if text.is_empty() {
            return Some(format!("the event's {what} is empty"));
        }
        if text.len() > EVENT_NAME_BYTES_MAX {
            return Some(format!("the event's {what} has more than {EVENT_NAME_BYTES_MAX} bytes"));
        }
    }
    name.starts_with(RESERVED_EVENTS)
        .then(|| format!("names that begin with `{RESERVED_EVENTS}` are the engine's own"))
}

/// A custom event of a running handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmittedEvent {
    /// Names it: publishing it twice counts once. None: the engine makes a new one, so that each call is an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The event's name: CloudEvents' `type`.
    pub event: String,
    /// The event's data.
    #[serde(default)]
    pub data: Value,
}

/// Emit.
#[async_trait]
pub trait EventApi: Send + Sync {
    /// Publishes events at once: to the history's side, the bus, waiting executions, webhooks. They stay published when the
    /// attempt fails later. Answers their ids in order.
    ///
    /// All of them are stored, or none. At most [`EVENTS_PER_CALL_MAX`], each of at most [`EVENT_BYTES_MAX`].
    ///
    /// # Errors
    /// [`PlumbingError::Stale`] when another attempt has taken over, [`PlumbingError::TooLarge`] past the limits,
    /// [`PlumbingError::Refused`] for a name of the engine's own (`flowmonkey.…`), an empty name or an empty id.
    async fn emit_events(
        &self,
        access: &TaskAccess,
        events: Vec<EmittedEvent>,
    ) -> Result<Vec<String>, PlumbingError>;
}
