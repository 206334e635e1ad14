//! Webhooks: events that leave the system, signed, over HTTP.
//!
//! Architecture invariant: a delivery is a row of the record before it is a request. It arrives at least once: an engine
//! that dies between the answer and its note sends it again, under the same `webhook-id`.

mod attempt;
pub(crate) mod cloud_event;
mod pattern;
mod signature;
mod system;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::net::HttpPolicy;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::store::{NewDelivery, PublishedEvent, StoreError, Webhook};

pub use attempt::{DELIVERY_TIMEOUT, RETRY_AFTER_S};
pub(crate) use attempt::{Next, Outcome, retry_at};
pub use pattern::{PATTERN_BYTES_MAX, matches};
pub use signature::{SECRET_PREFIX, sign};
pub use system::{CANCELLED, COMPLETED, DEFAULT_PATTERNS, FAILED, INCIDENT, TEST};

/// Webhooks that a tenant may have, and those that may be of none.
pub const WEBHOOKS_MAX: usize = 100;
/// Patterns of one webhook.
pub const PATTERNS_MAX: usize = 50;
/// Bytes of a webhook's URL.
pub const URL_BYTES_MAX: usize = 2048;
/// Bytes of a webhook's description.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Bytes of the random secret.
pub(crate) const SECRET_BYTES: usize = 32;
/// Deliveries that this process sends at the same time.
pub const IN_FLIGHT_MAX: usize = 128;
/// Of these, to one webhook.
pub const IN_FLIGHT_PER_WEBHOOK_MAX: usize = 8;
/// Of these, to a webhook whose last delivery failed: it must not hold places that others can use.
pub const IN_FLIGHT_FAILING_MAX: usize = 1;
/// How long the list of webhooks is trusted: how late this engine may learn of one that was made by another engine.
pub const WEBHOOKS_FRESH: Duration = Duration::from_secs(2);
/// A webhook whose deliveries have failed for so long is shown as failing. Nothing is deleted.
pub const FAILING_AFTER: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// What an engine knows of webhooks, and what it is sending.
pub(crate) struct Hooks {
    known: RwLock<Arc<Vec<Webhook>>>,
    /// When the list was read, as milliseconds.
    read_at: AtomicI64,
    /// The engine's own events that somebody wants, as bits.
    wanted: AtomicU8,
    in_flight: Mutex<HashMap<String, usize>>,
    /// Where the next round begins, so that no webhook is always the last.
    turn: AtomicUsize,
    client: OnceLock<Result<reqwest::Client, String>>,
    pub(crate) policy: Arc<HttpPolicy>,
    /// Rung when there may be something to deliver, or room for it.
    pub(crate) bell: Notify,
}

/// A place among the deliveries that are being sent.
pub(crate) struct Place {
    engine: Arc<Engine>,
    webhook: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let hooks = &self.engine.hooks;
        let mut in_flight = hooks.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_flight.get_mut(&self.webhook) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.webhook);
            }
        }
        drop(in_flight);
        hooks.bell.notify_one();
    }
}

impl Hooks {
    pub(crate) fn new(policy: HttpPolicy) -> Self {
        Self {
            known: RwLock::default(),
            read_at: AtomicI64::new(i64::MIN),
            wanted: AtomicU8::new(0),
            in_flight: Mutex::default(),
            turn: AtomicUsize::new(0),
            client: OnceLock::new(),
            policy: Arc::new(policy),
            bell: Notify::new(),
        }
    }

    /// The webhooks as they were read last.
    pub(crate) fn known(&self) -> Arc<Vec<Webhook>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, webhooks: Vec<Webhook>, now: Timestamp) -> Arc<Vec<Webhook>> {
        self.wanted.store(system::wanted(&webhooks), Ordering::Relaxed);
        let webhooks = Arc::new(webhooks);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = webhooks.clone();
        self.read_at.store(now.as_millis(), Ordering::Relaxed);
        webhooks
    }

    /// How many deliveries more may be sent to a webhook now.
    pub(crate) fn room(&self, webhook: &Webhook) -> usize {
        let limit = match webhook.failing_since {
            None => IN_FLIGHT_PER_WEBHOOK_MAX,
            Some(_) => IN_FLIGHT_FAILING_MAX,
        };
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let own = in_flight.get(&webhook.id).copied().unwrap_or(0);
        let all: usize = in_flight.values().sum();
        limit.saturating_sub(own).min(IN_FLIGHT_MAX.saturating_sub(all))
    }

    /// Where the next round begins.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// How a webhook stands, in a word.
#[must_use]
pub fn state(webhook: &Webhook, now: Timestamp) -> &'static str {
    let lasting = u64::try_from(FAILING_AFTER.as_millis()).unwrap_or(u64::MAX);
    if !webhook.active {
        "inactive"
    } else if webhook.failing_since.is_some_and(|since| now.since(since) >= lasting) {
        "failing"
    } else {
        "active"
    }
}

impl Engine {
    /// Takes a place among the deliveries that are being sent, until it is dropped.
    pub(crate) fn delivery_place(self: &Arc<Self>, webhook: &str) -> Place {
        let mut in_flight = self.hooks.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        *in_flight.entry(webhook.to_owned()).or_default() += 1;
        Place { engine: self.clone(), webhook: webhook.to_owned() }
    }

    /// Reads the webhooks anew.
    ///
    /// # Errors
    /// When the record fails.
    pub(crate) async fn read_webhooks(&self) -> Result<Arc<Vec<Webhook>>, StoreError> {
        let now = self.now();
        let webhooks = self.store.webhooks().await?;
        Ok(self.hooks.note(webhooks, now))
    }

    /// The webhooks, read anew unless that was done just now.
    pub(crate) async fn fresh_webhooks(&self) -> Result<Arc<Vec<Webhook>>, StoreError> {
        let fresh = i64::try_from(WEBHOOKS_FRESH.as_millis()).unwrap_or(i64::MAX);
        let read_at = self.hooks.read_at.load(Ordering::Relaxed);
        if read_at != i64::MIN && self.now().as_millis().saturating_sub(read_at) < fresh {
            return Ok(self.hooks.known());
        }
        self.read_webhooks().await
    }

    /// Puts events into the logs of those webhooks of the same tenant that want them. Repeatable.
    pub(crate) async fn enqueue_for_webhooks(&self, events: &[PublishedEvent]) -> Result<(), StoreError> {
        let webhooks = self.read_webhooks().await?;
        let active = webhooks.iter().filter(|webhook| webhook.active);
        let new: Vec<NewDelivery> = active
            .flat_map(|webhook| {
                let wanted = events
                    .iter()
                    .filter(|event| event.tenant == webhook.tenant && pattern::wants(webhook, &event.name));
                wanted.map(|event| NewDelivery {
                    webhook: webhook.id.clone(),
                    event: event.id.clone(),
                    name: event.name.clone(),
                })
            })
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        self.store.enqueue_deliveries(&new, self.now()).await?;
        self.hooks.bell.notify_one();
        Ok(())
    }
}
