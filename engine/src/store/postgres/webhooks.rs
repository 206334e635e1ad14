//! Events, webhooks and deliveries: each method is one statement.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::columns::key;
use super::{PostgresStore, sql};
use crate::store::StoreError;
use crate::store::encode::{integer, json, text};
use crate::store::events::{
    Delivery, DeliveryStatus, EventFilter, EventPlace, EventStore, NewDelivery, SettledDelivery, Webhook,
    WebhookNote, which_are_new,
};
use crate::store::model::PublishedEvent;
use crate::store::rows;
use crate::store::tenants::column;

#[async_trait]
impl EventStore for PostgresStore {
    async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let data = events.iter().map(|event| json(&event.data)).collect::<Result<Vec<_>, _>>()?;
        let attributes = events.iter().map(|event| event.attributes.as_ref().map(json).transpose());
        let attributes = attributes.collect::<Result<Vec<_>, _>>()?;
        let statement = query(sql::EVENTS_PUBLISH)
            .bind(events.iter().map(|event| text(&event.id)).collect::<Vec<_>>())
            .bind(events.iter().map(|event| text(&event.name)).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.source.as_ref().map(key)).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.at.as_millis()).collect::<Vec<_>>())
            .bind(data)
            .bind(attributes)
            .bind(events.iter().map(|event| text(column(event.tenant.as_deref()))).collect::<Vec<_>>());
        let found = self.read(statement).await?;
        let named = |row| Ok((rows::column(row, 0, &"fm_events")?, rows::column(row, 1, &"fm_events")?));
        let stored = found.iter().map(named).collect::<Result<_, StoreError>>()?;
        Ok(which_are_new(events, text, stored))
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(EventPlace, PublishedEvent)>, StoreError> {
        let statement = match (&filter.source, &filter.name, &filter.tenant) {
            (Some(_), _, _) => sql::EVENTS_LIST_SOURCE,
            (None, Some(_), _) => sql::EVENTS_LIST_NAME,
            (None, None, Some(_)) => sql::EVENTS_LIST_TENANT,
            (None, None, None) => sql::EVENTS_LIST_ALL,
        };
        let mut statement = query(statement)
            .bind(filter.before.at.as_millis())
            .bind(filter.before.sequence)
            .bind(filter.since.as_millis())
            .bind(integer(filter.max as u64));
        if filter.source.is_some() || filter.name.is_some() {
            statement = statement.bind(filter.name.as_deref().map(text));
        }
        if filter.source.is_some() || filter.name.is_some() || filter.tenant.is_some() {
            statement = statement.bind(filter.tenant.as_deref().map(text));
        }
        if let Some(source) = &filter.source {
            statement = statement.bind(key(source));
        }
        let found = self.read(statement).await?;
        Ok(self.sound(&found, |row| {
            let place = EventPlace {
                at: rows::instant(row, 4, &"fm_events")?,
                sequence: rows::column(row, 5, &"fm_events")?,
            };
            Ok((place, rows::event(row)?))
        }))
    }

    async fn events_by_id(
        &self,
        tenant: Option<&str>,
        ids: &[String],
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let ids: Vec<String> = ids.iter().map(|id| text(id)).collect();
        let found = self.read(query(sql::EVENTS_BY_ID).bind(ids).bind(text(column(tenant)))).await?;
        Ok(self.sound(&found, rows::event))
    }

    async fn save_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        let statement = query(sql::WEBHOOKS_SAVE)
            .bind(text(&webhook.id))
            .bind(text(&webhook.url))
            .bind(text(&webhook.secret))
            .bind(json(&webhook.patterns)?)
            .bind(text(&webhook.description))
            .bind(webhook.active)
            .bind(webhook.deactivated.as_deref().map(text))
            .bind(webhook.failing_since.map(Timestamp::as_millis))
            .bind(webhook.created_at.as_millis())
            .bind(text(column(webhook.tenant.as_deref())));
        self.write(statement).await.map(drop)
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let found = self.read(query(sql::WEBHOOKS_LIST)).await?;
        Ok(self.sound(&found, rows::webhook))
    }

    async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        self.write(query(sql::WEBHOOKS_DELETE).bind(text(id))).await.map(|gone| gone > 0)
    }

    async fn note_webhook(&self, id: &str, note: WebhookNote) -> Result<(), StoreError> {
        let (healthy, since, gone) = match note {
            WebhookNote::Healthy => (true, None, false),
            WebhookNote::Failing(since) => (false, Some(since), false),
            WebhookNote::Gone(since) => (false, Some(since), true),
        };
        let statement = query(sql::WEBHOOKS_NOTE)
            .bind(text(id))
            .bind(healthy)
            .bind(since.map(Timestamp::as_millis))
            .bind(gone);
        self.write(statement).await.map(drop)
    }

    async fn enqueue_deliveries(&self, deliveries: &[NewDelivery], now: Timestamp) -> Result<(), StoreError> {
        let statement = query(sql::DELIVERIES_ENQUEUE)
            .bind(deliveries.iter().map(|new| text(&new.webhook)).collect::<Vec<_>>())
            .bind(deliveries.iter().map(|new| text(&new.event)).collect::<Vec<_>>())
            .bind(deliveries.iter().map(|new| text(&new.name)).collect::<Vec<_>>())
            .bind(now.as_millis());
        self.write(statement).await.map(drop)
    }

    async fn due_webhooks(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        let found = self.read(query(sql::WEBHOOKS_DUE).bind(now.as_millis())).await?;
        found.iter().map(|row| rows::column(row, 0, &"fm_webhooks")).collect()
    }

    async fn claim_deliveries(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let statement = query(sql::DELIVERIES_CLAIM)
            .bind(text(webhook))
            .bind(now.as_millis())
            .bind(until.as_millis())
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::delivery))
    }

    async fn settle_delivery(&self, settled: &SettledDelivery) -> Result<bool, StoreError> {
        let statement = query(sql::DELIVERIES_SETTLE)
            .bind(text(&settled.webhook))
            .bind(text(&settled.event))
            .bind(settled.claimed_until.as_millis())
            .bind(settled.status.as_str())
            .bind(i64::from(settled.attempts))
            .bind(settled.next_at.as_millis())
            .bind(settled.last.at.as_millis())
            .bind(settled.last.status.map(i64::from))
            .bind(settled.last.error.as_deref().map(text))
            .bind(integer(settled.last.duration_ms));
        self.write(statement).await.map(|changed| changed > 0)
    }

    async fn deliveries(
        &self,
        webhook: &str,
        status: Option<DeliveryStatus>,
        before: Option<(Timestamp, String)>,
        max: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let (at, event) = before.unwrap_or((Timestamp::from_millis(i64::MAX), String::new()));
        let statement = query(sql::DELIVERIES_PAGE)
            .bind(text(webhook))
            .bind(at.as_millis())
            .bind(text(&event))
            .bind(status.map(DeliveryStatus::as_str))
            .bind(integer(max as u64));
        let found = self.read(statement).await?;
        Ok(self.sound(&found, rows::delivery))
    }

    async fn redeliver(&self, webhook: &str, event: &str, now: Timestamp) -> Result<bool, StoreError> {
        let statement =
            query(sql::DELIVERIES_AGAIN).bind(text(webhook)).bind(text(event)).bind(now.as_millis());
        self.write(statement).await.map(|changed| changed > 0)
    }
}
