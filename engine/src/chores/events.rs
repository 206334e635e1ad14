//! The event chore: published events to the executions that wait for them.

use std::collections::HashMap;
use std::time::Duration;

use flowmonkey_core::context::json_size;
use flowmonkey_core::execution::command::Command;

use super::{Backoff, Chore};
use crate::engine::{Engine, EngineError};
use crate::store::PublishedEvent;

/// Events delivered in one tick.
const EVENT_BATCH_MAX: usize = 250;
/// Executions that are told of events at a time.
const SUBSCRIBER_PAGE: usize = 500;
/// Tellings at a time: executions times events. Memory stays bounded, however many wait for however many.
const COMMANDS_MAX: usize = 2000;
/// Bytes of data in them.
const COMMAND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest rest between looks, should a bell be lost.
const POLL: Duration = Duration::from_secs(5);

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Events.
    pub events: usize,
}

/// Delivers events that have not been delivered. An execution consumes an event once, however often it is told.
///
/// # Errors
/// When the record fails; the events stay undelivered.
pub async fn tick(engine: &Engine) -> Result<Delivered, EngineError> {
    let events = engine.store.undelivered_events(EVENT_BATCH_MAX).await?;
    if events.is_empty() {
        return Ok(Delivered { events: 0 });
    }
    let count = events.len();
    // Before anything is marked: an event that is not delivered is put into the logs again.
    engine.enqueue_for_webhooks(&events).await?;
    let mut groups: Vec<Vec<PublishedEvent>> = Vec::new();
    let mut places: HashMap<(Option<String>, String), usize> = HashMap::new();
    for event in events {
        let place = *places.entry((event.tenant.clone(), event.name.clone())).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(event);
    }
    for group in groups {
        tell(engine, &group).await?;
        let tenant = group.first().and_then(|event| event.tenant.clone());
        // Name by name, so that what is delivered stays delivered when a later one fails.
        let ids: Vec<String> = group.into_iter().map(|event| event.id).collect();
        engine.store.mark_delivered(tenant.as_deref(), &ids).await?;
    }
    Ok(Delivered { events: count })
}

/// Tells those of its tenant who wait for it of events of one tenant and name, oldest first.
async fn tell(engine: &Engine, events: &[PublishedEvent]) -> Result<(), EngineError> {
    let Some(PublishedEvent { name, tenant, .. }) = events.first() else { return Ok(()) };
    let bytes: usize = events.iter().map(|event| json_size(&event.data)).fold(0, usize::saturating_add);
    let by_count = COMMANDS_MAX / events.len();
    let by_bytes = COMMAND_BYTES_MAX / bytes.max(1);
    let page = SUBSCRIBER_PAGE.min(by_count).min(by_bytes).max(1);
    let mut last = None;
    loop {
        let waiting = engine.store.subscribers(tenant.as_deref(), name, last, page).await?;
        let Some(end) = waiting.last() else { return Ok(()) };
        last = Some(*end);
        let is_last = waiting.len() < page;
        let commands = waiting.into_iter().flat_map(|execution| {
            events.iter().map(move |event| {
                let (id, name, data) = (event.id.clone(), event.name.clone(), event.data.clone());
                (execution, Command::Event { id, name, data })
            })
        });
        engine.apply(commands.collect()).await?;
        if is_last {
            return Ok(());
        }
    }
}

pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    while !chore.shutdown.is_cancelled() {
        let rest = match tick(engine).await {
            Ok(Delivered { events }) if events > 0 => continue,
            Ok(_) => {
                backoff = Backoff::default();
                POLL
            }
            Err(error) => backoff.failed(chore.name(), &error),
        };
        tokio::select! {
            () = engine.event_bell.notified() => {}
            () = chore.rest(rest) => {}
        }
    }
}
