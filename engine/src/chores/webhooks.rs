//! The webhook chore: events to those outside who asked for them. Each delivery is claimed for a while, so that several
//! engines share the work; one whose engine dies is claimed again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::time::Timestamp;
use futures_util::future::join_all;

use super::{Backoff, Chore};
use crate::engine::{Engine, EngineError};
use crate::store::{
    Delivery, DeliveryStatus, DeliveryTry, PublishedEvent, SettledDelivery, StoreError, Webhook, WebhookNote,
};
use crate::webhooks::{DELIVERY_TIMEOUT, Next, Outcome, Place, retry_at};

/// Time between looks at what is due.
const POLL: Duration = Duration::from_secs(1);
/// How long a delivery is its claimer's: longer than a try may take, with time to note its end.
const CLAIM: Duration = Duration::from_secs(60);
const _: () = assert!(DELIVERY_TIMEOUT.as_secs() * 2 < CLAIM.as_secs());

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// Deliveries that were tried.
    pub tried: usize,
}

/// A delivery that is this engine's for now.
struct Claimed {
    webhook: Webhook,
    delivery: Delivery,
    event: Option<PublishedEvent>,
    _place: Place,
}

/// Tries what is due and has room, and waits for all of it.
///
/// # Errors
/// When the record fails; what was claimed is due again after a while.
pub async fn tick(engine: &Arc<Engine>) -> Result<Sent, EngineError> {
    let claimed = claim(engine).await?;
    let tried = claimed.len();
    for settled in join_all(claimed.into_iter().map(|one| deliver(engine, one))).await {
        settled?;
    }
    Ok(Sent { tried })
}

/// Claims what is due, as much as there is room for.
async fn claim(engine: &Arc<Engine>) -> Result<Vec<Claimed>, StoreError> {
    let webhooks = engine.fresh_webhooks().await?;
    if !webhooks.iter().any(|webhook| webhook.active) {
        return Ok(Vec::new());
    }
    let now = engine.now();
    let until = now.plus(u64::try_from(CLAIM.as_millis()).unwrap_or(u64::MAX));
    let mut due = engine.store.due_webhooks(now).await?;
    if !due.is_empty() {
        let first = engine.hooks.next_turn() % due.len();
        due.rotate_left(first);
    }
    let mut claimed = Vec::new();
    for id in due {
        let Some(webhook) = webhooks.iter().find(|webhook| webhook.id == id && webhook.active) else {
            continue;
        };
        let room = engine.hooks.room(webhook);
        if room == 0 {
            continue;
        }
        let deliveries = engine.store.claim_deliveries(&id, now, until, room).await?;
        let named: Vec<String> = deliveries.iter().map(|delivery| delivery.event.clone()).collect();
        let events = engine.store.events_by_id(webhook.tenant.as_deref(), &named).await?;
        let mut events: HashMap<String, PublishedEvent> =
            events.into_iter().map(|event| (event.id.clone(), event)).collect();
        claimed.extend(deliveries.into_iter().map(|delivery| {
            let event = events.remove(&delivery.event);
            Claimed { webhook: webhook.clone(), delivery, event, _place: engine.delivery_place(&id) }
        }));
    }
    Ok(claimed)
}

/// Tries a delivery and notes what became of it.
async fn deliver(engine: &Arc<Engine>, claimed: Claimed) -> Result<(), StoreError> {
    let Claimed { webhook, delivery, event, _place } = claimed;
    let Outcome { last, next } = match &event {
        Some(event) => engine.try_delivery(&webhook, event).await,
        None => {
            let error = Some("the event has passed its retention".into());
            let last = DeliveryTry { at: engine.now(), status: None, error, duration_ms: 0 };
            Outcome { last, next: Next::Never }
        }
    };
    let now = last.at;
    let attempts = delivery.attempts.saturating_add(1);
    let (status, next_at) = match next {
        Next::Arrived => (DeliveryStatus::Delivered, now),
        Next::Never | Next::Gone => (DeliveryStatus::Failed, now),
        Next::Again(asked) => match retry_at(now, attempts, asked, engine.moment().chance) {
            Some(at) => (DeliveryStatus::Pending, at),
            None => (DeliveryStatus::Failed, now),
        },
    };
    tracing::debug!(webhook = webhook.id, event = delivery.event, ?status, answered = ?last.status, error = last.error, "a delivery was tried");
    let settled = SettledDelivery {
        webhook: delivery.webhook,
        event: delivery.event,
        claimed_until: delivery.next_at,
        status,
        attempts,
        next_at,
        last,
    };
    engine.store.settle_delivery(&settled).await?;
    note(engine, &webhook, next, event.is_some(), now).await
}

/// Notes what a try says about its webhook, where that is news.
async fn note(
    engine: &Engine,
    webhook: &Webhook,
    next: Next,
    was_sent: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let note = match next {
        Next::Arrived if webhook.failing_since.is_some() => WebhookNote::Healthy,
        Next::Again(_) | Next::Never if was_sent && webhook.failing_since.is_none() => {
            WebhookNote::Failing(now)
        }
        Next::Gone => WebhookNote::Gone(now),
        Next::Arrived | Next::Again(_) | Next::Never => return Ok(()),
    };
    engine.store.note_webhook(&webhook.id, note).await?;
    engine.read_webhooks().await.map(drop)
}

pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let sending = tokio_util::task::TaskTracker::new();
    let mut backoff = Backoff::default();
    while !chore.shutdown.is_cancelled() {
        let rest = match claim(engine).await {
            Ok(claimed) => {
                backoff = Backoff::default();
                for one in claimed {
                    let engine = engine.clone();
                    sending.spawn(async move {
                        if let Err(error) = deliver(&engine, one).await {
                            // It is due again when its claim is over.
                            tracing::warn!(%error, "the end of a delivery was not noted");
                        }
                    });
                }
                POLL
            }
            Err(error) => backoff.failed(chore.name(), &error.into()),
        };
        tokio::select! {
            () = engine.hooks.bell.notified() => {}
            () = chore.rest(rest) => {}
        }
    }
    sending.close();
    // No try takes longer than its limit; what is cut off is tried again by whoever claims it next.
    if tokio::time::timeout(DELIVERY_TIMEOUT, sending.wait()).await.is_err() {
        tracing::debug!("deliveries were still under way at the end");
    }
}
