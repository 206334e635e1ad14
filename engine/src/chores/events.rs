//! The event chore: published events to the executions that wait for them.

use std::time::Duration;

use flowmonkey_core::execution::command::Command;

use super::{Backoff, Chore};
use crate::engine::{Engine, EngineError};

/// Events delivered in one tick.
const EVENT_BATCH_MAX: usize = 100;
/// Executions that are told of an event in one commit.
const SUBSCRIBER_PAGE: usize = 500;
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
    for event in &events {
        let mut last = None;
        loop {
            let waiting = engine.store.subscribers(&event.name, last, SUBSCRIBER_PAGE).await?;
            let Some(end) = waiting.last() else { break };
            last = Some(*end);
            let commands = waiting
                .into_iter()
                .map(|execution| {
                    let (id, name, data) = (event.id.clone(), event.name.clone(), event.data.clone());
                    (execution, Command::Event { id, name, data })
                })
                .collect();
            engine.apply(commands).await?;
        }
        // One by one, so that what is delivered stays delivered when a later one fails.
        engine.store.mark_delivered(std::slice::from_ref(&event.id)).await?;
    }
    Ok(Delivered { events: events.len() })
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
