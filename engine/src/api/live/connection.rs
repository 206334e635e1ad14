//! One connection: what it asks for, and what is to be sent to it next.

use std::sync::Arc;

use flowmonkey_core::execution::RecordedEvent;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::filter::Filter;
use super::mailbox::{Frame, Mailbox, Subscription};
use super::told::Told;
use super::{About, Live, PAGE, SUBSCRIPTIONS_MAX};
use crate::access::Visibility;
use crate::engine::EngineError;

/// Why something that a client asked for is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("there is a subscription of that id on this connection")]
    IdTaken,
    #[error("this connection follows that execution already: subscribe to it once")]
    Followed,
    #[error("a connection may have {SUBSCRIPTIONS_MAX} subscriptions")]
    TooMany,
    #[error("there is no subscription of that id on this connection")]
    Unknown,
    #[error("the execution has {0} events and no more")]
    Ahead(u64),
    #[error("there is no execution of that id")]
    NoSuchExecution,
    #[error("the record is unavailable; try again")]
    Unavailable,
}

impl Refused {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::IdTaken | Self::Followed => "SUBSCRIPTION_EXISTS",
            Self::TooMany => "SUBSCRIPTION_LIMIT",
            Self::Unknown => "SUBSCRIPTION_NOT_FOUND",
            Self::Ahead(_) => "RESUME_AHEAD",
            Self::NoSuchExecution => "EXECUTION_NOT_FOUND",
            Self::Unavailable => "STORE_UNAVAILABLE",
        }
    }
}

/// Somebody who is told what happens.
pub(super) struct Connection {
    live: Arc<Live>,
    number: u64,
    mailbox: Arc<Mailbox>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(live: Arc<Live>, visibility: Visibility, permit: OwnedSemaphorePermit) -> Self {
        let number = live.index.number();
        Self { live, number, mailbox: Arc::new(Mailbox::new(visibility)), _permit: permit }
    }

    /// Begins a subscription. Of one execution: all events after `resume_from`, which are those to come if it is none.
    /// Answers the sequence of the execution's last event.
    ///
    /// # Errors
    /// See [`Refused`].
    pub(super) async fn subscribe(
        &self,
        id: String,
        filter: Filter,
        resume_from: Option<u64>,
    ) -> Result<Option<u64>, Refused> {
        self.mailbox.with_subscriptions(|there| {
            if there.iter().any(|one| one.id == id) {
                Err(Refused::IdTaken)
            } else if filter.execution.is_some()
                && there.iter().any(|one| one.filter.execution == filter.execution)
            {
                Err(Refused::Followed)
            } else if there.len() >= SUBSCRIPTIONS_MAX {
                Err(Refused::TooMany)
            } else {
                Ok(())
            }
        })?;
        let mut named = None;
        if let Some(execution) = filter.execution {
            let found = self.live.engine.execution(execution).await.map_err(|error| {
                if matches!(error, EngineError::ExecutionNotFound(_)) {
                    return Refused::NoSuchExecution;
                }
                tracing::debug!(%error, %execution, "an execution that is to be followed cannot be read");
                Refused::Unavailable
            })?;
            if !self.mailbox.visibility().sees(found.identity.tenant_id.as_deref()) {
                return Err(Refused::NoSuchExecution);
            }
            let from = resume_from.unwrap_or(found.events);
            if from > found.events {
                return Err(Refused::Ahead(found.events));
            }
            named = Some((About::of(&found), from, found.events));
        }
        let topics = filter.topics();
        self.mailbox.subscribe(Subscription { id, filter });
        self.live.listen(self.number, &self.mailbox, &topics);
        // The ears are open: what happened since the execution was read is read first, what happens from now on is heard.
        let last = named.map(|(about, from, last)| {
            self.mailbox.follow(about, from, self.live.is_shared(), Instant::now());
            last
        });
        Ok(last)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// When there is none of that id.
    pub(super) fn unsubscribe(&self, id: &str) -> Result<(), Refused> {
        let filter = self.mailbox.unsubscribe(id).ok_or(Refused::Unknown)?;
        self.live.leave(self.number, &filter.topics());
        Ok(())
    }

    /// What is to be sent next; waits until there is something. Safe to drop.
    pub(super) async fn next(&self) -> Vec<Frame> {
        loop {
            let frames = self.mailbox.take();
            if !frames.is_empty() {
                return frames;
            }
            let frames = self.read().await;
            if !frames.is_empty() {
                return frames;
            }
            // What was read may have held nothing that is asked for, with more behind it.
            let look_at = self.mailbox.next_look();
            let looked = async {
                match look_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.mailbox.bell.notified() => {}
                () = looked => {}
            }
        }
    }

    /// A page of the events of an execution that is behind.
    async fn read(&self) -> Vec<Frame> {
        let Some((id, after)) = self.mailbox.to_read(Instant::now()) else { return Vec::new() };
        // It is never closed.
        let Ok(_permit) = self.live.reads.acquire().await else { return Vec::new() };
        let events = match self.live.engine.store().history(id, after, PAGE).await {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%error, %id, "the history of an execution that is followed cannot be read");
                self.mailbox.read_later(id, Instant::now());
                return Vec::new();
            }
        };
        let last = events.last().map(|last| last.sequence);
        let is_all = events.len() < PAGE;
        let frames = |about: &Arc<About>, is_wanted: &dyn Fn(&Told) -> bool| {
            let told = |recorded: &RecordedEvent| Told::committed(about, recorded, None);
            events.iter().map(told).filter(is_wanted).map(|told| Frame::of(&told)).collect()
        };
        self.mailbox.was_read(id, frames, last, is_all, Instant::now())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let topics: Vec<_> = self
            .mailbox
            .with_subscriptions(|there| there.iter().flat_map(|one| one.filter.topics()).collect());
        if !topics.is_empty() {
            self.live.leave(self.number, &topics);
        }
    }
}
