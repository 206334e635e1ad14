//! Published events beside those who wait for them: lists, webhooks, and the log of deliveries.

use std::collections::BTreeMap;

use async_trait::async_trait;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoreError;
use super::model::PublishedEvent;
use super::tenants::column;

/// What an event that came as a CloudEvent says of itself beside its type and data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EventAttributes {
    /// The id that its producer gave it: unique within the source only, so that the record's id is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it happened: a URI reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it is about, within the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Media type of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_content_type: Option<String>,
    /// The schema of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<String>,
    /// Whether the data is bytes in base64.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_binary: bool,
    /// Extension attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, Value>,
}

/// Where an event stands in the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPlace {
    /// When it was published.
    pub at: Timestamp,
    /// Tells events of one instant apart.
    pub sequence: i64,
}

/// Which events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventFilter {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this name.
    pub name: Option<String>,
    /// Only those that this execution published.
    pub source: Option<ExecutionId>,
    /// Only those published at this instant or later.
    pub since: Timestamp,
    /// Only those before this place.
    pub before: EventPlace,
    /// At most this many.
    pub max: usize,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self {
            tenant: None,
            name: None,
            source: None,
            since: Timestamp::from_millis(i64::MIN),
            before: EventPlace { at: Timestamp::from_millis(i64::MAX), sequence: i64::MAX },
            max: 0,
        }
    }
}

/// Who is told of events over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Names it.
    pub id: String,
    /// Whose it is: it gets only events of the same tenant, or of none.
    pub tenant: Option<String>,
    /// Where the events go.
    pub url: String,
    /// The secret by which deliveries are signed; never shown after the creation.
    pub secret: String,
    /// Names of the events; `*` stands for any text.
    pub patterns: Vec<String>,
    /// For people.
    pub description: String,
    /// Whether it gets deliveries.
    pub active: bool,
    /// Why it was deactivated by the engine: `gone`.
    pub deactivated: Option<String>,
    /// Since when every delivery has failed; none: the last one arrived.
    pub failing_since: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// It will be tried, perhaps again.
    Pending,
    /// The receiver answered with a 2xx.
    Delivered,
    /// It is not tried any more.
    Failed,
}

impl DeliveryStatus {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`Self::as_str`] gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|status| status.as_str() == text)
    }
}

/// An event on its way to a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The webhook.
    pub webhook: String,
    /// The event.
    pub event: String,
    /// The event's name.
    pub name: String,
    /// How it stands.
    pub status: DeliveryStatus,
    /// Tries so far.
    pub attempts: u32,
    /// When it is tried next; while it is being tried: when another engine may.
    pub next_at: Timestamp,
    /// When it was put into the log.
    pub created_at: Timestamp,
    /// The last try; none before the first.
    pub last: Option<DeliveryTry>,
}

/// One try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryTry {
    /// When it ended.
    pub at: Timestamp,
    /// The status that the receiver answered.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// An event for a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// The webhook.
    pub webhook: String,
    /// The event.
    pub event: String,
    /// The event's name.
    pub name: String,
}

/// What became of a claimed delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct SettledDelivery {
    /// The webhook.
    pub webhook: String,
    /// The event.
    pub event: String,
    /// The `next_at` that the claim gave: another engine's claim has another.
    pub claimed_until: Timestamp,
    /// How it stands now.
    pub status: DeliveryStatus,
    /// Tries so far.
    pub attempts: u32,
    /// When it is tried next.
    pub next_at: Timestamp,
    /// The try.
    pub last: DeliveryTry,
}

/// What a try says about its webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookNote {
    /// It takes deliveries.
    Healthy,
    /// It does not, at least since this instant.
    Failing(Timestamp),
    /// It said 410 at this instant: it wants no more.
    Gone(Timestamp),
}

/// Events and webhooks in the record.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Stores events in one statement. Each is repeatable by its id within its tenant; says for each whether it is new.
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError>;

    /// Events by filter, newest first, with their places.
    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError>;

    /// The events of `tenant`, or of none, with these ids, in any order; unknown ones are left out.
    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError>;

    /// Makes a webhook, or replaces what may change of it: all but tenant, secret and creation.
    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError>;

    /// All webhooks, oldest first.
    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError>;

    /// Forgets a webhook with its deliveries; false when there is none of that id.
    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError>;

    /// Notes what a try says about a webhook.
    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError>;

    /// Puts deliveries into the log, due at once. Those that are there, and those of unknown webhooks, are left out.
    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError>;

    /// Active webhooks with deliveries that are due.
    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError>;

    /// Takes due deliveries of a webhook until `until`: nobody else is given them before. In any order.
    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Notes what became of a claimed delivery; false when it has been claimed again, or is gone.
    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError>;

    /// Deliveries of a webhook, newest first, before the given one (when it was made, and its event).
    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Makes a delivery due again with all its tries; false when there is none.
    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError>;
}

/// For each event whether it is new, out of the tenants and ids that were stored: of equal ones in one call, the first
/// counts.
pub(super) fn which_are_new(
    events: &[PublishedEvent],
    key: impl Fn(&str) -> String,
    stored: Vec<(String, String)>,
) -> Vec<bool> {
    let mut stored: std::collections::HashSet<(String, String)> = stored.into_iter().collect();
    events
        .iter()
        .map(|event| stored.remove(&(key(column(event.tenant.as_deref())), key(&event.id))))
        .collect()
}
