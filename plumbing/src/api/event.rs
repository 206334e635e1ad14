//! The Event API: custom events, published while the handler still runs.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PlumbingError, TaskAccess};

/// Bytes of one event's data as JSON.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// A custom event of a running handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    async fn emit_events(
        &self,
        access: &TaskAccess,
        events: Vec<EmittedEvent>,
    ) -> Result<Vec<String>, PlumbingError>;
}
