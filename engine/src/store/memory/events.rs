//! Events, webhooks and deliveries over maps.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;

use super::MemoryStore;
use crate::store::StoreError;
use crate::store::events::{
    Delivery, DeliveryStatus, EventFilter, EventPlace, EventStore, NewDelivery, SettledDelivery, Webhook,
    WebhookNote,
};
use crate::store::model::PublishedEvent;

#[async_trait]
impl EventStore for MemoryStore {
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        let mut rows = self.rows();
        Ok(events.iter().map(|event| rows.publish(event.clone())).collect())
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError> {
        let rows = self.rows();
        let placed = rows.events.iter().zip(0..);
        let mut found: Vec<_> = placed
            .map(|((event, _), sequence)| (EventPlace { at: event.at, sequence }, event))
            .filter(|(place, event)| {
                *place < filter.before
                    && event.at >= filter.since
                    && filter.tenant.as_ref().is_none_or(|tenant| event.tenant.as_ref() == Some(tenant))
                    && filter.name.as_ref().is_none_or(|name| *name == event.name)
                    && filter.source.is_none_or(|source| event.source == Some(source))
            })
            .collect();
        found.sort_by(|(left, _), (right, _)| right.cmp(left));
        Ok(found.into_iter().take(filter.max).map(|(place, event)| (place, event.clone())).collect())
    }

    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let rows = self.rows();
        let own =
            rows.events.iter().map(|(event, _)| event).filter(|event| event.tenant.as_deref() == tenant);
        let found = own.filter(|event| ids.contains(&event.id));
        Ok(found.cloned().collect())
    }

    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let mut saved = webhook.clone();
        if let Some(known) = rows.webhooks.get(&webhook.id) {
            saved.tenant.clone_from(&known.tenant);
            saved.secret.clone_from(&known.secret);
            saved.created_at = known.created_at;
        }
        rows.webhooks.insert(saved.id.clone(), saved);
        Ok(())
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let mut webhooks: Vec<Webhook> = self.rows().webhooks.values().cloned().collect();
        webhooks.sort_by(|left, right| (left.created_at, &left.id).cmp(&(right.created_at, &right.id)));
        Ok(webhooks)
    }

    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        rows.deliveries.retain(|(webhook, _), _| webhook != id);
        Ok(rows.webhooks.remove(id).is_some())
    }

    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError> {
        if let Some(webhook) = self.rows().webhooks.get_mut(id) {
            match note {
                WebhookNote::Healthy => webhook.failing_since = None,
                WebhookNote::Failing(since) => webhook.failing_since = webhook.failing_since.or(Some(since)),
                WebhookNote::Gone(since) => {
                    webhook.failing_since = webhook.failing_since.or(Some(since));
                    webhook.active = false;
                    webhook.deactivated = Some("gone".into());
                }
            }
        }
        Ok(())
    }

    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for NewDelivery { webhook, event, name } in deliveries.iter().cloned() {
            if rows.webhooks.contains_key(&webhook) {
                rows.deliveries.entry((webhook.clone(), event.clone())).or_insert(Delivery {
                    webhook,
                    event,
                    name,
                    status: DeliveryStatus::Pending,
                    attempts: 0,
                    next_at: now,
                    created_at: now,
                    last: None,
                });
            }
        }
        Ok(())
    }

    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        let rows = self.rows();
        let is_due = |id: &String| {
            rows.deliveries.values().any(|delivery| {
                delivery.webhook == *id
                    && delivery.status == DeliveryStatus::Pending
                    && delivery.next_at <= now
            })
        };
        let active = rows.webhooks.values().filter(|webhook| webhook.active);
        Ok(active.map(|webhook| webhook.id.clone()).filter(is_due).collect())
    }

    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut rows = self.rows();
        let mut due: Vec<&mut Delivery> = rows
            .deliveries
            .values_mut()
            .filter(|delivery| {
                delivery.webhook == webhook
                    && delivery.status == DeliveryStatus::Pending
                    && delivery.next_at <= now
            })
            .collect();
        due.sort_by_key(|delivery| delivery.next_at);
        let claimed = due.into_iter().take(max).map(|delivery| {
            delivery.next_at = until;
            delivery.clone()
        });
        Ok(claimed.collect())
    }

    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let key = (settled.webhook.clone(), settled.event.clone());
        let ours = rows.deliveries.get_mut(&key).filter(|delivery| {
            delivery.status == DeliveryStatus::Pending && delivery.next_at == settled.claimed_until
        });
        let Some(delivery) = ours else { return Ok(false) };
        delivery.status = settled.status;
        delivery.attempts = settled.attempts;
        delivery.next_at = settled.next_at;
        delivery.last = Some(settled.last.clone());
        Ok(true)
    }

    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = self.rows();
        let mut found: Vec<&Delivery> = rows
            .deliveries
            .values()
            .filter(|delivery| delivery.webhook == webhook)
            .filter(|delivery| status.is_none_or(|status| delivery.status == status))
            .filter(|delivery| {
                before
                    .as_ref()
                    .is_none_or(|(at, event)| (delivery.created_at, &delivery.event) < (*at, event))
            })
            .collect();
        found.sort_by(|left, right| (right.created_at, &right.event).cmp(&(left.created_at, &left.event)));
        Ok(found.into_iter().take(max).cloned().collect())
    }

    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let found = rows.deliveries.get_mut(&(webhook.to_owned(), event.to_owned()));
        Ok(found.is_some_and(|delivery| {
            delivery.status = DeliveryStatus::Pending;
            delivery.attempts = 0;
            delivery.next_at = now;
            true
        }))
    }
}
