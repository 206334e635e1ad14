//! Another way for results while the queue is away.

use std::error::Error;

use async_trait::async_trait;
use flowmonkey_plumbing::wire::ResultMessage;

/// A result that the queue has not taken yet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsentResult {
    /// Where its task came from.
    pub pool: String,
    /// The worker instance that ran it: the queue knows it as the owner.
    pub worker: String,
    /// The result, with the capability that came with the task where the engine gives one.
    pub result: ResultMessage,
}

/// What became of a result that was sent past the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// The engine has it.
    Applied,
    /// The record has moved on: nobody wants it any more.
    Stale,
}

/// Why a result was not taken. It is kept for the queue.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Nobody is there; the others need not be tried now.
    #[error("no engine is reachable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The engine does not take this one.
    #[error("the engine does not take the result: {reason}")]
    NotAllowed {
        /// Why.
        reason: String,
    },
}

/// Sends results past the queue, for example to the engine's HTTP API.
#[async_trait]
pub trait ResultRoute: Send + Sync {
    /// Sends one result. May be repeated: the record takes it once.
    async fn send(&self, unsent: &UnsentResult) -> Result<Routed, RouteError>;
}
