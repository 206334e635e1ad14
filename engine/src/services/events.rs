//! The Event API in process.

use async_trait::async_trait;
use flowmonkey_core::context::json_size;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::api::{
    EVENT_BYTES_MAX, EVENTS_PER_CALL_MAX, EmittedEvent, EventApi, PlumbingError, TaskAccess, event_refusal,
};

use super::plumbing::{EnginePlumbing, stale, task, unavailable};
use crate::engine::Engine;
use crate::store::{PublishedEvent, StoreError};

impl Engine {
    /// Stores events and has them delivered. Each is repeatable by its id; says for each whether it is new.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn publish_events(&self, events: &[PublishedEvent]) -> Result<Vec<bool>, StoreError> {
        let created = self.store.publish_events(events).await?;
        self.event_bell.notify_one();
        Ok(created)
    }

    /// The tenant of an execution, which never changes; none: it has none, or is gone.
    async fn tenant_of(&self, execution: ExecutionId) -> Result<Option<String>, StoreError> {
        if let Some(hot) = self.peek_hot(execution) {
            return Ok(hot.identity.tenant_id.clone());
        }
        Ok(self.store.load(&[execution]).await?.pop().and_then(|found| found.identity.tenant_id.clone()))
    }

    /// A new event's id.
    pub(crate) fn fresh_event_id(&self) -> String {
        format!("ev_{}", flowmonkey_plumbing::ids::new_uuid(&*self.clock, &*self.entropy).simple())
    }
}

#[async_trait]
impl EventApi for EnginePlumbing {
    async fn emit_events(
        &self,
        access: &TaskAccess,
        events: Vec<EmittedEvent>,
    ) -> Result<Vec<String>, PlumbingError> {
        let (engine, delivery) = (&self.0, &access.delivery);
        let task = task(delivery)?;
        if events.len() > EVENTS_PER_CALL_MAX {
            let detail = format!("`events` has more than {EVENTS_PER_CALL_MAX} items");
            return Err(PlumbingError::Refused { code: "INVALID_REQUEST".into(), detail });
        }
        let at = engine.now();
        let mut published = Vec::with_capacity(events.len());
        for EmittedEvent { id, event: name, data } in events {
            if let Some(detail) = event_refusal(&name, id.as_deref()) {
                return Err(PlumbingError::Refused { code: "INVALID_REQUEST".into(), detail });
            }
            let actual = json_size(&data);
            if actual > EVENT_BYTES_MAX {
                return Err(PlumbingError::TooLarge {
                    what: "the event's data",
                    actual,
                    limit: EVENT_BYTES_MAX,
                });
            }
            let id = id.unwrap_or_else(|| engine.fresh_event_id());
            let source = Some(task.execution);
            published.push(PublishedEvent { id, name, data, tenant: None, source, at, attributes: None });
        }
        // What is published cannot be taken back: the record itself says whether the attempt is its own.
        if !engine.has_out(task, delivery.attempt, false).await.map_err(unavailable)? {
            return Err(stale(delivery));
        }
        let tenant = engine.tenant_of(task.execution).await.map_err(unavailable)?;
        for event in &mut published {
            event.tenant.clone_from(&tenant);
        }
        engine.publish_events(&published).await.map_err(unavailable)?;
        Ok(published.into_iter().map(|event| event.id).collect())
    }
}
